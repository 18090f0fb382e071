"""Checks the interface of a module of OPA's ABI without running it, and rejects modules for it."""

from __future__ import annotations

from typing import Final

import msgspec

from ....artifact.load import OPA_IMPORTS, OPA_VERSION
from ....errors import RestrictedModule
from ....limits import Limits
from ....wasm import Module
from ....wasm.leb128 import read_signed
from ....wasm.module import I32, Export, MemoryType
from ....wasm.state import leaves_state
from ....wasm.survey import about_imports
from ..reactor import initializer

VERSION: Final = OPA_VERSION
MINOR: Final = "opa_wasm_abi_minor_version"
#: The minor versions of ABI 1 that are known. A higher one may mean anything.
MINORS: Final = range(4)

PAGE: Final = 65_536
MODULE: Final = "env"
MEMORY: Final = "memory"
ABORT: Final = "opa_abort"
PRINTLN: Final = "opa_println"
#: Functions that the host has: name -> (parameters, results), all i32. A builtin of n arguments also gets its number
#: and a context that means nothing.
FUNCTIONS: Final = {
    ABORT: (1, 0),
    PRINTLN: (1, 0),
    **{f"opa_builtin{count}": (count + 2, 1) for count in range(5)},
}
#: All that a module may import.
IMPORTS: Final = OPA_IMPORTS

#: Functions that the guest has and the host calls: name -> (parameters, results), all i32.
EXPORTS: Final = {
    "builtins": (0, 1),
    "entrypoints": (0, 1),
    "eval": (1, 1),
    "opa_eval_ctx_new": (0, 1),
    "opa_eval_ctx_set_input": (2, 0),
    "opa_eval_ctx_set_data": (2, 0),
    "opa_eval_ctx_set_entrypoint": (2, 0),
    "opa_eval_ctx_get_result": (1, 1),
    "opa_malloc": (1, 1),
    "opa_json_parse": (2, 1),
    "opa_json_dump": (1, 1),
    "opa_value_parse": (2, 1),
    "opa_value_dump": (1, 1),
    "opa_heap_ptr_get": (0, 1),
    "opa_heap_ptr_set": (1, 0),
}
#: Since 1.2: evaluation in one call.
EVAL: Final = "opa_eval"
EVAL_SIGNATURE: Final = (7, 1)
EVAL_SINCE: Final = 2
#: Since 1.1 the memory is exported, too.
MEMORY_SINCE: Final = 1

#: What the host calls first to load: that begins with all the fuel. A question begins by being set back.
LOADING: Final = "opa_malloc"
ENTRIES: Final = (LOADING,)


#: Fuel for loading beside that of a question, for each byte of the module's code and data segments, up to so many, and
#: of the data. Modules that OPA made take up to 13 for each byte of theirs, to set up constants, and up to 700 for each
#: byte of JSON, which is a microsecond for 16 of them.
MODULE_BYTE: Final = 50
MODULE_BYTES: Final = 4_194_304
DATA_BYTE: Final = 2_000
_CODE, _DATA = 10, 11


class ModuleFacts(msgspec.Struct, frozen=True):
    """What the host has to know of a module.

    ``minor``        the version of the ABI
    ``imports``      the names, in their order
    ``memory``       as it is imported, but large enough for the module's data: what OPA declares may be too small
    ``restorable``   whether memory and globals are all that an instance can remember
    ``initializer``  the export to call first, once, if there is one
    """

    minor: int
    imports: tuple[str, ...]
    memory: MemoryType
    restorable: bool
    initializer: str | None = None


def loading_fuel(limits: Limits, module: Module, data: int) -> int:
    """Return what the start function may spend, and each of the two parts of loading, with so many bytes of data."""
    # Other sections, such as custom ones, are nothing that is set up: a guest must not buy time with them.
    size = sum(len(section.payload) for section in module.sections if section.id in (_CODE, _DATA))
    return limits.call_fuel + MODULE_BYTE * min(size, MODULE_BYTES) + DATA_BYTE * data


def check_module(module: Module) -> ModuleFacts:
    """Return what the host has to know of ``module``, decoded with its bodies. Raises :class:`RestrictedModule`:

    ``abi_version`` for another version than 1.0 to 1.3, or none; ``import``, ``import_type`` and ``missing_import`` for
    imports other than those of the ABI; ``missing_export``, ``export_kind``, ``export_type`` and ``command`` for the
    exports; ``memory_pages`` where more is written into the memory at the start than it may have.
    """
    minor = _minor(module)
    memory = _memory(module)
    wanted = {**EXPORTS, **({EVAL: EVAL_SIGNATURE} if minor >= EVAL_SINCE else {})}
    for name, signature in wanted.items():
        _check_function(module, name, signature)
    exported = module.export(MEMORY)
    if exported is None and minor >= MEMORY_SINCE:
        raise RestrictedModule("missing_export", MEMORY, f"version 1.{minor} exports its memory")
    if exported is not None and (exported.kind, exported.index) != ("memory", 0):
        raise RestrictedModule("export_kind", MEMORY, "is not the memory that is imported")
    return ModuleFacts(
        minor,
        tuple(item.name for item in module.imports),
        _holding(module, memory),
        not leaves_state(module),
        initializer(module),
    )


