"""Policy inputs for tests: a reader of the record that a guest gets, and strategies that look for its weak places.

The readers follow ``policy.wit`` and ``policy-0.2.0.wit`` and the Component Model's canonical ABI, and share no code
with ``capgate.runtime.abi``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from capgate.model import Actor, Anonymous, Attribute, CompilerTool, Environment, PolicyInput, Resource, Service, User

_RECORD: Final = struct.Struct("<B3x2I 2I B3x2I B3x2I B3x2I 2I 2I Q")
_ACTORS: Final[list[type[User | Service | CompilerTool]]] = [User, Service, CompilerTool]


def read_input(memory: memoryview, at: int) -> PolicyInput:
    """The input whose record is at ``at``, as a guest reads it. ``AssertionError`` where a guest would trap."""
    assert at % 8 == 0
    (who, *who_text), *rest = _split(_RECORD.unpack_from(memory, at))
    action, (has_resource, *kind), (has_id, *id), (has_hash, *args_hash), service, mode, (timestamp,) = rest

    def text(pointer: int, length: int) -> str:
        assert pointer + length <= len(memory)
        return str(memory[pointer : pointer + length], "utf-8", "strict")

    assert who <= 3
    assert {has_resource, has_id, has_hash} <= {0, 1}
    actor: Actor = _ACTORS[who - 1](text(*who_text)) if who else Anonymous()
    resource = Resource(text(*kind), text(*id) if has_id else None) if has_resource else None
    env = Environment(text(*service), text(*mode))
    return PolicyInput(text(*action), actor, resource, text(*args_hash) if has_hash else None, env, timestamp)


_FACTS_RECORD: Final = struct.Struct("<36s2I 2I B3x28s B3x2I 2I 2I Q 2I 2I")
_SOMEBODY: Final = struct.Struct("<B3x 2I 2I 2I 2I")
_SOMETHING: Final = struct.Struct("<2I B3x2I 2I")
_FACT: Final = struct.Struct("<2I B7x 8s")


def read_facts_input(memory: memoryview, at: int) -> PolicyInput:
    """The input whose record of 0.2.0 is at ``at``, as a guest reads it. ``AssertionError`` where one would trap."""

    def text(pointer: int, length: int) -> str:
        assert pointer + length <= len(memory)
        return str(memory[pointer : pointer + length], "utf-8", "strict")

    def texts(pointer: int, length: int) -> list[str]:
        assert pointer % 4 == 0
        return [text(*struct.unpack_from("<2I", memory, pointer + 8 * index)) for index in range(length)]

    def attributes(pointer: int, length: int) -> dict[str, Attribute]:
        assert pointer % 8 == 0
        facts: dict[str, Attribute] = {}
        for index in range(length):
            *name, case, value = _FACT.unpack_from(memory, pointer + 24 * index)
            first, second = struct.unpack("<2I", value)
            assert case <= 4
            assert case or first <= 1
            facts[text(*name)] = (
                bool(first),
                *struct.unpack("<q", value),
                *struct.unpack("<d", value),
                text(first, second) if case == 3 else "",
                texts(first, second) if case == 4 else [],
            )[case]
        assert len(facts) == length
        return facts

    def actor_of(content: bytes, acting_for: list[bytes]) -> Actor:
        case, *words = _SOMEBODY.unpack(content)
        assert case <= 3
        if not case:
            return Anonymous()
        id, roles, scopes, facts = zip(words[::2], words[1::2], strict=True)
        somebody = actor_of(acting_for[0], acting_for[1:]) if acting_for else None
        named: Any = _ACTORS[case - 1]
        who: Actor = named(text(*id), tuple(texts(*roles)), tuple(texts(*scopes)), attributes(*facts), somebody)
        return who

    assert at % 8 == 0
    who, *words, has_resource, what, has_hash, h, n, s, ns, m, nm, stamp, a, na, c, nc = _FACTS_RECORD.unpack_from(
        memory, at
    )
    first, count, *action = words
    assert first % 4 == 0
    acting_for = [bytes(memory[first + 36 * index : first + 36 * index + 36]) for index in range(count)]
    assert {has_resource, has_hash} <= {0, 1}
    resource = None
    if has_resource:
        k, nk, has_id, i, ni, f, nf = _SOMETHING.unpack(what)
        assert has_id <= 1
        resource = Resource(text(k, nk), text(i, ni) if has_id else None, attributes(f, nf))
    digest, env = text(h, n) if has_hash else None, Environment(text(s, ns), text(m, nm))
    return PolicyInput(
        text(*action), actor_of(who, acting_for), resource, digest, env, stamp, attributes(a, na), attributes(c, nc)
    )


def _split(words: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The numbers of the record, by field."""
    sizes, at, fields = (3, 2, 3, 3, 3, 2, 2, 1), 0, []
    for size in sizes:
        fields.append(words[at : at + size])
        at += size
    return fields


