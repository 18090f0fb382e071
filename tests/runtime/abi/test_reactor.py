"""Modules with an initializer: it runs once for each instance, before anything is asked of it (P-12)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from capgate.artifact.guest.rebuild import compiler
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import PolicyError, PolicyTimeout, PolicyTrap, RestrictedModule
from capgate.limits import Limits
from capgate.model import Allow, Deny, PolicyInput, PolicyResult
from capgate.runtime.abi.canonical_abi import CHECK
from capgate.runtime.abi.reactor import INITIALIZERS
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from capgate.runtime.pool import WasmPool
from capgate.wasm import decode, meter
from capgate.wasm.metering.module_proof import verify
from capgate.wasm.metering.rewrite import prices_of

from ...support.guests import RESULT, artifact, denies, guest, i32, wat
from ...support.opa_guest import ALLOW as OPA_ALLOW
from ...support.opa_guest import opa_guest
from ...support.tools import require_module

SOURCE: Final = Path(__file__).with_name("deny_list.cpp")
LISTED: Final = PolicyInput("db.drop")
OTHER: Final = PolicyInput("db.read")
#: Denies when it was initialized exactly once, in memory as in a global.
COUNTED: Final = f"""(if
    (i32.and (i32.eq (global.get $times) (i32.const 1)) (i32.eq (i32.load (i32.const 512)) (i32.const 1)))
    (then (return (i32.const {RESULT})))) (i32.const {RESULT + 512})"""
COUNT: Final = """(global $times (mut i32) (i32.const 0))
  (func $init (global.set $times (i32.add (global.get $times) (i32.const 1)))
    (i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1))))"""
#: Keeps an instance from being set back, so that each question has its own.
UNRESTORABLE: Final = "(table $t 1 funcref) (func (table.set $t (i32.const 0) (ref.null func)))"
DENIED: Final = Deny("once")


def counted(name: str = "_initialize", more: str = "") -> bytes:
    return guest(COUNTED, extra=f'{COUNT} (export "{name}" (func $init)) {denies("once")} {more}')


def asked(engine_name: str, data: bytes, *, reuse: bool = False, questions: int = 3) -> list[PolicyResult]:
    pool = WasmPool(artifact(data), 1, engine_name, reuse=reuse)
    try:
        return [pool.call(LISTED) for _ in range(questions)]
    finally:
        pool.close()


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("reuse", [False, True])
def test_it_is_called_once_for_each_instance(engine_name: str, name: str, reuse: bool) -> None:
    assert asked(engine_name, counted(name), reuse=reuse) == [DENIED] * 3
    assert PreparedPolicy(artifact(counted(name)), Limits()).restores


def if_so(condition: str) -> str:
    """The body of a check that denies with :func:`denies` where the condition holds, and allows elsewhere."""
    return f"(if (result i32) {condition} (then (i32.const {RESULT})) (else (i32.const {RESULT + 512})))"


def store(value: str) -> str:
    return f"(i32.store (i32.const 600) {value})"


NOTED: Final = "(i32.load (i32.const 600))"
NEXT: Final = store(f"(i32.add {NOTED} (i32.const 1))")
TABLE: Final = "(table $t 1 funcref) (elem declare func $yes) (func $yes (result i32) (i32.const 1))"
#: What an initializer does, the body of the check that sees it, more fields; and the instances of three questions.
DEEDS: Final = {
    "asks the policy": ("(drop (call 2 (i32.const 0)))", NEXT + if_so(f"(i32.eq {NOTED} (i32.const 2))"), "", 1),
    "grows the memory": ("(drop (memory.grow (i32.const 3)))", if_so("(i32.eq (memory.size) (i32.const 4))"), "", 1),
    "asks for too much": (store("(memory.grow (i32.const 65535))"), if_so(NOTED), "", 1),
    "can be changed": (store(i32(RESULT)), NOTED + store(i32(RESULT + 512)), "", 1),
    "fills a table": (
        "(table.set $t (i32.const 0) (ref.func $yes))",
        if_so("(call_indirect (result i32) (i32.const 0))"),
        TABLE,
        3,
    ),
    "drops a segment": (
        "(memory.init $d (i32.const 600) (i32.const 0) (i32.const 4)) (data.drop $d)",
        if_so(NOTED),
        r'(data $d "\01\00\00\00")',
        3,
    ),
    "is the start function too": (NEXT, if_so(f"(i32.eq {NOTED} (i32.const 2))"), "(start $init)", 1),
    "comes after a start function": (
        store(f"(i32.mul {NOTED} (i32.const 6))"),
        if_so(f"(i32.eq {NOTED} (i32.const 6))"),
        f"(func $start {NEXT}) (start $start)",
        1,
    ),
    "has both names": (
        NEXT,
        if_so(f"(i32.eq {NOTED} (i32.const 1))"),
        '(export "__wasm_call_ctors" (func $init))',
        1,
    ),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_no_question_changes_what_it_left(engine_name: str, deed: str) -> None:  # P-12
    body, check, more, instances = DEEDS[deed]
    data = guest(check, extra=f'(func $init (export "_initialize") {body}) {more} {denies("once")}')
    pool = WasmPool(artifact(data), 1, engine_name)
    try:
        assert [pool.call(question) for question in (LISTED, OTHER, LISTED)] == [DENIED] * 3
        assert pool.statistics().spent == (0 if instances == 1 else instances)
    finally:
        pool.close()


def test_instances_of_one_question_are_initialized_as_well(engine_name: str) -> None:
    data = counted(more=UNRESTORABLE)
    assert not PreparedPolicy(artifact(data), Limits()).pure
    assert asked(engine_name, data) == [DENIED] * 3


def test_without_it_the_guest_would_allow(engine_name: str) -> None:
    """So the tests above show something."""
    assert asked(engine_name, counted("_other")) == [Allow()] * 3


def test_the_first_of_two_is_called(engine_name: str) -> None:
    """An ``_initialize`` calls the constructors itself."""
    assert asked(engine_name, counted(more='(func (export "__wasm_call_ctors") unreachable)')) == [DENIED] * 3


def test_the_core_module_of_a_component(engine_name: str) -> None:
    inner = f"""(core module $m (memory (export "memory") 1) {COUNT} {denies("once")}
      (export "_initialize" (func $init))
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
      (func (export "capgate_one_block"))
      (func (export "{CHECK}") (param i32) (result i32) {COUNTED}))"""
    data = wat(f"(component {inner} (core instance (instantiate $m)))")
    assert artifact(data).is_component
    assert asked(engine_name, data) == [DENIED] * 3


def test_a_module_of_opas(engine_name: str) -> None:
    """Its initializer makes ``true`` a ``false``, and counts."""
    false = int.from_bytes(b"false}]\0", "little")
    answer_at = 2 * 1_024 + 8 + OPA_ALLOW.index("true")
    init = f"""(func (export "{{}}") (i64.store (i32.const {answer_at}) (i64.const {false}))
      (i32.store (i32.const 4) (i32.add (i32.load (i32.const 4)) (i32.const 1))))"""
    for name, expected, count in (("_initialize", Deny, 1), ("_other", Allow, 0)):
        data = opa_guest({"orders/allow": OPA_ALLOW}, extra=init.format(name))
        compiled = CompiledPolicy(PreparedPolicy(artifact(data), Limits()), load_engine(engine_name))
        interpreter = compiled.instantiate()
        assert [type(interpreter.call_policy_check(LISTED)) for _ in range(3)] == [expected] * 3
        guest_, listing = interpreter._guest, compiled.listing()
        assert guest_ is not None
        assert listing.entrypoints == ("orders/allow",)
        for asked_ in (guest_, listing):
            assert int.from_bytes(asked_.instance.memory_view()[4:8], "little") == count


@pytest.mark.parametrize(
    ("body", "error", "limits"),
    [
        ("unreachable", PolicyTrap, Limits()),
        ("(loop $again (br $again))", PolicyTimeout, Limits(fuel=10_000)),
        ("(call $init)", PolicyTrap, Limits(fuel=10_000_000)),
        ("(drop (memory.grow (i32.const 60)))", PolicyTimeout, Limits(fuel=10_000)),
    ],
)
@pytest.mark.parametrize("interface", ["capgate", "opa"])
def test_a_trap_or_no_fuel_is_an_error_at_the_start(
    engine_name: str, interface: str, body: str, error: type[PolicyError], limits: Limits
) -> None:
    """# G2"""
    field = f'(func $init (export "_initialize") {body})'
    data = guest(extra=field) if interface == "capgate" else opa_guest(extra=field)
    with pytest.raises(error):
        WasmInterpreter(artifact(data), engine=engine_name, limits=limits)