def _holding(module: Module, memory: MemoryType) -> MemoryType:
    """Return ``memory``, at least as large as what is written into it at the start: OPA's compiler adds data to its
    library, and leaves the memory as that declares it."""
    ends = [
        (read_signed(data.offset, 1, 32)[0] & 0xFFFFFFFF) + data.end - data.start
        for data in module.data
        if data.offset is not None and data.offset[:1] == b"\x41"
    ]
    minimum = max(memory.minimum, -(-max(ends, default=0) // PAGE))
    if memory.maximum is not None and minimum > memory.maximum:
        raise RestrictedModule("memory_pages", "memory 0", f"it needs {minimum}, and declares {memory.maximum} at most")
    return MemoryType(minimum, memory.maximum)


def _minor(module: Module) -> int:
    major, minor = (_constant(module, name) for name in (VERSION, MINOR))
    if major != 1 or minor not in MINORS:
        raise RestrictedModule("abi_version", f"{major}.{minor}", f"valid are 1.{MINORS[0]} to 1.{MINORS[-1]}")
    return minor


def _constant(module: Module, name: str) -> int:
    """Return the value of an exported global, which nothing can change."""
    export = module.export(name)
    if export is None or export.kind != "global":
        detail = (
            "a module that OPA before 0.27 compiled has no such global; build it again, by opa build -t wasm of 0.27"
        )
        raise RestrictedModule("abi_version", name, f"{detail} or later; valid are 1.{MINORS[0]} to 1.{MINORS[-1]}")
    index = export.index - len(module.imported("global"))
    if not 0 <= index < len(module.globals):
        raise RestrictedModule("abi_version", name, "is no global of this module")
    item = module.globals[index]
    if item.type.mutable or item.type.type != I32 or item.init[:1] != b"\x41":
        raise RestrictedModule("abi_version", name, "is not a constant i32")
    return read_signed(item.init, 1, 32)[0]


def _memory(module: Module) -> MemoryType:
    memory: MemoryType | None = None
    seen: set[str] = set()
    refused = [item for item in module.imports if (item.module, item.name) not in IMPORTS]
    if refused:
        first, names = refused[0], tuple(f"{item.module}.{item.name}" for item in refused)
        detail = f"a {first.kind}; valid: {', '.join((MEMORY, *FUNCTIONS))} of 'env'; {about_imports(names)}"
        raise RestrictedModule("import", f"{first.module!r} {first.name!r}", detail, imports=names)
    for item in module.imports:
        where = f"{item.module!r} {item.name!r}"
        if item.name in seen:
            raise RestrictedModule("import", where, "is imported twice")
        seen.add(item.name)
        if item.name == MEMORY:
            if not isinstance(item.type, MemoryType):
                raise RestrictedModule("import_type", where, f"is a {item.kind}, not a memory")
            memory = item.type
        elif item.kind != "function" or not isinstance(item.type, int):
            raise RestrictedModule("import_type", where, f"is a {item.kind}, not a function")
        else:
            _check_type(module, item.type, FUNCTIONS[item.name], "import_type", where)
    if memory is None:
        raise RestrictedModule("missing_import", f"{MODULE!r} {MEMORY!r}", "the host makes the memory")
    return memory


def _check_function(module: Module, name: str, signature: tuple[int, int]) -> None:
    export: Export | None = module.export(name)
    if export is None:
        raise RestrictedModule("missing_export", name, "a module that OPA compiled has it")
    if export.kind != "function":
        raise RestrictedModule("export_kind", name, f"is a {export.kind}, not a function")
    types = module.function_types()
    if export.index >= len(types):
        raise RestrictedModule("export_type", name, "is no function of this module")
    _check_type(module, types[export.index], signature, "export_type", name)


def _check_type(module: Module, index: int, signature: tuple[int, int], rule: str, where: str) -> None:
    parameters, results = signature
    if index >= len(module.types):
        raise RestrictedModule(rule, where, "has no type of this module")
    declared = module.types[index]
    if declared.params != (I32,) * parameters or declared.results != (I32,) * results:
        raise RestrictedModule(rule, where, f"is not ({parameters} x i32) -> ({results} x i32)")
