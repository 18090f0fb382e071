"""What the guest may call: abort, println, builtins. Nothing that goes wrong there is followed by an allow."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from capgate.artifact.load import WasmArtifact
from capgate.errors import CapgateError, PolicyTrap, RestrictedModule
from capgate.limits import Limits
from capgate.model import Entrypoint, PolicyInput, Resource
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy
from capgate.runtime.pool import WasmPool

from ..support.guests import PAGE, data
from ..support.rego_guests import liar, opa_policy
from ..support.tools import ROOT
from .outcomes import INPUT, LIMITS, opened, outcome, outcome_of

NAMES = b'{"hex.encode":7,"time.now_ns":1000}'
TEXT = 8_192
DOCUMENT = {"sql": ["upsert_user"]}


def call(number: int, argument: int = TEXT) -> str:
    """The body of ``eval`` that calls a builtin of one argument, and goes on whatever it gives."""
    return f"(drop (call $builtin1 (i32.const {number}) (i32.const 0) (i32.const {argument}))) (i32.const 0)"


# Abort


@pytest.mark.slow
@pytest.mark.parametrize("pointer", [TEXT, 0, 2 * PAGE - 1, 2 * PAGE, 2**31, 2**32 - 1])
def test_an_abort_denies_wherever_its_message_is(engine_name: str, pointer: int) -> None:
    module = liar(eval=f"(call $abort (i32.const {pointer})) (i32.const 0)", extra=data(TEXT, b"conflict\0"))
    interpreter = opened(engine_name, module, limits=Limits(memory_pages=2))
    with pytest.raises(PolicyTrap) as caught:
        interpreter.call_policy_check(INPUT)
    assert caught.value.kind == "abort"
    assert ("conflict" in str(caught.value)) is (pointer == TEXT)
    assert interpreter.broken


def test_an_abort_retires_the_instance_and_is_not_tried_again(engine_name: str) -> None:
    """What was restored is as good as new: asking a new instance would cost one, and give the same."""
    module = WasmArtifact.from_bytes(liar(eval="(call $abort (i32.const 0)) (i32.const 0)"))
    pool = WasmPool(module, 1, engine_name, LIMITS)
    for number in range(1, 4):
        with pytest.raises(PolicyTrap):
            pool.call(INPUT)
        assert pool.statistics().retired == number
        assert pool.statistics().calls == number


@pytest.mark.parametrize("export", ["opa_json_parse", "opa_eval_ctx_get_result", "opa_json_dump"])
def test_an_abort_in_any_call_denies(engine_name: str, export: str) -> None:
    asked = "(global.get $asked)"
    parts = {"opa_heap_ptr_get": "(global.set $asked (i32.const 1)) (global.get $next)"}
    parts[export] = f"(if {asked} (then (call $abort (i32.const 0)))) (i32.const 65536)"
    module = liar(extra="(global $asked (mut i32) (i32.const 0))", bodies={**parts, "builtins": "(i32.const 1024)"})
    if export == "opa_json_dump":
        module = liar(
            extra="(global $asked (mut i32) (i32.const 0))",
            opa_heap_ptr_get=parts["opa_heap_ptr_get"],
            opa_json_dump=f"(if {asked} (then (call $abort (i32.const 0)))) (local.get $a)",
        )
    assert outcome_of(engine_name, module) == "trap abort"


@pytest.mark.parametrize("export", ["builtins", "entrypoints", "opa_eval_ctx_new", "opa_malloc"])
def test_an_abort_while_it_is_loaded(engine_name: str, export: str) -> None:
    body = f"(call $abort (i32.const {TEXT})) (i32.const 0)"
    with pytest.raises(PolicyTrap) as caught:
        opened(engine_name, liar(bodies={export: body}, extra=data(TEXT, b"conflict\0")))
    assert caught.value.kind == "abort"
    assert "conflict" in str(caught.value)


def test_no_answer_counts_after_the_host_has_ended_a_question(engine_name: str) -> None:
    """No engine lets a guest go on then; if one did, it would not help."""
    interpreter = opened(engine_name, liar())
    assert outcome(interpreter) == "allow"
    assert interpreter._guest is not None
    interpreter._guest._host.failed = True
    assert outcome(interpreter) == "abi answer_after_failure"


def test_an_abort_in_the_start_function(engine_name: str) -> None:
    module = liar(extra="(func $start (call $abort (i32.const 0))) (start $start)")
    assert outcome_of(engine_name, module) == "load: trap abort"


# Println


def test_what_a_policy_prints_changes_nothing(engine_name: str) -> None:
    module = liar(eval="(call $println (i32.const -1)) (i32.const 0)")
    assert outcome_of(engine_name, module) == "allow"


def test_printing_without_end_takes_no_longer_than_the_deadline(engine_name: str) -> None:
    """A function of the host costs little fuel, and a thousand times as long as any instruction."""
    module = liar(eval="(loop $again (call $println (i32.const 0)) (br $again)) (i32.const 0)")
    limits = Limits(fuel=10_000_000_000, deadline=0.02)
    assert outcome_of(engine_name, module, limits) == "timeout"


# Builtins


@pytest.mark.slow
def test_a_builtin_gets_its_arguments_and_gives_its_result(engine_name: str) -> None:
    interpreter = opened(engine_name, opa_policy(DOCUMENT, spare=4), Entrypoint("capgate/builtin"), Limits())
    for id in ("upsert_user", "", '\u00e9\U0001d11e\n"\\'):
        asked = PolicyInput("db.write", resource=Resource("report", id))  # a kind without a spelling of its own
        assert outcome(interpreter, asked) == f"deny {id.encode().hex()}"


def test_the_time_is_that_of_the_question(engine_name: str) -> None:
    """B11: a policy has no clock, so that a question that is put again gets the same answer."""
    interpreter = opened(engine_name, opa_policy(DOCUMENT, spare=4), Entrypoint("capgate/time"), Limits())
    for timestamp in (0, 1, 1_700_000_000_123_456_789):
        assert outcome(interpreter, PolicyInput("db.write", timestamp=timestamp)) == f"deny {timestamp}"


@pytest.mark.parametrize(
    ("number", "argument", "text", "expected"),
    [
        (7, TEXT, b'"a"\0', "allow"),
        (7, TEXT, b"1\0", "allow"),  # no text: undefined, which is up to the policy
        (8, TEXT, b'"a"\0', "abi builtin_unknown"),
        (0, TEXT, b'"a"\0', "abi builtin_unknown"),
        (2**32 - 1, TEXT, b'"a"\0', "abi builtin_unknown"),
        (1000, TEXT, b'"a"\0', "abi builtin_arity"),
        (7, 0, b"\0", "abi text_out_of_bounds"),
        (7, 2**31, b"\0", "abi text_out_of_bounds"),
        (7, 2**32 - 1, b"\0", "abi text_out_of_bounds"),
        (7, TEXT, b"\0", "builtin text"),
        (7, TEXT, b"nonsense\0", "builtin text"),
        (7, TEXT, b'"\xff"\0', "builtin text"),
        (7, TEXT, b'"a" "b"\0', "builtin text"),
    ],
)
def test_what_a_builtin_is_called_with(
    engine_name: str, number: int, argument: int, text: bytes, expected: str
) -> None:
    module = liar(builtin_names=NAMES, eval=call(number, argument), extra=data(TEXT, text))
    assert outcome_of(engine_name, module) == expected


def test_an_undefined_builtin_gives_zero(engine_name: str) -> None:
    number = "(call $builtin1 (i32.const 7) (i32.const 0) (i32.const 8192))"
    module = liar(builtin_names=NAMES, eval=f"(i32.ne {number} (i32.const 0))", extra=data(TEXT, b"1\0"))
    assert outcome_of(engine_name, module) == "allow"
    module = liar(builtin_names=NAMES, eval=f"(i32.eqz {number})", extra=data(TEXT, b"1\0"))
    assert outcome_of(engine_name, module) == "abi eval"


def test_arguments_and_results_are_bounded(engine_name: str) -> None:
    limits = Limits(input_bytes=1_024, fuel=1_000_000)
    for size, expected in (
        (500, "allow"),
        (600, "abi builtin_size"),
        (1_022, "abi builtin_size"),
        (1_023, "abi text_unterminated"),
    ):
        module = liar(builtin_names=NAMES, eval=call(7), extra=data(TEXT, b'"%s"\0' % (b"a" * size)))
        assert outcome_of(engine_name, module, limits) == expected


@pytest.mark.parametrize("value", ["(i32.const 0)", "(call $abort (i32.const 0)) (i32.const 0)", "unreachable"])
def test_a_result_that_the_guest_does_not_take(engine_name: str, value: str) -> None:
    module = liar(builtin_names=NAMES, eval=call(7), opa_value_parse=value, extra=data(TEXT, b'"a"\0'))
    expected = {"(i32.const 0)": "abi builtin_result", "unreachable": "trap unreachable"}.get(value, "trap abort")
    assert outcome_of(engine_name, module) == expected


@pytest.mark.parametrize("export", ["opa_value_dump", "opa_malloc", "opa_value_parse"])
def test_no_builtin_is_called_from_within_one(engine_name: str, export: str) -> None:
    """Or a guest could go on for ever, one frame of the host's after the other."""
    again = "(call $builtin1 (i32.const 7) (i32.const 0) (i32.const 8192))"
    asked = "(if (global.get $asked) (then (drop {}) ))"
    parts = {"eval": f"(global.set $asked (i32.const 1)) {call(7)}"}
    honest = "(call $bump (local.get $a))" if export == "opa_malloc" else "(local.get $a)"
    parts[export] = f"{asked.format(again)} {honest}"
    extra = "(global $asked (mut i32) (i32.const 0))" + data(TEXT, b'"a"\0')
    assert outcome_of(engine_name, liar(builtin_names=NAMES, extra=extra, bodies=parts)) == "abi host_call"


