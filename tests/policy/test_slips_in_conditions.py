"""Slips in ``when`` and ``attributes``: each is told with its place, inside the text, and what was probably meant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from capgate.errors import ConfigError
from capgate.policy import RuntimePolicy
from capgate.policy.mistakes import find_mistakes
from capgate.policy.places import find, place_of

from .test_rules_with_conditions import ATTRIBUTES, allow, document

#: What somebody wrote, where in it the mistake begins, and what was meant.
CONDITIONS: Final[list[tuple[str, str, str | None]]] = [
    # Signs and words of other languages.
    ("args.amount = 3", "= 3", "=="),
    ("args.amount === 3", "===", "=="),
    ("args.amount <> 3", "<>", "!="),
    ("args.amount => 3", "=>", ">="),
    ("context.mfa and args.amount > 3", "and", "&&"),
    ("context.mfa or args.amount > 3", "or", "||"),
    ("context.mfa & (args.amount > 3)", "&", "&&"),
    ("context.mfa | (args.amount > 3)", "|", "||"),
    ("not context.mfa", "not", "!"),
    ("'a' not in actor.roles", "not in", "!(... in ...)"),
    ("resource.owner is actor.id", "is", "=="),
    ("actor.roles has 'admin'", "has", "in"),
    ("if context.mfa then true else false", "if", "... ? ... : ..."),
    ("context.mfa == True", "True", "true"),
    ("resource.owner == null", "null", "!has(...)"),
    ("resource.owner == None", "None", "!has(...)"),
    ("context.mfa;", ";", None),
    ("(args.amount > 3", "3", None),
    ("args.amount > 3)", ")", None),
    ("'a' == \"b", '"b', None),
    ("\u201cadmin\u201d in actor.roles", "\u201c", None),
    ("", "", None),
    ("  ", "", None),
    # Names.
    ("args.amuont > 3", "args.amuont", "args.amount"),
    ("user.id == 'a'", "user.id", "actor.id"),
    ("subject.tenant == 'a'", "subject.tenant", "actor.tenant"),
    ("request.mfa", "request.mfa", "context.mfa"),
    ("ACTOR.id == 'a'", "ACTOR.id", "actor.id"),
    ("'admin' in actor.groups", "actor.groups", "actor.roles"),
    ("'admin' in actor.role", "actor.role", "actor.roles"),
    ("actor.type == 'user'", "actor.type", "actor.kind"),
    ("resource.type == 'order'", "resource.type", "resource.kind"),
    ("actor.name == 'ada'", "actor.name", "actor.id"),
    ("env.MODE == 'prod'", "env.MODE", "env.mode"),
    ("amount > 3", "amount", "args.amount"),
    ("mfa", "mfa", "context.mfa"),
    ("request.args.amount > 3", "request.args.amount", "args.amount"),
    ("args['amount'] > 3", "args", "args.amount"),
    ("resource.tenant == actor.tenant", "resource.tenant", None),
    ("context.mfa && actor.on_behalf_of.tenat == 'a'", "actor.on_behalf_of.tenat", "actor.on_behalf_of.tenant"),
    ("actor.on_behalf_of == 'ada'", "actor.on_behalf_of", None),
    ("actor.roles.exists(role, rol == 'a')", "rol ==", "role"),
    # Kinds and types.
    ("actor.kind == 'users'", "actor.kind", "user"),
    ("actor.kind in ['user', 'Service']", "actor.kind", "service"),
    ("actor.roles == 'admin'", "actor.roles", "'admin' in actor.roles"),
    ("'admin' != actor.roles", "'admin'", "!('admin' in actor.roles)"),
    ("actor.roles.contains('admin')", "actor.roles", "'admin' in actor.roles"),
    ("actor.roles in ['admin']", "actor.roles", "actor.roles.exists(x, x in ['admin'])"),
    ("args.amount > '3'", "args.amount", "args.amount > 3"),
    ("context.mfa == 'true'", "context.mfa", "context.mfa == true"),
    ("actor.id == 7", "actor.id", "actor.id == '7'"),
    ("now > '2027-01-01'", "now", "now > timestamp('2027-01-01T00:00:00Z')"),
    ("now > timestamp('2027-01-01')", "timestamp", None),
    ("args.amount", "args", None),
    ("!'admin' in actor.roles", "!", None),
    # Functions.
    ("len(actor.roles) > 1", "len", "size"),
    ("actor.roles.length() > 1", "actor.roles", "size"),
    ("actor.roles.any(r, r == 'a')", "actor.roles", "exists"),
    ("actor.id.startswith('a')", "actor.id", "startsWith"),
    ("actor.id.starts_with('a')", "actor.id", "startsWith"),
    ("actor.id.matches('a')", "actor.id", "contains"),
    ("now() > now", "now()", "now"),
    ("exists(resource.owner)", "exists", "has"),
]
OTHERS: Final = [
    (7, None),
    (None, None),
    (True, None),
    (["context.mfa"], None),
    ({"all": ["context.mfa"]}, None),
]
#: Declarations, where the mistake is, and what was meant.
DECLARATIONS: Final[list[tuple[Any, str, str | None]]] = [
    ([], "attributes", None),
    ("actor", "attributes", None),
    ({"user": {}}, "attributes.user", "actor"),
    ({"resources": {}}, "attributes.resources", "resource"),
    ({"params": {}}, "attributes.params", "args"),
    ({"env": {}}, "attributes.env", None),
    ({"args": ["amount"]}, "attributes.args", None),
    ({"args": {"amount": "integer"}}, "attributes.args.amount", "int"),
    ({"args": {"amount": "number"}}, "attributes.args.amount", "int"),
    ({"args": {"amount": "Int"}}, "attributes.args.amount", "int"),
    ({"args": {"note": "text"}}, "attributes.args.note", "string"),
    ({"args": {"note": "str"}}, "attributes.args.note", "string"),
    ({"args": {"tags": "list of strings"}}, "attributes.args.tags", "list"),
    ({"args": {"tags": "array"}}, "attributes.args.tags", "list"),
    ({"args": {"tags": ["string"]}}, "attributes.args.tags", "string"),
    ({"args": {"rate": "double"}}, "attributes.args.rate", "float"),
    ({"context": {"mfa": "boolean"}}, "attributes.context.mfa", "bool"),
    ({"context": {"mfa": True}}, "attributes.context.mfa", None),
    ({"args": {"until": "timestamp"}}, "attributes.args.until", None),
    ({"args": {"Amount": "int"}}, "attributes.args.Amount", None),
    ({"args": {"in": "int"}}, "attributes.args.in", None),
    ({"args": {"a" * 65: "int"}}, "attributes.args." + "a" * 65, None),
    ({"actor": {"roles": "list"}}, "attributes.actor.roles", None),
    ({"actor": {"on_behalf_of": "string"}}, "attributes.actor.on_behalf_of", None),
    ({"resource": {"kind": "string"}}, "attributes.resource.kind", None),
]


@pytest.mark.parametrize(("when", "mistaken", "nearest"), CONDITIONS, ids=lambda value: ascii(value)[-60:])
def test_a_slip_in_a_condition_is_told_with_its_place_and_the_right_spelling(
    when: str, mistaken: str, nearest: str | None
) -> None:
    text = json.dumps(document(allow(when)), indent=1, ensure_ascii=False)
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text, path="policy.json")
    error = caught.value
    assert (error.setting, error.nearest) == ("rules[0].when", nearest)
    at = text.index('"', text.index('"when"') + 6) + 1
    inside = json.dumps(when, ensure_ascii=False)[1:-1].index(json.dumps(mistaken, ensure_ascii=False)[1:-1])
    assert (error.path, error.line, error.column) == ("policy.json", *place_of(text, at + inside))
    (finding,) = find_mistakes(text, "json")
    assert (finding.setting, finding.nearest, finding.is_error) == (error.setting, nearest, True)
    assert (finding.line, finding.column) == (error.line, error.column)


@pytest.mark.parametrize(
    ("rule", "setting", "nearest"),
    [
        *((allow(when), "rules[0].when", nearest) for when, nearest in OTHERS),  # type: ignore[arg-type]
        ({**allow(), "if": "context.mfa"}, "rules[0].if", "when"),
        ({**allow(), "condition": "context.mfa"}, "rules[0].condition", "when"),
        ({**allow(), "When": "context.mfa"}, "rules[0].When", "when"),
        ({**allow(), "where": "context.mfa"}, "rules[0].where", "when"),
    ],
)
def test_what_is_no_condition_has_the_place_of_its_key(rule: Any, setting: str, nearest: str | None) -> None:
    if rule.get("when", 0) is None or "when" not in rule:
        rule = {**rule, **({"when": None} if setting.endswith("when") else {})}
    text = json.dumps(document(rule), indent=1)
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text)
    error = caught.value
    assert (error.setting, error.nearest) == (setting, nearest)
    assert (error.line, error.column) == find(text, False, error.key or ())
    (finding,) = find_mistakes(text, "json")
    assert (finding.setting, finding.nearest) == (setting, nearest)


@pytest.mark.parametrize(("attributes", "setting", "nearest"), DECLARATIONS, ids=lambda value: ascii(value)[-60:])
def test_a_slip_in_a_declaration_is_told_with_its_place_and_the_right_spelling(
    attributes: Any, setting: str, nearest: str | None
) -> None:
    text = json.dumps({"attributes": attributes}, indent=1)
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text)
    error = caught.value
    assert (error.setting, error.nearest) == (setting, nearest)
    assert (error.line, error.column) == find(text, False, error.key or ())
    (finding,) = find_mistakes(text, "json")
    assert (finding.setting, finding.nearest) == (setting, nearest)


def test_all_of_a_document_are_told_at_once_and_none_that_only_follows(tmp_path: Path) -> None:
    text = """\
