"""Makes the JSON Schemas (draft 2020-12) of questions and of golden fixtures, by which editors complete and underline.

What they reject is no question, or none that a policy may be asked: then it is ``malformed_input``, and a fixture that
expects so may have any facts. They cannot say how large text may be, or how deep actors act for others. Nor can they
say that text has no lone surrogate, and a whole number at most 64 bits.
"""

from __future__ import annotations

from typing import Any, Final

from ...facts import ACTOR_FACTS, FACTS_LIMIT, NAME_LIMIT, RESOURCE_FACTS
from ...model import Reason
from ...policy.schema import DIALECT, Schema

_NULL: Final[Schema] = {"type": "null"}
_TEXT: Final[Schema] = {"type": "string"}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_NAMED: Final = ("user", "service", "compiler_tool")
_DEFS: Final = "#/$defs/"


def question_schema() -> Schema:
    """Return the schema of a question, as JSON would give it."""
    return {"$schema": DIALECT, "title": "capgate question", **_ref("question"), "$defs": _definitions()}


def fixtures_schema() -> Schema:
    """Return the schema of a file of fixtures, which is one of them or a list; of a ``.jsonl`` file, of a line."""
    return {
        "$schema": DIALECT,
        "title": "capgate golden fixtures",
        "description": "Questions, each with the answer that a policy has to give.",
        "anyOf": [_ref("fixture"), {"type": "array", "items": _ref("fixture")}],
        "$defs": {**_definitions(), "fixture": _fixture()},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"{_DEFS}{name}"}


def _definitions() -> dict[str, Schema]:
    return {
        "question": _object(
            ["action"],
            {
                "action": {**_TEXT, "description": "What is to be done, such as 'db.write'."},
                "actor": {"description": "Who asks. Without this, nobody is known.", **_ref("actor")},
                "resource": _or_null(_ref("resource"), "What the effect touches."),
                "args_hash": _or_null(_TEXT, "Stands for big arguments: 64 hex digits by convention."),
                "env": _object([], {"service": _TEXT, "mode": _TEXT}, "Where it is asked."),
                "timestamp": {
                    "description": "Nanoseconds since the epoch.",
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 2**64 - 1,
                },
                "args": _attributes("Arguments of the effect.", frozenset()),
                "context": _attributes("What else is known of the moment.", frozenset()),
            },
        ),
        "actor": {"anyOf": [_object(["kind"], {"kind": {"const": "anonymous"}}), _named_actor()]},
        "resource": _object(
            ["kind"],
            {
                "kind": {**_TEXT, "description": "Such as 'sql_query' or 'host'."},
                "id": _or_null(_TEXT, "Which one."),
                "attributes": _attributes("What is known of it.", RESOURCE_FACTS),
            },
        ),
        "value": {
            "description": "A truth, a number, text, or a list of texts.",
            "anyOf": [{"type": ["boolean", "number", "string"]}, _TEXTS],
        },
    }


def _named_actor() -> Schema:
    return _object(
        ["kind", "id"],
        {
            "kind": {"enum": list(_NAMED)},
            "id": {**_TEXT, "description": "As the application's authentication gave it."},
            "roles": {**_TEXTS, "uniqueItems": True},
            "scopes": {**_TEXTS, "uniqueItems": True},
            "attributes": _attributes("What else is known of them.", ACTOR_FACTS),
            "on_behalf_of": _or_null(_ref("actor"), "For whom they act."),
        },
    )


def _attributes(description: str, taken: frozenset[str]) -> Schema:
    names: Schema = {"maxLength": NAME_LIMIT, "pattern": "^[a-z][a-z0-9_]*$", "not": {"pattern": r"[\r\n]"}}
    if taken:
        names["not"] = {"anyOf": [names["not"], {"enum": sorted(taken)}]}
    return {
        "description": description,
        "type": "object",
        "maxProperties": FACTS_LIMIT,
        "propertyNames": names,
        "additionalProperties": _ref("value"),
    }


def _fixture() -> Schema:
    allow = _object(["kind"], {"kind": {"const": "allow"}})
    deny = _object(["kind", "reason"], {"kind": {"const": "deny"}, "reason": _TEXT})
    whole = _object(
        ["input", "expected"],
        {
            "description": _TEXT,
            "input": {"description": "The question."},
            "expected": {"description": "The answer.", "anyOf": [allow, deny]},
            "policy": _or_null({"type": "object"}, "The document that this fixture is about."),
            "register": {**_TEXTS, "description": "Actions that the application brings."},
            "would_deny": _or_null(_TEXT, "Of an allow: what a rule that only monitors records."),
        },
    )
    malformed: Schema = {
        "required": ["expected"],
        "properties": {
            "expected": {"required": ["reason"], "properties": {"reason": {"const": Reason.MALFORMED_INPUT}}}
        },
    }
    return {
        **whole,
        "if": malformed,
        "then": {"properties": {"input": {"type": "object", "required": ["action"]}}},
        "else": {"properties": {"input": _ref("question")}},
    }


def _or_null(schema: Schema, description: str) -> Schema:
    return {"description": description, "anyOf": [_NULL, schema]}


def _object(required: list[str], properties: dict[str, Any], description: str = "") -> Schema:
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        schema["required"] = required
    return {"description": description, **schema} if description else schema