@pytest.mark.parametrize("export", ["opa_json_parse", "opa_eval_ctx_new", "opa_heap_ptr_get"])
def test_no_builtin_is_called_while_it_is_loaded(engine_name: str, export: str) -> None:
    body = f"(drop (call $builtin1 (i32.const 7) (i32.const 0) (i32.const {TEXT}))) (i32.const 16384)"
    module = liar(builtin_names=NAMES, extra=data(TEXT, b'"a"\0'), bodies={export: body})
    assert outcome_of(engine_name, module) == "load: abi host_call"


def test_what_a_builtin_needs_of_the_guest_is_paid_by_the_question(engine_name: str) -> None:
    """Reading an argument is a call into the guest from within one: it goes on with the fuel that is left."""
    loop = "(loop $again (br $again)) unreachable"
    module = liar(builtin_names=NAMES, eval=call(7), opa_value_dump=loop, extra=data(TEXT, b'"a"\0'))
    assert outcome_of(engine_name, module) == "timeout"
    counted = "(local.tee $n (i32.add (local.get $n) (i32.const 1)))"
    spends = f"(local $n i32) (loop $again (br_if $again (i32.lt_u {counted} (i32.const 2000)))) (local.get $a)"
    for calls, expected in ((1, "allow"), (20, "timeout")):
        body = f"{call(7).removesuffix('(i32.const 0)') * calls} (i32.const 0)"
        module = liar(builtin_names=NAMES, eval=body, opa_value_dump=spends, extra=data(TEXT, b'"a"\0'))
        assert outcome_of(engine_name, module, LIMITS) == expected