[actions]
"order.refund" = "by_rule"
[attributes]
args = { amount = "number", note = "varchar" }
user = { tenant = "string" }
[[rules]]
effect = "allow"
actions = ["order.refund"]
when = "args.amount > 3 && actor.tenat == 'x'"
[[rules]]
effect = "deny"
actions = ["order.refund"]
when = "args.note == 'x'"
[[rules]]
effect = "deny"
actions = ["order.refund"]
if = "args.amount > 3"
[[rules]]
effect = "deny"
actions = ["order.refund"]
when = "actor.tenant == 'x' && args.amount < 3 && args.amount > 5"
[[rules]]
effect = "permit"
actions = ["order.refund"]
when = "args.amount = 5"
"""
    told = [
        (4, 10, "attributes.args.amount", "int"),
        (4, 29, "attributes.args.note", None),
        (5, 1, "attributes.user", "actor"),
        (9, 28, "rules[0].when", "actor.tenant"),
        (17, 1, "rules[2].if", "when"),
        (21, 1, "rules[3].when", None),
        (23, 1, "rules[4].effect", "allow"),
        (25, 21, "rules[4].when", "=="),
    ]
    findings = find_mistakes(text, "toml")
    assert [(each.line, each.column, each.setting, each.nearest) for each in findings] == told
    path = tmp_path / "policy.toml"
    path.write_text(text)
    command = [sys.executable, "-m", "capgate", "check", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    told_as_json = json.loads(done.stdout)["findings"]
    assert [(each["line"], each["column"], each["setting"], each["nearest"]) for each in told_as_json] == told


def test_there_are_many() -> None:
    assert len({text for text, _, _ in CONDITIONS}) == len(CONDITIONS) >= 60
    assert len(DECLARATIONS) >= 25
    assert RuntimePolicy.from_document({"attributes": ATTRIBUTES}).conditions is None
