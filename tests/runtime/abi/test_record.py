"""What a guest is given: exactly what was asked, whatever is in it, and nothing of what was asked before."""

from __future__ import annotations

import struct
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capgate.artifact.build import build_policy
from capgate.errors import AbiError, MalformedInput
from capgate.limits import Limits
from capgate.model import (
    Allow,
    Anonymous,
    Deny,
    Environment,
    PolicyInput,
    PolicyResult,
    Resource,
    Service,
    User,
    canonical,
)
from capgate.runtime.abi.canonical_abi import PLAIN, WITH_FACTS, Ask
from capgate.runtime.abi.fixed import fixed_call
from capgate.runtime.abi.lowering import lower
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from capgate.runtime.pool import WasmPool

from ...support.guests import ALLOW, HEAP, PAGE, REASON, RESULT, artifact, data, guest
from ...support.tools import examples
from .inputs import INPUTS, LETTERS, MALFORMED, SIZES, as_read, read_facts_input, read_input, replace, sized

#: Where the guest below leaves the pointer that it was called with.
SEEN: Final = 512
RECORDED: Final = f"(i32.store (i32.const {SEEN}) (local.get $input)) {ALLOW}"
#: One that declares that it frees nothing singly.
IN_ONE_BLOCK: Final = '(func (export "capgate_one_block"))'
#: Of each way to ask, the guest.
RECORDERS: Final = {
    "canonical": guest(RECORDED, pages=4),
    "block": guest(RECORDED, pages=4, extra=IN_ONE_BLOCK),
    "fixed": guest(RECORDED, pages=4),
    "facts": guest(RECORDED, pages=4, interface=WITH_FACTS),
    "facts block": guest(RECORDED, pages=4, extra=IN_ONE_BLOCK, interface=WITH_FACTS),
}
LEAST: Final = Limits(input_bytes=1_024)


class Recorder:
    """A guest whose memory is looked at after each question, asked in one of the five ways."""

    def __init__(self, engine_name: str, way: str, limits: Limits) -> None:
        prepared = PreparedPolicy(artifact(RECORDERS[way]), limits)
        self.interpreter = CompiledPolicy(prepared, load_engine(engine_name)).instantiate()
        assert self.interpreter._instance is not None
        self.instance = self.interpreter._instance
        self.ask: Ask = self.interpreter.call_policy_check
        self.tells_facts = way.startswith("facts")
        if way == "fixed":
            self.ask = fixed_call(self.instance, limits, prepared.metered.entries)

    def at(self) -> int:
        """Where the input of the last question is."""
        return int.from_bytes(self.instance.memory_view()[SEEN : SEEN + 4], "little")

    def read(self) -> PolicyInput:
        return (read_facts_input if self.tells_facts else read_input)(self.instance.memory_view(), self.at())

    def expected(self, input: PolicyInput) -> bytes:
        """What it should read, canonical, in which a number and a truth are never the same."""
        return canonical(input if self.tells_facts else as_read(input))


@pytest.fixture(params=list(RECORDERS))
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recorder(engine_name: str, way: str) -> Recorder:
    return Recorder(engine_name, way, Limits())


@pytest.mark.sampled
@settings(max_examples=examples(80), deadline=None)
@given(inputs=st.lists(INPUTS, min_size=1, max_size=5), way=st.sampled_from(list(RECORDERS)))
@example([PolicyInput("\0", User("\0\0"), Resource("\0", ""), "\0", Environment("\0", "\0"))], "canonical")
@example([PolicyInput("", Service("a"), Resource("", None), "", Environment("", "")), PolicyInput("")], "fixed")
def test_a_guest_reads_what_was_asked(engine_name: str, inputs: list[PolicyInput], way: str) -> None:
    recorder = Recorder(engine_name, way, Limits())
    for input in inputs:
        assert isinstance(recorder.ask(input), Allow)
        assert canonical(recorder.read()) == recorder.expected(input)  # M11, M12


@pytest.mark.parametrize("forged", [b"\x01\0\0\0", b'","action":"db.write', b"\n", b"\0" * 80, b"alice\0\x05\0\0\0"])
def test_no_text_is_another_field(recorder: Recorder, forged: bytes) -> None:
    text = forged.decode()
    for input in (
        PolicyInput(text, User("a"), Resource("k", "i"), "h"),
        PolicyInput("a", User(text), Resource("k", "i"), "h"),
        PolicyInput("a", User("a"), Resource(text, "i"), "h"),
        PolicyInput("a", User("a"), Resource("k", text), "h"),
        PolicyInput("a", User("a"), Resource("k", "i"), text),
        PolicyInput("a", User("a"), Resource("k", "i"), "h", Environment(text, text)),
    ):
        recorder.ask(input)
        assert recorder.read() == input  # M12


