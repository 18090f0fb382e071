"""Resolves paths below a folder without ever leaving it: :func:`locate`.

The kernel follows no link here. Each component is opened on its own, below the one before, as a folder and not as a
link. Links are read and followed by hand. The result is a folder that is held open, and a name in it. Whatever others
rename meanwhile, it is this folder that is acted on.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

#: Bytes of a path, folders in each other, and links on one way; more of any is denied. Linux follows 40 links too.
PATH_LIMIT: Final = 4_096
DEPTH_LIMIT: Final = 64
LINK_LIMIT: Final = 40

FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTER: Final = FOLDER | os.O_PATH


class Astray(Exception):
    """A path that leads out of the root, or to a place that nobody can tell. ``why`` is a word or two."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Place(msgspec.Struct, frozen=True):
    """Where a path leads.

    ``folder``  descriptor of the folder that holds it, open as long as :func:`locate` is
    ``name``    its name in there, which is no link unless links were to be kept; ``"."`` for the root itself
    ``id``      the way to it below the root, links resolved, joined by ``/``
    ``error``   what came in the way before the last component: there is no such thing as the path names
    """

    folder: int
    name: str
    id: str
    error: OSError | None = None

    def status(self) -> os.stat_result:
        """Return the status of what is there. Raises :class:`OSError`, also for the :attr:`error`."""
        if self.error is not None:
            raise self.error
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)


class _FolderWalk:
    """The folders on the way from the root, each held open."""

    def __init__(self, root: int, real: str) -> None:
        self.root = root
        self.real = real
        self.names: list[str] = []
        self.folders: list[int] = []

    @property
    def folder(self) -> int:
        return self.folders[-1] if self.folders else self.root

    def enter(self, name: str) -> None:
        if len(self.folders) >= DEPTH_LIMIT:
            raise Astray("too deep")
        self.folders.append(os.open(name, _ENTER, dir_fd=self.folder))
        self.names.append(name)

    def leave(self) -> None:
        """Go back to the folder that this one was entered from. It is not always the one that holds it now."""
        if not self.folders:
            raise Astray("above the root")
        os.close(self.folders.pop())
        self.names.pop()

    def restart(self) -> None:
        while self.folders:
            self.leave()

    def place(self, name: str, rest: list[str], error: OSError | None = None) -> Place:
        if ".." in rest:
            raise Astray("above what does not exist")
        return Place(self.folder, name, _joined([*self.names, name, *rest]), error)


@contextmanager
def locate(root: int, real: str, path: str, *, follow: bool = True) -> Iterator[Place]:
    """Resolve ``path`` below the folder ``root``.

    ``real`` is the root's own path; an absolute link that begins with it is followed too. With ``follow`` false a link
    in the last place is kept. Raises :class:`Astray`.
    """
    walk = _FolderWalk(root, real)
    try:
        yield _locate(walk, _parts(path), follow)
    finally:
        walk.restart()


def _parts(path: str) -> deque[str]:
    if not path or "\0" in path:
        raise Astray("empty" if not path else "a NUL")
    if path.startswith("/"):
        raise Astray("absolute")
    if len(_joined([path]).encode()) > PATH_LIMIT:
        raise Astray("too long")
    return _split(path)


def _joined(names: list[str]) -> str:
    path = "/".join(names)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Astray("not Unicode") from None
    return path


def _split(path: str) -> deque[str]:
    return deque(part for part in path.split("/") if part not in ("", "."))


def _locate(walk: _FolderWalk, parts: deque[str], follow: bool) -> Place:
    links = 0
    while parts:
        part = parts.popleft()
        if part == "..":
            walk.leave()
            continue
        try:
            mode = os.stat(part, dir_fd=walk.folder, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode) and (parts or follow):
                links += 1
                if links > LINK_LIMIT:
                    raise Astray("too many links")
                parts.extendleft(reversed(_target(walk, part)))
            elif parts:
                walk.enter(part)
            else:
                return walk.place(part, [])
        except OSError as error:
            if not parts and error.errno == errno.ENOENT:  # what may be about to be made
                return walk.place(part, [])
            return walk.place(part, list(parts), error)
    return _folder(walk)


def _target(walk: _FolderWalk, name: str) -> deque[str]:
    """Return the components of the link ``name``. For an absolute one, the walk starts again at the root."""
    target = os.readlink(name, dir_fd=walk.folder)
    if target.startswith("/"):
        if target != walk.real and not target.startswith(walk.real.rstrip("/") + "/"):
            raise Astray("a link out of the root")
        walk.restart()
        target = target[len(walk.real) :]
    return _split(target)


def _folder(walk: _FolderWalk) -> Place:
    """Return the place of the folder that the walk ended in, by a ``..`` or at the root."""
    if not walk.folders:
        return Place(walk.root, ".", ".")
    name, id = walk.names[-1], _joined(walk.names)
    walk.leave()
    return Place(walk.folder, name, id)