def as_read(input: PolicyInput) -> PolicyInput:
    """``input`` without what the interface has no field for."""
    resource, actor = input.resource, input.actor
    return replace(
        input,
        actor=actor if isinstance(actor, Anonymous) else type(actor)(actor.id),
        resource=None if resource is None else Resource(resource.kind, resource.id),
        args={},
        context={},
    )


replace = msgspec.structs.replace


def rebuilt(input: PolicyInput) -> PolicyInput:
    """An equal input of which no part, and no text that is not empty, is the same object."""

    def text(value: str) -> str:
        return "".join([value[:1], value[1:]]) if len(value) > 1 else value

    actor, resource = input.actor, input.resource
    return PolicyInput(
        text(input.action),
        Anonymous() if isinstance(actor, Anonymous) else replace(actor, id=text(actor.id)),
        None
        if resource is None
        else Resource(text(resource.kind), None if resource.id is None else text(resource.id), resource.attributes),
        None if input.args_hash is None else text(input.args_hash),
        Environment(text(input.env.service), text(input.env.mode)),
        input.timestamp,
        input.args,
        input.context,
    )


# Strategies

#: Around the sizes of the slots in which parts of an input are kept, and around limits.input_bytes.
SIZES: Final = (0, 1, 2, 63, 64, 127, 128, 129, 255, 256, 257, 383, 384, 385, 1_023, 1_024, 1_025)
LETTERS: Final = ("a", "b", "\0", "\u00e9", "\u20ac", "\U0001d11e", "\uffff", "\x7f", '"', "\n")


def sized(size: int, letter: str) -> str:
    """Text of ``size`` UTF-8 bytes, of ``letter`` as far as it goes."""
    width = len(letter.encode())
    return letter * (size // width) + "x" * (size % width)


SIZED: Final = st.builds(sized, st.sampled_from(SIZES), st.sampled_from(LETTERS))
NAMES: Final = ("env.read", "http.outbound", "db.read", "db.write", "cache.read", "report.print", "env_var", "host")
IDS: Final = ("TZ", "tz", "API.example.com", "api.example.com", "list", "upsert", "a", "", sized(300, "k"))
TEXTS: Final = st.one_of(st.sampled_from(NAMES + IDS), SIZED, st.text(max_size=12))
KINDS: Final = st.one_of(st.sampled_from(["env_var", "host", "sql_query", "namespace"]), TEXTS)
#: Values of facts, and whole mappings of them.
FACTS: Final = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.text(max_size=5), max_size=3),
    st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
