"""Unpacks a ``.tar.gz`` of plain files into a mapping of names to bytes, and rejects hostile bytes on the way.

Formats: RFC 1952 (one member, nothing after it) and POSIX ustar (IEEE 1003.1, pax, "ustar Interchange Format"), or the
GNU variant of its header without extensions. Whatever two readers might read differently is rejected, not interpreted:
extended headers, links, sparse files, a name twice or in another case, bytes after the end. Nothing touches the disk.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
import zlib
from typing import Final

from ...errors import BundleError

GZIP: Final = b"\x1f\x8b"
#: Members, names and folders on the way to a file, at most.
MEMBERS: Final = 4_096
NAME_LENGTH: Final = 255
DEPTH: Final = 32

_BLOCK: Final = 512
_INPUT: Final = 16_384
_GZIP_ONLY: Final = 16 + zlib.MAX_WBITS
_SIZE: Final = re.compile(rb" *[0-7]{1,11}[\0 ]*", re.ASCII)
_POSIX, _GNU = b"ustar\x0000", b"ustar  \0"
_MEMBER_TYPES: Final = {
    b"\0": "a file in the form of 1979",
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"x": "an extended (pax) header",
    b"g": "a global extended (pax) header",
    b"L": "a long name in GNU's form",
    b"K": "a long link in GNU's form",
    b"S": "a sparse file",
}


def is_archive(data: bytes) -> bool:
    """Say whether ``data`` begins like a gzip file. No module and no policy document does."""
    return data[:2] == GZIP


def unpack(data: bytes, most: int, *, path: str | None = None) -> dict[str, bytes]:
    """Return the regular files of the archive, by their names without a leading ``/`` or ``./``, in their order.

    At most ``most`` bytes are unpacked, headers included. Raises :class:`BundleError` and nothing else.
    """
    try:
        return _unpack(_Inflated(data, most), most)
    except BundleError as error:
        raise BundleError(str(error), reason=error.reason, member=error.member, path=path) from error.__cause__


def _unpack(stream: _Inflated, most: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    names = _MemberNames()
    for _ in range(MEMBERS + 1):
        block = stream.read(_BLOCK)
        if not any(block):
            break
        name, size, is_folder = _header(block)
        if size > stream.left:
            raise BundleError(f"{name!r} has {size} bytes, the limit is {most} for all", reason="size", member=name)
        names.add(name, is_folder)
        content = stream.read(size)
        if any(stream.read(-size % _BLOCK)):
            raise BundleError(f"{name!r} is followed by what is not in it", reason="tar", member=name)
        if not is_folder:
            files[name] = content
    else:
        raise BundleError(f"more than {MEMBERS} members", reason="count")
    stream.finish()
    return files


class _Inflated:
    """What a gzip file holds, piece by piece, so that no more is unpacked than was asked for."""

    def __init__(self, data: bytes, most: int) -> None:
        self._source = memoryview(data)
        self._inflater = zlib.decompressobj(_GZIP_ONLY)
        self._rest = b""
        self._most = self.left = most

    def read(self, size: int) -> bytes:
        """Return exactly ``size`` bytes."""
        content = bytearray()
        while len(content) < size:
            piece = self._piece(size - len(content))
            if not piece:
                raise BundleError("it ends before the archive does", reason="tar")
            content += piece
        return bytes(content)

    def finish(self) -> None:
        """Make sure that a second block of zeros ends the archive, and that nothing else comes."""
        if any(self.read(_BLOCK)):
            raise BundleError("one block of zeros is in it, two would end it", reason="tar")
        while piece := self._piece(_INPUT):
            if any(piece):
                raise BundleError("something comes after the end of the archive", reason="tar")
        if self._inflater.unused_data or self._source:
            raise BundleError("something comes after the end of the gzip file", reason="gzip")

    def _piece(self, size: int) -> bytes:
        """Return from 1 to ``size`` bytes; none at the end of the gzip file."""
        while not self._inflater.eof:
            if not self._rest:
                self._rest, self._source = bytes(self._source[:_INPUT]), self._source[_INPUT:]
            ended = not self._rest
            try:
                piece = self._inflater.decompress(self._rest, size)
            except zlib.error as error:
                raise BundleError(f"is no gzip file, or a damaged one: {error}", reason="gzip") from error
            self._rest = self._inflater.unconsumed_tail
            if piece:
                self._count(len(piece))
                return piece
            if ended and not self._inflater.eof:
                raise BundleError("the gzip file is cut short", reason="gzip")
        return b""

    def _count(self, size: int) -> None:
        if size > self.left:
            raise BundleError(f"more than {self._most} bytes when unpacked, which is the limit", reason="size")
        self.left -= size


def _header(block: bytes) -> tuple[str, int, bool]:
    """Return name, size, and whether it is a folder."""
    flag, magic = block[156:157], block[257:265]
    # Behind the fields some have put others: with "tar" there, Go takes a part of the prefix for times.
    if magic not in (_POSIX, _GNU) or (magic == _GNU and any(block[345:500])) or any(block[500:]):
        raise BundleError("a header is neither POSIX ustar nor GNU's without extensions", reason="tar")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.TarError, ValueError) as error:  # ValueError: a name that is not UTF-8
        raise BundleError(f"a header is damaged: {error}", reason="tar") from error
    raw = header.name
    if flag not in (b"0", b"5"):
        what = _MEMBER_TYPES.get(flag, f"of type {flag!r}")
        hint = "; only plain files and folders, with short names in ASCII where the packer is to need no extensions"
        raise BundleError(f"{raw!r} is {what}{hint}", reason="kind", member=raw)
    if _SIZE.fullmatch(block[124:136]) is None or (flag == b"5" and header.size):
        raise BundleError(f"the size of {raw!r} is {block[124:136]!r}", reason="tar", member=raw)
    if any(_tail(block[:100])) or any(_tail(block[345:500])):
        raise BundleError(f"{raw!r}: a NUL is in the name", reason="name", member=raw)
    return _plain(raw, flag == b"5"), header.size, flag == b"5"


def _tail(field: bytes) -> bytes:
    """Return what comes after the first NUL, where readers stop."""
    return field.partition(b"\0")[2]


def _plain(raw: str, is_folder: bool) -> str:
    """Return the name without what packers put before it; ``""`` for the folder that everything is in."""
    name = raw.removeprefix("/") if raw.startswith("/") else raw.removeprefix("./")
    if is_folder and name in ("", "."):
        return ""
    parts = name.split("/")
    unfit = {"", ".", ".."} & set(parts)
    if unfit or "\\" in name or not name.isprintable() or len(raw.encode()) > NAME_LENGTH or len(parts) > DEPTH:
        valid = f"relative, printable, of at most {NAME_LENGTH} bytes and {DEPTH} parts, without '..' or a backslash"
        raise BundleError(f"the name {raw!r} is not usable; valid: {valid}", reason="name", member=raw)
    return name


class _MemberNames:
    """Every name once, also for file systems that do not tell upper from lower case, nor two forms of an accent."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, bool, bool]] = {}

    def add(self, name: str, is_folder: bool) -> None:
        parts = name.split("/")
        for end in range(1, len(parts)):
            self._add("/".join(parts[:end]), is_folder=True, named=False)
        self._add(name, is_folder, named=True)

    def _add(self, name: str, is_folder: bool, named: bool) -> None:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        other, was_folder, was_named = self._known.get(folded, (name, is_folder, False))
        if other != name or was_folder != is_folder or (named and was_named):
            message = f"{name!r} is there twice" if other == name else f"{name!r} and {other!r} are one name to some"
            raise BundleError(message, reason="name", member=name)
        self._known[folded] = name, is_folder, named or was_named
