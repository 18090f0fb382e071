"""``capgate diff``: what changes from one policy to another, for every question, or for those that were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from ...artifact.load import PolicyFile, read_policy
from ...errors import ConfigError
from ...model import Allow, Deny, Entrypoint, PolicyResult
from ...policy import RuntimePolicy
from ...policy.analysis.difference import AnswerChange, Difference, difference
from ...settings.settings import Settings
from ..words import answered, asked, code, console, print_json, some
from .asking import about
from .replay import Replay, replay

#: How many questions of a replay people are shown.
SHOWN: Final = 50

_SIGNS: Final = {"allowed": ("+", "yellow"), "denied": ("-", "green"), "reason": ("~", "")}


def run(old: Path, new: Path, recorded: Sequence[Path], *, engine: str, entrypoint: Entrypoint, as_json: bool) -> int:
    """Print what changes; 1 if anything does, else 0. Raises :class:`CapgateError` for files that cannot be used."""
    limits = Settings.from_env().limits
    before, after = (read_policy(path, limits=limits) for path in (old, new))
    policies = {"old": about(before), "new": about(after)}
    if recorded:
        played = replay(before, after, recorded, engine=engine, limits=limits, entrypoint=entrypoint)
        if as_json:
            print_json({**policies, "exact": False, **_replay_as_data(played)})
        else:
            _show_replay(played)
        return 1 if played.changes else 0
    found = difference(_document(before), _document(after))
    if as_json:
        counts = {effect: sum(change.effect == effect for change in found.changes) for effect in _SIGNS}
        print_json({**policies, "exact": True, "classes": found.classes, **counts, "changes": found.changes})
    else:
        _show(found)
    return 1 if found.changes else 0


def _document(policy: PolicyFile) -> RuntimePolicy:
    if policy.document is None:
        valid = "a policy document; what a module answers, only --replay with recorded questions shows"
        raise ConfigError("policy", policy.path, valid)
    return policy.document


# -- for people


def _show(found: Difference) -> None:
    out = console()
    for change in found.changes:
        sign, style = _SIGNS[change.effect]
        out.print(Text(f"{sign} {words(change)}", style))
    counts = [sum(change.effect == effect for change in found.changes) for effect in _SIGNS]
    told = "{} allowed that was not, {} denied that was not, {} denied for another reason".format(*counts)
    out.print(told if found.changes else "no question is answered otherwise")


def words(change: AnswerChange) -> str:
    """A change in one line: which questions, and what else there is to say of the answer."""
    about = [", ".join(change.actions), f"on {some(change.resources, 'resources')}"]
    about[0] += f" {about.pop()}"
    if not change.actors.is_all:
        about.append(f"by {some(change.actors, 'actors')}")
    if not change.modes.is_all:
        about.append(f"in {some(change.modes, 'modes')}")
    return f"{', '.join(about)} ({_reasons(change.before, change.after)})"


def _reasons(before: PolicyResult, after: PolicyResult) -> str:
    told = [f"{word} {code(one.reason)}" for word, one in (("was", before), ("is", after)) if isinstance(one, Deny)]
    return ", ".join(told)


def _show_replay(played: Replay) -> None:
    out = console()
    for one in played.changes[:SHOWN]:
        sign, style = _SIGNS[_effect(one.before, one.after)]
        times = "" if one.count == 1 else f", {one.count} times"
        out.print(
            Text(f"{sign} {asked(one.input)}: was {answered(one.before)}; is {answered(one.after)}{times}", style)
        )
    if len(played.changes) > SHOWN:
        out.print(f"  and {len(played.changes) - SHOWN} more; --json has them all")
    left_out = "".join(f"; left out: {count} {why}" for why, count in played.left_out.items())
    out.print(f"{played.changed} of {played.questions} recorded questions are answered otherwise{left_out}")


def _effect(before: PolicyResult, after: PolicyResult) -> str:
    if isinstance(before, Allow) == isinstance(after, Allow):
        return "reason"
    return "allowed" if isinstance(after, Allow) else "denied"


def _replay_as_data(played: Replay) -> dict[str, Any]:
    return {name: getattr(played, name) for name in Replay.__struct_fields__}