def test_absent_is_not_empty(recorder: Recorder) -> None:
    seen = []
    for input in (
        PolicyInput("a", Anonymous(), None, None),
        PolicyInput("a", User(""), None, None),
        PolicyInput("a", Anonymous(), Resource(""), None),
        PolicyInput("a", Anonymous(), Resource("", ""), None),
        PolicyInput("a", Anonymous(), None, ""),
    ):
        recorder.ask(input)
        seen.append(recorder.read())
        assert seen[-1] == input  # M12
    assert len({repr(item) for item in seen}) == len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("part", ["actor", "action", "kind", "id", "args_hash", "service", "mode"])
def test_input_bytes_is_the_most_text_that_is_asked(engine_name: str, way: str, part: str, letter: str) -> None:
    recorder = Recorder(engine_name, way, LEAST)

    def asked(size: int) -> PolicyInput:
        text = sized(size, letter)
        base = PolicyInput("", env=Environment("", ""))
        return {
            "actor": replace(base, actor=User(text)),
            "action": replace(base, action=text),
            "kind": replace(base, resource=Resource(text)),
            "id": replace(base, resource=Resource("", text)),
            "args_hash": replace(base, args_hash=text),
            "service": replace(base, env=Environment(text, "")),
            "mode": replace(base, env=Environment("", text)),
        }[part]

    for size in SIZES:
        if size > 1_024:
            with pytest.raises(MalformedInput):
                recorder.ask(asked(size))  # M11
            continue
        recorder.ask(asked(size))
        assert recorder.read() == asked(size)
    assert not recorder.interpreter.broken


@pytest.mark.sampled
@settings(max_examples=examples(80), deadline=None)
@given(data=st.data(), way=st.sampled_from(list(RECORDERS)))
def test_malformed_input_reaches_no_guest_and_breaks_nothing(engine_name: str, data: st.DataObject, way: str) -> None:
    recorder, input = Recorder(engine_name, way, Limits()), data.draw(INPUTS)
    recorder.ask(input)
    before = bytes(recorder.instance.memory_view()[SEEN : SEEN + 4])
    field = data.draw(st.sampled_from(sorted(MALFORMED)))
    malformed = replace(input, **{field: data.draw(MALFORMED[field])})
    for ask in (recorder.ask, lambda asked: lower(asked, 65_536)):
        with pytest.raises(MalformedInput):
            ask(malformed)
    assert bytes(recorder.instance.memory_view()[SEEN : SEEN + 4]) == before
    assert not recorder.interpreter.broken
    recorder.ask(input)
    assert canonical(recorder.read()) == recorder.expected(input)


@pytest.mark.parametrize("what", [None, 1, "input", object(), PolicyInput, {"action": "env.read"}])
def test_what_is_no_input_is_malformed(recorder: Recorder, what: object) -> None:
    for ask in (recorder.ask, lambda asked: lower(asked, 65_536)):
        with pytest.raises(MalformedInput):
            ask(what)  # type: ignore[arg-type]


def test_an_input_that_the_guest_has_no_room_for_is_refused_and_not_cut(engine_name: str) -> None:
    interpreter = WasmInterpreter(artifact(guest()), engine=engine_name, limits=Limits(input_bytes=1 << 20))
    most = PAGE - HEAP - 80 - len("capgateprod") - 16
    assert isinstance(interpreter.call_policy_check(PolicyInput("a" * most)), Allow)
    interpreter = WasmInterpreter(artifact(guest()), engine=engine_name, limits=Limits(input_bytes=1 << 20))
    with pytest.raises(AbiError) as caught:
        interpreter.call_policy_check(PolicyInput("a" * PAGE))
    assert caught.value.rule == "allocation_out_of_bounds"  # M11


# A guest that writes over its input

SCRIBBLE: Final = f"(memory.fill (i32.const {HEAP}) (i32.const {{}}) (i32.const {PAGE - HEAP}))"


