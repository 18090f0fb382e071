"""Modules of OPA's ABI: the honest one that ``guest/opa.zig`` gives, around the image of a policy; and liars."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

from capgate.build import PAGE
from capgate.guest import IMAGE_BASE, make_image
from capgate.policy import RuntimePolicy
from capgate.store.loader import WasmArtifact
from capgate.wasm import Module, decode, encode, with_data
from capgate.wasm.edit import extended, replaced
from capgate.wasm.encode import export_entry, i32_const, import_entry, vector
from capgate.wasm.module import Export, Import, MemoryType

COMPILED: Final = Path(__file__).parent / "guest" / "opa.wasm"
ENTRYPOINTS: Final = tuple(
    f"capgate/{name}" for name in ("decision", "allow", "denials", "data", "input", "builtin", "time")
)
#: Exports that a version of the ABI began with.
SINCE: Final = {
    "memory": 1,
    "opa_eval": 2,
    "opa_value_free": 3,
    "opa_heap_blocks_stash": 3,
    "opa_heap_blocks_restore": 3,
    "opa_heap_stash_clear": 3,
}
_IMPORT, _GLOBAL, _EXPORT = 2, 6, 7


def opa_policy(document: RuntimePolicy | dict[str, Any], *, minor: int = 3, spare: int = 0) -> bytes:
    """The module that answers as ``document`` does, with ``spare`` more pages of memory than its image needs."""
    policy = document if isinstance(document, RuntimePolicy) else RuntimePolicy.from_document(document)
    image = make_image(policy)
    pages = -(-(IMAGE_BASE + len(image) + 1) // PAGE) + spare
    return _rebuilt(with_data(_compiled(), IMAGE_BASE, image), minor, pages)


def opa_artifact(document: RuntimePolicy | dict[str, Any], *, minor: int = 3, spare: int = 0) -> WasmArtifact:
    return WasmArtifact.from_bytes(opa_policy(document, minor=minor, spare=spare))


@cache
def _compiled() -> Module:
    return decode(COMPILED.read_bytes(), bodies=False)


def _rebuilt(module: Module, minor: int, pages: int) -> bytes:
    """With the globals that say the version, and the exports that it has, and no others."""
    sections = replaced(module.sections, _IMPORT, vector(_imports(module.imports, pages)))
    versions = [b"\x7f\0" + i32_const(value) + b"\x0b" for value in (1, minor)]
    sections = extended(Module(b"", sections), _GLOBAL, len(module.globals), versions)
    first = len(module.globals)
    exports = [item for item in module.exports if item.kind == "function" and ":" not in item.name]
    exports = [item for item in exports if SINCE.get(item.name, 0) <= minor and item.name != "cabi_realloc"]
    exports.append(Export("opa_wasm_abi_version", "global", first))
    exports.append(Export("opa_wasm_abi_minor_version", "global", first + 1))
    if minor >= SINCE["memory"]:
        exports.append(Export("memory", "memory", 0))
    return encode(Module(b"", replaced(sections, _EXPORT, vector(map(export_entry, exports)))))


def _imports(imports: Iterable[Import], pages: int) -> list[bytes]:
    return [
        import_entry(Import(item.module, item.name, item.kind, MemoryType(pages, None)) if item.kind == "memory" else item)
        for item in imports
    ]
