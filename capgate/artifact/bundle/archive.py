"""Unpacks a ``.tar.gz`` of plain files into a mapping of names to bytes, and rejects hostile bytes on the way.

Formats: RFC 1952 (one member, nothing after it) and POSIX ustar and pax (IEEE 1003.1, pax, "ustar Interchange Format",
"pax Extended Header"), or the GNU variant with its long names. Of an extended header the name counts, and what says
nothing of the contents may be there. Whatever two readers might read differently is rejected, not interpreted: links,
sparse files, other keywords, two sizes, a name twice or in another case, bytes after the end. Nothing touches the disk.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
import zlib
from typing import Final

import msgspec

from ...errors import BundleError

GZIP: Final = b"\x1f\x8b"
#: Members, names and folders on the way to a file, at most.
MEMBERS: Final = 4_096
NAME_LENGTH: Final = 255
DEPTH: Final = 32
#: Bytes of an extended header, or of a long name in GNU's form.
EXTENDED_BYTES: Final = 8_192

_BLOCK: Final = 512
_INPUT: Final = 16_384
_GZIP_ONLY: Final = 16 + zlib.MAX_WBITS
_SIZE: Final = re.compile(rb" *[0-7]{1,11}[\0 ]*", re.ASCII)
_PAX, _PAX_GLOBAL, _LONG_NAME, _FOLDER = b"x", b"g", b"L", b"5"
_TIME: Final = re.compile(rb"-?[0-9]{1,19}(?:\.[0-9]{1,19})?", re.ASCII)
_ID: Final = re.compile(rb"[0-9]{1,19}", re.ASCII)
_ANY: Final = re.compile(rb"[^\0]*", re.ASCII)
#: Keywords of extended headers that say nothing of the contents, nor of how long they are; and what readers want there.
_ABOUT: Final = {
    **dict.fromkeys(("atime", "ctime", "mtime"), _TIME),
    **dict.fromkeys(("gid", "uid"), _ID),
    **dict.fromkeys(("comment", "gname", "uname"), _ANY),
}
_RECORD: Final = re.compile(rb"([1-9][0-9]{0,3}) ([^=\n\0]+)=", re.ASCII)
_POSIX, _GNU = b"ustar\x0000", b"ustar  \0"
_MEMBER_TYPES: Final = {
    b"\0": "a file in the form of 1979",
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
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
    extension: _Extension | None = None
    for _ in range(2 * MEMBERS + 1):
        block = stream.read(_BLOCK)
        if not any(block):
            break
        header = _header(block)
        raw = _shown(header)
        if header.size > stream.left:
            raise BundleError(
                f"{raw!r} has {header.size} bytes, the limit is {most} for all", reason="size", member=raw
            )
        if header.type in (_PAX, _PAX_GLOBAL, _LONG_NAME):
            extension = _extended(header, _content(stream, header), extension)
            continue
        name = _member_name(header, block, extension)
        extension = None
        names.add(name, header.type == _FOLDER)
        content = _content(stream, header)
        if header.type != _FOLDER:
            files[name] = content
        if len(names) > MEMBERS:
            raise BundleError(f"more than {MEMBERS} members", reason="count")
    else:
        raise BundleError(f"more than {MEMBERS} members", reason="count")
    if extension is not None:
        raise BundleError("an extended header is followed by nothing", reason="tar")
    stream.finish()
    return files


def _content(stream: _Inflated, header: _Header) -> bytes:
    content = stream.read(header.size)
    if any(stream.read(-header.size % _BLOCK)):
        raw = _shown(header)
        raise BundleError(f"{raw!r} is followed by what is not in it", reason="tar", member=raw)
    return content


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


class _Header(msgspec.Struct, frozen=True):
    """What a block says. ``raw`` is the name as bytes: behind an extended header it need not be text."""

    raw: bytes
    size: int
    type: bytes
    is_gnu: bool


class _Extension(msgspec.Struct, frozen=True):
    """What stands before a member and is about it: its ``path``, if that is said, and its ``size``."""

    path: bytes | None
    size: int | None
    is_gnu: bool


def _shown(header: _Header) -> str:
    return header.raw.decode("utf-8", "backslashreplace")


def _header(block: bytes) -> _Header:
    """Read a block. Raises :class:`BundleError` for one of another format, or of what is no member here."""
    flag, magic = block[156:157], block[257:265]
    # Behind the fields some have put others: with "tar" there, Go takes a part of the prefix for times.
    if magic not in (_POSIX, _GNU) or (magic == _GNU and any(block[345:500])) or any(block[500:]):
        raise BundleError("a header is neither POSIX ustar nor GNU's", reason="tar")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise BundleError(f"a header is damaged: {error}", reason="tar") from error
    read = _Header(header.name.encode("utf-8", "surrogateescape"), header.size, flag, magic == _GNU)
    raw = _shown(read)
    if flag not in (b"0", _FOLDER, _PAX, _PAX_GLOBAL, _LONG_NAME):
        what = _MEMBER_TYPES.get(flag, f"of type {flag!r}")
        raise BundleError(f"{raw!r} is {what}; only plain files and folders are read", reason="kind", member=raw)
    if _SIZE.fullmatch(block[124:136]) is None or (flag == _FOLDER and header.size):
        raise BundleError(f"the size of {raw!r} is {block[124:136]!r}", reason="tar", member=raw)
    if any(_tail(block[:100])) or any(_tail(block[345:500])):
        raise BundleError(f"{raw!r}: a NUL is in the name", reason="name", member=raw)
    if flag not in (b"0", _FOLDER) and header.size > EXTENDED_BYTES:
        message = f"an extended header of {header.size} bytes, the limit is {EXTENDED_BYTES}"
        raise BundleError(message, reason="size", member=raw)
    return read


def _extended(header: _Header, content: bytes, before: _Extension | None) -> _Extension | None:
    """Read what is about the next member, or with a global header about all, of which nothing counts."""
    raw = _shown(header)
    if before is not None:
        raise BundleError(f"{raw!r}: one extended header after the other", reason="tar", member=raw)
    if header.type == _LONG_NAME:
        name, end, rest = content.partition(b"\0")
        if not header.is_gnu or not end or rest:
            raise BundleError("a long name is not one text with a NUL at its end", reason="tar", member=raw)
        return _Extension(name, None, True)
    records = _records(content, raw)
    wanted = set(_ABOUT) if header.type == _PAX_GLOBAL else {*_ABOUT, "path", "size"}
    unfit = sorted(set(records) - wanted)
    if unfit:
        of_all = "of all members" if header.type == _PAX_GLOBAL else "of a member"
        message = (
            f"an extended header says {', '.join(map(ascii, unfit[:8]))} {of_all}; read: {', '.join(sorted(wanted))}"
        )
        raise BundleError(message, reason="kind", member=raw)
    for keyword, value in records.items():
        if keyword in _ABOUT and _ABOUT[keyword].fullmatch(value) is None:
            raise BundleError(f"an extended header says {keyword}={value!r}", reason="tar", member=raw)
    if header.type == _PAX_GLOBAL:
        return None
    path, size = records.get("path"), records.get("size")
    if path == b"" or not (size is None or (size.isdigit() and len(size) < 12 and size == b"%d" % int(size))):
        raise BundleError(f"an extended header says path={path!r} and size={size!r}", reason="tar", member=raw)
    return _Extension(path, None if size is None else int(size), False)


def _records(content: bytes, raw: str) -> dict[str, bytes]:
    """Return the values of an extended header by their keywords: lines of a length, a keyword and a value."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(content):
        begun = _RECORD.match(content, at)
        end = at + int(begun[1]) if begun else 0
        record = content[begun.end() : end] if begun else b""
        if begun is None or end > len(content) or not record.endswith(b"\n") or b"\0" in record:
            raise BundleError("an extended header is malformed", reason="tar", member=raw)
        try:
            keyword = begun[2].decode()
            record.decode()
        except UnicodeDecodeError as error:
            raise BundleError("an extended header is not UTF-8", reason="tar", member=raw) from error
        if keyword in records:
            raise BundleError(f"an extended header says {keyword!r} twice", reason="tar", member=raw)
        records[keyword] = record[:-1]
        at = end
    return records


def _member_name(header: _Header, block: bytes, extension: _Extension | None) -> str:
    """Return the name of a file or folder: what stands before it says, or its header."""
    raw, name = _shown(header), header.raw
    is_folder = header.type == _FOLDER
    if extension is not None:
        if extension.size not in (None, header.size):
            message = f"{raw!r} has {header.size} bytes by its header, {extension.size} by the one before"
            raise BundleError(message, reason="tar", member=raw)
        if extension.is_gnu and not (header.is_gnu and (extension.path or b"").startswith(block[:100].rstrip(b"\0"))):
            raise BundleError(f"{raw!r} is not what its long name begins with", reason="tar", member=raw)
        if extension.path is not None:
            name = extension.path.removesuffix(b"/") if is_folder else extension.path
    try:
        return _plain(name.decode(), is_folder)
    except UnicodeDecodeError as error:
        raise BundleError(f"a header is damaged: the name is not UTF-8: {error}", reason="tar") from error


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
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, is_folder: bool) -> None:
        self._count += 1
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
