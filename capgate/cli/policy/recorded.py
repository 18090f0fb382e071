"""Questions that were asked before: the events of the logger ``capgate.decisions``, one JSON object on each line, and
golden fixtures."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from ...errors import ConfigError
from ...events import TEXT_LIMIT
from ...model import ANONYMOUS, Actor, CompilerTool, Environment, PolicyInput, Resource, Service, User

#: Why a decision event has no question that can be asked again: nothing was asked, or its text was cut short.
NOTHING, CUT = "nothing asked", "text cut short"
EVENT: Final = "capgate.decision"

_LONGER: Final = re.compile(r"(.*)\.\.\.\((\d+) characters\)", re.DOTALL)
_ACTORS: Final[dict[str, type[User | Service | CompilerTool]]] = {
    "user": User,
    "service": Service,
    "compiler_tool": CompilerTool,
}


class _Event(msgspec.Struct):
    """What of an event says what was asked."""

    service: str
    mode: str
    timestamp: int = 0
    action: str | None = None
    resource_kind: str | None = None
    resource_id: str | None = None
    actor_kind: str | None = None
    actor_id: str | None = None


def question_of(raw: dict[str, Any], path: str | None = None) -> PolicyInput | str:
    """The question of a decision event, or why there is none: :data:`NOTHING` or :data:`CUT`.

    Not in an event, and so not in the question, are the hash of arguments and attributes of resources.
    Raises :class:`ConfigError`, with ``path``, for what is no such event.
    """
    if raw.get("event") != EVENT:
        raise ConfigError("event", str(raw.get("event")), f"{EVENT!r}", path=path)
    try:
        event = msgspec.convert(raw, _Event)
    except msgspec.ValidationError as error:
        raise ConfigError("event", EVENT, str(error), path=path) from None
    texts = {name: original(text) for name, text in msgspec.structs.asdict(event).items() if isinstance(text, str)}
    if None in texts.values():
        return CUT
    actor = _actor(texts)
    if "action" not in texts or actor is None or not 0 <= event.timestamp < 2**64:
        return NOTHING
    kind = texts.get("resource_kind")
    resource = None if kind is None else Resource(kind, texts.get("resource_id"))
    env = Environment(str(texts["service"]), str(texts["mode"]))
    return PolicyInput(str(texts["action"]), actor, resource, env=env, timestamp=event.timestamp)


def _actor(texts: dict[str, str | None]) -> Actor | None:
    kind, id = texts.get("actor_kind"), texts.get("actor_id")
    if kind == "anonymous":
        return ANONYMOUS
    return None if kind not in _ACTORS or id is None else _ACTORS[kind](id)


def original(text: str) -> str | None:
    """What :func:`capgate.events.printable` was given; ``None`` where it has cut that short."""
    if (longer := _LONGER.fullmatch(text)) and len(_unescaped(longer[1])) == TEXT_LIMIT < int(longer[2]):
        return None
    return _unescaped(text)


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return text.encode("ascii").decode("unicode_escape")
    except UnicodeError:  # not written by capgate
        return text
