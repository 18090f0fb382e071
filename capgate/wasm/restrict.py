"""Rejects modules that may not become policies, by an allow-list of features, bounds on every size, and no imports.

Runs before an engine sees a byte, so that what makes engines slow or large (nesting, locals, signatures, names) is
bounded here. It is not validation: whether types fit is for the engine to say, before and after metering.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from ..errors import DecodeError, RestrictedModule
from ..limits import Limits
from .decode import decode
from .encode import encoded_size
from .leb128 import read_unsigned
from .module import CUSTOM, Module
from .opcodes import describe, lookup
from .survey import refused_for

#: Names that start like this belong to the metering. A guest that uses one, as import or export, is rejected.
RESERVED_PREFIX: Final = "capgate-meter:"

#: rule -> the most that a module may have of it. The largest real modules that were at hand, tools of three megabytes,
#: stay well within, and so does the official test suite (with 16 results). They keep small what grows faster than the
#: code does: with 64 results, blocks that hand them on take wasmtime 90 MB for each kilobyte of code. They do not bound
#: the time to compile, which is minutes for a module made for that; :mod:`capgate.runtime.engine.child_compilation`
#: does.
BOUNDS: Final[dict[str, int]] = {
    "types": 2_000,
    "parameters": 256,
    "results": 16,
    "signature_values": 20_000,
    "imports": 100,
    "functions": 20_000,
    "code_bytes": 4_194_304,
    "body_bytes": 262_144,
    "locals": 2_000,
    "all_locals": 500_000,
    "nesting": 2_000,
    "branch_targets": 50_000,
    "tables": 16,
    "memories": 1,
    "globals": 10_000,
    "exports": 2_000,
    "element_segments": 10_000,
    "element_items": 100_000,
    "data_segments": 10_000,
    "custom_sections": 1_000,
    "name_bytes": 1_024,
}

#: What 32-bit addresses can reach, in pages of 64 KiB.
ADDRESSABLE_PAGES: Final = 65_536

#: Rules that mean a feature, or imports, of which all are told.
_TELLING: Final = frozenset({"import", "memories"})
_PREFIXES: Final = (0xFB, 0xFC, 0xFD, 0xFE)

#: What the module may import: pairs of module and name.
ImportNames = Collection[tuple[str, str]]


def admit(data: bytes | Module, limits: Limits, imports: ImportNames = ()) -> Module:
    """Decode ``data``, unless it is decoded, and restrict it. Raises ``DecodeError`` or ``RestrictedModule``."""
    size = encoded_size(data) if isinstance(data, Module) else len(data)
    if size > limits.module_bytes:
        raise _too_many("module_bytes", "module", size, limits.module_bytes)
    module = data if isinstance(data, Module) else decode_admitted(data, imports)
    restrict(module, limits, imports)
    return module


def decode_admitted(data: bytes, imports: ImportNames = ()) -> Module:
    """Decode ``data``. Where that fails at what capgate does not admit, raise ``RestrictedModule`` with all of that.

    Raises ``DecodeError`` where it fails otherwise.
    """
    try:
        return decode(data)
    except DecodeError as error:
        source = bytes(data)
        raise refused_for(_rejected_opcode(source, error) or error, source, imports) from None


def restrict(module: Module, limits: Limits, imports: ImportNames = ()) -> None:
    """Raise ``RestrictedModule`` unless ``module`` keeps within ``limits``, :data:`BOUNDS` and the imports named."""
    try:
        _check_sizes(module)
        _check_names(module)
        for item in module.imports:
            if (item.module, item.name) not in imports:
                raise RestrictedModule("import", f"{item.module!r} {item.name!r}", f"a {item.kind}")
    except RestrictedModule as error:
        raise (refused_for(error, module.source, imports) if error.rule in _TELLING else error) from None
    for index, memory in enumerate(module.all_memories()):
        if memory.minimum > limits.most_pages:
            raise _too_many("memory_pages", f"memory {index}", memory.minimum, limits.most_pages)
        if (memory.maximum or 0) > ADDRESSABLE_PAGES:  # lowering it would make an invalid module valid
            raise _too_many("memory_pages", f"memory {index}", memory.maximum or 0, ADDRESSABLE_PAGES)
    for index, table in enumerate(module.all_tables()):
        if table.minimum > limits.table_elements:
            raise _too_many("table_elements", f"table {index}", table.minimum, limits.table_elements)


def _check_sizes(module: Module) -> None:
    _bound("types", "module", len(module.types))
    _bound("imports", "module", len(module.imports))
    _bound("functions", "module", len(module.functions))
    _bound("tables", "module", len(module.all_tables()))
    _bound("memories", "module", len(module.all_memories()))
    _bound("globals", "module", len(module.globals))
    _bound("exports", "module", len(module.exports))
    _bound("element_segments", "module", len(module.elements))
    _bound("element_items", "module", sum(item.count for item in module.elements))
    _bound("data_segments", "module", len(module.data))
    _bound("custom_sections", "module", sum(item.id == CUSTOM for item in module.sections))
    for index, signature in enumerate(module.types):
        _bound("parameters", f"type {index}", len(signature.params))
        _bound("results", f"type {index}", len(signature.results))
    _bound(
        "signature_values", "module", sum(len(signature.params) + len(signature.results) for signature in module.types)
    )
    _check_code(module)


def _check_code(module: Module) -> None:
    _bound("code_bytes", "module", sum(body.end - body.entry for body in module.code))
    _bound("all_locals", "module", sum(body.local_count for body in module.code))
    for index, body in enumerate(module.code):
        where = f"function body {index}"
        _bound("body_bytes", where, body.end - body.entry)
        _bound("locals", where, body.local_count)
        _bound("nesting", where, body.nesting)
        _bound("branch_targets", where, body.branch_targets)


def _check_names(module: Module) -> None:
    for where, name in _names(module):
        if name.startswith(RESERVED_PREFIX):
            raise RestrictedModule("reserved_name", where, repr(name[:100]))
        _bound("name_bytes", where, len(name.encode()))


def _names(module: Module) -> Iterator[tuple[str, str]]:
    for item in module.imports:
        yield "import module", item.module
        yield "import", item.name
    for export in module.exports:
        yield "export", export.name
    for section in module.sections:
        if section.name is not None:
            yield "custom section", section.name


def _bound(rule: str, where: str, seen: int) -> None:
    if seen > BOUNDS[rule]:
        raise _too_many(rule, where, seen, BOUNDS[rule])


def _too_many(rule: str, where: str, seen: int, most: int) -> RestrictedModule:
    return RestrictedModule(rule, where, f"{seen}, the limit is {most}")


def _rejected_opcode(data: bytes, error: DecodeError) -> RestrictedModule | None:
    """Return the rejection of an opcode of a proposal that capgate does not admit, by its name. Any other is
    malformed, and has none."""
    if error.reason != "illegal opcode":
        return None
    code = data[error.offset]
    if code in _PREFIXES:
        try:
            number, _ = read_unsigned(data, error.offset + 1)
        except (DecodeError, IndexError):
            return None
        code = code << 8 | min(number, 0xFF)
    return None if lookup(code) is None else RestrictedModule("opcode", f"byte {error.offset}", describe(code))