async def test_no_checker_starts_with_it(engine_name: str) -> None:
    data = guest(extra='(func (export "_initialize") unreachable)')
    checker = WasmPolicyChecker(WasmPool(artifact(data), 1, engine_name))
    try:
        with pytest.raises(PolicyTrap):
            await checker.start()
        assert isinstance(await checker.check(LISTED), Deny)
    finally:
        await checker.aclose()


def test_its_fuel_is_no_more_than_a_calls_and_nothing_is_left_of_it(engine_name: str) -> None:
    spins = """(func (export "_initialize") (local $n i32) (loop $again (br_if $again
      (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000)))))"""
    data = guest(extra=spins)
    with pytest.raises(PolicyTimeout):
        WasmInterpreter(artifact(data), engine=engine_name, limits=Limits(fuel=5_000))
    limits = Limits(fuel=20_000)
    with_it, without = (WasmInterpreter(artifact(item), engine=engine_name, limits=limits) for item in (data, guest()))
    for interpreter in (with_it, without):
        assert interpreter.call_policy_check(OTHER) == Allow()
    assert with_it.fuel_spent == without.fuel_spent


@pytest.mark.parametrize("interface", ["capgate", "opa"])
@pytest.mark.parametrize(
    ("field", "rule", "where"),
    [
        ('(func $init (param i32)) (export "_initialize" (func $init))', "export_type", "_initialize"),
        ('(func (export "_initialize") (param i32))', "export_type", "_initialize"),
        ('(func (export "_initialize") (result i32) (i32.const 0))', "export_type", "_initialize"),
        ('(global (export "_initialize") i32 (i32.const 0))', "export_kind", "_initialize"),
        ('(func (export "__wasm_call_ctors") (param i64))', "export_type", "__wasm_call_ctors"),
        ('(func (export "_start"))', "command", "_start"),
        ('(func (export "_start")) (func (export "_initialize"))', "command", "_start"),
    ],
)
def test_what_is_no_initializer_is_refused_by_name(interface: str, field: str, rule: str, where: str) -> None:
    data = guest(extra=field) if interface == "capgate" else opa_guest(extra=field)
    with pytest.raises(RestrictedModule) as caught:
        PreparedPolicy(artifact(data), Limits())
    assert (caught.value.rule, caught.value.where) == (rule, where)


