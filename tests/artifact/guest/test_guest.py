"""The guest on each engine against the judgement in Python, and against hosts that break the canonical ABI."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS, OPERATIONS, SECTIONS
from capgate.artifact import guest
from capgate.artifact.build import build_policy
from capgate.model import (
    ALLOW,
    Anonymous,
    CompilerTool,
    Deny,
    Environment,
    PolicyInput,
    Reason,
    Resource,
    Service,
    User,
)
from capgate.model import canonical as as_json
from capgate.policy import RuntimePolicy
from capgate.policy.spelled import is_writable
from capgate.spelling import normal_id

from ...support.policy_fixtures import Fixture, load_fixtures
from ...support.tools import examples, require_tool
from .guest import CHECK, POST, ROOM, Guest, GuestTrap, record

DOCUMENT = {"sql": ["upsert_user"], "egress": ["api.example.com"], "compute": "any"}
WRITE = PolicyInput("db.write", actor=User("u-1"), resource=Resource("sql_query", "upsert_user"), args_hash="00")


@pytest.fixture
def plain(engine_name: str) -> Guest:
    return Guest(engine_name, build_policy(DOCUMENT))


@pytest.mark.parametrize("fixture", load_fixtures(), ids=lambda fixture: fixture.name)
def test_fixtures(engine_name: str, fixture: Fixture) -> None:
    guest = Guest(engine_name, build_policy(fixture.policy))
    assert as_json(guest.ask(fixture.input)) == fixture.answer


# One evaluator in two languages: documents and questions that are near to each other in every way that could matter.

TEXTS = [
    *("a", "ab", "abc", "abcd", "abcde", "abcdefg", "abcdefgh", "abcdefghi", "upsert_user", "list_users"),
    *(
        "api.example.com",
        "API.Example.COM",
        "a@[`{z",
        "A@[`{Z",
        "sessions",
        "any",
        "*",
        " ",
        "\n",
        "\0",
        "\0\0",
        "a\0",
        "a\0b",
    ),
    *(
        "\u212aelvin",
        "kelvin",
        "Kelvin",
        "é",
        "e\u0301",
        "É",
        "日本語のクエリ名",
        "🦉",
        "\uffff",
        "\U0010ffff",
        "ü.example",
        "Ü.example",
    ),
    *("0123456789abcdef", "0123456789abcdef0", "0123456789abcde", "x" * 31, "x" * 32, "x" * 33, "x" * 300),
]
texts = st.one_of(st.sampled_from(TEXTS), st.text(min_size=1, max_size=40))
app_actions = st.sampled_from(["invoice.send", "report.print", "a.b"])


@st.composite
def near(draw: st.DrawFn) -> str:
    """A text of the pool, or one that differs from it by little."""
    text = draw(texts)
    change = draw(st.integers(0, 8))
    at = draw(st.integers(0, len(text)))
    changed = [
        text,
        text[:at],
        text + "x",
        text + "\0",
        text.swapcase(),
        text[:at] + "K" + text[at + 1 :],
        "x" + text,
        "",
        text,
    ]
    return changed[change]


#: Without wildcards, which are made up elsewhere.
entries = texts.filter(lambda text: "*" not in text)


def sections() -> st.SearchStrategy[Any]:
    return st.one_of(st.just("any"), st.lists(entries, unique=True, max_size=12))


def _is_query(text: str) -> bool:
    return normal_id("sql_query", text) == text and is_writable("sql_query", text)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for section in SECTIONS:
        if section == "actions" or draw(st.booleans()):
            continue
        document[section] = draw(sections())
        if isinstance(document[section], list):
            kind = next(action.kind or "" for action in BUILTIN_ACTIONS if action.section == section)
            document[section] = [
                text for text in document[section] if normal_id(kind, text) == text and is_writable(kind, text)
            ]
    if isinstance(document.get("sql"), list):
        document["sql"] += draw(
            st.lists(
                st.fixed_dictionaries({"name": entries.filter(_is_query), "operation": st.sampled_from(OPERATIONS)}),
                unique_by=lambda entry: (entry["name"], entry["operation"]),
                max_size=8,
            )
        )
    own = draw(st.dictionaries(app_actions, sections(), max_size=2))
    document["actions"] = {
        name: ids if ids == "any" else [text for text in ids if is_writable("", text)] for name, ids in own.items()
    }
    return document


KINDS = {action.name: action.kind for action in BUILTIN_ACTIONS}
actors = st.one_of(
    st.just(Anonymous()), st.builds(User, near()), st.builds(Service, near()), st.builds(CompilerTool, near())
)


@st.composite
def questions(draw: st.DrawFn) -> PolicyInput:
    action = draw(st.one_of(st.sampled_from(list(KINDS)), app_actions, near()))
    kind = KINDS.get(action) or draw(near())
    resource = draw(
        st.one_of(
            st.builds(Resource, st.just(kind), near()),
            st.builds(Resource, st.just(kind), near()),
            st.builds(Resource, st.one_of(st.just(kind), near()), st.one_of(st.none(), near())),
            st.none(),
        )
    )
    return PolicyInput(
        action,
        actor=draw(actors),
        resource=resource,
        args_hash=draw(st.one_of(st.none(), near())),
        env=Environment(draw(near()), draw(near())),
        timestamp=draw(st.integers(0, 2**64 - 1)),
    )


@pytest.mark.slow
@settings(
    max_examples=examples(40, quick=20), suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example]
)
@given(document=documents(), asked=st.lists(questions(), min_size=5, max_size=30))
def test_guest_and_python_agree(engine_name: str, document: dict[str, Any], asked: list[PolicyInput]) -> None:
    policy = RuntimePolicy.from_document(document)
    instance = Guest(engine_name, build_policy(policy))
    # Every entry once, so that answers are not all denials.
    for action in policy.actions.values():
        entries = action.section.entries if action.section is not None else None
        asked += [PolicyInput(action.action, resource=Resource(action.kind or "k", entry)) for entry in entries or ()]
    for question in asked:
        assert instance.ask(question) == policy.evaluate(question), question


@pytest.mark.slow
@pytest.mark.parametrize("section", ["fs", "tools"])
def test_texts_of_every_length(engine_name: str, section: str) -> None:
    action, kind = {"fs": ("fs.read", "path"), "tools": ("tool.inspect", "tool")}[section]
    entries = [chr(97 + length % 26) * length for length in range(1, 140)]
    instance = Guest(engine_name, build_policy({section: entries}))
    for entry in entries:
        assert instance.ask(PolicyInput(action, resource=Resource(kind, entry))) is ALLOW
        for at in range(len(entry)):
            other = entry[:at] + "~" + entry[at + 1 :]
            assert instance.ask(PolicyInput(action, resource=Resource(kind, other))) == Deny(Reason.NOT_IN_ALLOWLIST)


@pytest.mark.parametrize("by_rule", [False, True], ids=["section", "rule"])
def test_hosts_of_every_length_fold(engine_name: str, by_rule: bool) -> None:
    hosts = ["".join(chr(97 + at % 26) for at in range(length)) for length in range(1, 40)]
    rule = {"effect": "allow", "actions": ["http.outbound"], "resources": [f"host:{host}" for host in hosts]}
    instance = Guest(engine_name, build_policy({"rules": [rule]} if by_rule else {"egress": hosts}))
    for host in hosts:
        for at in range(len(host)):
            mixed = host[:at].upper() + host[at:]
            assert instance.ask(PolicyInput("http.outbound", resource=Resource("host", mixed))) is ALLOW
        assert instance.ask(PolicyInput("http.outbound", resource=Resource("host", host.upper()))) is ALLOW


def test_large_documents(engine_name: str) -> None:
    instance = Guest(engine_name, build_policy({"sql": [f"query_number_{index}" for index in range(30_000)]}))
    for index in [*range(0, 30_000, 97), 29_999]:
        question = PolicyInput("db.read", resource=Resource("sql_query", f"query_number_{index}"))
        assert instance.ask(question) is ALLOW
        other = PolicyInput("db.read", resource=Resource("sql_query", f"query_number_{index + 30_000}"))
        assert instance.ask(other) == Deny(Reason.NOT_IN_ALLOWLIST)


def test_the_longest_input_there_is_room_for(engine_name: str) -> None:
    name = "x" * (ROOM - len("fs.readpathcapgateprod"))  # M11
    instance = Guest(engine_name, build_policy({"fs": [name]}))
    assert instance.ask(PolicyInput("fs.read", resource=Resource("path", name))) is ALLOW
    other = name[:-1] + "y"
    assert instance.ask(PolicyInput("fs.read", resource=Resource("path", other))) == Deny(Reason.NOT_IN_ALLOWLIST)


# What the pool relies on: no memory of earlier questions, nothing written.


def test_a_check_writes_nothing(plain: Guest) -> None:
    questions = [
        WRITE,
        PolicyInput("http.outbound", resource=Resource("host", "API.EXAMPLE.com")),
        PolicyInput("nothing.known"),
    ]
    for question in questions:
        plain.write(plain.buffer, record(question, plain.buffer))
        before = plain.memory()
        plain.ask_raw(plain.buffer)
        assert plain.memory() == before  # M13, G21


def test_the_code_of_a_check_has_nothing_that_writes(tmp_path: Path) -> None:
    (tmp_path / "guest.wasm").write_bytes(guest.evaluator())
    command = [require_tool("wasm-objdump"), "-d", str(tmp_path / "guest.wasm")]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = list(_functions(listing))
    assert [name for name, _ in functions if name] == ["cabi_realloc", "capgate_one_block", POST, CHECK]
    codes = {number: set(re.findall(r"\|\s+([a-z0-9_.]+)", body)) for number, (_, body) in enumerate(functions)}
    calls = {
        number: {int(to) for to in re.findall(r"\bcall (\d+)", body)} for number, (_, body) in enumerate(functions)
    }
    checking, new = {3}, {3}
    while new:
        new = set.union(*(calls[number] for number in new)) - checking
        checking |= new
    assert checking == set(range(3, len(functions)))  # what a check calls: everything but the first three
    assert "i64.mul" in codes[3]
    writing = re.compile(r".*\.store|memory\.(grow|fill|copy|init)|data\.drop|global\.set|table\.|call_indirect")
    assert not [code for number in checking for code in codes[number] if writing.match(code)]
    assert not [
        code
        for code in set.union(*codes.values())
        if re.match(r"memory\.grow|call_indirect|.*trunc_sat|f32|f64|v128", code)
    ]


def _functions(listing: str) -> Iterator[tuple[str, str]]:
    """Name, or nothing, and code of each, by number: the module imports none."""
    for number, part in enumerate(re.split(r"^[0-9a-f]+ func\[", listing, flags=re.MULTILINE)[1:]):
        name, body = part.split("\n", 1)
        assert name.startswith(f"{number}]")
        yield name.partition("]")[2].strip(" <>:"), body


def test_the_order_of_questions_does_not_matter(plain: Guest) -> None:
    asked = [fixture.input for fixture in load_fixtures() if not fixture.register]
    first = [plain.ask(question) for question in asked]
    again = [plain.ask(question) for question in reversed(asked)]
    assert first == again[::-1]  # G21


def test_many_checks_on_one_buffer_need_no_post(plain: Guest) -> None:
    size = plain.memory_size()
    assert {type(plain.ask(WRITE)) for _ in range(2_000)} == {type(ALLOW)}
    assert plain.memory_size() == size  # M17


# Hosts that break the canonical ABI are trapped, never answered with allow.


def changed(plain: Guest, question: PolicyInput, at: int, content: bytes) -> Any:
    raw = bytearray(record(question, plain.buffer))
    raw[at : at + len(content)] = content
    plain.write(plain.buffer, bytes(raw))
    return plain.ask_raw(plain.buffer)


@pytest.mark.parametrize(
    ("at", "largest"), [(0, 3), (20, 1), (32, 1), (44, 1)], ids=["actor", "resource", "id", "args-hash"]
)
def test_discriminants_outside_their_type_trap(plain: Guest, at: int, largest: int) -> None:
    assert changed(plain, WRITE, at, b"") is ALLOW
    for value in (largest + 1, 7, 0x7F, 0x80, 0xFF):
        with pytest.raises(GuestTrap):
            changed(plain, WRITE, at, bytes([value]))


STRINGS = {"actor": 4, "action": 12, "kind": 24, "id": 36, "args-hash": 48, "service": 56, "mode": 64}


@pytest.mark.parametrize("at", STRINGS.values(), ids=STRINGS)
def test_strings_outside_memory_trap(plain: Guest, at: int) -> None:
    size = plain.memory_size()
    wild = [
        *((size - 3, 4), (size, 1), (size + 1, 1), (0x7FFFFFFF, 4), (0x80000000, 4), (0xFFFFFFFF, 1), (0xFFFFFFFC, 4)),
        *(
            (0xFFFFFFFF, 0xFFFFFFFF),
            (plain.buffer, 0xFFFFFFFF),
            (plain.buffer, size),
            (plain.buffer, 0x80000000),
            (0xFFFFFFF0, 0x20),
        ),
        *((0, 1), (4, 11), (4096, 4), (65_536, 4), (plain.buffer - 32, 4)),  # memory that is not the host's
    ]
    for pointer, length in wild:
        with pytest.raises(GuestTrap):
            changed(plain, WRITE, at, struct.pack("<II", pointer, length))  # M2


@pytest.mark.parametrize("pointer", [0, 1, 0xFFFFFFFF])
def test_empty_strings_may_point_anywhere(plain: Guest, pointer: int) -> None:
    for at in (STRINGS["service"], STRINGS["mode"], STRINGS["args-hash"], STRINGS["actor"]):
        assert changed(plain, WRITE, at, struct.pack("<II", pointer, 0)) is ALLOW
    assert changed(plain, WRITE, STRINGS["action"], struct.pack("<II", pointer, 0)) == Deny(Reason.UNKNOWN_ACTION)
    assert changed(plain, WRITE, STRINGS["id"], struct.pack("<II", pointer, 0)) == Deny(Reason.MISSING_RESOURCE)


def test_what_is_absent_is_not_looked_at(plain: Guest) -> None:
    junk = struct.pack("<II", 0xDEADBEEF, 0xDEADBEEF)
    assert changed(plain, PolicyInput("compute.long"), 24, junk + b"\xff" + junk) is ALLOW
    assert changed(plain, PolicyInput("compute.long"), 4, junk) is ALLOW
    assert changed(plain, PolicyInput("compute.long"), 48, junk) is ALLOW
    assert changed(plain, PolicyInput("db.write", resource=Resource("sql_query")), 36, junk) == Deny(
        Reason.MISSING_RESOURCE
    )


def test_records_outside_the_arena_trap(plain: Guest) -> None:
    assert plain.ask(WRITE) is ALLOW
    size = plain.memory_size()
    for pointer in (
        0,
        8,
        4096,
        65_536,
        plain.buffer - 16,
        plain.buffer + 1,
        plain.buffer + 4,
        size - 72,
        size,
        0x80000000,
        0xFFFFFFF8,
    ):
        with pytest.raises(GuestTrap):
            plain.ask_raw(pointer)


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_a_record_that_is_not_aligned_traps(plain: Guest, shift: int) -> None:
    for at in (plain.buffer + shift, plain.buffer + 8):
        plain.write(at, record(WRITE, at))
        if at % 8 == 0:
            assert plain.ask_raw(at) is ALLOW
            continue
        with pytest.raises(GuestTrap):
            plain.ask_raw(at)


# The allocator.


@pytest.fixture
def fresh(plain: Guest) -> Guest:
    plain.call(POST, 0)
    return plain


def test_allocations_are_aligned_and_apart(fresh: Guest) -> None:
    end = 0
    for alignment, size in [(1, 3), (8, 80), (1, 1), (4, 12), (1, 0), (16, 1), (1, 5), (2, 2), (4096, 10)]:
        start = fresh.call("cabi_realloc", 0, 0, alignment, size)
        assert start % alignment == 0
        assert start >= end
        end = start + size
    assert fresh.call(POST, 0) == 0
    assert fresh.call("cabi_realloc", 0, 0, 8, 8) == fresh.buffer


def test_reallocation_keeps_the_contents(fresh: Guest) -> None:
    start = fresh.call("cabi_realloc", 0, 0, 1, 10)
    fresh.write(start, b"0123456789")
    assert fresh.call("cabi_realloc", start, 10, 1, 4) == start
    moved = fresh.call("cabi_realloc", start, 10, 8, 20)
    assert moved >= start + 10
    assert moved % 8 == 0
    assert fresh.read(moved, 10) == b"0123456789"
    shifted = fresh.call("cabi_realloc", moved + 1, 3, 4, 2)
    assert shifted % 4 == 0
    assert fresh.read(shifted, 2) == b"12"


BAD_CALLS = {
    "no alignment": (0, 0, 0, 8),
    "alignment 3": (0, 0, 3, 8),
    "alignment of 2 GiB": (0, 0, 0x80000000, 8),
    "more than there is": (0, 0, 1, 1_000_000),
    "2 GiB": (0, 0, 1, 0x80000000),
    "4 GiB": (0, 0, 1, 0xFFFFFFFF),
    "old outside memory": (0xFFFFFFF0, 8, 1, 16),
    "old is the image": (65_536, 8, 1, 4),
    "old is static": (4_096, 8, 1, 16),
    "old never allocated": (-64, 8, 1, 16),
    "old that wraps": (8, 0xFFFFFFFF, 1, 16),
}


@pytest.mark.parametrize("arguments", BAD_CALLS.values(), ids=BAD_CALLS)
def test_impossible_allocations_trap(fresh: Guest, arguments: tuple[int, int, int, int]) -> None:
    old = arguments[0] if arguments[0] >= 0 else fresh.memory_size() + arguments[0]
    before = fresh.memory()
    with pytest.raises(GuestTrap):
        fresh.call("cabi_realloc", old, *arguments[1:])
    assert fresh.memory() == before


def test_the_arena_ends_where_memory_ends(fresh: Guest) -> None:
    room = fresh.memory_size() - fresh.buffer
    assert fresh.call("cabi_realloc", 0, 0, 1, room) == fresh.buffer
    assert fresh.call("cabi_realloc", 0, 0, 1, 0) == fresh.memory_size()
    with pytest.raises(GuestTrap):
        fresh.call("cabi_realloc", 0, 0, 1, 1)
