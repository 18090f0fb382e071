"""Makes changed copies of modules. Everything that is not named stays as it is in the file, byte for byte."""

from __future__ import annotations

import msgspec

from .decode import decode
from .encode import encode, i32_const, memory_type, name, vector
from .leb128 import unsigned
from .module import CUSTOM, SECTION_NAMES, SECTION_ORDER, MemoryType, Module, Section

_MEMORY, _DATA, _DATA_COUNT = 5, 11, 12


def with_section(module: Module, section_id: int, payload: bytes) -> Module:
    """Return a copy in which the section ``section_id`` (not custom) has this payload, put in its place if it is new.

    Raises ``ValueError`` for an id that is none, ``DecodeError`` for a malformed payload.
    """
    return _rebuilt(replaced(module.sections, section_id, payload))


def with_custom(module: Module, custom_name: str, content: bytes) -> Module:
    """Return a copy with exactly one custom section of that name: where the first one was, else at the end."""
    new = Section(CUSTOM, name(custom_name) + content, custom_name)
    out: list[Section] = []
    placed = False
    for item in module.sections:
        if item.id != CUSTOM or item.name != custom_name:
            out.append(item)
        elif not placed:
            out.append(new)
            placed = True
    return _rebuilt(out if placed else [*out, new])


def without_custom(module: Module) -> Module:
    """Return the same module without its custom sections, names and debugging information among them.

    Nothing is decoded again: what it has keeps its place in ``module.source``.
    """
    return msgspec.structs.replace(module, sections=[item for item in module.sections if item.id != CUSTOM])


def with_memory(module: Module, minimum: int, maximum: int | None) -> Module:
    """Return a copy in which the one memory defined here has these limits, in pages.

    ``ValueError`` where there is not exactly one.
    """
    if len(module.memories) != 1:
        raise ValueError(f"the module defines {len(module.memories)} memories, not one")
    return with_section(module, _MEMORY, vector([memory_type(MemoryType(minimum, maximum))]))


def with_data(module: Module, offset: int, content: bytes) -> Module:
    """Return a copy with one more active data segment: ``content`` goes to memory 0 at ``offset`` on instantiation.

    ``offset`` is in bytes. ``ValueError`` for one outside 32 bits. That the memory is large enough is for the engine to
    check.
    """
    if not 0 <= offset < 2**32:
        raise ValueError(f"data segment offset {offset!r}; valid: 0 to 4294967295")
    address = offset - 2**32 if offset >= 2**31 else offset
    segment = b"\0" + i32_const(address) + b"\x0b" + unsigned(len(content)) + content
    sections = extended(module, _DATA, len(module.data), [segment])
    if module.data_count is not None:
        sections = replaced(sections, _DATA_COUNT, unsigned(module.data_count + 1))
    return _rebuilt(sections)


def appended(payload: bytes, count: int, items: list[bytes]) -> bytes:
    """Return the payload of a vector of ``count`` items, with these at its end."""
    start = 0
    while payload[start] >= 0x80:
        start += 1
    return unsigned(count + len(items)) + payload[start + 1 :] + b"".join(items)


def extended(module: Module, section_id: int, count: int, items: list[bytes]) -> list[Section]:
    """Return the sections of ``module``, in which that with ``section_id``, a vector of ``count``, has these items
    more."""
    old = module.section(section_id)
    payload = vector(items) if old is None else appended(old.payload, count, items)
    return replaced(module.sections, section_id, payload)


def replaced(sections: list[Section], section_id: int, payload: bytes) -> list[Section]:
    """Return the sections with this one in its place."""
    if section_id not in SECTION_ORDER:
        raise ValueError(f"section id {section_id!r}; valid: {', '.join(map(str, sorted(SECTION_NAMES)))}")
    new = Section(section_id, payload)
    if any(item.id == section_id for item in sections):
        return [new if item.id == section_id else item for item in sections]
    rank = SECTION_ORDER[section_id]
    later = (i for i, item in enumerate(sections) if item.id != CUSTOM and SECTION_ORDER[item.id] > rank)
    place = next(later, len(sections))
    return [*sections[:place], new, *sections[place:]]


def _rebuilt(sections: list[Section]) -> Module:
    return decode(encode(Module(b"", sections)), bodies=False)
