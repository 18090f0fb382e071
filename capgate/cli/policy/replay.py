"""Puts recorded questions to two policies in the production runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ...artifact.load import PolicyFile
from ...errors import ConfigError
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint, PolicyInput, PolicyResult, canonical
from ...policy.strict import parse
from ..terminal import path_text
from .questions import EVENT, Asker, convert_question, needed_facts, question_of, read_text

#: Why a line is left out that is no decision event and no fixture, such as one of another logger.
OTHER: Final = "other lines"
_LIST: Final = ".json"


class Replayed(msgspec.Struct, frozen=True):
    """A question that is answered otherwise, and how often it was asked."""

    input: PolicyInput
    before: PolicyResult
    after: PolicyResult
    count: int


class Replay(msgspec.Struct, frozen=True):
    """What became of the recorded questions.

    ``questions`` counts them, and ``changed`` those that are answered otherwise. ``left_out`` counts the lines without
    one, by the reason. ``changes`` has each question that changed.
    """

    questions: int
    changed: int
    left_out: dict[str, int]
    changes: list[Replayed]


def replay(
    old: PolicyFile,
    new: PolicyFile,
    paths: Sequence[Path],
    *,
    engine: str,
    limits: Limits,
    entrypoint: Entrypoint = ONLY_ENTRYPOINT,
) -> Replay:
    """Put what ``paths`` recorded to both policies.

    Raises :class:`ConfigError` where nothing is recorded there, or something is malformed.
    """
    askers = [Asker(policy.policy, engine, limits, entrypoint) for policy in (old, new)]
    looked_at = _looked_at([asker.inputs for asker in askers])
    needed = needed_facts(old.policy) | needed_facts(new.policy)
    counts: Counter[bytes] = Counter()
    inputs: dict[bytes, PolicyInput] = {}
    left_out: Counter[str] = Counter()
    for question in (question for path in paths for question in _recorded(path, needed)):
        if isinstance(question, str):
            left_out[question] += 1
            continue
        key = _key(looked_at(question))
        counts[key] += 1
        inputs.setdefault(key, question)
    if not inputs:
        what = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "nothing at all"
        raise ConfigError("--replay", what, "files with decision events or fixtures")
    changes = []
    for key, input in inputs.items():
        before, after = (asker.ask(input) for asker in askers)
        if before != after:
            changes.append(Replayed(input, before, after, counts[key]))
    changes.sort(key=lambda change: -change.count)
    return Replay(sum(counts.values()), sum(change.count for change in changes), dict(left_out), changes)


def _key(question: PolicyInput) -> bytes:
    """Return what tells questions apart, also those that no policy can be asked, with numbers of more than 64 bits."""
    try:
        return canonical(question)
    except OverflowError:
        return ascii(question).encode("ascii")


def _looked_at(inputs: Sequence[frozenset[str] | None]) -> Callable[[PolicyInput], PolicyInput]:
    """Return what gives a question without what no policy looks at: the time is nearly always another.

    A policy that looks at facts may look at the time, and one of which it is not known at anything.
    """
    looks = [each for each in inputs if each is not None]
    if len(looks) < len(inputs):
        return lambda question: question
    seen = frozenset().union(*looks)

    def without(question: PolicyInput) -> PolicyInput:
        changes: dict[str, Any] = {} if "facts" in seen else {"args": {}, "context": {}}
        if not seen & {"facts", "timestamp"}:
            changes["timestamp"] = 0
        if "args_hash" not in seen:
            changes["args_hash"] = None
        return msgspec.structs.replace(question, **changes)

    return without


def _recorded(path: Path, needed: Collection[str]) -> Iterator[PolicyInput | str]:
    """Yield the questions in a file, or in all of a folder, and for each line that has none the reason."""
    if path.is_dir():
        for below in sorted(path.rglob("*.json*")):
            if below.is_file():
                yield from _recorded(below, needed)
        return
    text = read_text(path)
    if path.suffix == _LIST:
        raw = parse(text, path=path_text(path))
        for number, value in enumerate(raw if isinstance(raw, list) else [raw]):
            yield _question(value, text, (number,) if isinstance(raw, list) else (), path_text(path), needed)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _on_line(line, number, path_text(path), needed)


def _on_line(line: bytes, number: int, path: str, needed: Collection[str]) -> PolicyInput | str:
    try:
        return _question(parse(line, path=path), line, (), path, needed)
    except ConfigError as error:
        error.line = number
        raise


def _question(
    raw: object, text: bytes, below: tuple[int, ...], path: str, needed: Collection[str]
) -> PolicyInput | str:
    if isinstance(raw, dict) and "input" in raw:
        return convert_question(raw["input"], text, (*below, "input"), path)
    if not isinstance(raw, dict) or "event" not in raw:
        return OTHER
    return OTHER if raw["event"] != EVENT else question_of(raw, path, needed)