def test_builtins_without_end_take_no_longer_than_the_deadline(engine_name: str) -> None:
    module = liar(
        builtin_names=NAMES,
        eval="(loop $again (drop (call $builtin0 (i32.const 1000) (i32.const 0))) (br $again)) (i32.const 0)",
        opa_malloc="(i32.const 16384)",
    )
    assert outcome_of(engine_name, module, Limits(fuel=10_000_000_000, deadline=0.02)) == "timeout"


@pytest.mark.parametrize("name", ["http.send", "rand.intn", "uuid.rfc4122", "opa.runtime", "custom.mine"])
def test_what_is_not_provided_is_refused_by_name(engine_name: str, name: str) -> None:
    module = liar(builtin_names=b'{"hex.encode":7,"%s":8,"no.such":9}' % name.encode())
    with pytest.raises(RestrictedModule) as caught:
        opened(engine_name, module)
    assert caught.value.rule == "builtin"
    assert name in caught.value.where
    assert "no.such" in caught.value.where
    assert "hex.encode" not in caught.value.where


def test_two_builtins_of_one_number(engine_name: str) -> None:
    assert outcome_of(engine_name, liar(builtin_names=b'{"hex.encode":7,"hex.decode":7}')) == "load: abi builtins"


# Between threads


@pytest.mark.parametrize("engine", ["wasmtime"])
def test_what_a_host_function_raises_stays_with_its_instance(engine: str) -> None:
    """On other threads, others trap and abort at the same time: each gets what is its own."""
    bodies = {
        "trap abort": "(call $abort (i32.const 0)) (i32.const 0)",
        "trap unreachable": "unreachable",
        "abi builtin_unknown": call(8),
        "allow": "(i32.const 0)",
    }
    prepared = {
        expected: PreparedPolicy(WasmArtifact.from_bytes(liar(eval=body, builtin_names=NAMES)), LIMITS)
        for expected, body in bodies.items()
    }
    found: list[tuple[str, str]] = []

    def ask(expected: str) -> None:
        compiled = CompiledPolicy(prepared[expected], load_engine(engine))
        found.extend((expected, outcome(compiled.instantiate())) for _ in range(30))

    threads = [threading.Thread(target=ask, args=(expected,)) for expected in prepared for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30 * len(threads)
    assert all(expected == seen for expected, seen in found)


def test_who_needs_no_builtins_does_not_import_them() -> None:
    """They bring libraries along that take as long to import as all the rest."""
    code = (
        "import sys, capgate\n"
        "from tests.support.rego_guests import liar\n"
        "interpreter = capgate.WasmInterpreter(capgate.WasmArtifact.from_bytes(liar()))\n"
        "assert type(interpreter.call_policy_check(capgate.PolicyInput('db.write'))) is capgate.Allow\n"
        "sys.exit('capgate.rego' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 0


# What a guest says, in logs

SPOOF = "x\n\x1b[31mERROR \u202e"


def test_names_that_a_module_gives_are_shown_so_that_they_forge_nothing(engine_name: str) -> None:  # O3
    name = json.dumps(SPOOF).encode()
    for module in (
        liar(builtin_names=b'{%s:1,"http.send":2}' % name),
        liar(entrypoint_names=b'{%s:1,"http.send":2}' % name),
        liar(
            opa_heap_ptr_get=f"(call $abort (i32.const {TEXT})) unreachable",
            extra=data(TEXT, b"x\n\x1b[31m\xe2\x80\xae\0"),
        ),
    ):
        with pytest.raises(CapgateError) as caught:
            opened(engine_name, module)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()
        assert "31m" in str(caught.value)


def test_of_very_many_names_few_are_shown(engine_name: str) -> None:
    names = ",".join(f'"{number:05}{"x" * 300}":{number}' for number in range(200)).encode()
    for export in ("builtins", "entrypoints"):
        there = data(2 * PAGE, b"{%s}\0" % names)
        module = liar(bodies={export: f"(i32.const {2 * PAGE})"}, extra=there, pages=4)
        with pytest.raises(CapgateError) as caught:
            opened(engine_name, module)
        assert len(str(caught.value)) < 15_000
        assert "150 more" in str(caught.value)
