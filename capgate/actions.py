"""Holds the action vocabulary: which effects have names, what resource each needs, which section admits it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from .errors import ConfigError

#: The sections of a policy document, one per capability class. ``actions`` holds an application's own actions.
SECTIONS: Final = ("env", "egress", "cache", "sql", "fs", "config", "compute", "tools", "actions")


class Action(msgspec.Struct, frozen=True):
    """One effect with a stable name.

    ``section`` of the policy document admits it; ``kind`` is the resource kind it acts on (``None``: any kind);
    ``resource_required`` says whether a question without a resource id is denied ``missing_resource``; ``operations``
    are the operations of a ``sql`` entry that satisfy it.
    """

    name: str
    section: str
    kind: str | None
    resource_required: bool = True
    operations: tuple[str, ...] = ()


READ_OPERATIONS: Final = ("read", "select")
WRITE_OPERATIONS: Final = ("delete", "insert", "update", "upsert", "write")
MIGRATE_OPERATIONS: Final = ("migrate",)
OPERATIONS: Final = tuple(sorted(READ_OPERATIONS + WRITE_OPERATIONS + MIGRATE_OPERATIONS))

BUILTIN_ACTIONS: Final[tuple[Action, ...]] = (
    Action("env.read", "env", "env_var"),
    Action("http.outbound", "egress", "host"),
    Action("cache.read", "cache", "namespace"),
    Action("cache.write", "cache", "namespace"),
    Action("db.read", "sql", "sql_query", operations=READ_OPERATIONS),
    Action("db.write", "sql", "sql_query", operations=WRITE_OPERATIONS),
    Action("db.migrate", "sql", "sql_query", operations=MIGRATE_OPERATIONS),
    Action("fs.read", "fs", "path"),
    Action("fs.write", "fs", "path"),
    Action("runtime.config.write", "config", "config_key"),
    Action("compute.long", "compute", "job", resource_required=False),
    Action("tool.compile", "tools", "tool"),
    Action("tool.inspect", "tools", "tool"),
    Action("tool.generate", "tools", "tool"),
    Action("tool.modify", "tools", "tool"),
    Action("tool.run_build", "tools", "tool"),
    Action("tool.query_skill", "tools", "tool"),
)

#: The names of these, for type checkers.
BuiltinAction = Literal[
    "env.read",
    "http.outbound",
    "cache.read",
    "cache.write",
    "db.read",
    "db.write",
    "db.migrate",
    "fs.read",
    "fs.write",
    "runtime.config.write",
    "compute.long",
    "tool.compile",
    "tool.inspect",
    "tool.generate",
    "tool.modify",
    "tool.run_build",
    "tool.query_skill",
]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", re.ASCII)


def is_action_name(name: object) -> bool:
    """Say whether ``name`` may name an action: lower-case ASCII words joined by dots.

    There are at least two words, and at most 128 bytes.
    """
    return isinstance(name, str) and len(name) <= 128 and _NAME.fullmatch(name) is not None


class Vocabulary:
    """The actions that are known; every other one is denied ``unknown_action`` before a policy is asked.

    Starts with :data:`BUILTIN_ACTIONS`. :meth:`register` adds an application's own; it is meant for start-up.
    ``names``, and ``optional`` (those that need no resource), are frozensets. They are replaced, never changed, so they
    may be read from any thread.
    """

    def __init__(self, actions: Iterable[Action] = BUILTIN_ACTIONS) -> None:
        self._actions = {action.name: action for action in actions}
        self._index()

    def _index(self) -> None:
        self.names: frozenset[str] = frozenset(self._actions)
        self.optional: frozenset[str] = frozenset(
            n for n, action in self._actions.items() if not action.resource_required
        )

    def register(self, name: str, *, kind: str | None = None, resource_required: bool = True) -> Action:
        """Make ``name`` known. Raises :class:`ConfigError` for a malformed name, or one that is known and differs."""
        if not is_action_name(name):
            raise ConfigError("action", name, "lower-case words joined by dots, such as 'invoice.send'")
        action = Action(name, "actions", kind, resource_required)
        known = self._actions.get(name)
        if known is not None and known != action:
            raise ConfigError("action", name, f"a name that is not taken; it is registered as {known!r}")
        self._actions = {**self._actions, name: action}
        self._index()
        return action

    def get(self, name: str) -> Action | None:
        """Return the action of that name, or ``None`` where it is unknown."""
        return self._actions.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[Action]:
        return iter(sorted(self._actions.values(), key=lambda action: action.name))

    def policy_hash(self) -> str:
        """Hash the metadata of all actions, sorted: SHA-256 in 64 hex digits. NUL is between fields, a newline after
        each.
        """
        digest = hashlib.sha256()
        for action in self:
            resource = "required" if action.resource_required else "optional"
            fields = (action.name, action.section, action.kind or "", resource)
            digest.update("\0".join((*fields, ",".join(sorted(action.operations)))).encode() + b"\n")
        return digest.hexdigest()


#: The vocabulary that checkers and declarations use unless they are given their own.
VOCABULARY: Final = Vocabulary()


def policy_hash(vocabulary: Vocabulary = VOCABULARY) -> str:
    """Return :meth:`Vocabulary.policy_hash` of the default vocabulary."""
    return vocabulary.policy_hash()
