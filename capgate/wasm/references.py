"""Checks indices outside of function bodies: each must exist in the original, as the rewritten module has more of them.

Constant expressions are held to a single instruction, so that instantiating costs no more than the segments are long.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..errors import RestrictedModule
from .leb128 import read_unsigned
from .module import GlobalType, Module

_CONSTANTS: Final = frozenset({0x41, 0x42, 0x43, 0x44})
_GLOBAL_GET, _REF_NULL, _REF_FUNC, _END = 0x23, 0xD0, 0xD2, 0x0B


class Shape(msgspec.Struct):
    """What indices refer to: (parameters, results) of each type and each function, and how many globals there are.

    ``constants`` are the indices of the globals that a constant expression may read.
    """

    types: list[tuple[int, int]]
    functions: list[tuple[int, int]]
    globals: int
    constants: frozenset[int]

    @classmethod
    def of(cls, module: Module) -> Shape:
        """Return the shape of a module. Raises ``RestrictedModule`` for a function without a type."""
        types = [(len(item.params), len(item.results)) for item in module.types]
        indices = module.function_types()
        for index in indices:
            check_index(index, len(types), "type", "function")
        functions = [types[index] for index in indices]
        imported = [item.type for item in module.imports if isinstance(item.type, GlobalType)]
        constants = frozenset(index for index, item in enumerate(imported) if not item.mutable)
        return cls(types, functions, len(module.globals) + len(imported), constants)


def check_index(index: int, count: int, what: str, where: str | int) -> None:
    """Reject an index that does not exist. ``where`` is a place in words, or an offset in bytes."""
    if index >= count:
        raise RestrictedModule(
            "index", where if isinstance(where, str) else f"byte {where}", f"{what} {index} of {count}"
        )


def check_references(module: Module, shape: Shape) -> None:
    """Raise ``RestrictedModule`` for an index that does not exist, or a constant expression that is not one
    instruction."""
    functions = len(shape.functions)
    if module.start is not None:
        check_index(module.start, functions, "function", "start")
    for export in module.exports:
        if export.kind == "function":
            check_index(export.index, functions, "function", f"export {export.name!r}")
        elif export.kind == "global":
            check_index(export.index, shape.globals, "global", f"export {export.name!r}")
    for number, element in enumerate(module.elements):
        for index in element.functions or ():
            check_index(index, functions, "function", f"element segment {number}")
        for expression in (element.offset, *element.expressions):
            _check_constant(expression, shape, f"element segment {number}")
    for number, item in enumerate(module.globals):
        _check_constant(item.init, shape, f"global {number}")
    for number, data in enumerate(module.data):
        _check_constant(data.offset, shape, f"data segment {number}")


def _check_constant(expression: bytes | None, shape: Shape, where: str) -> None:
    if expression is None:
        return
    opcode = expression[0]
    if opcode in (_GLOBAL_GET, _REF_FUNC):
        index, after = read_unsigned(expression, 1)
        if opcode == _GLOBAL_GET:
            check_index(index, shape.globals, "global", where)
            if index not in shape.constants:  # of the garbage collection proposal; engines differ
                detail = f"reads global {index}; WebAssembly 2.0 has only imported, immutable ones there"
                raise RestrictedModule("constant_expression", where, detail)
        else:
            check_index(index, len(shape.functions), "function", where)
    elif opcode in (0x43, 0x44):
        after = 5 if opcode == 0x43 else 9
    elif opcode in _CONSTANTS:
        after = next(at for at in range(1, len(expression)) if expression[at] < 0x80) + 1
    else:
        after = 2 if opcode == _REF_NULL else -1
    if after != len(expression) - 1 or expression[after] != _END:
        raise RestrictedModule("constant_expression", where, f"{expression[:20].hex()} is not one constant")
