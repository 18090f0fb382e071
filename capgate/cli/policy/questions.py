"""Reads questions from files, and puts them to policies outside of any application.

Files hold policy inputs, golden fixtures, or events of the logger ``capgate.decisions``. Answers are those that the
production runtime gives.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Union

import msgspec

from ...artifact.build import build_policy
from ...artifact.load import OPA, PolicyFile, WasmArtifact
from ...errors import ArtifactError, ArtifactNotFound, ConfigError, MalformedInput, PolicyError
from ...events import ITEMS_LIMIT, TEXT_LIMIT
from ...limits import Limits
from ...logged_facts import fact_parts, is_fact_name
from ...model import (
    ANONYMOUS,
    ONLY_ENTRYPOINT,
    Actor,
    Deny,
    Entrypoint,
    Environment,
    PolicyInput,
    PolicyResult,
    Resource,
)
from ...policy import RuntimePolicy
from ...policy.places import Key, find
from ...policy.strict import parse
from ...runtime.engine import load_engine
from ...runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from ..spoken_facts import NAMED, read_facts, with_facts
from ..terminal import path_text

#: In place of a path: standard input.
STDIN: Final = "-"
#: In place of a path: what was given itself.
INLINE: Final = "INPUT"
#: Bytes of a file of questions, at most.
QUESTIONS_BYTES: Final = 1 << 30

#: Why a decision event has no question that can be asked again: nothing was asked, or its text was cut short.
NOTHING, CUT = "nothing asked", "text cut short"
#: The same of an event of a policy that looks at facts, which it does not have: settings did not list them.
UNTOLD: Final = "facts that the record does not have"
EVENT: Final = "capgate.decision"
#: The fact that says kind and id of all for whom an actor acts.
_CHAIN: Final = "actor.on_behalf_of"

#: A question in words. An action alone has a dot in it, and is no file's name where there is no such file.
_WORDS: Final = re.compile(
    r"([a-z0-9_]+(?:\.[a-z0-9_]+)+)(?: (?!as |in )(\S.*?))?(?: as (\S+))?(?: in (\S+))?"
    r"(?: with ([^\s=]+=.*))?"
)
_PLACE: Final = re.compile(r" - at `(key in )?\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+|\.\.\.)\]")
_LONGER: Final = re.compile(r"(.*)\.\.\.\((\d+) characters\)", re.DOTALL)


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


def needed_facts(policy: RuntimePolicy | WasmArtifact) -> frozenset[str]:
    """Return the names of the facts without which ``policy`` may answer otherwise, as far as it can be known."""
    if policy.inputs is None or "facts" not in policy.inputs:
        return frozenset()
    conditions = policy.conditions if isinstance(policy, RuntimePolicy) else None
    spoken = getattr(policy, "spoken", ()) if conditions is None else conditions.facts
    return frozenset(name for name, _ in spoken if is_fact_name(name))


def policy_facts(file: PolicyFile) -> dict[str, str]:
    """Say which policy it is, for ``--json``."""
    policy = file.policy
    kind = "module" if file.document is None else "document"
    return {"path": file.path, "kind": kind, "name": policy.name, "version": policy.version, "sha256": policy.sha256}


# -- files


def asked_question(text: str, needed: Collection[str] = ()) -> PolicyInput:
    """Return the question that ``text`` is, in words or as JSON, or that the file of that name has.

    A decision event has to have the facts that are ``needed``.

    Words are an action, and then as far as wanted a resource, ``as`` and an actor, ``in`` and a mode, ``with`` and
    facts (:mod:`capgate.cli.spoken_facts`). JSON is what :func:`read_question` reads. Raises what that raises.
    """
    if text.lstrip().startswith("{") and not _is_file(text):
        return _question_in(text.encode("utf-8", "surrogatepass"), INLINE, needed)
    words = _WORDS.fullmatch(text)
    if words is None or _is_file(text):
        return read_question(Path(text), needed)
    action, resource, actor, mode, facts = words.groups()
    kind, _, id = (resource or "").partition(":")
    who: Actor | None = ANONYMOUS
    if actor is not None:
        who = _actor(dict(zip(("actor_kind", "actor_id"), (*actor.split(":", 1), None), strict=False)))
    if who is None:
        raise ConfigError("actor", actor, "anonymous, or user, service or compiler_tool with ':' and an id")
    env = Environment() if mode is None else Environment(mode=mode)
    asked = PolicyInput(action, who, Resource(kind, id or None) if kind else None, env=env)
    return asked if facts is None else with_facts(asked, read_facts(facts))


def read_question(path: Path, needed: Collection[str] = ()) -> PolicyInput:
    """Return the question in a file of JSON (``-``: standard input): a policy input, or what has one.

    That is a golden fixture, or a decision event, which has to have the facts that are ``needed``. Raises
    :class:`ConfigError` with the place of what is wrong, :class:`ArtifactError` where the file cannot be read.
    """
    return _question_in(read_text(path), path_text(path), needed)


def _is_file(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with NUL
        return False


def _question_in(text: bytes, name: str, needed: Collection[str]) -> PolicyInput:
    raw = parse(text, path=name)
    if not isinstance(raw, dict):
        raise ConfigError("input", type(raw).__name__, "an object with an action, and what else is asked", path=name)
    if "event" in raw:
        question = question_of(raw, name, needed)
        if not isinstance(question, PolicyInput):
            facts = ", ".join(sorted(needed) or [_CHAIN])
            wanted = {
                CUT: "one whose text is not cut short",
                NOTHING: "one in which something was asked",
                UNTOLD: f"one with {facts}, which the setting log_facts has to list",
            }
            raise ConfigError("event", raw["event"], f"a decision event, {wanted[question]}", path=name)
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
    facts: dict[str, Union[bool, int, float, str, list[str], None]] | None = None


def question_of(raw: Mapping[str, object], path: str | None = None, needed: Collection[str] = ()) -> PolicyInput | str:
    """Return the question of a decision event, or why there is none: :data:`NOTHING`, :data:`CUT` or :data:`UNTOLD`.

    Not in an event, and so not in the question, are the hash of arguments, and facts that ``log_facts`` does not list.
    ``needed`` are the names of those without which it is another question. Raises :class:`ConfigError`, with ``path``,
    for what is no such event.
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
    question = PolicyInput(str(texts["action"]), actor, resource, env=env, timestamp=event.timestamp)
    facts = event.facts or {}
    if not all(map(functools.partial(_is_told, facts), needed)):
        return UNTOLD
    try:
        told = {name: _original_fact(value) for name, value in facts.items()}
        return with_facts(question, told)
    except _CutError:
        return CUT
    except ConfigError:  # a fact of somebody of whom the record does not say who that is
        return UNTOLD


class _CutError(Exception):
    """A fact was too long for the log."""


def _is_told(facts: Mapping[str, object], name: str) -> bool:
    """Say whether ``facts``, which settings listed, have ``name``, which whom an actor acts for may say as well."""
    parts = fact_parts(name)
    if name in facts or parts is None or _CHAIN not in facts:
        return name in facts
    holder, behind, key = parts
    if holder != "actor":
        return False
    return key == "on_behalf_of" or (behind > 0 and (key in ("id", "kind") or facts[_CHAIN] is None))


def _original_fact(value: Any) -> Any:
    """Return what an event was given as a fact."""
    if isinstance(value, list):
        if len(value) > ITEMS_LIMIT:
            raise _CutError
        return [_original_fact(text) for text in value]
    if not isinstance(value, str):
        return value
    text = original(value)
    if text is None:
        raise _CutError
    return text


def _actor(texts: dict[str, str | None]) -> Actor | None:
    kind, id = texts.get("actor_kind"), texts.get("actor_id")
    if kind == "anonymous":
        return ANONYMOUS
    return None if kind not in NAMED or id is None else NAMED[kind](id)


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
