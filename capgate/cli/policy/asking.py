"""Asking policies outside of any application: questions from files, answers as the production runtime gives them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from ...artifact.build import build_policy
from ...artifact.load import OPA, PolicyFile, WasmArtifact
from ...errors import ArtifactError, ArtifactNotFound, ConfigError, MalformedInput, PolicyError
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Deny, Entrypoint, PolicyInput, PolicyResult
from ...policy import RuntimePolicy
from ...policy.places import Key, find
from ...policy.strict import parse
from ...runtime.engine import load_engine
from ...runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from .recorded import CUT, question_of

#: In place of a path: standard input.
STDIN: Final = "-"
#: Bytes of a file of questions, at most.
MOST: Final = 1 << 30

_PLACE: Final = re.compile(r" - at `(key in )?\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+|\.\.\.)\]")


class Asker:
    """A policy in the production runtime: a document is built into a module. Each instance is used as a pool would use
    it: again, where the module is known to keep no state, else once. ``entrypoint`` is for a module that OPA compiled;
    any other policy has none."""

    def __init__(
        self,
        policy: RuntimePolicy | WasmArtifact,
        engine: str,
        limits: Limits,
        entrypoint: Entrypoint = ONLY_ENTRYPOINT,
    ) -> None:
        if isinstance(policy, RuntimePolicy):
            policy = WasmArtifact.from_bytes(build_policy(policy, input_bytes=_room(limits)), limits=limits)
        self._prepared = PreparedPolicy(policy, limits, entrypoint if policy.abi == OPA else ONLY_ENTRYPOINT)
        self._compiled = CompiledPolicy(self._prepared, load_engine(engine))
        self._idle: WasmInterpreter | None = None
        self.engine = self._compiled.engine.name
        self.inputs = policy.inputs

    def ask(self, input: PolicyInput) -> PolicyResult:
        """The answer, or the denial that a failure is. Raises nothing of the policy's."""
        try:
            interpreter = self._idle or self._compiled.instantiate()
            self._idle = None
            result = interpreter.call_policy_check(input)
            if self._prepared.pure and not interpreter.spent:
                self._idle = interpreter
            return result
        except MalformedInput as error:
            return Deny(error.code)
        except PolicyError as error:
            return Deny(error.code)


def about(policy: PolicyFile) -> dict[str, Any]:
    """Which policy it is, for ``--json``."""
    found = policy.policy
    kind = "module" if policy.document is None else "document"
    return {"path": policy.path, "kind": kind, "name": found.name, "version": found.version, "sha256": found.sha256}


def _room(limits: Limits) -> int:
    return max(limits.input_bytes, Limits().input_bytes)


def read_question(path: Path) -> PolicyInput:
    """The question in a file of JSON (``-``: standard input): a policy input, or a fixture or an event that has one.

    Raises :class:`ConfigError` with the place of what is wrong, :class:`ArtifactError` where the file cannot be read.
    """
    text, name = read_text(path), shown(path)
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
    """``raw``, which stands at ``below`` in ``text``, as a policy input. Raises :class:`ConfigError`."""
    try:
        return msgspec.convert(raw, PolicyInput)
    except msgspec.ValidationError as error:
        valid, key = str(error), below
        if found := _PLACE.search(valid):
            steps = [one or int(number) for one, number in _STEP.findall(found[2]) if number != "..."]
            valid, key = valid[: found.start()], (*below, *steps)
        line, column = find(text.decode(), False, key)
        setting = ".".join(map(str, key)) or "input"
        raise ConfigError(setting, _at(raw, key[len(below) :]), valid, path=path, line=line, column=column) from None


def _at(raw: Any, key: Key) -> object:
    for step in key:
        if not isinstance(raw, dict) or step not in raw:
            break
        raw = raw[step]
    return raw if raw is None or isinstance(raw, (str, int, float)) else type(raw).__name__


def read_text(path: Path) -> bytes:
    """All of a file, which may be a pipe, or of standard input. Raises :class:`ArtifactError` where it cannot be read,
    or is of more than :data:`MOST` bytes."""
    try:
        with sys.stdin.buffer if os.fspath(path) == STDIN else path.open("rb") as file:
            text = file.read(MOST + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        kind = ArtifactNotFound if isinstance(error, FileNotFoundError) else ArtifactError
        raise kind(f"cannot be read: {getattr(error, 'strerror', error)}", path=shown(path)) from error
    if len(text) > MOST:
        raise ArtifactError(f"is of more than {MOST} bytes", path=shown(path))
    return text


def shown(path: Path) -> str:
    """``path`` for people: a name need not be text."""
    return os.fsencode(path).decode("utf-8", "replace")
