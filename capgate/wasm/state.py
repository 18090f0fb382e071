"""Lets a host take an instance back to where it was, by all that the instance can remember.

A call can leave something behind in four places: in linear memory, which hosts reach anyway, in mutable globals, in
tables, and by dropping segments. The function :func:`with_state` adds one that notes all globals and one that sets them
back. :func:`leaves_state` says whether
there is code for the rest. Where there is none, memory and globals are the whole state of an instance, whatever it
does.
"""

from __future__ import annotations

from typing import Final

from ..errors import RestrictedModule
from .edit import extended
from .encode import encode, export_entry, func_type
from .leb128 import unsigned
from .module import Export, FuncType, Global, Module
from .references import Shape, check_references

#: Names that start like this belong to what is added here. A guest that uses one is rejected.
PREFIX: Final = "capgate-state:"
SAVE: Final = PREFIX + "save"
RESTORE: Final = PREFIX + "restore"

_TYPES, _FUNCTIONS, _GLOBALS, _EXPORTS, _CODE = 1, 3, 6, 7, 10
_GET, _SET, _END = b"\x23", b"\x24", b"\x0b"


def leaves_state(module: Module) -> bool:
    """Say whether ``module``, decoded with its bodies, has code that changes a table or drops a segment."""
    return any(body.leaves_state for body in module.code)


def with_state(module: Module) -> bytes:
    """Return ``module`` with two more exports, () -> ().

    :data:`SAVE` notes the values of all mutable globals that it defines. :data:`RESTORE` sets them to what was noted
    (until then, to what they were at first).

    All that is added is at the end of its index space, and indices of the original are checked against the original.
    Raises :class:`RestrictedModule` where it uses a name that starts with :data:`PREFIX`, or an index that does not
    exist.
    """
    shape = Shape.of(module)
    check_references(module, shape)
    for export in module.exports:
        if export.name.startswith(PREFIX):
            raise RestrictedModule("reserved_name", "export", repr(export.name[:100]))
    first = len(module.imported("global"))
    changed = [number for number, item in enumerate(module.globals) if item.type.mutable]
    copies = {first + number: shape.globals + place for place, number in enumerate(changed)}
    sections = list(module.sections)
    for section, count, items in (
        (_TYPES, len(module.types), [func_type(FuncType((), ()))]),
        (_FUNCTIONS, len(module.functions), [unsigned(len(module.types))] * 2),
        (_GLOBALS, len(module.globals), [_copy(module.globals[number]) for number in changed]),
        (_EXPORTS, len(module.exports), _exports(len(shape.functions))),
        (_CODE, len(module.code), [_body(copies), _body({copy: item for item, copy in copies.items()})]),
    ):
        if items:
            sections = extended(Module(b"", sections), section, count, items)
    return encode(Module(b"", sections))


def _copy(item: Global) -> bytes:
    return bytes([item.type.type, 1]) + item.init


def _exports(first: int) -> list[bytes]:
    names = ((SAVE, first), (RESTORE, first + 1))
    return [export_entry(Export(name, "function", index)) for name, index in names]


def _body(moves: dict[int, int]) -> bytes:
    """Return a function without locals that sets each global of ``moves`` from its key."""
    code = b"\0" + b"".join(_GET + unsigned(a) + _SET + unsigned(b) for a, b in moves.items()) + _END
    return unsigned(len(code)) + code
