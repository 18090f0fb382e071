"""Reads questions from files, and puts them to policies outside of any application.

Files hold policy inputs, golden fixtures, or events of the logger ``capgate.decisions``. Answers are those that the
production runtime gives.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from ...artifact.build import build_policy
from ...artifact.load import OPA, PolicyFile, WasmArtifact
from ...errors import ArtifactError, ArtifactNotFound, ConfigError, MalformedInput, PolicyError
from ...events import TEXT_LIMIT
from ...limits import Limits
from ...model import (
    ANONYMOUS,
    ONLY_ENTRYPOINT,
    Actor,
    CompilerTool,
    Deny,
    Entrypoint,
    Environment,
    PolicyInput,
    PolicyResult,
    Resource,
    Service,
    User,
)
from ...policy import RuntimePolicy
from ...policy.places import Key, find
from ...policy.strict import parse
from ...runtime.engine import load_engine
from ...runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from ..terminal import path_text

#: In place of a path: standard input.
STDIN: Final = "-"
#: In place of a path: what was given itself.
INLINE: Final = "INPUT"
#: Bytes of a file of questions, at most.
QUESTIONS_BYTES: Final = 1 << 30

#: Why a decision event has no question that can be asked again: nothing was asked, or its text was cut short.
NOTHING, CUT = "nothing asked", "text cut short"
EVENT: Final = "capgate.decision"

#: A question in words. An action alone has a dot in it, and is no file's name where there is no such file.
_WORDS: Final = re.compile(r"([a-z0-9_]+(?:\.[a-z0-9_]+)+)(?: (?!as |in )(\S.*?))?(?: as (\S+))?(?: in (\S+))?")
_PLACE: Final = re.compile(r" - at `(key in )?\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+|\.\.\.)\]")
_LONGER: Final = re.compile(r"(.*)\.\.\.\((\d+) characters\)", re.DOTALL)
_ACTORS: Final[dict[str, type[User | Service | CompilerTool]]] = {
    "user": User,
    "service": Service,
    "compiler_tool": CompilerTool,
}


class Asker:
    """A policy in the production runtime: a document is built into a module.

    Each instance is used as a pool would use it: again, where the module is known to keep no state, else once.
    ``entrypoint`` is for a module that OPA compiled; any other policy has none.
    """

    def __init__(
        self,
        policy: RuntimePolicy | WasmArtifact,
        engine: str,
        limits: Limits,
        entrypoint: Entrypoint = ONLY_ENTRYPOINT,
    ) -> None:
        if isinstance(policy, RuntimePolicy):
            room = max(limits.input_bytes, Limits().input_bytes)
            policy = WasmArtifact.from_bytes(build_policy(policy, input_bytes=room), limits=limits)
        self._prepared = PreparedPolicy(policy, limits, entrypoint if policy.abi == OPA else ONLY_ENTRYPOINT)
        self._compiled = CompiledPolicy(self._prepared, load_engine(engine))
        self._idle: WasmInterpreter | None = None
        self.engine = self._compiled.engine.name
        self.inputs = policy.inputs
        #: What a call may spend, and what the last question did; ``None`` where no guest was asked.
        self.fuel_limit = self._prepared.limits.call_fuel
        self.fuel: int | None = None

    def ask(self, input: PolicyInput) -> PolicyResult:
        """Return the answer, or the denial that a failure is. Raises nothing of the policy's."""
        self.fuel = None
        try:
            interpreter = self._idle or self._compiled.instantiate()
            self._idle = None
            try:
                result = interpreter.call_policy_check(input)
            except MalformedInput:
                raise
            except PolicyError:
                self.fuel = interpreter.fuel_spent
                raise
            self.fuel = interpreter.fuel_spent
            if self._prepared.pure and not interpreter.spent:
                self._idle = interpreter
            return result
        except MalformedInput as error:
            return Deny(error.code)
        except PolicyError as error:
            return Deny(error.code)


def policy_facts(file: PolicyFile) -> dict[str, str]:
    """Say which policy it is, for ``--json``."""
    policy = file.policy
    kind = "module" if file.document is None else "document"
    return {"path": file.path, "kind": kind, "name": policy.name, "version": policy.version, "sha256": policy.sha256}


