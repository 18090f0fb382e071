"""Mistyped documents: each mistake is told with its place and, where one can be seen, the right spelling."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS
from capgate.errors import ConfigError
from capgate.policy import RuntimePolicy
from capgate.policy.document import BUILTIN_SECTIONS
from capgate.policy.mistakes import MOST, Finding, find_mistakes
from capgate.policy.places import find

from ..support.documents import documents
from ..support.tools import examples


def deny(**more: Any) -> dict[str, Any]:
    return {"effect": "deny", "actions": ["db.read"], **more}


#: What somebody wrote as one rule, where the mistake is, and what was meant.
RULES: list[tuple[dict[str, Any], str, str | None]] = [
    (deny(actions=["db.raed"]), "actions[0]", "db.read"),
    (deny(actions=["db.reed"]), "actions[0]", "db.read"),
    (deny(actions=["DB.read"]), "actions[0]", "db.read"),
    (deny(actions=["db-read"]), "actions[0]", "db.read"),
    (deny(actions=["db_read"]), "actions[0]", "db.read"),
    (deny(actions=["dbread"]), "actions[0]", "db.read"),
    (deny(actions=["db.read "]), "actions[0]", "db.read"),
    (deny(actions=["db.read", "db.wirte"]), "actions[1]", "db.write"),
    (deny(actions=["db.writes"]), "actions[0]", "db.write"),
    (deny(actions=["db.migrat"]), "actions[0]", "db.migrate"),
    (deny(actions=["http.outbond"]), "actions[0]", "http.outbound"),
    (deny(actions=["https.outbound"]), "actions[0]", "http.outbound"),
    (deny(actions=["env.raed"]), "actions[0]", "env.read"),
    (deny(actions=["cahce.write"]), "actions[0]", "cache.write"),
    (deny(actions=["fs.wirte"]), "actions[0]", "fs.write"),
    (deny(actions=["tools.modify"]), "actions[0]", "tool.modify"),
    (deny(actions=["tool.compil"]), "actions[0]", "tool.compile"),
    (deny(actions=["tool.runbuild"]), "actions[0]", "tool.run_build"),
    (deny(actions=["runtime.config.wirte"]), "actions[0]", "runtime.config.write"),
    (deny(actions=["compute.lang"]), "actions[0]", "compute.long"),
    (deny(actions=["order.refnd"]), "actions[0]", "order.refund"),
    (deny(actions=["Order.refund"]), "actions[0]", "order.refund"),
    (deny(actions=["invoice.send"]), "actions[0]", None),
    (deny(actions=["db*"]), "actions[0]", "db.*"),
    (deny(actions=["dbs.*"]), "actions[0]", "db.*"),
    (deny(actions=["tools.*"]), "actions[0]", "tool.*"),
    (deny(actions=["orders.*"]), "actions[0]", "order.*"),
    (deny(actions=["db.read.*"]), "actions[0]", "db.*"),
    (deny(actions=["*.read"]), "actions[0]", None),
    (deny(actions=["all"]), "actions[0]", None),
    (deny(actions=[]), "actions", None),
    (deny(actions="db.read"), "actions", None),
    (deny(actors=["usr:ada"]), "actors[0]", "user:ada"),
    (deny(actors=["users"]), "actors[0]", "user"),
    (deny(actors=["User:ada"]), "actors[0]", "user:ada"),
    (deny(actors=["servce:ci/*"]), "actors[0]", "service:ci/*"),
    (deny(actors=["compiler-tool:x"]), "actors[0]", "compiler_tool:x"),
    (deny(actors=["anonymus"]), "actors[0]", "anonymous"),
    (deny(actors=["anonymous:x"]), "actors[0]", "anonymous"),
    (deny(actors=["user", "sevice"]), "actors[1]", "service"),
    (deny(actors=["ada"]), "actors[0]", None),
    (deny(actors=["*"]), "actors[0]", None),
    (deny(actors=["user:ad*"]), "actors[0]", None),
    (deny(modes=["frozn"]), "modes[0]", "frozen"),
    (deny(modes=["Frozen"]), "modes[0]", "frozen"),
    (deny(modes=["prd"]), "modes[0]", "prod"),
    (deny(modes=["production"]), "modes[0]", "prod"),
    (deny(modes=["testing"]), "modes[0]", "test"),
    (deny(modes=["dev", "pord"]), "modes[1]", "prod"),
    (deny(modes=["*"]), "modes[0]", None),
    (deny(resources=["sql_qery:x"]), "resources[0]", "sql_query"),
    (deny(resources=["sqlquery:x"]), "resources[0]", "sql_query"),
    (deny(resources=["SQL_query:x"]), "resources[0]", "sql_query"),
    (deny(resources=["sql-query"]), "resources[0]", "sql_query"),
    (deny(resources=["path:x"]), "resources[0]", None),
    (deny(resources=["sql_query:or*"]), "resources[0]", None),
    (deny(resources=["x"]), "resources[0]", None),
    (deny(actions=["order.refund"], resources=["sql_qery:x"]), "resources[0]", "sql_query"),
    (deny(actions=["order.refund"], resources=["hosts:x"]), "resources[0]", "host"),
    (deny(actions=["http.outbound"], resources=["hst:x"]), "resources[0]", "host"),
    (deny(actions=["http.outbound"], resources=["host:https://x.example"]), "resources[0]", "host:x.example"),
    (deny(actions=["http.outbound"], resources=["host:x.example:443"]), "resources[0]", "host:x.example"),
    (deny(actions=["http.outbound"], resources=["host:x.example/a"]), "resources[0]", "host:x.example"),
    (deny(actions=["http.outbound"], resources=["host:ada@x.example"]), "resources[0]", "host:x.example"),
    (deny(actions=["http.outbound"], resources=["host:256.1.1.1"]), "resources[0]", None),
    (deny(actions=["fs.read"], resources=["path:/etc/*"]), "resources[0]", "path:etc/*"),
    (deny(actions=["fs.read"], resources=["path:/etc/passwd"]), "resources[0]", "path:etc/passwd"),
    (deny(actions=["fs.read"], resources=["path:a/../b"]), "resources[0]", None),
    (deny(actions=["fs.read"], resources=["path:reports*"]), "resources[0]", "path:reports/*"),
    (deny(actions=["fs.read"], resources=["paths:a"]), "resources[0]", "path"),
    (deny(actions=["cache.read"], resources=["namespace:orders:*"]), "resources[0]", "namespace:orders"),
    (deny(actions=["cache.read"], resources=["name_space:orders"]), "resources[0]", "namespace"),
    (deny(actions=["env.read"], resources=["env_var:TZ=UTC"]), "resources[0]", "env_var:TZ"),
    (deny(actions=["env.read"], resources=["envvar:TZ"]), "resources[0]", "env_var"),
    (deny(effect="dney"), "effect", "deny"),
    (deny(effect="denied"), "effect", "deny"),
    (deny(effect="Allow"), "effect", "allow"),
    (deny(effect=None), "effect", None),
    (deny(action=["db.write"]), "action", "actions"),
    (deny(actor=["user"]), "actor", "actors"),
    (deny(mode=["dev"]), "mode", "modes"),
    (deny(resource=["sql_query"]), "resource", "resources"),
    (deny(reasons="no"), "reasons", "reason"),
    (deny(monitr=True), "monitr", "monitor"),
    (deny(monitor="yes"), "monitor", None),
    (deny(reason=""), "reason", None),
    ({**deny(reason="no"), "effect": "allow"}, "reason", None),
]
#: The same of whole documents.
DOCUMENTS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"egres": []}, "egres", "egress"),
    ({"SQL": []}, "SQL", "sql"),
    ({"rule": []}, "rule", "rules"),
    ({"action": {}}, "action", "actions"),
    ({"mode": ["x"]}, "mode", "modes"),
    ({"nmae": "x"}, "nmae", "name"),
    ({"envs": []}, "envs", "env"),
    ({"tool": []}, "tool", "tools"),
    ({"version": 3}, "version", None),
    ({"name": "my policy"}, "name", None),
    ({"egress": "all"}, "egress", "any"),
    ({"egress": "Any"}, "egress", "any"),
    ({"egress": ["https://x.example/"]}, "egress[0]", "x.example"),
    ({"egress": ["a.example", "x.example:80"]}, "egress[1]", "x.example"),
    ({"egress": ["a.example", "A.example."]}, "egress[1]", None),
    ({"fs": ["/srv/data"]}, "fs[0]", "srv/data"),
    ({"cache": ["orders:17"]}, "cache[0]", "orders"),
    ({"env": ["TZ=UTC"]}, "env[0]", "TZ"),
    ({"sql": [{"name": "q", "operation": "selct"}]}, "sql[0].operation", "select"),
    ({"sql": [{"name": "q", "operations": "read"}]}, "sql[0].operations", "operation"),
    ({"sql": [{"nam": "q"}]}, "sql[0].nam", "name"),
    ({"sql": ["Users", "users"]}, "sql[1]", None),
    ({"actions": {"order.refund": "by_rules"}}, "actions.order.refund", "by_rule"),
    ({"actions": {"order.refund": "all"}}, "actions.order.refund", "any"),
    ({"actions": {"db.read": []}}, "actions.db.read", None),
    ({"actions": {"Refund": []}}, "actions.Refund", None),
    ({"modes": ["a*"]}, "modes[0]", None),
    ({"modes": "frozen"}, "modes", None),
    ({"modes": ["a", "a"]}, "modes[1]", None),
]
AROUND: dict[str, Any] = {"actions": {"order.refund": ["1"]}, "modes": ["frozen"]}
MISTYPED = [
    *(({**AROUND, "rules": [rule]}, f"rules[0].{place}", nearest) for rule, place, nearest in RULES),
    *DOCUMENTS,
]


@pytest.mark.parametrize(("document", "setting", "nearest"), MISTYPED, ids=lambda value: str(value)[-60:])
def test_each_mistake_is_told_with_its_place_and_the_right_spelling(  # P-4
    document: dict[str, Any], setting: str, nearest: str | None
) -> None:
    text = json.dumps(document, indent=1)
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text, path="policy.json")
    error = caught.value
    assert (error.setting, error.nearest) == (setting, nearest)
    assert (error.path, error.line, error.column) == ("policy.json", *find(text, False, error.key or ()))
    (finding,) = find_mistakes(text, "json")
    assert (finding.setting, finding.nearest, finding.is_error) == (setting, nearest, True)
    assert (finding.line, finding.column) == (error.line, error.column)


def test_there_are_many() -> None:
    assert len(MISTYPED) >= 60


@pytest.mark.parametrize("seed", range(3))
def test_all_mistakes_are_told_at_once(seed: int) -> None:
    """Every mistyped rule in one document, beside rules that are right: as many findings, each at its place."""
    rules = [*RULES, *((deny(resources=[f"sql_query:q{number}"]), "", None) for number in range(10))]
    random.Random(seed).shuffle(rules)
    document = {**AROUND, "egres": [], "fs": ["/a", "b", "/c"], "rules": [rule for rule, _, _ in rules]}
    expected = {(f"rules[{number}].{place}", nearest) for number, (_, place, nearest) in enumerate(rules) if place}
    expected |= {("egres", "egress"), ("fs[0]", "a"), ("fs[2]", "c")}
    text = json.dumps(document, indent=1)
    findings = find_mistakes(text, "json")
    assert {(finding.setting, finding.nearest) for finding in findings} == expected
    assert len(findings) == len(expected) <= MOST
    assert [finding.line for finding in findings] == sorted(finding.line or 0 for finding in findings)


NAMES = sorted(BUILTIN_SECTIONS)


@pytest.mark.sampled
@settings(max_examples=examples(250))
@given(st.sampled_from(NAMES), st.data())
def test_an_action_with_a_slip_of_the_pen_is_never_taken(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name) - 1))
    slip = data.draw(st.sampled_from(["drop", "double", "swap", "replace"]))
    other = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz"))
    changed = {
        "drop": name[:at] + name[at + 1 :],
        "double": name[: at + 1] + name[at:],
        "swap": name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
        "replace": name[:at] + other + name[at + 1 :],
    }[slip]
    if changed in NAMES:
        return
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document({"rules": [deny(actions=[changed])]})
    assert caught.value.nearest in NAMES


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(documents())
def test_what_builds_has_no_mistakes(document: dict[str, Any]) -> None:
    try:
        RuntimePolicy.from_document(document)
        is_right = True
    except ConfigError:
        is_right = False
    findings = find_mistakes(json.dumps(document), "json")
    assert any(finding.is_error for finding in findings) != is_right


def warned(**document: Any) -> list[tuple[str, str]]:
    RuntimePolicy.from_document(document)
    return [(finding.setting, finding.code) for finding in find_mistakes(json.dumps(document), "json")]


ALLOW = {"effect": "allow", "actions": ["db.read"]}
MFA = "'admin' in actor.roles"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"rules": [deny(), deny(modes=["dev"])]}, [("rules[1]", "hidden")]),
        ({"rules": [deny(modes=["dev"]), deny()]}, []),  # of which the first gives the reason
        ({"rules": [deny(actions=["db.*"]), deny(actors=["user:a"])]}, [("rules[1]", "hidden")]),
        ({"rules": [deny(resources=["sql_query:a/*"]), deny(resources=["sql_query:a/b"])]}, [("rules[1]", "hidden")]),
        ({"rules": [deny(resources=["sql_query:a/b"]), deny(resources=["sql_query:a/*"])]}, []),
        ({"rules": [deny(monitor=True), deny()]}, []),
        ({"rules": [deny(), deny(monitor=True)]}, []),
        ({"rules": [ALLOW, {**ALLOW, "modes": ["dev"]}]}, [("rules[1]", "hidden")]),
        ({"rules": [{**ALLOW, "modes": ["dev"]}, ALLOW]}, [("rules[0]", "hidden")]),
        ({"rules": [ALLOW, ALLOW]}, [("rules[1]", "hidden")]),
        ({"rules": [ALLOW, deny()]}, [("rules[0]", "denied_anyway")]),
        ({"rules": [deny(), ALLOW]}, [("rules[1]", "denied_anyway")]),
        # A condition hides nothing but what has the same one, or a shorter list.
        ({"rules": [deny(when=MFA), deny()]}, []),
        ({"rules": [deny(), deny(when=MFA)]}, [("rules[1]", "hidden")]),
        ({"rules": [deny(when=MFA), deny(when=f"({MFA})", modes=["dev"])]}, [("rules[1]", "hidden")]),
        ({"rules": [deny(when=MFA), deny(when=f"!({MFA})", modes=["dev"])]}, []),
        ({"rules": [ALLOW, {**ALLOW, "when": MFA}]}, [("rules[1]", "hidden")]),
        ({"rules": [{**ALLOW, "when": MFA}, ALLOW]}, [("rules[0]", "hidden")]),
        ({"rules": [{**ALLOW, "when": MFA}, deny(when=MFA)]}, [("rules[0]", "denied_anyway")]),
        ({"rules": [ALLOW, deny(when=MFA)]}, []),
        # Lists and a condition that are never met together.
        ({"rules": [deny(actors=["user"], when="actor.kind == 'service'")]}, [("rules[0]", "never_met")]),
        ({"rules": [deny(actors=["user:ada"], when="actor.id == 'bob'")]}, [("rules[0]", "never_met")]),
        ({"rules": [deny(actors=["user:ada", "service"], when="actor.id == 'bob'")]}, []),
        ({"rules": [deny(modes=["dev"], when="env.mode == 'prod'")]}, [("rules[0]", "never_met")]),
        ({"rules": [deny(when="action == 'db.raed'")]}, [("rules[0]", "never_met")]),
        (
            {"rules": [{**ALLOW, "resources": ["sql_query:a"], "when": "resource.id != 'a'"}]},
            [("rules[0]", "never_met")],
        ),
        ({"rules": [deny(modes=["dev"], when="env.mode == 'dev' && !('a' in actor.roles)")]}, []),
        ({"rules": [{**ALLOW, "when": MFA}, deny()]}, [("rules[0]", "denied_anyway")]),
        ({"sql": ["a"], "rules": [deny(actions=["db.*"], when=MFA)]}, []),
        ({"rules": [deny(actors=["user"]), {**ALLOW, "actors": ["user:a"]}]}, [("rules[1]", "denied_anyway")]),
        ({"rules": [deny(actors=["user:a"]), {**ALLOW, "actors": ["user"]}]}, []),
        ({"sql": ["a"], "rules": [deny(actions=["db.*"])]}, [("sql", "emptied")]),
        ({"sql": ["a"], "rules": [deny()]}, []),
        ({"sql": ["a"], "rules": [deny(actions=["*"], modes=["dev"])]}, []),
        ({"fs": ["a"], "rules": [deny(actions=["fs.*"], resources=["path"])]}, [("fs", "emptied")]),
        ({"actions": {"a.b": "any"}, "rules": [deny(actions=["a.b"])]}, [("actions.a.b", "emptied")]),
        ({"sql": ["a"], "rules": [deny(resources=["sql_query:a"])]}, []),
        ({"sql": ["a"], "rules": [deny(actions=["db.*"], resources=["sql_query:a"])]}, [("sql[0]", "denied_anyway")]),
        ({"egress": ["x.a", "*.a", "*.b.a", "*.b"]}, [("egress[0]", "hidden"), ("egress[2]", "hidden")]),
        ({"egress": ["10.1.2.3", "10.0.0.0/8", "10.1.0.0/16"]}, [("egress[0]", "hidden"), ("egress[2]", "hidden")]),
        ({"egress": ["::/0", "10.0.0.0/8", "10.example", "a"]}, []),
        ({"egress": ["a.b", "*"]}, [("egress[0]", "hidden")]),
        ({"fs": ["a", "a/*", "a/b", "a/b/*", "ab/*"]}, [("fs[2]", "hidden"), ("fs[3]", "hidden")]),
        (
            {"sql": [{"name": "a.*", "operation": "read"}, "a.b", {"name": "a.c", "operation": "select"}]},
            [("sql[2]", "hidden")],
        ),
        (
            {"egress": ["10.0.0.1", "a"], "rules": [deny(actions=["http.*"], resources=["host:10.0.0.0/8"])]},
            [("egress[0]", "denied_anyway")],
        ),
        ({"fs": ["a/b", "a"], "rules": [deny(actions=["fs.*"], resources=["path:a/*"])]}, [("fs[0]", "denied_anyway")]),
        ({"fs": ["a/b"], "rules": [deny(actions=["fs.read"], resources=["path:a/*"])]}, []),
        (
            {
                "fs": ["a/b"],
                "rules": [
                    deny(actions=["fs.read"], resources=["path:a/*"]),
                    deny(actions=["fs.write"], resources=["path:a/b"]),
                ],
            },
            [("fs[0]", "denied_anyway")],
        ),
        ({"fs": ["a/b"], "rules": [deny(actions=["fs.*"], resources=["path:a/*"], modes=["dev"])]}, []),
        ({"fs": ["a/b"], "rules": [deny(actions=["fs.*"], resources=["path:a/*"], monitor=True)]}, []),
        (
            {"rules": [deny(actions=["http.*"], resources=["host:x.a", "host:*.a"])]},
            [("rules[0].resources[0]", "hidden")],
        ),
        (
            {"rules": [deny(actions=["http.*"], resources=["host", "host:10.0.0.0/8"])]},
            [("rules[0].resources[1]", "hidden")],
        ),
        (
            {
                "rules": [
                    deny(actions=["http.*"], resources=["host:10.0.0.0/8"]),
                    {"effect": "allow", "actions": ["http.outbound"], "resources": ["host:10.1"]},
                    deny(actions=["http.*"], resources=["host:10.1.0.0/16"]),
                ]
            },
            [("rules[1]", "denied_anyway"), ("rules[2]", "hidden")],
        ),
    ],
    ids=str,
)
def test_what_has_no_effect_is_warned_of(document: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert warned(**document) == expected


@pytest.mark.parametrize(
    "text", ["{", '{"a": NaN}', "[]", '"x"', '{"rules": 3}', '{"rules": [3, []]}', '{"sql": [3, {}]}']
)
def test_whatever_the_text_is_it_is_told_and_raises_nothing(text: str) -> None:
    findings = find_mistakes(text, "json")
    assert findings
    assert all(type(finding) is Finding and finding.is_error for finding in findings)


def test_toml_is_told_with_its_places() -> None:
    text = 'egres = []\n[[rules]]\neffect = "deny"\nactions = ["db.raed"]\n[[rules]]\neffect = "dny"\nactions = ["*"]\n'
    findings = [(finding.line, finding.column, finding.nearest) for finding in find_mistakes(text, "toml")]
    assert findings == [(1, 1, "egress"), (4, 12, "db.read"), (6, 1, "deny")]


def test_each_builtin_action_has_a_section() -> None:
    assert {action.name: (action.section, action.kind) for action in BUILTIN_ACTIONS} == BUILTIN_SECTIONS
