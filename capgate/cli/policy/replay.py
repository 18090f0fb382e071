"""Puts recorded questions to two policies in the production runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ...artifact.load import PolicyFile
from ...errors import ConfigError
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint, PolicyInput, PolicyResult, canonical
from ...policy.strict import parse
from ..terminal import path_text
from .questions import EVENT, Asker, convert_question, question_of, read_text

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
    # What no policy looks at need not differ; the time is nearly always another.
    look = all(asker.inputs is not None for asker in askers)
    counts: Counter[bytes] = Counter()
    inputs: dict[bytes, PolicyInput] = {}
    left_out: Counter[str] = Counter()
    for question in (question for path in paths for question in _recorded(path)):
        if isinstance(question, str):
            left_out[question] += 1
            continue
        key = canonical(msgspec.structs.replace(question, timestamp=0, args_hash=None) if look else question)
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


def _recorded(path: Path) -> Iterator[PolicyInput | str]:
    """Yield the questions in a file, or in all of a folder, and for each line that has none the reason."""
    if path.is_dir():
        for below in sorted(path.rglob("*.json*")):
            if below.is_file():
                yield from _recorded(below)
        return
    text = read_text(path)
    if path.suffix == _LIST:
        raw = parse(text, path=path_text(path))
        for number, value in enumerate(raw if isinstance(raw, list) else [raw]):
            yield _question(value, text, (number,) if isinstance(raw, list) else (), path_text(path))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _on_line(line, number, path_text(path))


def _on_line(line: bytes, number: int, path: str) -> PolicyInput | str:
    try:
        return _question(parse(line, path=path), line, (), path)
    except ConfigError as error:
        error.line = number
        raise


def _question(raw: object, text: bytes, below: tuple[int, ...], path: str) -> PolicyInput | str:
    if isinstance(raw, dict) and "input" in raw:
        return convert_question(raw["input"], text, (*below, "input"), path)
    if not isinstance(raw, dict) or "event" not in raw:
        return OTHER
    return OTHER if raw["event"] != EVENT else question_of(raw, path)
