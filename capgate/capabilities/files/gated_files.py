"""Gates the files below a folder: :class:`GatedFiles`."""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import IO, Any, Final, NoReturn, Union

from ...enforcement.capabilities import Capabilities
from ...enforcement.current import current
from ...errors import ConfigError
from ...model import Resource
from .locate import FOLDER, Astray, Place, locate

READ: Final = "fs.read"
WRITE: Final = "fs.write"
KIND: Final = "path"

Path = Union[str, os.PathLike[str]]


class GatedFiles:
    """The files below ``root``, each asked for as ``fs.read`` or ``fs.write`` on ``path:<path>``.

    ::

        files = GatedFiles("/srv/reports")
        with files.open("2026/june.csv") as file:                              # fs.read on path:2026/june.csv
            ...
        text = await anyio.to_thread.run_sync(files.read_text, "june.md")      # from asynchronous code

    The id is the path below the root with links and ``..`` resolved, joined by ``/``, in the case it was given; ``"."``
    is the root. The question comes before anything is opened, made, or found missing. What is opened is what was asked
    for, whoever renames folders or exchanges links meanwhile.

    There is no way out. Denied, by a question without an id:

    - a path that is absolute, empty, too long or not Unicode
    - one that leads above the root, or to a link that does
    - what is neither a file nor a folder (FIFO, socket, device)
    - a file with several names, since a hard link may lead anywhere

    ``root``          a folder that exists; it is held open, so it may be renamed. Raises :class:`ConfigError`
    ``capabilities``  whom to ask, in place of the current ones of each caller
    ``hard_links``    whether files with several names are opened too, by any of them

    Everything here blocks. To be closed, or used as a context manager. Linux only.

    Not gated: what is done to a file once it is open, and files that are opened in another way. On a file system that
    ignores case two ids may be one file.
    """

    def __init__(self, root: Path, *, capabilities: Capabilities | None = None, hard_links: bool = False) -> None:
        try:
            if not os.fspath(root):
                raise ValueError("empty")
            self._real = os.path.realpath(root, strict=True)
            self._root = os.open(self._real, os.O_RDONLY | FOLDER)
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError("root", root, "a folder that exists") from error
        self._capabilities = capabilities
        self._hard_links = hard_links
        self._close = weakref.finalize(self, os.close, self._root)
        self._closing = threading.Lock()

    # -- files

    def open(
        self,
        path: Path,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a file as the builtin does. Reading asks ``fs.read``, writing of any kind ``fs.write``, ``+`` both."""

        def opener(name: str, flags: int) -> int:
            return self._open(path, flags)

        return open(_shown_name(path), mode, buffering, encoding, errors, newline, opener=opener)

    def read_text(self, path: Path, encoding: str = "utf-8") -> str:
        with self.open(path, encoding=encoding) as file:
            text: str = file.read()
            return text

    def read_bytes(self, path: Path) -> bytes:
        with self.open(path, "rb") as file:
            data: bytes = file.read()
            return data

    def write_text(self, path: Path, text: str, encoding: str = "utf-8") -> None:
        with self.open(path, "w", encoding=encoding) as file:
            file.write(text)

    def write_bytes(self, path: Path, data: bytes) -> None:
        with self.open(path, "wb") as file:
            file.write(data)

    # -- names

    def exists(self, path: Path) -> bool:
        """Say whether something is there. Denied, it is no ``False``."""
        with self._asked(path, READ) as place:
            try:
                place.status()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def stat(self, path: Path) -> os.stat_result:
        """Return the status of what is there, of a link that of what it leads to."""
        with self._asked(path, READ) as place:
            status = place.status()
            if stat.S_ISLNK(status.st_mode):  # since a moment ago
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place.id)
            return status

    def listdir(self, path: Path = ".") -> list[str]:
        """Return the names in a folder. The folder is asked for, and not each of them."""
        with self._asked(path, READ) as place:
            place.status()
            folder = os.open(place.name, os.O_RDONLY | FOLDER, dir_fd=place.folder)
            try:
                return os.listdir(folder)
            finally:
                os.close(folder)

    def unlink(self, path: Path) -> None:
        """Remove a name, of a link its own."""
        with self._asked(path, WRITE, follow=False) as place:
            place.status()
            os.unlink(place.name, dir_fd=place.folder)

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """Make a folder in one that exists."""
        with self._asked(path, WRITE, follow=False) as place:
            if place.error is not None:
                raise place.error
            os.mkdir(place.name, mode, dir_fd=place.folder)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file, or a link, another name.

        Asks to read and to write ``source``, since it can be read by its new name then, and to write ``target``. A
        folder is not renamed: the ids of everything below would change.
        """
        with self._located(source, WRITE, False) as old, self._located(target, WRITE, False) as new:
            self._asked_capabilities().require_all_now(
                [(READ, Resource(KIND, old.id)), (WRITE, Resource(KIND, old.id)), (WRITE, Resource(KIND, new.id))]
            )
            if stat.S_ISDIR(old.status().st_mode):
                self._deny(WRITE, "a folder")
            if new.error is not None:
                raise new.error
            os.rename(old.name, new.name, src_dir_fd=old.folder, dst_dir_fd=new.folder)

    # -- the end

    def close(self) -> None:
        """Let go of the root. Files that are open stay so."""
        with self._closing:
            self._close()

    def __enter__(self) -> GatedFiles:
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GatedFiles({self._real!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("GatedFiles hold a folder open in this process; they are not copied or pickled")

    # -- how

    def _asked_capabilities(self) -> Capabilities:
        return self._capabilities or current()

    def _deny(self, action: str, why: str) -> NoReturn:
        """Deny what has no id. A checker of the application's that allows even that does not open it."""
        self._asked_capabilities().require_now(action, Resource(KIND, None, {"refused": why}))
        raise PermissionError(errno.EPERM, f"not opened, whatever a policy says: {why}")

    @contextmanager
    def _located(self, path: Path, action: str, follow: bool) -> Iterator[Place]:
        with ExitStack() as stack:
            try:
                text = os.fspath(path)
                if not isinstance(text, str):
                    raise Astray("bytes")
                root = stack.enter_context(self._opened_root())
                place = stack.enter_context(locate(root, self._real, text, follow=follow))
            except Astray as astray:
                self._deny(action, astray.why)
            yield place

    @contextmanager
    def _opened_root(self) -> Iterator[int]:
        """Hold the root open, so that nobody closes it meanwhile."""
        with self._closing:
            if not self._close.alive:
                raise ValueError("these GatedFiles are closed")
            root = os.dup(self._root)
        try:
            yield root
        finally:
            os.close(root)

    @contextmanager
    def _asked(self, path: Path, *actions: str, follow: bool = True) -> Iterator[Place]:
        with self._located(path, actions[0], follow) as place:
            self._asked_capabilities().require_all_now([(action, Resource(KIND, place.id)) for action in actions])
            yield place

    def _open(self, path: Path, flags: int) -> int:
        """Open the regular file at ``path``, with the flags that the builtin has made of a mode."""
        actions = {os.O_RDONLY: (READ,), os.O_WRONLY: (WRITE,), os.O_RDWR: (READ, WRITE)}[flags & os.O_ACCMODE]
        with self._asked(path, *actions, follow=not flags & os.O_EXCL) as place:
            with suppress(FileNotFoundError):  # to open a device may be an effect, so this is looked at before, too
                self._check(place.status(), place, actions[-1])
            if place.error is not None:
                raise place.error
            # Nothing waits for the other end of a FIFO that was put here just now, and nothing is cut off unseen.
            more = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            file = os.open(place.name, flags & ~os.O_TRUNC | more, 0o666, dir_fd=place.folder)
            try:
                self._check(os.fstat(file), place, actions[-1])
                if flags & os.O_TRUNC:
                    os.ftruncate(file, 0)
                os.set_blocking(file, True)
            except BaseException:
                os.close(file)
                raise
            return file

    def _check(self, status: os.stat_result, place: Place, action: str) -> None:
        """Deny what is no regular file, or has another name. Raises :class:`IsADirectoryError` for a folder.

        A link in the last place passes here: with the flags of :meth:`_open` the kernel opens none.
        """
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place.id)
        if stat.S_ISLNK(status.st_mode):
            return
        if not stat.S_ISREG(status.st_mode):
            self._deny(action, "not a regular file")
        if status.st_nlink > 1 and not self._hard_links:
            self._deny(action, "several names")


def _shown_name(path: object) -> str:
    """Return the name that a file shows as its own: text that the builtin accepts, and opens nothing by."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    return text.replace("\0", "?").encode("utf-8", "replace").decode() if isinstance(text, str) and text else "?"