@pytest.mark.parametrize("byte", [0, 1, 255])
def test_a_guest_that_writes_over_its_input_changes_no_other_question(engine_name: str, byte: int) -> None:
    body = f"(i32.store (i32.const {SEEN}) (i32.load8_u offset=20 (local.get $input))) {SCRIBBLE.format(byte)} {ALLOW}"
    interpreter = WasmInterpreter(artifact(guest(body)), engine=engine_name)
    for input, has_resource in ((PolicyInput("a", resource=Resource("k")), 1), (PolicyInput("a"), 0)):
        assert isinstance(interpreter.call_policy_check(input), Allow)  # M13
        assert interpreter._instance is not None
        assert interpreter._instance.memory_view()[SEEN] == has_resource


@pytest.mark.parametrize("offset", [0, 4, 8, 76, -8])
def test_a_guest_that_writes_an_allow_over_its_input_has_given_no_answer(engine_name: str, offset: int) -> None:
    body = f"{SCRIBBLE.format(0)} (i32.add (local.get $input) (i32.const {offset}))"
    interpreter = WasmInterpreter(artifact(guest(body)), engine=engine_name)
    with pytest.raises(AbiError) as caught:
        interpreter.call_policy_check(PolicyInput("action"))
    assert caught.value.rule == "result_overlaps_input"  # M13, M4


# What is left of a question

#: Denies with a sum over all of its memory, as eight letters from a to p: whatever is left there changes it.
DIGEST: Final = f"""(local $at i32) (local $sum i32) (local $left i32)
    (local.set $at (i32.const {REASON + 64}))
    (loop $next
      (local.set $sum (i32.mul (i32.xor (local.get $sum) (i32.load8_u (local.get $at))) (i32.const 16777619)))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const {PAGE}))))
    (local.set $at (i32.const {REASON}))
    (local.set $left (i32.const 8))
    (loop $letter
      (i32.store8 (local.get $at) (i32.add (i32.and (local.get $sum) (i32.const 15)) (i32.const 97)))
      (local.set $sum (i32.shr_u (local.get $sum) (i32.const 4)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $letter (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    {ALLOW}"""
DIGESTER: Final = guest(DIGEST, extra=data(RESULT, b"\1\0\0\0" + REASON.to_bytes(4, "little") + b"\x08\0\0\0"))
SECRET: Final = PolicyInput("a", User("token-of-alice"), Resource("k", "card-4711"), "ab" * 32)
BARE: Final = PolicyInput("a")


def answers(pool: WasmPool, *inputs: PolicyInput) -> list[PolicyResult]:
    return [pool.call(input) for input in inputs]


def test_a_guest_finds_nothing_of_the_question_before(engine_name: str) -> None:
    limits = Limits(fuel=10_000_000)  # it looks at all of its memory
    first, alone = answers(WasmPool(artifact(DIGESTER), 1, engine_name, limits), BARE, BARE)
    assert isinstance(first, Deny)
    assert first == alone
    _, after = answers(WasmPool(artifact(DIGESTER), 1, engine_name, limits), SECRET, BARE)
    assert after == alone  # M14, G20, G21
    # The guest does see it where its operator says that it may be used again, so the test above can fail.
    _, reused = answers(WasmPool(artifact(DIGESTER), 1, engine_name, limits, reuse=True), SECRET, BARE)
    assert isinstance(reused, Deny)
    assert reused != alone


def test_a_built_policy_does_not_grow(engine_name: str) -> None:
    interpreter = WasmInterpreter(artifact(build_policy({"env": ["TZ"]})), engine=engine_name)
    assert interpreter._instance is not None
    size = interpreter._instance.memory_size()
    for index in range(2_000):
        interpreter.call_policy_check(PolicyInput("env.read", User("u" * (index % 700)), Resource("env_var", "TZ")))
    assert interpreter._instance.memory_size() == size  # M17
    assert interpreter.uses == 2_000


#: An allocator that notes the four arguments of each call.
NOTED: Final = 3 * PAGE
NOTING: Final = f"""(global $note (mut i32) (i32.const {NOTED}))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.store (global.get $note) (local.get 0)) (i32.store offset=4 (global.get $note) (local.get 1))
    (i32.store offset=8 (global.get $note) (local.get 2)) (i32.store offset=12 (global.get $note) (local.get 3))
    (global.set $note (i32.add (global.get $note) (i32.const 16)))
    (call $bump (local.get 2) (local.get 3)))"""


