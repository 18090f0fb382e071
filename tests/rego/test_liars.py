"""Guests that break OPA's ABI in every call that the host makes: only an exact answer counts, and all of it ends."""

from __future__ import annotations

from itertools import product

import pytest

from capgate.errors import PolicyUnavailable
from capgate.limits import Limits
from capgate.runtime.abi.opa.input_document import document

from ..support.guests import PAGE, data
from ..support.rego_guests import ANSWER, HEAP, HONEST, SIGNATURES, liar
from .outcomes import INPUT, LIMITS, opened, outcome, outcome_of

SIZE = 2 * PAGE
#: Addresses at which arithmetic goes wrong, for two pages that may become many.
EDGES = (*(SIZE - 1, SIZE, SIZE + 1), *(2**24, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 16, 2**32 - 2, 2**32 - 1))
#: One page only, so that no spare memory makes an address one that is there.
TIGHT = Limits(fuel=100_000, memory_pages=2, deadline=10.0)
#: What is called to load, and what to answer.
LOADING = ("opa_malloc", "builtins", "entrypoints", "opa_json_dump", "opa_json_parse", "opa_eval_ctx_new")
TELLING = ("opa_eval_ctx_set_data", "opa_eval_ctx_set_entrypoint", "opa_heap_ptr_get")
ASKING = ("opa_eval_ctx_set_input", "eval", "opa_eval_ctx_get_result")
LOOP = "(loop $again (br $again)) unreachable"


def constant(value: int) -> str:
    return f"(i32.const {value})"


def choice(condition: str, yes: str, no: str) -> str:
    return f"(if (result i32) {condition} (then {yes}) (else {no}))"


def test_an_honest_guest_is_believed(engine_name: str) -> None:
    assert outcome_of(engine_name, liar()) == "allow"
    assert outcome_of(engine_name, liar(b'[{"result":false}]\0')) == "deny not_in_allowlist"


# M2: the allocator


@pytest.mark.parametrize("pointer", [0, *EDGES])
def test_the_allocator_gives_no_memory(engine_name: str, pointer: int) -> None:
    assert outcome_of(engine_name, liar(opa_malloc=constant(pointer)), TIGHT) == "load: abi allocation_out_of_bounds"


@pytest.mark.parametrize("pointer", [0, *EDGES])
def test_the_allocator_gives_none_for_a_question(engine_name: str, pointer: int) -> None:
    lies = choice("(i32.gt_u (local.get $a) (i32.const 100))", constant(pointer), HONEST["opa_malloc"])
    assert outcome_of(engine_name, liar(opa_malloc=lies), TIGHT) == "abi allocation_out_of_bounds"


def test_memory_of_which_the_last_byte_is_not_there(engine_name: str) -> None:
    size = len(document(INPUT, 10_000))
    for less, expected in ((0, "allow"), (1, "abi allocation_out_of_bounds")):
        is_input = f"(i32.eq (local.get $a) (i32.const {size}))"
        lies = choice(is_input, constant(SIZE - size + less), HONEST["opa_malloc"])
        assert outcome_of(engine_name, liar(opa_malloc=lies), TIGHT) == expected


# M4, M16: addresses of texts


@pytest.mark.slow
@pytest.mark.parametrize("pointer", [0, *EDGES[1:]])
def test_a_text_is_where_there_is_no_memory(engine_name: str, pointer: int) -> None:
    lies = liar(opa_eval_ctx_get_result=constant(pointer))
    assert outcome_of(engine_name, lies, TIGHT) == "abi text_out_of_bounds"


def test_a_text_ends_with_the_memory_or_does_not(engine_name: str) -> None:
    text = b'[{"result":true}]\0'
    for less, expected in ((0, "allow"), (1, "abi text_unterminated")):
        at = SIZE - len(text) + less
        module = liar(opa_eval_ctx_get_result=constant(at), extra=data(at, text[: len(text) - less]))
        assert outcome_of(engine_name, module, TIGHT) == expected


@pytest.mark.parametrize("export", ["builtins", "entrypoints"])
@pytest.mark.parametrize("pointer", [0, SIZE, 2**31, 2**32 - 1])
def test_the_names_are_where_there_is_no_memory(engine_name: str, export: str, pointer: int) -> None:
    found = outcome_of(engine_name, liar(bodies={export: constant(pointer)}), TIGHT)
    assert found == "load: abi text_out_of_bounds"


@pytest.mark.parametrize(
    "names",
    [
        b"",
        b"[]",
        b'{"p":-1}',
        b'{"p":4294967296}',
        b'{"p":0.0}',
        b'{"p":true}',
        b'{"p":0,"p":1}',
        b'{"p":0}x',
        b"\xff",
        b'{"\\ud800":0}',
    ],
)
def test_names_that_are_none(engine_name: str, names: bytes) -> None:
    for module, export in ((liar(builtin_names=names), "builtins"), (liar(entrypoint_names=names), "entrypoints")):
        assert outcome_of(engine_name, module).startswith(f"load: abi {export}")


# Values


def test_a_module_that_cannot_read_the_input_is_not_believed(engine_name: str) -> None:
    """OPA would go on with an undefined input; by parts, the ABI says so, and that is a denial."""
    reads_data_only = "(i32.eq (local.get $b) (i32.const 2))"
    assert outcome_of(engine_name, liar(opa_json_parse=reads_data_only)) == "abi input_not_parsed"
    assert outcome_of(engine_name, liar(opa_json_parse=constant(0))) == "load: abi data_not_parsed"


@pytest.mark.parametrize("status", [1, 2**31, 2**32 - 1])
def test_a_status_that_means_nothing_denies(engine_name: str, status: int) -> None:
    assert outcome_of(engine_name, liar(eval=constant(status))) == "abi eval"


