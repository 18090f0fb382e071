"""Makes the JSON Schema (draft 2020-12) of a policy document from the tables that documents are read by.

It is for editors, which complete and underline by it. What it rejects, :func:`~capgate.policy.document.read_document`
rejects as well, but not the other way round. A schema cannot say, or not so that every validator understands it:

- that text has no lone surrogate, and a reason no character that is not printable, beyond control characters;
- that ids have a normal form, by which they differ, and a query as text from one as an object;
- of rules, that actions and modes are known, and that some action acts on a resource's kind;
- of conditions, that they are CEL, and of attributes, how many there are;
- how many combinations rules make (``MAX_ENTRIES``) or how deep they nest (``MAX_NESTED``).

Patterns are those which mean the same in ECMA 262, in Python and in Rust. That is why ends of lines are told apart by a
pattern of their own: ``$`` is not everywhere the end of the text.
"""

from __future__ import annotations

from typing import Any, Final

from ..actions import BUILTIN_ACTIONS, OPERATIONS, SECTIONS
from ..conditions import ATTRIBUTE_TYPES, HOLDERS, NAME_LIMIT, TEXT_LIMIT, unusable_names
from ..spelling import HOST, PATH, SQL
from .assertions import ALWAYS, MAX_ASSERTIONS, NEVER
from .document import ANY, BY_RULE, LABEL, SCHEMA
from .rules import ACTOR_KINDS, ALLOW_EFFECT, DENY_EFFECT, MAX_REASON, MAX_RULES, MODES

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_WORD: Final = "[a-z][a-z0-9_]*"
_NAME: Final = rf"{_WORD}(\.{_WORD})+"
_NAME_LENGTH: Final = 128
#: A star that is not at the end, or not after a separator.
_NO_STARS: Final = [{"pattern": r"\*[\s\S]"}, {"pattern": r"[^:/.]\*"}]
#: What the ids are of the kinds that have wildcards of their own.
_IDS: Final = {HOST: r"([^*]+|\*(\.[^*]+)?)", PATH: r"([^*]+|([^*]*/)?\*)"}
_ONE_LINE: Final = {"not": {"pattern": r"[\r\n]"}}


def document_schema() -> Schema:
    """Return the schema, as JSON would give it. The same version of capgate always gives the same."""
    sections = {name: _section(name) for name in SECTIONS if name != "actions"}
    return {
        "$schema": DIALECT,
        "title": "capgate policy document",
        "description": "What an application may do, by capability class, and rules about who, when and what.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            SCHEMA: {"type": "string", "description": "Where this schema is, for editors; not looked at otherwise."},
            "name": _label("The policy's name, in logs and events. Without one it is 'policy'."),
            "version": _label("The policy's version, in logs and events. Without one it is '0'."),
            **sections,
            "actions": _own_actions(),
            "modes": {
                "description": f"Modes that rules may name, beside {', '.join(MODES)}.",
                "type": "array",
                "uniqueItems": True,
                "items": _mode(),
            },
            "attributes": _attributes(),
            "rules": {
                "description": "Who may do what, in which mode. A denial beats every allow and every section.",
                "type": "array",
                "maxItems": MAX_RULES,
                "items": _rule(),
            },
            "assert": {
                "description": "What the document is to allow never, or always. 'capgate check' proves it.",
                "type": "array",
                "maxItems": MAX_ASSERTIONS,
                "items": _assertion(),
            },
        },
    }


def _label(description: str) -> Schema:
    return {"description": description, "type": "string", "pattern": f"^{LABEL}$", **_ONE_LINE}


def _section(name: str) -> Schema:
    actions = [action for action in BUILTIN_ACTIONS if action.section == name]
    admits = ", ".join(action.name for action in actions)
    what = f"ids of the kind {actions[0].kind}"
    return {
        "description": f"Admits {admits}. Entries are {what}. Without this section nothing of its class is admitted.",
        **_entries(_query() if name == "sql" else _entry(actions[0].kind)),
    }


def _entries(items: Schema) -> Schema:
    everything = {"const": ANY, "description": "Everything of this class."}
    return {"anyOf": [everything, {"type": "array", "uniqueItems": True, "items": items}]}


def _entry(kind: str | None) -> Schema:
    """Return what an id is: of no certain kind where it is one of an application's own actions."""
    entry: Schema = {"type": "string", "minLength": 1}
    if kind is None:
        return {**entry, "pattern": r"^[^*]+$"}
    return {**entry, "pattern": f"^{_IDS[kind]}$"} if kind in _IDS else {**entry, "not": {"anyOf": _NO_STARS}}