@pytest.mark.parametrize("way", ["canonical", "block", "fixed"])
def test_what_the_allocator_is_asked_for(engine_name: str, way: str) -> None:
    """New memory, never an old one moved: each text by its length, and the record by its 80 bytes, aligned to 8. Where
    it declares so, both at once.  # T-9"""
    extra = IN_ONE_BLOCK if way == "block" else ""
    prepared = PreparedPolicy(artifact(guest(realloc=NOTING, pages=4, extra=extra)), LEAST)
    interpreter = CompiledPolicy(prepared, load_engine(engine_name)).instantiate()
    instance = interpreter._instance
    assert instance is not None
    question = PolicyInput("db.write", User("alice"), Resource("sql_query", "upsert"), "ab", Environment("s", "m"), 7)
    expected = [(0, 0, 1, len(text)) for text in lower(question, LEAST.input_bytes)[0]] + [(0, 0, 8, 80)]
    if way == "fixed":
        fixed_call(instance, LEAST, prepared.metered.entries)
        expected = [(0, 0, 8, 80 + LEAST.input_bytes)]
    else:
        if way == "block":
            expected = [(0, 0, 8, sum(size for _, _, _, size in expected))]
        interpreter.call_policy_check(question)
    notes = struct.iter_unpack("<4I", instance.memory_view()[NOTED:])
    assert [note for note in notes if any(note)] == expected


@pytest.mark.parametrize("is_block", [False, True])
def test_what_the_allocator_is_asked_for_with_facts(engine_name: str, is_block: bool) -> None:
    """Each text by its length, each list by its size and alignment, and what is absent by nothing; the record by its
    136 bytes. In one allocation the lists of attributes are aligned, too."""
    extra = IN_ONE_BLOCK if is_block else ""
    prepared = PreparedPolicy(artifact(guest(realloc=NOTING, pages=4, extra=extra, interface=WITH_FACTS)), LEAST)
    interpreter = CompiledPolicy(prepared, load_engine(engine_name)).instantiate()
    actor = Service("ci", ("a", "bc"), on_behalf_of=User("ada", attributes={"tenant": "acme", "tags": ["x", ""]}))
    interpreter.call_policy_check(PolicyInput("db.write", actor, Resource("job"), args={"n": 1, "mfa": True}))
    texts = [
        "ci",
        "a",
        "bc",
        "ada",
        "tenant",
        "acme",
        "tags",
        "x",
        "",
        "db.write",
        "job",
        "capgate",
        "prod",
        "n",
        "mfa",
    ]
    #: Roles, scopes and attributes of the first; the one behind it, and the same of that; the tags; the resource's;
    #: arguments and context.
    lists = [(4, 16), (4, 0), (8, 0), (4, 36), (4, 0), (4, 0), (8, 48), (4, 16), (8, 0), (8, 48), (8, 0)]
    expected = [*((1, len(text)) for text in texts), *lists, (8, 136)]
    if is_block:
        size = 136 + 16 + 36 + 4 + 48 + 16 + 48 + sum(map(len, texts))
        expected = [(8, size)]
    assert interpreter._instance is not None
    notes = struct.iter_unpack("<4I", interpreter._instance.memory_view()[NOTED:])
    assert [note for note in notes if any(note)] == [(0, 0, *each) for each in expected]


def test_a_guest_of_both_versions_is_asked_by_the_newer(engine_name: str) -> None:
    bodies = {PLAIN: "unreachable", WITH_FACTS: RECORDED}
    for first, second in ((PLAIN, WITH_FACTS), (WITH_FACTS, PLAIN)):
        other = f'(func (export "{second.check}") (param $input i32) (result i32) {bodies[second]})'
        made = artifact(guest(bodies[first], pages=4, extra=other, interface=first))
        assert (made.interface, made.sees_facts) == ("capgate:policy@0.2.0", True)
        interpreter = WasmInterpreter(made, engine=engine_name)
        input = PolicyInput("a", User("ada", ("editor",)), args={"n": 2**63 - 1})
        assert isinstance(interpreter.call_policy_check(input), Allow)
        assert interpreter._instance is not None
        memory = interpreter._instance.memory_view()
        at = int.from_bytes(memory[SEEN : SEEN + 4], "little")
        assert canonical(read_facts_input(memory, at)) == canonical(input)


def test_what_says_whether_a_module_is_told_of_facts() -> None:
    assert [artifact(RECORDERS[way]).interface for way in ("canonical", "facts")] == [
        "capgate:policy@0.1.0",
        "capgate:policy@0.2.0",
    ]
    assert [artifact(RECORDERS[way]).sees_facts for way in ("canonical", "facts")] == [False, True]
    assert artifact(build_policy({"env": ["TZ"]})).sees_facts
