"""More mistakes than :mod:`tests.policy.test_mistakes` has: other words and types, things twice, syntax, settings."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from capgate.errors import ConfigError
from capgate.policy import RuntimePolicy
from capgate.policy.mistakes import find_mistakes
from capgate.policy.places import find
from capgate.settings import Settings

from .test_mistakes import AROUND, MISTYPED, deny


def about(action: str, *resources: Any) -> dict[str, Any]:
    return deny(actions=[action], resources=list(resources))


#: What somebody wrote as one rule, where the mistake is, and what was meant.
RULES: Final[list[tuple[Any, str, str | None]]] = [
    # Actions, in other words.
    (deny(actions=["sql.read"]), ".actions[0]", "db.read"),
    (deny(actions=["sql.select"]), ".actions[0]", "db.read"),
    (deny(actions=["db.select"]), ".actions[0]", "db.read"),
    (deny(actions=["db.insert"]), ".actions[0]", "db.write"),
    (deny(actions=["db.delete"]), ".actions[0]", "db.write"),
    (deny(actions=["db.alter"]), ".actions[0]", "db.migrate"),
    (deny(actions=["file.read"]), ".actions[0]", "fs.read"),
    (deny(actions=["files.write"]), ".actions[0]", "fs.write"),
    (deny(actions=["fs.delete"]), ".actions[0]", "fs.write"),
    (deny(actions=["cache.set"]), ".actions[0]", "cache.write"),
    (deny(actions=["cache.get"]), ".actions[0]", "cache.read"),
    (deny(actions=["env.get"]), ".actions[0]", "env.read"),
    (deny(actions=["http.get"]), ".actions[0]", "http.outbound"),
    (deny(actions=["egress.outbound"]), ".actions[0]", "http.outbound"),
    (deny(actions=["config.write"]), ".actions[0]", "runtime.config.write"),
    (deny(actions=["config.set"]), ".actions[0]", "runtime.config.write"),
    (deny(actions=["tool.skill"]), ".actions[0]", "tool.query_skill"),
    (deny(actions=["db:read"]), ".actions[0]", "db.read"),
    (deny(actions=["db/read"]), ".actions[0]", "db.read"),
    (deny(actions=["db."]), ".actions[0]", "db.read"),
    (deny(actions=["db.read,db.write"]), ".actions[0]", "db.write"),
    (deny(actions=["Db.*"]), ".actions[0]", "db.*"),
    (deny(actions=["compute.*.*"]), ".actions[0]", "compute.*"),
    (deny(actions=["**"]), ".actions[0]", None),
    (deny(actions=[""]), ".actions[0]", None),
    (deny(actions=[None]), ".actions[0]", None),
    (deny(actions=["db.read", 1]), ".actions[1]", None),
    (deny(actions=[["db.read"]]), ".actions[0]", None),
    (deny(actions=["db.read", "db.read"]), ".actions[1]", None),
    (deny(actions={"db.read": True}), ".actions", None),
    (deny(actions=None), ".actions", None),
    # Actors.
    (deny(actors=[]), ".actors", None),
    (deny(actors="user"), ".actors", None),
    (deny(actors=["user:"]), ".actors[0]", None),
    (deny(actors=[" user:ada"]), ".actors[0]", "user:ada"),
    (deny(actors=["user: ada"]), ".actors[0]", "user:ada"),
    (deny(actors=["service:billing "]), ".actors[0]", "service:billing"),
    (deny(actors=["user: "]), ".actors[0]", "user"),
    (deny(actors=["USER"]), ".actors[0]", "user"),
    (deny(actors=["user=ada"]), ".actors[0]", "user"),
    (deny(actors=["anon"]), ".actors[0]", "anonymous"),
    (deny(actors=["compiler"]), ".actors[0]", "compiler_tool"),
    (deny(actors=["compilertool:author/*"]), ".actors[0]", "compiler_tool:author/*"),
    (deny(actors=["role:admin"]), ".actors[0]", None),
    (deny(actors=["user:ada", "user:ada"]), ".actors[1]", None),
    (deny(actors=[7]), ".actors[0]", None),
    (deny(actors=["user:a*b"]), ".actors[0]", None),
    # Modes.
    (deny(modes=[]), ".modes", None),
    (deny(modes={}), ".modes", None),
    (deny(modes=["PROD"]), ".modes[0]", "prod"),
    (deny(modes=["prod "]), ".modes[0]", "prod"),
    (deny(modes=["live"]), ".modes[0]", "prod"),
    (deny(modes=["development"]), ".modes[0]", "dev"),
    (deny(modes=["developement"]), ".modes[0]", "dev"),
    (deny(modes=["staging"]), ".modes[0]", None),
    (deny(modes=[True]), ".modes[0]", None),
    (deny(modes=["dev", "dev"]), ".modes[1]", None),
    (deny(modes=[""]), ".modes[0]", None),
    # Resources.
    (about("db.read"), ".resources", None),
    (deny(resources="sql_query:x"), ".resources", None),
    (about("db.read", "sql_query:"), ".resources[0]", None),
    (about("db.read", "sql_query:a", " sql_query:x"), ".resources[1]", "sql_query"),
    (about("db.read", "query:x"), ".resources[0]", "sql_query"),
    (about("db.read", "table:users"), ".resources[0]", "sql_query"),
    (about("db.read", "sql:users"), ".resources[0]", "sql_query"),
    (about("db.read", "sql_query:x", "sql_query:X"), ".resources[1]", None),
    (about("db.read", {"kind": "sql_query", "id": "x"}), ".resources[0]", None),
    (about("db.read", "host:x.example"), ".resources[0]", None),
    (about("tool.compile", "tools:x"), ".resources[0]", "tool"),
    (about("tool.compile", "sql_query:x"), ".resources[0]", None),
    (about("runtime.config.write", "config:x"), ".resources[0]", "config_key"),
    (about("compute.long", "jobs:x"), ".resources[0]", "job"),
    (about("env.read", "env:TZ"), ".resources[0]", "env_var"),
    (about("env.read", "variable:TZ"), ".resources[0]", "env_var"),
    (about("fs.write", "file:a"), ".resources[0]", "path"),
    (about("fs.write", "folder:a"), ".resources[0]", "path"),
    (about("http.outbound", "url:x.example"), ".resources[0]", "host"),
    (about("http.outbound", "domain:x.example"), ".resources[0]", "host"),
    (about("cache.read", "key:orders"), ".resources[0]", "namespace"),
    # Effects, and other keys.
    (deny(effect="DENY"), ".effect", "deny"),
    (deny(effect=""), ".effect", None),
    (deny(effect=True), ".effect", None),
    (deny(effect=["deny"]), ".effect", None),
    (deny(effect="forbid"), ".effect", "deny"),
    (deny(effect="block"), ".effect", "deny"),
    (deny(effect="permit"), ".effect", "allow"),
    ({"actions": ["db.read"]}, ".effect", None),
    ({"effect": "deny"}, ".actions", None),
    (deny(reason=7), ".reason", None),
    (deny(reason="x" * 257), ".reason", None),
    (deny(reason="a\nb"), ".reason", None),
    (deny(monitor=1), ".monitor", None),
    (deny(monitor=None), ".monitor", None),
    ({**deny(monitor=True), "effect": "allow"}, ".monitor", None),
    (deny(efect="deny"), ".efect", "effect"),
    (deny(comment="x"), ".comment", None),
    (deny(message="no"), ".message", "reason"),
    (deny(users=["ada"]), ".users", "actors"),
    (deny(principal="ada"), ".principal", "actors"),
    (deny(environments=["dev"]), ".environments", "modes"),
    (deny(Actions=["db.read"]), ".Actions", "actions"),
    ("deny db.read", "", None),
    (None, "", None),
    ([], "", None),
]
#: The same of whole documents.
DOCUMENTS: Final[list[tuple[Any, str, str | None]]] = [
    ({"rules": {}}, "rules", None),
    ({"rules": "deny"}, "rules", None),
    ({"sql": {}}, "sql", None),
    ({"sql": None}, "sql", None),
    ({"sql": True}, "sql", None),
    ({"sql": "a"}, "sql", None),
    ({"sql": "ANY"}, "sql", "any"),
    ({"sql": "any "}, "sql", "any"),
    ({"cache": "everything"}, "cache", "any"),
    ({"sql": [""]}, "sql[0]", None),
    ({"sql": [" x"]}, "sql[0]", "x"),
    ({"sql": ["sql_query:x"]}, "sql[0]", "x"),
    ({"tools": ["tool:x"]}, "tools[0]", "x"),
    ({"tools": ["x "]}, "tools[0]", "x"),
    ({"env": ["$TZ"]}, "env[0]", "TZ"),
    ({"sql": ["a", None]}, "sql[1]", None),
    ({"sql": [["a"]]}, "sql[0]", None),
    ({"sql": [{"name": "q", "operation": "SELECT"}]}, "sql[0].operation", "select"),
    ({"sql": [{"name": "q", "operation": ["select"]}]}, "sql[0].operation", None),
    ({"sql": [{"name": "q", "operation": "drop"}]}, "sql[0].operation", "migrate"),
    ({"sql": [{"name": "q", "op": "select"}]}, "sql[0].op", "operation"),
    ({"cache": [{"name": "orders"}]}, "cache[0]", None),
    ({"cache": ["a", "a"]}, "cache[1]", None),
    ({"caches": []}, "caches", "cache"),
    ({"env": [""]}, "env[0]", None),
    ({"environment": []}, "environment", "env"),
    ({"fs": ["../x"]}, "fs[0]", None),
    ({"fs": ["a", "./a"]}, "fs[1]", None),
    ({"files": []}, "files", "fs"),
    ({"config": [1]}, "config[0]", None),
    ({"configuration": []}, "configuration", "config"),
    ({"jobs": []}, "jobs", "compute"),
    ({"tools": ["compile", ""]}, "tools[1]", None),
    ({"Tools": []}, "Tools", "tools"),
    ({"hosts": []}, "hosts", "egress"),
    ({"database": []}, "database", "sql"),
    ({"actions": []}, "actions", None),
    ({"actions": {"order.refund": {}}}, "actions.order.refund", None),
    ({"actions": {"order.refund": [1]}}, "actions.order.refund[0]", None),
    ({"actions": {"order.refund": "by rule"}}, "actions.order.refund", "by_rule"),
    ({"actions": {"order.refund": ["a", "a"]}}, "actions.order.refund[1]", None),
    ({"actions": {"order": "any"}}, "actions.order", None),
    ({"actions": {"order-refund": "any"}}, "actions.order-refund", None),
    ({"actions": {"order.*": "any"}}, "actions.order.*", None),
    ({"modes": [1]}, "modes[0]", None),
    ({"modes": [""]}, "modes[0]", None),
    ({"name": ""}, "name", None),
    ({"name": 7}, "name", None),
    ({"name": "x" * 65}, "name", None),
    ({"version": None}, "version", None),
    ({"Version": "1"}, "Version", "version"),
    ({"schema": "x"}, "schema", "$schema"),
    ({"default": "deny"}, "default", None),
    ({"allow": []}, "allow", None),
]
SLIPS: Final = [
    *(({**AROUND, "rules": [rule]}, f"rules[0]{place}", nearest) for rule, place, nearest in RULES),
    *DOCUMENTS,
]


@pytest.mark.parametrize(("document", "setting", "nearest"), SLIPS, ids=lambda value: ascii(value)[-60:])
def test_each_slip_is_told_with_its_place_and_the_right_spelling(  # P-4
    document: dict[str, Any], setting: str, nearest: str | None
) -> None:
    text = json.dumps(document, indent=1)
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text, path="policy.json")
    error = caught.value
    assert (error.setting, error.nearest) == (setting, nearest)
    assert (error.path, error.line, error.column) == ("policy.json", *find(text, False, error.key or ()))
    assert (error.line, error.column) != (None, None)
    (finding,) = find_mistakes(text, "json")
    assert (finding.setting, finding.nearest, finding.is_error) == (setting, nearest, True)
    assert (finding.line, finding.column) == (error.line, error.column)


#: What is no JSON, or no TOML, and the line and the column where a reader stops: Pythons differ by one.
SYNTAX: Final = [
    ("json", '{"sql": ["a"],}', 1, 14),
    ("json", '{"sql": ["a",]}', 1, 13),
    ("json", "{'sql': []}", 1, 2),
    ("json", '{\n "sql": []\n "fs": []}', 3, 2),
    ("json", '{"sql" []}', 1, 8),
    ("json", '{"sql": [}', 1, 10),
    ("json", '{"sql": []', 1, 11),
    ("json", '{"sql": []}}', 1, 12),
    ("json", '{"fs": [],\n "sql": [], "sql": []}', 2, 13),
    ("json", '{"rules": [{"effect": "deny",\n"effect": "allow"}]}', 2, 1),
    ("json", '// why\n{"sql": []}', 1, 1),
    ("json", '{"sql": [] /* x */}', 1, 12),
    ("json", '{"sql": any}', 1, 9),
    ("json", '{"sql": NaN}', 1, 9),
    ("json", '{"sql": 01}', 1, 10),
    ("json", "{sql: []}", 1, 2),
    ("json", '{"sql": ["a]}', 1, 10),
    ("json", '{"sql": ["\\x"]}', 1, 11),
    ("json", '{"sql": ["a\tb"]}', 1, 12),
    ("json", "", 1, 1),
    ("json", '\ufeff{"sql": []}', 1, 1),
    ("json", '{"sql": [\n "a"\n "b"\n]}', 3, 2),
    ("json", '{"sql": [\u201ca\u201d]}', 1, 10),
    ("json", "null", 1, 1),
    ("json", '[{"sql": []}]', 1, 1),
    ("toml", "sql = any", 1, 7),
    ("toml", 'sql = ["a"', 1, 11),
    ("toml", 'sql ["a"]', 1, 5),
    ("toml", 'sql: ["a"]', 1, 4),
    ("toml", 'sql = ["a" "b"]', 1, 12),
    ("toml", '[rules]\neffect = "deny"', 1, 2),
    ("toml", '[[rules]\neffect = "deny"', 1, 8),
    ("toml", "[[rules]]\neffect = deny", 2, 10),
    ("toml", '[sql]\nname = "a"', 1, 2),
    ("toml", 'name = "a\\q"', 1, 12),
    ("toml", '[actions]\norder.refund = "any"', 2, 1),
    ("toml", '[actions]\n"order.refund" = any', 2, 18),
    ("toml", "[actions]\n[actions]", 2, 9),
    ("toml", '{"sql": []}', 1, 1),
    ("toml", 'sql = [\n  "a",\n  "b"\n', 4, 1),
    ("toml", "rules = []\n[[rules]]", 2, 8),
    ("toml", '[[rule]]\neffect = "deny"', 1, 3),
    ("toml", "name = orders", 1, 8),
    ("toml", "version = 1.0", 1, 1),
    ("toml", 'name = "x" version = "1"', 1, 12),
    ("toml", 'sql = [{name: "a"}]', 1, 13),
    ("toml", 'sql = ["a"]\nsql = ["b"]\nfs = []\n', 2, 12),
]


@pytest.mark.parametrize(("format", "text", "line", "column"), SYNTAX, ids=lambda value: ascii(value)[-60:])
def test_what_cannot_be_read_is_told_with_its_place(format: str, text: str, line: int, column: int) -> None:
    (finding,) = find_mistakes(text, format)
    assert finding.is_error
    assert finding.line == line
    assert finding.column is not None
    assert abs(finding.column - column) <= 1


#: Variables of the environment that are misspelled, or hold what is none of their values.
VARIABLES: Final = [
    ("CAPGATE_POLICIES", "x", "CAPGATE_POLICY"),
    ("CAPGATE_ARTEFACT", "x", "CAPGATE_ARTIFACT"),
    ("CAPGATE_ARTIFACT_SHA", "x", "CAPGATE_ARTIFACT_SHA256"),
    ("CAPGATE_POOLSIZE", "8", "CAPGATE_POOL_SIZE"),
    ("CAPGATE_FULE", "8", "CAPGATE_FUEL"),
    ("CAPGATE_SAFE_ROUTES", "x", None),
    ("CAPGATE_PUBLIC_ROUTES", "/x", None),
    ("CAPGATE_Mode", "dev", None),
    ("CAPGATE_ENFORCED", "always", "CAPGATE_ENFORCE"),
    ("CAPGATE_TRUSTED_KEY", "x", "CAPGATE_TRUSTED_KEYS"),
    ("CAPGATE_ENGINE", "wasmtme", "wasmtime"),
    ("CAPGATE_ENFORCE", "monitored", "monitor"),
    ("CAPGATE_UNKNOWN_ROUTES", "hidden", "hide"),
    ("CAPGATE_REUSE", "yes", None),
    ("CAPGATE_POOL_SIZE", "8.0", None),
    ("CAPGATE_FUEL", "10M", None),
    ("CAPGATE_PUBLIC", "GET /healthz", None),
]


@pytest.mark.parametrize(("variable", "text", "nearest"), VARIABLES)
def test_a_variable_with_a_slip_is_told(variable: str, text: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({variable: text})
    assert caught.value.setting == variable
    if nearest is not None:
        assert nearest in (caught.value.nearest, *caught.value.valid.replace(",", " ").split())


def test_there_are_two_hundred_and_more() -> None:
    texts = {ascii(what) for what in (*MISTYPED, *SLIPS, *SYNTAX, *VARIABLES)}
    assert len(texts) == len(MISTYPED) + len(SLIPS) + len(SYNTAX) + len(VARIABLES)
    assert len(texts) >= 300
