"""A module that speaks version 1.1 of OPA's ABI, and answers each entry point with a text of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from .guests import wat

#: Answers of entry points, as OPA gives them.
ALLOW: Final = '[{"result":true}]'
DENY: Final = '[{"result":{"allow":false,"reason":"closed"}}]'
UNDEFINED: Final = "[]"
NO_DENIALS: Final = '[{"result":[]}]'

_SLOT: Final = 1_024
_HEAP: Final = 65_536


def opa_guest(
    answers: Mapping[str, str] | None = None, builtins: tuple[str, ...] = (), start: str = "", extra: str = ""
) -> bytes:
    """The module. ``answers`` has the text that each entry point answers with, whatever is asked; ``start`` is the body
    of a start function, ``extra`` is more of the module.

    A value of it is the address of its text, so that dumping and parsing one does nothing.
    """
    answers = {"orders/allow": ALLOW} if answers is None else answers
    entrypoints = {name: number for number, name in enumerate(answers)}
    needed = {name: number for number, name in enumerate(builtins)}
    texts = [json.dumps(entrypoints), json.dumps(needed), *answers.values()]
    assert all(len(text) < _SLOT for text in texts)
    segments = "".join(_segment(number * _SLOT + 8, text) for number, text in enumerate(texts))
    begin = f"(func $start {start}) (start $start)" if start else ""
    return wat(f"""(module
      (import "env" "memory" (memory 2))
      (import "env" "opa_abort" (func (param i32)))
      (export "memory" (memory 0))
      (global (export "opa_wasm_abi_version") i32 (i32.const 1))
      (global (export "opa_wasm_abi_minor_version") i32 (i32.const 1))
      (global $heap (mut i32) (i32.const {_HEAP}))
      (global $entry (mut i32) (i32.const 0))
      {segments} {begin} {extra}
      (func (export "entrypoints") (result i32) (i32.const 8))
      (func (export "builtins") (result i32) (i32.const {_SLOT + 8}))
      (func (export "eval") (param i32) (result i32) (i32.const 0))
      (func (export "opa_eval_ctx_new") (result i32) (i32.const 8))
      (func (export "opa_eval_ctx_set_input") (param i32 i32))
      (func (export "opa_eval_ctx_set_data") (param i32 i32))
      (func (export "opa_eval_ctx_set_entrypoint") (param i32 i32) (global.set $entry (local.get 1)))
      (func (export "opa_eval_ctx_get_result") (param i32) (result i32)
        (i32.add (i32.const {2 * _SLOT + 8}) (i32.mul (global.get $entry) (i32.const {_SLOT}))))
      (func (export "opa_malloc") (param i32) (result i32) (local i32)
        (local.set 1 (global.get $heap))
        (global.set $heap (i32.add (local.get 1) (local.get 0)))
        (local.get 1))
      (func (export "opa_json_parse") (param i32 i32) (result i32) (local.get 0))
      (func (export "opa_value_parse") (param i32 i32) (result i32) (local.get 0))
      (func (export "opa_json_dump") (param i32) (result i32) (local.get 0))
      (func (export "opa_value_dump") (param i32) (result i32) (local.get 0))
      (func (export "opa_heap_ptr_get") (result i32) (global.get $heap))
      (func (export "opa_heap_ptr_set") (param i32) (global.set $heap (local.get 0))))""")


def _segment(address: int, text: str) -> str:
    escaped = "".join(f"\\{byte:02x}" for byte in text.encode())
    return f'(data (i32.const {address}) "{escaped}\\00")'
