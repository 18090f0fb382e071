"""Run by itself: a policy is asked ever nearer to the end of Python's stack. Prints what comes of it, one line each."""

from __future__ import annotations

import sys
from collections.abc import Callable

from capgate.artifact.load import WasmArtifact
from capgate.errors import PolicyError
from capgate.model import PolicyInput, Resource
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter

from ..support.guests import data
from ..support.rego_guests import ANSWER, liar
from .outcomes import LIMITS

TEXT = 8_192
CALL = f"(call $builtin1 (i32.const 7) (i32.const 0) (i32.const {TEXT}))"
#: Allows what is long, so that this answer is known; allows the rest where its builtin gives nothing.
BODIES = {
    "opa_json_parse": "(global.set $size (local.get $b)) (local.get $a)",
    "eval": f"(global.set $found {CALL}) (i32.const 0)",
    "opa_eval_ctx_get_result": f"(select (i32.const 60000) (i32.const {ANSWER})"
    " (i32.or (i32.gt_u (global.get $size) (i32.const 400)) (i32.eqz (global.get $found))))",
}
EXTRA = (
    "(global $size (mut i32) (i32.const 0)) (global $found (mut i32) (i32.const 1))"
    '(data (i32.const 60000) "[{\\"result\\":true}]\\00")' + data(TEXT, b'"a"\0')
)
#: From within a builtin, another one is called: as deep as the host's functions ever are.
NESTED = {**BODIES, "opa_value_dump": f"(if (i32.gt_u (global.get $size) (i32.const 2)) (then (drop {CALL})))"}
NESTED["opa_value_dump"] += " (local.get $a)"
ABORTS = {**BODIES, "eval": "(call $abort (i32.const 0)) (i32.const 0)"}
KNOWN = PolicyInput("db.write", resource=Resource("sql_query", "x" * 400))
INPUT = PolicyInput("db.write")
#: Frames from the end of the stack.
NEAREST = range(1, 150)


def prepared(bodies: dict[str, str], extra: str = "") -> PreparedPolicy:
    module = liar(b'[{"result":false}]\0', builtin_names=b'{"hex.encode":7}', extra=EXTRA + extra, bodies=bodies)
    return PreparedPolicy(WasmArtifact.from_bytes(module), LIMITS)


def at(depth: int, do: Callable[[], str]) -> str:
    return do() if depth <= 0 else at(depth - 1, do)


def told(do: Callable[[], object]) -> str:
    try:
        return type(do()).__name__
    except (PolicyError, RecursionError) as error:
        return type(error).__name__


def warm(compiled: CompiledPolicy) -> WasmInterpreter:
    """An instance that knows both answers by their bytes, so that it takes few frames to read them."""
    interpreter = compiled.instantiate()
    for asked in (KNOWN, INPUT):
        told(lambda asked=asked: interpreter.call_policy_check(asked))  # type: ignore[misc]
    return interpreter if not interpreter.broken else compiled.instantiate()


def main(engine: str, public: bool) -> None:
    if public:
        load_engine("wasmtime").unchecked = False  # type: ignore[attr-defined]
    starts = prepared(BODIES, "(func $start (call $abort (i32.const 0))) (start $start)")
    policies = [CompiledPolicy(prepared(bodies), load_engine(engine)) for bodies in (BODIES, NESTED, ABORTS)]
    starting = CompiledPolicy(starts, load_engine(engine))
    for left in NEAREST:
        depth = sys.getrecursionlimit() - left
        for compiled in policies:
            interpreter = warm(compiled)
            ask = interpreter.call_policy_check
            try:
                print(at(depth, lambda ask=ask: told(lambda: ask(INPUT))))  # type: ignore[misc]
            except RecursionError:
                print("no room at all")
        try:
            print(at(depth, lambda: told(starting.instantiate)))
        except RecursionError:
            print("no room at all")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] == ["public"])
