"""The answer to an input never depends on what was asked before, whatever a module keeps, and wherever (G21)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from capgate.artifact.load import WasmArtifact
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import AbiError
from capgate.limits import Limits
from capgate.model import Allow, Deny, Entrypoint, PolicyInput, Resource
from capgate.runtime.abi.opa import host
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy
from capgate.runtime.pool import WasmPool

from ..support.guests import PAGE
from ..support.rego_guests import ANSWER, liar, opa_artifact
from .outcomes import INPUT, LIMITS, opened, outcome

#: Where a liar counts: static data, the middle of nowhere, behind its heap, the last word of its memory.
PLACES = (8, 1_000, 40_000, PAGE + 30_000, 2 * PAGE - 4)
DENIED = f"(i32.const {ANSWER})"
ALLOWED = "(i32.const 60000)"
TEXTS = '(data (i32.const 60000) "[{\\"result\\":true}]\\00")'
DOCUMENT = {"sql": ["upsert_user"]}
PRINTS = "(call $println (i32.const 0)) (call $println (i32.const 0)) (i32.const 0)"


def second_time(counter: str, add: str) -> dict[str, str]:
    """A guest that denies, and from the second question on allows, if ``counter`` still says so."""
    body = f"{add} (if (result i32) (i32.gt_u {counter} (i32.const 1)) (then {ALLOWED}) (else {DENIED}))"
    return {"opa_eval_ctx_get_result": body}


def counting() -> Iterator[tuple[str, bytes]]:
    for place in PLACES:
        counter = f"(i32.load (i32.const {place}))"
        add = f"(i32.store (i32.const {place}) (i32.add {counter} (i32.const 1)))"
        yield f"memory at {place}", liar(b'[{"result":false}]\0', extra=TEXTS, bodies=second_time(counter, add))
    for kind in ("i32", "i64"):
        counter = "(global.get $count)" if kind == "i32" else "(i32.wrap_i64 (global.get $count))"
        add = f"(global.set $count ({kind}.add (global.get $count) ({kind}.const 1)))"
        extra = f"{TEXTS} (global $count (mut {kind}) ({kind}.const 0))"
        yield f"a global {kind}", liar(b'[{"result":false}]\0', extra=extra, bodies=second_time(counter, add))
    counter = "(i32.trunc_f64_u (global.get $count))"
    add = "(global.set $count (f64.add (global.get $count) (f64.const 1)))"
    extra = f'{TEXTS} (global $count (export "count") (mut f64) (f64.const 0))'
    yield "a global that is exported", liar(b'[{"result":false}]\0', extra=extra, bodies=second_time(counter, add))
    counter = "(i32.add (i32.const 1) (ref.is_null (global.get $count)))"
    add = "(global.set $count (ref.null func))"
    extra = f"{TEXTS} (func $f) (elem declare func $f) (global $count (mut funcref) (ref.func $f))"
    body = second_time("(i32.const 0)", "")["opa_eval_ctx_get_result"]
    body = f"(if (result i32) (ref.is_null (global.get $count)) (then {ALLOWED}) (else {add} {DENIED}))"
    yield "a global reference", liar(b'[{"result":false}]\0', extra=extra, opa_eval_ctx_get_result=body)


def changing_tables() -> Iterator[tuple[str, bytes]]:
    """Modules whose state is not all in memory and globals."""
    table = f"{TEXTS} (table $t 2 10 funcref) (func $f) (elem declare func $f)"
    null = "(ref.is_null (table.get $t (i32.const 0)))"
    for name, change in (
        ("table.set", "(table.set $t (i32.const 0) (ref.func $f))"),
        ("table.fill", "(table.fill $t (i32.const 0) (ref.func $f) (i32.const 1))"),
        ("table.init", "(table.init $t $s (i32.const 0) (i32.const 0) (i32.const 1))"),
        ("table.copy", "(table.copy $t $u (i32.const 0) (i32.const 0) (i32.const 1))"),
    ):
        extra = f"{table} (elem $s func $f) (table $u 1 1 funcref) (elem (table $u) (i32.const 0) func $f)"
        body = f"(if (result i32) {null} (then {change} {DENIED}) (else {ALLOWED}))"
        yield name, liar(b'[{"result":false}]\0', extra=extra, opa_eval_ctx_get_result=body)
    grow = "(drop (table.grow $t (ref.null func) (i32.const 1)))"
    body = f"{grow} (if (result i32) (i32.eq (table.size $t) (i32.const 3)) (then {DENIED}) (else {ALLOWED}))"
    yield "table.grow", liar(b'[{"result":false}]\0', extra=table, opa_eval_ctx_get_result=body)


@pytest.mark.parametrize(("name", "module"), list(counting()), ids=[name for name, _ in counting()])
def test_what_it_counts_is_forgotten(engine_name: str, name: str, module: bytes) -> None:
    interpreter = opened(engine_name, module)
    assert interpreter.prepared.pure
    assert [outcome(interpreter) for _ in range(4)] == ["deny not_in_allowlist"] * 4


@pytest.mark.parametrize(("name", "module"), list(changing_tables()), ids=[name for name, _ in changing_tables()])
def test_what_cannot_be_set_back_is_used_once(engine_name: str, name: str, module: bytes) -> None:
    interpreter = opened(engine_name, module)
    assert not interpreter.prepared.pure
    assert outcome(interpreter) == "deny not_in_allowlist"
    assert outcome(interpreter) == "allow", "this guest does not show what it is to show"
    pool = WasmPool(WasmArtifact.from_bytes(module), 2, engine_name, LIMITS)
    assert pool.call(INPUT) == pool.call(INPUT) == Deny("not_in_allowlist")
    assert pool.statistics().spent == 2


def test_a_dropped_segment_is_state(engine_name: str) -> None:
    """Initialising memory traps once the segment is dropped; a trap is a denial, but another one than before."""
    extra = '(data $d "x")'
    body = f"(memory.init $d (i32.const 0) (i32.const 0) (i32.const 1)) (data.drop $d) {DENIED}"
    interpreter = opened(engine_name, liar(extra=extra, opa_eval_ctx_get_result=body))
    assert not interpreter.prepared.pure


def test_the_size_of_memory_tells_nothing(engine_name: str) -> None:
    """M17: it cannot shrink, so an instance that grew is replaced. This one grows at its first question."""
    grow = f"(drop (memory.grow (i32.const 1))) {DENIED}"
    body = f"(if (result i32) (i32.gt_u (memory.size) (i32.const 2)) (then {ALLOWED}) (else {grow}))"
    module = liar(b'[{"result":false}]\0', extra=TEXTS, opa_eval_ctx_get_result=body)
    interpreter = opened(engine_name, module)
    assert outcome(interpreter) == "deny not_in_allowlist"
    assert interpreter.spent
    assert outcome(interpreter) == "allow", "this guest does not show what it is to show"
    pool = WasmPool(WasmArtifact.from_bytes(module), 1, engine_name, LIMITS)
    assert [pool.call(INPUT) for _ in range(5)] == [Deny("not_in_allowlist")] * 5
    assert pool.statistics().spent == 5


@pytest.mark.slow
def test_a_question_leaves_nothing_behind(engine_name: str) -> None:
    """M14: the memory that answers a question is, byte for byte, what it was before any."""
    interpreter = opened(engine_name, opa_artifact(DOCUMENT, spare=4).data, Entrypoint("capgate/decision"), Limits())
    guest = interpreter._guest
    assert guest is not None
    before = bytes(guest.instance.memory_view())
    outcome(interpreter, PolicyInput("db.write", resource=Resource("sql_query", "secret-of-somebody")))
    assert b"secret-of-somebody" in bytes(guest.instance.memory_view())
    guest._image.restore(guest.instance.memory_view())
    assert bytes(guest.instance.memory_view()) == before


@pytest.mark.parametrize("when", range(1, 4))
def test_a_question_in_the_middle_of_another(engine_name: str, when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal's handler may ask the instance that it interrupted, be it in a builtin or before the guest began: that
    question is denied, and answers no other. This guest allows what is asked after another question."""
    add = "(i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))"
    bodies = second_time("(i32.load (i32.const 8))", add)
    interpreter = opened(engine_name, liar(b'[{"result":false}]\0', extra=TEXTS, eval=PRINTS, bodies=bodies))
    assert outcome(interpreter) == "deny not_in_allowlist"
    looked: list[str] = []

    def interrupted() -> float:  # where the host looks at the clock, which it does in each of its functions
        looked.append("")
        if len(looked) == when:
            with pytest.raises(AbiError) as caught:
                interpreter.call_policy_check(INPUT)
            looked[-1] = caught.value.rule
        return 0.0

    ask = interpreter.ask
    monkeypatch.setattr(host, "monotonic", interrupted)
    assert ask(INPUT) == Deny("not_in_allowlist")
    assert looked[when - 1] == "nested"
    assert interpreter.broken


