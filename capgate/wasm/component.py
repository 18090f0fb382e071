"""Finds the one core module inside a component binary.

Source: component-model, design/mvp/Binary.md. Magic, version 0x0d and layer 1 come first, then sections of id, size and
payload. Section 1 is a core module, section 4 a nested component, section 8 lifts core functions (``canon``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..errors import DecodeError, RestrictedModule
from .decode import MAGIC, VERSION, check_header, read_size
from .leb128 import read_unsigned
from .reader import Reader
from .survey import MOST_IMPORTS, explained, survey

COMPONENT_VERSION: Final = b"\x0d\0\1\0"
_CORE_MODULE, _COMPONENT, _CANON, _IMPORT, _LAST_SECTION = 1, 4, 8, 10, 12
_LIFT: Final = b"\0\0"
_UTF8: Final = 0
#: How a name is written: with the version in a text of its own.
_VERSIONED: Final = 2
_SHOWN: Final = 100
#: Options of a lift that name a memory or a function: memory, realloc, post-return.
_WITH_INDEX: Final = (3, 4, 5)


def core_module(data: bytes | bytearray | memoryview) -> bytes:
    """Return the core module of a component that contains exactly one; a core module is returned as it is.

    Components inside are passed over: wit-component wraps types and exports in one. They may contain no core module.
    Raises ``RestrictedModule`` for a component with none or several, with one further inside, or with another string
    encoding than UTF-8; ``DecodeError`` for anything that is neither. The core module itself is not decoded.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a component is bytes, not {type(data).__name__}")
    source = bytes(data)
    if source[4:8] != COMPONENT_VERSION:
        check_header(source, VERSION)
        return source
    check_header(source, COMPONENT_VERSION)
    try:
        spans = _core_modules(source)
        if len(spans) != 1:
            detail = f"{len(spans)} of them, exactly 1 is supported; what the component was made of is taken as well"
            raise RestrictedModule("component", "core modules", detail)
    except IndexError:
        raise DecodeError(len(source), "unexpected end") from None
    except RestrictedModule as error:
        raise _explained(error, source) from None
    start, end = spans[0]
    return source[start:end]


def _explained(error: RestrictedModule, source: bytes) -> RestrictedModule:
    """Return ``error``, or where the component imports something, that; with all that it needs and may not."""
    imports: list[str] = []
    features: dict[str, str] = {}
    try:
        for section_id, start, end in _sections(source, 8, len(source)):
            if section_id == _IMPORT:
                _read_imports(source[start:end], imports)
            elif section_id == _CORE_MODULE:
                features = {**survey(source[start:end]).features, **features}
    except (DecodeError, IndexError):
        pass  # what comes later is not known
    if imports:
        error = RestrictedModule("import", ascii(imports[0])[:_SHOWN], error.detail)
    return explained(error, features, imports)


def _read_imports(payload: bytes, into: list[str]) -> None:
    """Read the names of what is imported. Raises ``DecodeError`` or ``IndexError`` where they are not understood."""
    read = Reader(payload)
    for _ in range(read.u32()):
        how = read.byte()
        name = read.name()
        if how == _VERSIONED:
            name += read.name()
        if len(into) < MOST_IMPORTS:
            into.append(name)
        sort = read.byte()
        if sort in (0, 2, 3):  # a core module, a value, a type: another byte says of which
            read.byte()
        if (sort, payload[read.pos - 1]) != (3, 1):  # a resource has no index
            read.u32()


def _core_modules(source: bytes) -> list[tuple[int, int]]:
    """Return the spans of the core modules. Raises ``IndexError`` where the data stops short."""
    spans: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for section_id, start, end in _sections(source, 8, len(source)):
        if section_id == _CORE_MODULE:
            spans.append((start, end))
        elif section_id == _COMPONENT:
            inside.append((start, end))
        elif section_id == _CANON:
            _check_encoding(source[start:end], start)
    while inside:
        start, end = inside.pop()
        if source[start : start + 4] != MAGIC or source[start + 4 : start + 8] != COMPONENT_VERSION:
            raise DecodeError(start, "magic header not detected")
        for section_id, first, last in _sections(source, start + 8, end):
            if section_id == _CORE_MODULE:
                raise RestrictedModule("component", f"byte {first}", "a core module inside an inner component")
            if section_id == _COMPONENT:
                inside.append((first, last))
    return spans


def _check_encoding(payload: bytes, offset: int) -> None:
    """Raise unless strings are passed in UTF-8: a guest that takes another encoding would be asked something else."""
    count, pos = read_unsigned(payload, 0)
    for _ in range(count):
        if payload[pos : pos + 2] != _LIFT:
            raise RestrictedModule("component", f"byte {offset + pos}", "a canonical function other than a lift")
        _, pos = read_unsigned(payload, pos + 2)
        options, pos = read_unsigned(payload, pos)
        for _ in range(options):
            option, pos = payload[pos], pos + 1
            if option in _WITH_INDEX:
                _, pos = read_unsigned(payload, pos)
            elif option != _UTF8:
                raise RestrictedModule("component", f"byte {offset + pos - 1}", f"option {option:#x} of a lift")
        _, pos = read_unsigned(payload, pos)


def _sections(source: bytes, pos: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield id and span of each section from ``pos`` to ``end``."""
    while pos < end:
        section_id = source[pos]
        if section_id > _LAST_SECTION:
            raise DecodeError(pos, "malformed section id")
        size, start = read_size(source, pos + 1)
        if start + size > end:
            raise DecodeError(pos, "section size mismatch")
        pos = start + size
        yield section_id, start, pos
