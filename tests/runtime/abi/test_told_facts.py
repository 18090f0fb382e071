"""Questions of 0.2.0: what a guest that a compiler laid out reads is what was asked, by this host and by another."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import event, example, given, settings

from capgate.errors import MalformedInput, PolicyTimeout
from capgate.limits import Limits
from capgate.model import Actor, Anonymous, Deny, Environment, PolicyInput, Resource, Service, User
from capgate.runtime.abi.canonical_abi import WITH_FACTS
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy
from capgate.runtime.pool import WasmPool
from capgate.wasm import Module, decode, encode
from capgate.wasm.edit import extended
from capgate.wasm.encode import export_entry
from capgate.wasm.module import Export

from ...support.guests import artifact
from ...support.tools import examples, require_module
from .echo import rebuild
from .hosts import Host, wrapped, wrapped_by_jco
from .inputs import INPUTS, delegated

ECHO: Final = rebuild.COMMITTED.read_bytes()
ROOMY: Final = Limits(output_bytes=262_144, fuel=100_000_000)
_CASES: Final = ("anonymous", "user", "service", "compiler_tool")
_EXPORT: Final = 7
#: A tuple is a list.
TAGGED: Final[dict[str, Any]] = {"owner": "ada", "total": 2**63 - 1, "tags": ("eu",), "none": ()}
MANY: Final = PolicyInput(
    "order.refund",
    Service(
        "agent-7",
        ("a", "b"),
        ("s",),
        {"tenant": "acme", "n": -(2**63), "f": -0.0, "t": ["x", "", "\u20ac"], "mfa": False},
        User("ada", (), ("w", "v"), {"b": True}, delegated(2)),
    ),
    Resource("order", "17", TAGGED),
    "ab" * 32,
    Environment("shop", "test"),
    2**64 - 1,
    {"amount": 250, "rate": 5e-324, "at": 1.7976931348623157e308},
    {"ip": "10.0.0.7", "mfa": True},
)


def in_one_block(module: bytes) -> bytes:
    """``module``, which declares that it frees nothing singly."""
    decoded = decode(module)
    index = next(each.index for each in decoded.exports if each.kind == "function")
    entry = export_entry(Export("capgate_one_block", "function", index))
    return encode(Module(b"", extended(decoded, _EXPORT, len(decoded.exports), [entry])))


def said(input: PolicyInput) -> str:
    """What the guest says of ``input``, which is written here by what ``echo.zig`` promises."""

    def text(value: str) -> str:
        return f"{len(value.encode())}:{value}"

    def texts(values: Any) -> str:
        return f"[{''.join(map(text, values))}]"

    def optional(value: str | None) -> str:
        return "-" if value is None else f"+{text(value)}"

    def value_of(value: Any) -> str:
        if type(value) is bool:
            return f"0:{'T' if value else 'F'}"
        if type(value) is int:
            return f"1:{'' if value >= 0 else '~'}{value if value >= 0 else ~value}:"
        if type(value) is float:
            return f"2:{int.from_bytes(struct.pack('<d', value), 'little')}:"
        return f"3:{text(value)}" if type(value) is str else f"4:{texts(value)}"

    def attributes(mapping: Any) -> str:
        return f"[{''.join(text(name) + value_of(value) for name, value in mapping.items())}]"

    def actor(who: Actor) -> str:
        case = f"{_CASES.index(str(type(who).__struct_config__.tag))}:"
        if isinstance(who, Anonymous):
            return case
        return case + text(who.id) + texts(who.roles) + texts(who.scopes) + attributes(who.attributes)

    acting_for, who, resource = [], input.actor, input.resource
    while not isinstance(who, Anonymous) and who.on_behalf_of is not None:
        who = who.on_behalf_of
        acting_for.append(actor(who))
    what = "-"
    if resource is not None:
        what = f"+{text(resource.kind)}{optional(resource.id)}{attributes(resource.attributes)}"
    parts = (actor(input.actor), f"[{''.join(acting_for)}]", text(input.action), what, optional(input.args_hash))
    env = text(input.env.service) + text(input.env.mode)
    return "".join(parts) + f"{env}{input.timestamp}:{attributes(input.args)}{attributes(input.context)}"


@cache
def compiled(engine_name: str, is_block: bool) -> CompiledPolicy:
    module = in_one_block(ECHO) if is_block else ECHO
    return CompiledPolicy(PreparedPolicy(artifact(module), ROOMY), load_engine(engine_name))


@cache
def hosted() -> Host:
    return Host(wrapped(ECHO, WITH_FACTS), WITH_FACTS)


@pytest.mark.sampled
@settings(max_examples=examples(200), deadline=None)
@given(input=INPUTS)
@example(MANY)
def test_a_compiled_guest_reads_what_was_asked(engine_name: str, input: PolicyInput) -> None:
    """In one allocation and in many, and what another host lowers is the same."""
    expected = Deny(said(input))
    for is_block in (False, True):
        assert compiled(engine_name, is_block).instantiate().call_policy_check(input) == expected
    assert hosted().ask(input) == expected
    event(f"acts for {'somebody' if getattr(input.actor, 'on_behalf_of', None) else 'nobody'}")


@pytest.mark.slow
def test_a_component_that_jco_makes_by_the_interface_that_is_shipped(engine_name: str, tmp_path: Path) -> None:
    (component,) = wrapped_by_jco([ECHO], tmp_path, WITH_FACTS)
    made = artifact(component)
    assert made.is_component
    assert made.interface == "capgate:policy@0.2.0"
    interpreter = CompiledPolicy(PreparedPolicy(made, ROOMY), load_engine(engine_name)).instantiate()
    host = Host(component, WITH_FACTS)
    for input in (MANY, PolicyInput("a"), PolicyInput("a", User("u"), Resource("k", "", {"a": []}))):
        assert interpreter.call_policy_check(input) == host.ask(input) == Deny(said(input))


@pytest.mark.slow
def test_the_source_gives_the_committed_bytes() -> None:
    require_module("ziglang")
    assert rebuild.compile_guest() == ECHO


@pytest.mark.parametrize("is_block", [False, True])
def test_a_pool_sets_it_back(engine_name: str, is_block: bool) -> None:
    """Nothing of a question is left for the next."""
    pool = WasmPool(artifact(in_one_block(ECHO) if is_block else ECHO), 1, engine_name, ROOMY)
    bare = PolicyInput("a")
    try:
        for input in (bare, MANY, bare, MANY, bare):
            assert pool.call(input) == Deny(said(input))
        assert pool.statistics().made == 1
    finally:
        pool.close()


@pytest.mark.parametrize("is_block", [False, True])
def test_the_size_of_facts_is_bounded(engine_name: str, is_block: bool) -> None:
    limits = Limits(input_bytes=1_024, output_bytes=262_144, fuel=100_000_000)
    module = in_one_block(ECHO) if is_block else ECHO
    interpreter = CompiledPolicy(PreparedPolicy(artifact(module), limits), load_engine(engine_name)).instantiate()
    base = PolicyInput("", env=Environment("", ""))
    for size in (1_024 - 9, 1_024 - 8):
        input = msgspec.structs.replace(base, args={"a": "x" * size})
        if size + 9 <= 1_024:
            assert interpreter.call_policy_check(input) == Deny(said(input))
        else:
            with pytest.raises(MalformedInput):
                interpreter.call_policy_check(input)
    assert not interpreter.broken


def test_allocating_and_answering_are_one_budget(engine_name: str) -> None:
    """A guest that is asked for many texts pays for each of them with the fuel of the one call."""
    limits = Limits(fuel=20_000, output_bytes=262_144)
    compiled_ = CompiledPolicy(PreparedPolicy(artifact(ECHO), limits), load_engine(engine_name))
    assert compiled_.instantiate().call_policy_check(PolicyInput("a")) == Deny(said(PolicyInput("a")))
    with pytest.raises(PolicyTimeout):
        compiled_.instantiate().call_policy_check(PolicyInput("a", args={"a": [""] * 4_000}))