def _query() -> Schema:
    operations = {
        "enum": list(OPERATIONS),
        "description": "; ".join(
            f"{action.name}: {', '.join(action.operations)}" for action in BUILTIN_ACTIONS if action.operations
        ),
    }
    whole = {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {"name": _entry(SQL), "operation": operations},
    }
    return {"anyOf": [{**_entry(SQL), "description": "A query, for every operation."}, whole]}


def _own_actions() -> Schema:
    names = {
        "maxLength": _NAME_LENGTH,
        "pattern": f"^{_NAME}$",
        "not": {"anyOf": [_ONE_LINE["not"], {"enum": [action.name for action in BUILTIN_ACTIONS]}]},
    }
    return {
        "description": "An application's own actions, and for each the ids of the resources that are admitted.",
        "type": "object",
        "propertyNames": names,
        "additionalProperties": {
            "anyOf": [{"const": BY_RULE, "description": "What rules allow."}, _entries(_entry(None))]
        },
    }


def _attributes() -> Schema:
    types: Schema = {"enum": list(ATTRIBUTE_TYPES), "description": "A list is one of strings."}
    holders = {
        holder: {
            "description": f"Facts of the application's own, by name, which conditions speak of as {holder}.NAME.",
            "type": "object",
            "propertyNames": {
                "maxLength": NAME_LIMIT,
                "pattern": f"^{_WORD}$",
                "not": {"anyOf": [_ONE_LINE["not"], {"enum": unusable_names(holder)}]},
            },
            "additionalProperties": types,
        }
        for holder in HOLDERS
    }
    return {
        "description": "The facts that conditions of rules may speak of, beside those of every question.",
        "type": "object",
        "additionalProperties": False,
        "properties": holders,
    }


def _assertion() -> Schema:
    lists = _rule()["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "oneOf": [{"required": [NEVER]}, {"required": [ALWAYS]}],
        "properties": {
            NEVER: _list("Actions of which none is ever allowed; '*' covers those that are known.", _action()),
            ALWAYS: _list("Actions each of which is always allowed; '*' covers those that are known.", _action()),
            **{key: lists[key] for key in ("actors", "modes", "resources", "when")},
        },
    }


def _rule() -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["effect", "actions"],
        "properties": {
            "effect": {"enum": [ALLOW_EFFECT, DENY_EFFECT]},
            "actions": _list("Which actions; '*' covers those that are known.", _action()),
            "actors": _list("Who asks. Without this, whoever does.", _actor()),
            "modes": _list("In which modes, exactly. Without this, in all.", _mode()),
            "resources": _list("About which resources. Without this, about any, or none.", _resource()),
            "when": {
                "description": "A condition in CEL on facts. Without this, the rule matches whatever they are.",
                "type": "string",
                "minLength": 1,
                "maxLength": TEXT_LIMIT,
            },
            "reason": {
                "description": "What a denial gives as its reason. Without this it is 'not_in_allowlist'.",
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_REASON,
                "not": {"pattern": r"[\u0000-\u001f\u007f-\u009f]"},
            },
            "monitor": {
                "description": "Of a denial: it is recorded, and does not count. Without this it counts.",
                "type": "boolean",
            },
        },
        "if": {"properties": {"effect": {"const": ALLOW_EFFECT}}},
        "then": {"properties": {"reason": False, "monitor": False}},
    }


def _list(description: str, items: Schema) -> Schema:
    return {"description": description, "type": "array", "minItems": 1, "uniqueItems": True, "items": items}


def _action() -> Schema:
    known = [action.name for action in BUILTIN_ACTIONS]
    beginnings = sorted({f"{name[: at + 1]}*" for name in known for at, sign in enumerate(name) if sign == "."})
    pattern = rf"^{_WORD}(\.{_WORD})*\.({_WORD}|\*)$"
    own = {"type": "string", "maxLength": _NAME_LENGTH, "pattern": pattern, **_ONE_LINE}
    return {"anyOf": [{"enum": ["*", *beginnings, *known]}, own]}


def _actor() -> Schema:
    pattern = rf"^({'|'.join(ACTOR_KINDS[1:])}):[\s\S]"
    return {"anyOf": [{"enum": list(ACTOR_KINDS)}, {"type": "string", "pattern": pattern, "not": {"anyOf": _NO_STARS}}]}


def _mode() -> Schema:
    return {"type": "string", "minLength": 1, "not": {"pattern": r"\*"}}


def _resource() -> Schema:
    kinds = sorted({action.kind for action in BUILTIN_ACTIONS if action.kind is not None})
    some = [{"type": "string", "pattern": f"^{kind}:{ids}$"} for kind, ids in _IDS.items()]
    others = [*_NO_STARS, {"pattern": f"^({'|'.join(_IDS)}):"}]
    pattern = r"^[^:*]+(:[\s\S]|$)"
    return {"anyOf": [{"enum": kinds}, *some, {"type": "string", "pattern": pattern, "not": {"anyOf": others}}]}