# G1, G2: fuel, in whatever the host calls


@pytest.mark.parametrize("export", LOADING + TELLING)
def test_a_loop_while_it_is_loaded(engine_name: str, export: str) -> None:
    assert _loaded_with(engine_name, export, LOOP) == "load: timeout"


@pytest.mark.parametrize("export", ASKING)
def test_a_loop_while_it_answers(engine_name: str, export: str) -> None:
    assert outcome_of(engine_name, liar(bodies={export: LOOP})) == "timeout"


@pytest.mark.parametrize("export", ["opa_malloc", "opa_json_parse", "opa_json_dump"])
def test_a_loop_only_when_it_answers(engine_name: str, export: str) -> None:
    """These are called to load, too: the loop comes after the context was made."""
    parts = {
        "opa_eval_ctx_set_entrypoint": "(global.set $asked (i32.const 1))",
        "opa_heap_ptr_get": "(global.set $asked (i32.const 2)) (global.get $next)",
        export: f"(if (i32.eq (global.get $asked) (i32.const 2)) (then (loop $again (br $again)))) {HONEST[export]}",
    }
    module = liar(extra="(global $asked (mut i32) (i32.const 0))", bodies=parts)
    assert outcome_of(engine_name, module, TIGHT) == "timeout"


def test_a_loop_in_the_start_function(engine_name: str) -> None:
    module = liar(extra="(func $start (loop $again (br $again))) (start $start)")
    assert outcome_of(engine_name, module).startswith("load: ")


@pytest.mark.parametrize("export", sorted(set(SIGNATURES) - {"opa_eval", "opa_value_parse", "opa_value_dump"}))
def test_recursion_without_end(engine_name: str, export: str) -> None:
    """G4: not the native stack, but the depth that is counted, ends it."""
    parameters, _ = SIGNATURES[export]
    again = f"(call ${export} {'(i32.const 1)' * parameters})"
    found = _loaded_with(engine_name, export, again)
    assert found.removeprefix("load: ") == "trap stack_overflow"


def _loaded_with(engine_name: str, export: str, body: str) -> str:
    limits = TIGHT if export != "opa_heap_ptr_set" else LIMITS
    return outcome_of(engine_name, liar(bodies={export: body}), limits)


# M9: the budget is one, and is all of the question


def test_allocating_reading_answering_and_writing_are_one_budget(engine_name: str) -> None:
    """Each part takes less than the fuel there is, and all together take more."""
    counted = "(local.tee $n (i32.add (local.get $n) (i32.const 1)))"
    for rounds, expected in ((1_000, "allow"), (10_000, "timeout")):
        spends = f"(local $n i32) (loop $again (br_if $again (i32.lt_u {counted} (i32.const {rounds}))))"
        parts = {
            name: f"{spends} {HONEST[name]}" for name in ("opa_eval_ctx_set_input", "eval", "opa_eval_ctx_get_result")
        }
        assert {outcome_of(engine_name, liar(bodies={name: body})) for name, body in parts.items()} == {"allow"}
        assert outcome_of(engine_name, liar(bodies=parts)) == expected


# G19, M8: traps


@pytest.mark.parametrize("export", ASKING)
def test_a_trap_while_it_answers(engine_name: str, export: str) -> None:
    interpreter = opened(engine_name, liar(bodies={export: "unreachable"}))
    assert outcome(interpreter) == "trap unreachable"
    with pytest.raises(PolicyUnavailable):
        interpreter.call_policy_check(INPUT)


def test_memory_that_is_not_there(engine_name: str) -> None:
    assert outcome_of(engine_name, liar(eval="(i32.load (i32.const -4))")) == "trap memory_out_of_bounds"


# G15, M3, M17: growth


@pytest.mark.parametrize(
    "export", ["opa_malloc", "opa_json_parse", "opa_eval_ctx_set_input", "eval", "opa_eval_ctx_get_result"]
)
def test_memory_that_grows_meanwhile_is_read_where_it_went(engine_name: str, export: str) -> None:
    grows = f"(drop (memory.grow (i32.const 1))) {HONEST[export]}"
    interpreter = opened(engine_name, liar(bodies={export: grows}))
    assert outcome(interpreter) == "allow"
    assert interpreter.spent


def test_an_instance_whose_memory_did_not_grow_is_not_spent(engine_name: str) -> None:
    interpreter = opened(engine_name, liar())
    assert outcome(interpreter) == "allow"
    assert not interpreter.spent


def test_memory_does_not_grow_beyond_the_limit(engine_name: str) -> None:
    """The answer is an allow only where growing failed."""
    limits = Limits(fuel=1_000_000, memory_pages=8)
    for pages, expected in ((6, "abi text_out_of_bounds"), (7, "allow"), (65_000, "allow")):
        failed = f"(i32.eq (memory.grow (i32.const {pages})) (i32.const -1))"
        module = liar(opa_eval_ctx_get_result=choice(failed, constant(ANSWER), constant(0)))
        assert outcome_of(engine_name, module, limits) == expected


@pytest.mark.parametrize(("answer", "pointer"), list(product([b'[{"result":true}]'], [ANSWER, HEAP])))
def test_an_answer_without_an_end_is_none(engine_name: str, answer: bytes, pointer: int) -> None:
    module = liar(
        answer + b"\0",
        opa_eval_ctx_get_result=constant(pointer),
        eval=f"(memory.fill {constant(pointer)} (i32.const 0x20) (i32.const 50000)) (i32.const 0)",
    )
    assert outcome_of(engine_name, module) == "abi text_unterminated"
