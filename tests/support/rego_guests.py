"""Modules of OPA's ABI: the honest one that ``guest/opa.zig`` gives, around the image of a policy; and liars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from capgate.artifact.build import PAGE
from capgate.artifact.guest import IMAGE_BASE, make_image
from capgate.artifact.load import WasmArtifact
from capgate.policy import RuntimePolicy
from capgate.runtime.abi.opa.interface import EVAL, EVAL_SIGNATURE, EXPORTS
from capgate.wasm import Module, decode, encode, with_data
from capgate.wasm.edit import extended, replaced
from capgate.wasm.encode import export_entry, i32_const, import_entry, vector
from capgate.wasm.module import Export, Import, MemoryType

from .guests import data, wat
from .tools import ROOT

SIGNATURES: Final = {**EXPORTS, EVAL: EVAL_SIGNATURE}
COMPILED: Final = ROOT / "tests" / "rego" / "guest" / "opa.wasm"
ENTRYPOINTS: Final = tuple(
    f"capgate/{name}" for name in ("decision", "allow", "denials", "data", "input", "builtin", "time", "facts")
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
        import_entry(
            Import(item.module, item.name, item.kind, MemoryType(pages, None)) if item.kind == "memory" else item
        )
        for item in imports
    ]


# -- liars

#: Where the guests below keep the text of their answer, and where their heap begins.
ANSWER, HEAP = 65_536, 16_384
#: Other texts that they have: the names of builtins and of entry points.
BUILTINS_AT, ENTRYPOINTS_AT = 1_024, 1_536

#: What honest functions do. A value is the address of its text. ``$a``, ``$b`` and so on are the parameters.
HONEST: Final = {
    "builtins": f"(i32.const {BUILTINS_AT})",
    "entrypoints": f"(i32.const {ENTRYPOINTS_AT})",
    "eval": "(i32.const 0)",
    "opa_eval_ctx_new": "(call $bump (i32.const 16))",
    "opa_eval_ctx_set_input": "",
    "opa_eval_ctx_set_data": "",
    "opa_eval_ctx_set_entrypoint": "",
    "opa_eval_ctx_get_result": f"(i32.const {ANSWER})",
    "opa_malloc": "(call $bump (local.get $a))",
    "opa_json_parse": "(local.get $a)",
    "opa_json_dump": "(local.get $a)",
    "opa_value_parse": "(local.get $a)",
    "opa_value_dump": "(local.get $a)",
    "opa_heap_ptr_get": "(global.get $next)",
    "opa_heap_ptr_set": "(global.set $next (local.get $a))",
    "opa_eval": f"(i32.const {ANSWER})",
}
IMPORTED: Final = """(import "env" "memory" (memory {pages}))
(import "env" "opa_abort" (func $abort (param i32)))
(import "env" "opa_println" (func $println (param i32)))
(import "env" "opa_builtin0" (func $builtin0 (param i32 i32) (result i32)))
(import "env" "opa_builtin1" (func $builtin1 (param i32 i32 i32) (result i32)))"""
VERSIONS: Final = """(global (export "opa_wasm_abi_version") i32 (i32.const 1))
(global (export "opa_wasm_abi_minor_version") i32 (i32.const 3))"""


def liar(
    answer: bytes = b'[{"result":true}]\0',
    *,
    extra: str = "",
    builtin_names: bytes = b"{}",
    entrypoint_names: bytes = b'{"p":0}',
    imported: str | None = None,
    versions: str = VERSIONS,
    memory: str = '(export "memory" (memory 0))',
    pages: int = 2,
    without: str = "",
    bodies: Mapping[str, str] | None = None,
    **others: str,
) -> bytes:
    """A module of OPA's ABI that has no policy. ``answer`` is its answer as bytes, with the zero at the end.

    ``bodies``, and ``others`` by name, take the place of :data:`HONEST` ones; ``without`` is a function that it lacks;
    ``extra`` are more fields.
    """
    all_bodies = {**HONEST, **(bodies or {}), **others}
    functions = "".join(_function(name, all_bodies[name]) for name in HONEST if name != without)
    return wat(
        f"(module {IMPORTED.format(pages=pages) if imported is None else imported} {memory} {versions}"
        f"(global $next (mut i32) (i32.const {HEAP}))"
        "(func $bump (param $size i32) (result i32) (local $at i32) (local.set $at (global.get $next))"
        "(global.set $next (i32.and (i32.add (local.get $at) (i32.add (local.get $size) (i32.const 15)))"
        " (i32.const -8))) (local.get $at))"
        f"{functions} {data(ANSWER, answer)} {data(BUILTINS_AT, builtin_names + bytes(1))}"
        f"{data(ENTRYPOINTS_AT, entrypoint_names + bytes(1))} {extra})"
    )


def _function(name: str, body: str) -> str:
    parameters, results = SIGNATURES[name]
    declared = "".join(f"(param ${chr(97 + number)} i32)" for number in range(parameters))
    return f'(func ${name} (export "{name}") {declared} {"(result i32)" * results} {body})'