ATTRIBUTES: Final = st.dictionaries(st.sampled_from(["a", "b_1", "tenant"]), FACTS, max_size=2)
_ROLES: Final = st.lists(st.sampled_from(["editor", "support", ""]), max_size=2, unique=True).map(tuple)
_NAMED: Final = [
    strategy
    for kind in _ACTORS
    for strategy in (st.builds(kind, TEXTS), st.builds(kind, TEXTS, _ROLES, _ROLES, ATTRIBUTES, st.none()))
]
ACTORS: Final = st.one_of(
    st.just(Anonymous()),
    *_NAMED,
    *(st.builds(kind, TEXTS, on_behalf_of=st.one_of(st.just(Anonymous()), *_NAMED)) for kind in _ACTORS),
)
RESOURCES: Final = st.one_of(
    st.none(),
    st.builds(Resource, KINDS, st.one_of(st.none(), TEXTS)),
    st.builds(Resource, KINDS, TEXTS, ATTRIBUTES),
)
HASHES: Final = st.one_of(st.none(), st.just("ab" * 32), TEXTS)
ENVIRONMENTS: Final = st.builds(Environment, TEXTS, TEXTS)
STAMPS: Final = st.one_of(st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
INPUTS: Final = st.builds(
    PolicyInput,
    st.one_of(st.sampled_from(NAMES), TEXTS),
    ACTORS,
    RESOURCES,
    HASHES,
    ENVIRONMENTS,
    STAMPS,
    ATTRIBUTES,
    ATTRIBUTES,
)


@dataclass
class Mutable:
    """Looks like a part of an input, and can change under the same identity."""

    kind: str = "env_var"
    id: str | None = "TZ"
    service: str = "capgate"
    mode: str = "prod"


class FrozenNoMore(Resource, frozen=False):  # type: ignore[misc]
    """A subclass may be mutable where its base is not."""


class LyingText(str):
    """Text that encodes to something else than it is."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"TZ"


SURROGATE: Final = "a\ud800"
MALFORMED_TEXTS: Final = st.sampled_from([SURROGATE, "\udfff", None, 1, b"TZ", ["TZ"], 1.5])


class Few(dict[str, Any]):
    """A mapping that may show its encoder something else."""


def delegated(depth: int) -> Service:
    """An actor that acts for another, and so on, ``depth`` times."""
    actor = Service("s")
    for _ in range(depth):
        actor = Service("s", on_behalf_of=actor)
    return actor


#: Mappings that hold something which is no fact.
NO_FACTS: Final[list[Any]] = [
    *(
        {"a": value}
        for value in (None, b"", {"b": "c"}, [1], [["a"]], ["a", None], object(), 1j, {"a"}, LyingText("a"))
    ),
    *({"a": value} for value in (2**63, -(2**63) - 1, 10**400, float("nan"), float("inf"), SURROGATE, [SURROGATE])),
    *(
        {name: "a"}
        for name in ("", "A", "1a", "a-b", "a.b", "\u00e4", "a" * 65, "_a", SURROGATE, 1, None, LyingText("a"))
    ),
    {f"a{number}": 1 for number in range(129)},
    [("a", "b")],
    Few(a="b"),
    5,
    "a",
]
_NO_ACTORS: Final[list[Any]] = [
    *(User("u", attributes=wrong) for wrong in NO_FACTS),
    *(User("u", attributes={name: "a"}) for name in ("id", "kind", "roles", "scopes", "on_behalf_of")),
    *(User("u", roles=wrong) for wrong in (("a", "a"), "ab", (1,), {"a"}, (SURROGATE,), (LyingText("a"),), 5)),  # type: ignore[arg-type]
    *(User("u", scopes=wrong) for wrong in (("a", "a"), "ab", (None,))),  # type: ignore[arg-type]
    *(User("u", on_behalf_of=wrong) for wrong in ("ada", 0, User(5), User("a", attributes={"id": 1}), delegated(4))),  # type: ignore[arg-type]
]
#: field -> values that no policy may be asked about, whatever the other fields are.
MALFORMED: Final[dict[str, st.SearchStrategy[Any]]] = {
    "action": MALFORMED_TEXTS,
    "actor": st.one_of(
        st.sampled_from([None, "alice", User, Mutable(), Resource("env_var", "TZ")]),
        *(st.builds(kind, MALFORMED_TEXTS) for kind in _ACTORS),
        st.sampled_from(_NO_ACTORS),
    ),
    "resource": st.one_of(
        st.sampled_from(["TZ", Mutable(), FrozenNoMore("env_var", "TZ"), Environment(), 0, False, b""]),
        st.builds(Resource, MALFORMED_TEXTS, st.just("TZ")),
        st.builds(Resource, st.just("env_var"), MALFORMED_TEXTS.filter(lambda text: text is not None)),
        st.sampled_from([None, [], {"id": "a"}, {"kind": "a"}, *NO_FACTS]).map(
            lambda attributes: Resource("env_var", "TZ", attributes)
        ),
    ),
    "args_hash": MALFORMED_TEXTS.filter(lambda text: text is not None),
    "env": st.one_of(
        st.sampled_from([None, "prod", Mutable(), Resource("env_var", "TZ")]),
        st.builds(Environment, MALFORMED_TEXTS, st.just("prod")),
        st.builds(Environment, st.just("capgate"), MALFORMED_TEXTS),
    ),
    "args": st.sampled_from(NO_FACTS),
    "context": st.sampled_from(NO_FACTS),
    "timestamp": st.sampled_from([-1, 2**64, -(2**63), 10**40, 1.0, "1", None, float("nan")]),
}