def test_the_proof_knows_its_entry() -> None:
    """Another function behind its entry, or more fuel in it, is not proved."""
    limits = Limits(fuel=10_000)
    original = decode(guest(extra='(func (export "_initialize")) (func (export "other"))'))
    metered = meter(original.source, limits, entries=("_initialize", "other")).data
    verify(original, metered, limits, prices_of(original, limits))
    module = decode(metered)
    first, second = (module.export(f"capgate-meter:call:{name}") for name in ("_initialize", "other"))
    assert first is not None
    assert second is not None
    at = metered.index(b"call:_initialize") + len(b"call:_initialize") + 1
    assert metered[at] == first.index
    for changed, rules in (
        (metered[:at] + bytes([second.index]) + metered[at + 1 :], limits),
        (metered, Limits(fuel=9_999)),
    ):
        with pytest.raises(RestrictedModule) as caught:
            verify(original, changed, rules, prices_of(original, limits))
        assert caught.value.rule == "unproven"


@pytest.fixture(scope="session")
def deny_list(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A policy in C++, of which a constructor fills the list of what is denied, made by a real compiler."""
    require_module("ziglang")
    folder = tmp_path_factory.mktemp("reactor")
    shutil.copy(SOURCE, folder)
    options = ("-target", "wasm32-freestanding", "-mcpu=mvp+mutable_globals", "-O", "ReleaseSmall", "-fno-entry")
    caches = ("--cache-dir", "cache", "--global-cache-dir", "cache")
    command = [compiler(), "build-exe", SOURCE.name, *options, "--stack", "4096", "-femit-bin=out.wasm", *caches]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "out.wasm").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
def test_a_deny_list_that_a_constructor_fills(engine_name: str, deny_list: bytes, reuse: bool) -> None:
    pool = WasmPool(artifact(deny_list), 1, engine_name, reuse=reuse)
    try:
        for _ in range(2):
            assert pool.call(LISTED) == Deny("on the list")
            assert pool.call(OTHER) == Allow()
    finally:
        pool.close()
    fresh = WasmInterpreter(artifact(deny_list), engine=engine_name)
    assert fresh.call_policy_check(LISTED) == Deny("on the list")
