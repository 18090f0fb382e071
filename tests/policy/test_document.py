"""Policy documents: what is read, and that every mistake is named by the path of its key."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from capgate.actions import OPERATIONS, SECTIONS
from capgate.errors import ConfigError
from capgate.policy import RuntimePolicy
from capgate.policy.document import EVERY, MIGRATE, READ, WRITE, read_document
from capgate.policy.strict import parse_json

PLAIN_SECTIONS = [section for section in SECTIONS if section != "actions"]


@pytest.mark.parametrize("section", PLAIN_SECTIONS)
def test_a_section_is_a_list_or_any(section: str) -> None:
    entries = read_document({section: ["a", "b"]}).sections[section].entries
    assert entries is not None
    assert set(entries) == {"a", "b"}
    assert read_document({section: "any"}).sections[section].entries is None
    assert read_document({section: []}).sections[section].entries == {}
    assert section not in read_document({}).sections


def test_operations_add_up() -> None:
    entries = [
        {"name": "a", "operation": "select"},
        {"name": "a", "operation": "read"},
        {"name": "b", "operation": "read"},
        {"name": "b", "operation": "delete"},
        {"name": "c"},
        "d",
        {"name": "e", "operation": "migrate"},
        "f",
        {"name": "f", "operation": "select"},
    ]
    assert read_document({"sql": entries}).sections["sql"].entries == {
        "a": READ,
        "b": READ | WRITE,
        "c": EVERY,
        "d": EVERY,
        "e": MIGRATE,
        "f": EVERY,
    }


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_accepted(operation: str) -> None:
    assert read_document({"sql": [{"name": "q", "operation": operation}]}).sections["sql"].entries


def test_entries_are_read_in_the_normal_form_of_their_kind() -> None:
    document = read_document(
        {"egress": ["API.Example.COM.", "BÜCHER"], "env": ["TZ"], "sql": ["Orders"], "fs": ["./a/"]}
    )
    assert document.sections["egress"].entries == {"api.example.com": EVERY, "xn--bcher-kva": EVERY}
    assert document.sections["env"].entries == {"TZ": EVERY}
    assert document.sections["sql"].entries == {"orders": EVERY}
    assert document.sections["fs"].entries == {"a": EVERY}


def test_name_and_version_have_defaults() -> None:
    assert (RuntimePolicy.from_document({}).name, RuntimePolicy.from_document({}).version) == ("policy", "0")
    policy = RuntimePolicy.from_document({"name": "shop-eu", "version": "2026.1+3"})
    assert (policy.name, policy.version) == ("shop-eu", "2026.1+3")


class Text(str):
    """What JSON never gives: comparing and hashing it may run anything."""

    __slots__ = ()


BAD: list[tuple[Any, str]] = [
    (None, "document"),
    ([], "document"),
    ("", "document"),
    (3, "document"),
    ({"sqll": []}, "sqll"),
    ({"rules ": []}, "rules "),
    ({1: []}, "1"),
    ({"\udc80": []}, "'\\udc80'"),
    ({"name": ""}, "name"),
    ({"name": 3}, "name"),
    ({"name": None}, "name"),
    ({"name": "../up"}, "name"),
    ({"name": "a" * 65}, "name"),
    ({"name": "caf\u00e9"}, "name"),
    ({"name": "shop\n"}, "name"),
    ({"version": 3}, "version"),
    ({"version": "1 2"}, "version"),
    ({"env": None}, "env"),
    ({"env": "all"}, "env"),
    ({"env": "ANY"}, "env"),
    ({"env": b"any"}, "env"),
    ({"env": True}, "env"),
    ({"env": {}}, "env"),
    ({"env": {"TZ": True}}, "env"),
    ({"env": [""]}, "env[0]"),
    ({"env": ["TZ", 3]}, "env[1]"),
    ({"env": ["TZ", None]}, "env[1]"),
    ({"env": [b"TZ"]}, "env[0]"),
    ({"env": [["TZ"]]}, "env[0]"),
    ({"env": [Text("TZ")]}, "env[0]"),
    ({"env": Text("any")}, "env"),
    ({Text("env"): "any"}, "env"),
    ({"name": Text("shop")}, "name"),
    ({"sql": [{"name": "q", "operation": Text("read")}]}, "sql[0].operation"),
    ({"sql": [{Text("name"): "q"}]}, "sql[0].name"),
    ({"actions": {Text("a.b"): "any"}}, "actions.a.b"),
    ({"env": [{"name": "TZ"}]}, "env[0]"),
    ({"env": ["TZ", "PATH", "TZ"]}, "env[2]"),
    ({"env": ["\ud800"]}, "env[0]"),
    ({"env": ["a\udfffb"]}, "env[0]"),
    ({"egress": ["a.example", "A.EXAMPLE"]}, "egress[1]"),
    ({"sql": [{}]}, "sql[0].name"),
    ({"sql": [{"operation": "select"}]}, "sql[0].name"),
    ({"sql": [{"name": ""}]}, "sql[0]"),
    ({"sql": [{"name": 3}]}, "sql[0]"),
    ({"sql": [{"name": "q", "operation": "SELECT"}]}, "sql[0].operation"),
    ({"sql": [{"name": "q", "operation": None}]}, "sql[0].operation"),
    ({"sql": [{"name": "q", "operation": ["select"]}]}, "sql[0].operation"),
    ({"sql": [{"name": "q", "operations": "select"}]}, "sql[0].operations"),
    ({"sql": ["q", {"name": "q"}]}, "sql[1]"),
    ({"sql": [{"name": "q", "operation": "read"}, {"name": "q", "operation": "read"}]}, "sql[1]"),
    ({"actions": "any"}, "actions"),
    ({"actions": []}, "actions"),
    ({"actions": None}, "actions"),
    ({"actions": {"Invoice.send": "any"}}, "actions.Invoice.send"),
    ({"actions": {"send": "any"}}, "actions.send"),
    ({"actions": {"": "any"}}, "actions."),
    ({"actions": {3: "any"}}, "actions.3"),
    ({"actions": {"db.write": "any"}}, "actions.db.write"),
    ({"actions": {"invoice.send": None}}, "actions.invoice.send"),
    ({"actions": {"invoice.send": ["a", ""]}}, "actions.invoice.send[1]"),
    ({"actions": {"invoice.send": ["a", "a"]}}, "actions.invoice.send[1]"),
    ({"actions": {"invoice.send": [{"name": "a"}]}}, "actions.invoice.send[0]"),
]


@pytest.mark.parametrize(("document", "setting"), BAD)
def test_a_mistake_is_named_by_its_path(document: Any, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(document)
    assert caught.value.setting == setting
    assert caught.value.valid


def test_an_unknown_key_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        read_document({"egres": []})
    assert set(SECTIONS) <= set(caught.value.valid.replace("the keys ", "").split(", "))


def test_what_was_seen_is_kept() -> None:
    with pytest.raises(ConfigError) as caught:
        read_document({"sql": [{"name": "q", "operation": "truncate"}]})
    assert caught.value.seen == "truncate"
    assert caught.value.valid == "one of " + ", ".join(OPERATIONS)


BAD_JSON: list[tuple[str | bytes, str]] = [
    (b"", "document"),
    (b"{", "document"),
    (b"{} {}", "document"),
    (b'{"env": [NaN]}', "document"),
    (b'{"env": [-Infinity]}', "document"),
    (b'{"env": ["\xff"]}', "document"),
    (b"\xef\xbb\xbf{}", "document"),
    ("\ufeff{}", "document"),
    ("{}".encode("utf-16"), "document"),
    (b'{"env": ["a\nb"]}', "document"),
    (b'{"env": ["TZ"], "env": "any"}', "env"),
    (b'{"sql": [{"name": "q", "operation": "read", "operation": "write"}]}', "operation"),
    (b'{"actions": {"a.b": [], "a.b": "any"}}', "a.b"),
    (b"[" * 100_000, "document"),
    (b'{"env":' * 100_000, "document"),
    (b"9" * 10_000, "document"),
    (b'{"env": ["\\ud800"]}', "env[0]"),
    ('{"env": ["\ud800"]}', "env[0]"),
]


@pytest.mark.parametrize(("text", "setting"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_is_strict(text: str | bytes, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text)
    assert caught.value.setting == setting


@pytest.mark.parametrize("depth", [*range(300, 1_000, 7), 5_000])
def test_nesting_never_escapes_as_recursion(depth: int) -> None:
    with pytest.raises(ConfigError):
        RuntimePolicy.from_document('{"env": [' + "[" * depth + "]" * depth + "]}")


def test_a_list_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document({"env": loop})
    assert caught.value.setting == "env[0]"


def test_json_and_dict_are_the_same_policy() -> None:
    document = {"sql": ["a", {"name": "b", "operation": "select"}], "egress": ["é.example"], "actions": {"a.b": "any"}}
    text = json.dumps(document, ensure_ascii=False)
    policies = [RuntimePolicy.from_document(given) for given in (document, text, text.encode())]
    assert policies[0].actions == policies[1].actions == policies[2].actions


def test_the_digest_is_of_the_bytes_as_given() -> None:
    text = b'{ "env": ["TZ"] }'
    assert RuntimePolicy.from_document(text).sha256 == hashlib.sha256(text).hexdigest()
    assert RuntimePolicy.from_document(text.decode()).sha256 == hashlib.sha256(text).hexdigest()
    canonical = b'{"env":["TZ"],"sql":"any"}'
    assert RuntimePolicy.from_document({"sql": "any", "env": ["TZ"]}).sha256 == hashlib.sha256(canonical).hexdigest()


def test_later_changes_of_the_dict_change_no_policy() -> None:
    document: dict[str, Any] = {"env": ["TZ"]}
    policy = RuntimePolicy.from_document(document)
    document["env"].append("PATH")
    section = policy.actions["env.read"].section
    assert section is not None
    assert section.entries == {"TZ": EVERY}


def test_a_json_value_that_is_no_object_is_refused() -> None:
    assert parse_json("[1]") == [1]
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document("[1]")
    assert caught.value.setting == "document"
