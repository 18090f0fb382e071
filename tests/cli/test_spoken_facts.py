"""Facts in words: what is written is read again as it was, with its types, and what is no fact is said so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings

from capgate.cli.spoken_facts import facts_text, read_facts, with_facts
from capgate.errors import ConfigError
from capgate.model import Anonymous, CompilerTool, PolicyInput, Resource, Service, User, canonical

from ..runtime.abi.inputs import INPUTS, SURROGATE
from ..support.tools import examples


def without_facts(input: PolicyInput) -> PolicyInput:
    actor, resource = input.actor, input.resource
    return msgspec.structs.replace(
        input,
        actor=actor if isinstance(actor, Anonymous) else type(actor)(actor.id),
        resource=None if resource is None else Resource(resource.kind, resource.id),
        args={},
        context={},
    )


@pytest.mark.sampled
@settings(max_examples=examples(300), deadline=None)
@given(input=INPUTS)
@example(PolicyInput("a", Service("s", on_behalf_of=User('u:\n]"', ("a,b", "true", ""), (), {"a": "5", "b": "[x]"}))))
@example(PolicyInput("a", args={"a": -0.0, "b": 1.0, "c": 1, "d": 5e-324, "e": 1e22, "f": -(2**63), "g": ["1", ""]}))
def test_what_is_written_is_read_again(input: PolicyInput) -> None:
    text = facts_text(input)
    assert text.isascii()
    assert text == "" or text.isprintable()
    assert canonical(with_facts(without_facts(input), read_facts(text))) == canonical(input)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("5.0", 5.0),
        ("5e3", 5000.0),
        ("true", True),
        ("True", "True"),
        ('"true"', "true"),
        ('"5"', "5"),
        ("10.0.0.7", "10.0.0.7"),
        ("2027-01-01", "2027-01-01"),
        ("007", "007"),
        ("99999999999999999999", 99999999999999999999),
        ("a=b", "a=b"),
        ("[]", []),
        ("[a]", ["a"]),
        ("[a, b]", ["a", "b"]),
        ('["a,b]",1,true]', ["a,b]", "1", "true"]),
        ('"\\u20ac \\"x\\""', '\u20ac "x"'),
    ],
)
def test_what_a_value_is(text: str, value: Any) -> None:
    (read,) = read_facts(f"args.a={text}").values()
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "setting", "nearest"),
    [
        ("args.amount", "with", None),
        ("args.amount=", "with", None),
        ("args.amount=[a", "with", None),
        ('args.amount="a', "with", None),
        ("args.a=1 args.a=1", "with", None),
        ("args.a=[a b]", "args.a", None),
        ("args.a=[a,,b]", "args.a", None),
        ('args.a="\\x"', "args.a", None),
        ("roles=[a]", "with", "actor.roles"),
        ("user.tenant=a", "with", "actor.tenant"),
        ("actor.id=eve", "with", None),
        ("resource.kind=order", "with", None),
        ("resource.owner=a", "with", None),
        ("actor.roles=editor", "actor.roles", None),
        ("actor.on_behalf_of=ada", "actor.on_behalf_of", None),
        ("actor.on_behalf_of=user", "actor.on_behalf_of", None),
        ("actor.on_behalf_of=anonymous:1", "actor.on_behalf_of", None),
        ("actor.on_behalf_of=5", "actor.on_behalf_of", None),
        ("actor.on_behalf_of.tenant=a", "with", None),
        ("actor.on_behalf_of=[anonymous,user:ada]", "with", None),
    ],
)
def test_what_is_no_fact_is_named(text: str, setting: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        with_facts(PolicyInput("order.refund", CompilerTool("c")), read_facts(text))
    assert (caught.value.setting, caught.value.nearest) == (setting, nearest)


def test_nobody_in_particular_has_no_facts() -> None:
    with pytest.raises(ConfigError) as caught:
        with_facts(PolicyInput("order.refund"), read_facts("actor.roles=[editor]"))
    assert caught.value.setting == "with"


@pytest.mark.parametrize("name", ["\x1b[31m", "\n", "\u202e", "\ud800", "A b"])
def test_names_that_are_none_do_nothing_to_a_terminal(name: str) -> None:
    """A question may be malformed, and is shown all the same."""
    who = User("u", attributes={name: name})
    text = facts_text(PolicyInput("a", who, Resource("k", "i", {name: [name]}), args={name: 1}, context={name: 1.5}))
    assert text.isascii()
    assert text.isprintable()


def test_text_that_is_no_unicode_is_written_all_the_same() -> None:
    asked = PolicyInput("a", args={"a": SURROGATE})
    assert with_facts(PolicyInput("a"), read_facts(facts_text(asked))) == asked
