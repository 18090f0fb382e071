"""Recorded questions, put to two policies in the production runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ...artifact.load import PolicyFile
from ...errors import ConfigError
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint, PolicyInput, PolicyResult, canonical
from ...policy.strict import parse
from .asking import Asker, convert_question, read_text, shown
from .recorded import EVENT, question_of

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
    """What became of the recorded questions: how many there were, how many are answered otherwise, how many lines were
    left out and why, and each question that changed."""

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
    """Put what ``paths`` recorded to both. Raises :class:`ConfigError` where nothing is recorded there, or something
    is malformed."""
    askers = [Asker(policy.policy, engine, limits, entrypoint) for policy in (old, new)]
    # What no policy looks at need not differ; the time is nearly always another.
    look = all(asker.inputs is not None for asker in askers)
    counts: Counter[bytes] = Counter()
    inputs: dict[bytes, PolicyInput] = {}
    left_out: Counter[str] = Counter()
    for found in (one for path in paths for one in _recorded(path)):
        if isinstance(found, str):
            left_out[found] += 1
            continue
        key = canonical(msgspec.structs.replace(found, timestamp=0, args_hash=None) if look else found)
        counts[key] += 1
        inputs.setdefault(key, found)
    if not inputs:
        what = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "nothing at all"
        raise ConfigError("--replay", what, "files with decision events or fixtures")
    changes = []
    for key, input in inputs.items():
        before, after = (asker.ask(input) for asker in askers)
        if before != after:
            changes.append(Replayed(input, before, after, counts[key]))
    changes.sort(key=lambda one: -one.count)
    return Replay(sum(counts.values()), sum(one.count for one in changes), dict(left_out), changes)


def _recorded(path: Path) -> Iterator[PolicyInput | str]:
    """The questions in a file, or in all of a folder, and for each line that has none the reason."""
    if path.is_dir():
        for below in sorted(path.rglob("*.json*")):
            if below.is_file():
                yield from _recorded(below)
        return
    text = read_text(path)
    if path.suffix == _LIST:
        raw = parse(text, path=shown(path))
        for number, one in enumerate(raw if isinstance(raw, list) else [raw]):
            yield _question(one, text, (number,) if isinstance(raw, list) else (), shown(path))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _on_line(line, number, shown(path))


def _on_line(line: bytes, number: int, path: str) -> PolicyInput | str:
    try:
        return _question(parse(line, path=path), line, (), path)
    except ConfigError as error:
        error.line = number
        raise


def _question(raw: Any, text: bytes, below: tuple[int, ...], path: str) -> PolicyInput | str:
    if isinstance(raw, dict) and "input" in raw:
        return convert_question(raw["input"], text, (*below, "input"), path)
    if not isinstance(raw, dict) or "event" not in raw:
        return OTHER
    return OTHER if raw["event"] != EVENT else question_of(raw, path)