def test_reuse_is_the_operators_word_only_for_what_is_not_known(engine_name: str) -> None:
    """What can be restored is restored, whether or not somebody says that it keeps no state."""
    name, module = next(iter(counting()))
    pool = WasmPool(WasmArtifact.from_bytes(module), 1, engine_name, LIMITS, reuse=True)
    assert [pool.call(INPUT) for _ in range(3)] == [Deny("not_in_allowlist")] * 3, name
    assert pool.statistics().made == 1


async def test_a_pool_reuses_what_it_restores(engine_name: str) -> None:
    pool = WasmPool(
        opa_artifact(DOCUMENT, spare=8), 2, engine_name, Limits(), entrypoint=Entrypoint("capgate/decision")
    )
    async with WasmPolicyChecker(pool) as checker:
        for number in range(200):
            id = "upsert_user" if number % 3 else f"other{number}"
            asked = PolicyInput("db.write", resource=Resource("sql_query", id, {"x": "y" * number}))
            assert await checker.check(asked) == (Allow() if number % 3 else Deny("not_in_allowlist"))
        assert pool.statistics().made == 2
        assert pool.statistics().calls == 200


def test_instances_of_one_policy_share_what_they_are_restored_from(engine_name: str) -> None:
    prepared = PreparedPolicy(opa_artifact(DOCUMENT, spare=4), Limits(), Entrypoint("capgate/allow"))
    compiled = CompiledPolicy(prepared, load_engine(engine_name))
    guests = [compiled.instantiate()._guest for _ in range(3)]
    assert len({id(guest._image) for guest in guests if guest is not None}) == 1
    first = prepared.image_of(memoryview(bytearray(b"other")))
    assert prepared.image_of(memoryview(bytearray(b"other"))) is first
    assert prepared.image_of(memoryview(bytearray(b"others"))) is not first


@pytest.mark.parametrize("ends", ["", "(call $abort (i32.const 0))", "unreachable", "(call $println (i32.const 0))"])
def test_an_instance_goes_when_nobody_has_it(engine_name: str, ends: str) -> None:
    """P5, P17: without the garbage collector, which may run on a thread where it must not be dropped."""
    compiled = opened_policy(engine_name, liar(eval=f"{ends} (i32.const 0)"))
    kept: list[weakref.ref[object]] = []
    gc.disable()
    try:
        for _ in range(10):
            interpreter = compiled.instantiate()
            guest = interpreter._guest
            assert guest is not None
            kept += [weakref.ref(guest), weakref.ref(guest.instance), weakref.ref(guest._host)]
            outcome(interpreter)
            del interpreter, guest
        assert [reference() for reference in kept] == [None] * 30
    finally:
        gc.enable()


def opened_policy(engine_name: str, module: bytes) -> CompiledPolicy:
    return CompiledPolicy(PreparedPolicy(WasmArtifact.from_bytes(module), LIMITS), load_engine(engine_name))