# -- files


def asked_question(text: str) -> PolicyInput:
    """Return the question that ``text`` is, in words or as JSON, or that the file of that name has.

    Words are an action, and then as far as wanted a resource, ``as`` and an actor, ``in`` and a mode. JSON is what
    :func:`read_question` reads. Raises what that raises.
    """
    if text.lstrip().startswith("{") and not _is_file(text):
        return _question_in(text.encode("utf-8", "surrogatepass"), INLINE)
    words = _WORDS.fullmatch(text)
    if words is None or _is_file(text):
        return read_question(Path(text))
    action, resource, actor, mode = words.groups()
    kind, _, id = (resource or "").partition(":")
    who: Actor | None = ANONYMOUS
    if actor is not None:
        who = _actor(dict(zip(("actor_kind", "actor_id"), (*actor.split(":", 1), None), strict=False)))
    if who is None:
        raise ConfigError("actor", actor, "anonymous, or user, service or compiler_tool with ':' and an id")
    env = Environment() if mode is None else Environment(mode=mode)
    return PolicyInput(action, who, Resource(kind, id or None) if kind else None, env=env)


def read_question(path: Path) -> PolicyInput:
    """Return the question in a file of JSON (``-``: standard input): a policy input, or what has one.

    That is a golden fixture, or a decision event. Raises :class:`ConfigError` with the place of what is wrong,
    :class:`ArtifactError` where the file cannot be read.
    """
    return _question_in(read_text(path), path_text(path))


def _is_file(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with NUL
        return False


def _question_in(text: bytes, name: str) -> PolicyInput:
    raw = parse(text, path=name)
    if not isinstance(raw, dict):
        raise ConfigError("input", type(raw).__name__, "an object with an action, and what else is asked", path=name)
    if "event" in raw:
        question = question_of(raw, name)
        if not isinstance(question, PolicyInput):
            cut = "one whose text is not cut short" if question == CUT else "one in which something was asked"
            raise ConfigError("event", raw["event"], f"a decision event, {cut}", path=name)
        return question
    below: Key = ("input",) if "input" in raw else ()
    return convert_question(raw["input"] if below else raw, text, below, name)


def convert_question(raw: object, text: bytes, below: Key, path: str) -> PolicyInput:
    """Return ``raw``, which stands at ``below`` in ``text``, as a policy input. Raises :class:`ConfigError`."""
    try:
        return msgspec.convert(raw, PolicyInput)
    except msgspec.ValidationError as error:
        valid, key = str(error), below
        if place := _PLACE.search(valid):
            steps = [name or int(number) for name, number in _STEP.findall(place[2]) if number != "..."]
            valid, key = valid[: place.start()], (*below, *steps)
        line, column = find(text.decode(), False, key)
        setting = ".".join(map(str, key)) or "input"
        raise ConfigError(setting, _at(raw, key[len(below) :]), valid, path=path, line=line, column=column) from None


def _at(raw: object, key: Key) -> object:
    for step in key:
        if not isinstance(raw, dict) or step not in raw:
            break
        raw = raw[step]
    return raw if raw is None or isinstance(raw, (str, int, float)) else type(raw).__name__


def read_text(path: Path) -> bytes:
    """Return all of a file, which may be a pipe, or of standard input.

    Raises :class:`ArtifactError` where it cannot be read, or is of more than :data:`QUESTIONS_BYTES` bytes.
    """
    try:
        with sys.stdin.buffer if os.fspath(path) == STDIN else path.open("rb") as file:
            text = file.read(QUESTIONS_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reported = ArtifactNotFound if isinstance(error, FileNotFoundError) else ArtifactError
        raise reported(f"cannot be read: {getattr(error, 'strerror', error)}", path=path_text(path)) from error
    if len(text) > QUESTIONS_BYTES:
        raise ArtifactError(f"is of more than {QUESTIONS_BYTES} bytes", path=path_text(path))
    return text


# -- decision events


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


def question_of(raw: Mapping[str, object], path: str | None = None) -> PolicyInput | str:
    """Return the question of a decision event, or why there is none: :data:`NOTHING` or :data:`CUT`.

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
    """Return what :func:`capgate.events.printable` was given; ``None`` where it has cut that short."""
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
