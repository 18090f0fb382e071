"""Compares policies: ``capgate diff`` says what changes, for every question or for those that were recorded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from ...artifact.load import PolicyFile, read_policy
from ...errors import ConfigError
from ...model import Allow, Deny, PolicyResult
from ...policy import RuntimePolicy
from ...policy.analysis.branching import FactRegion
from ...policy.analysis.difference import AnswerChange, Difference, difference
from ...settings.settings import Settings
from ..options import (
    AskedEntrypoint,
    AskedEntrypointResult,
    EngineName,
    EntrypointResult,
    Json,
    ModuleEngine,
    asked_entrypoint,
)
from ..terminal import answer_text, console, print_json, question_text, reason_text, region_text
from .questions import policy_facts
from .replay import Replay
from .replay import replay as replay_questions

#: How many questions of a replay people are shown.
SHOWN: Final = 50

_SIGNS: Final = {"allowed": ("+", "yellow"), "denied": ("-", "green"), "reason": ("~", "")}


def diff(
    old: Annotated[Path, typer.Argument(help="The policy as it was: document, module, or OPA bundle.")],
    new: Annotated[Path, typer.Argument(help="The policy as it is.")],
    replay: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Put these recorded questions to both: decision events, fixtures, a folder of them."
        ),
    ] = None,
    engine: ModuleEngine = EngineName.auto,
    entrypoint: AskedEntrypoint = None,
    entrypoint_result: AskedEntrypointResult = EntrypointResult.decision,
    as_json: Json = False,
) -> None:
    """Say which questions two policies answer differently: `+` allowed now, `-` denied now, `~` another reason.

    For two documents this is exact: every question there is, in classes that both tell apart, and with the conditions
    on facts under which it is answered otherwise. Where it is not decided whether any facts are such, it says so. For
    modules nobody can tell, so `--replay` puts recorded questions to both, in the runtime and under the limits
    (`CAPGATE_FUEL` and the others) that serve requests. The questions are lines of the log `capgate.decisions`, or
    golden fixtures. Events have neither the hash of arguments nor facts, so these are not in the questions.

    Where either document has rules that only monitor, a second part says what would change if all of these counted.

    Exit codes: 0 no difference; 1 some; 2 usage, or a file that cannot be used.

    Try:

    - `capgate diff policy.toml new.toml`
    - `capgate diff policy.json new.json --json | jq -e '.allowed == 0'`
    - `capgate diff policy.wasm new.wasm --replay decisions.jsonl --replay fixtures/`
    """
    limits = Settings.from_env().limits
    before, after = (read_policy(path, limits=limits) for path in (old, new))
    policies = {"old": policy_facts(before), "new": policy_facts(after)}
    if replay:
        entry = asked_entrypoint(entrypoint, entrypoint_result)
        played = replay_questions(before, after, replay, engine=engine.value, limits=limits, entrypoint=entry)
        if as_json:
            print_json({**policies, "exact": False, **msgspec.structs.asdict(played)})
        else:
            _show_replay(played)
        raise typer.Exit(1 if played.changes else 0)
    differing = difference(_document(before), _document(after))
    if as_json:
        facts = {"classes": differing.classes, **_counts(differing), "changes": differing.changes}
        print_json({**policies, "exact": differing.is_exact, **facts, "recorded": differing.recorded})
    else:
        _show(differing)
    raise typer.Exit(1 if differing.changes or differing.recorded else 0)


def _document(policy: PolicyFile) -> RuntimePolicy:
    if policy.document is None:
        valid = "a policy document; what a module answers, only --replay with recorded questions shows"
        raise ConfigError("policy", policy.path, valid)
    return policy.document


# -- for people


def _counts(differing: Difference) -> dict[str, int]:
    return {effect: sum(change.effect == effect for change in differing.changes) for effect in _SIGNS}


def _show(differing: Difference) -> None:
    out = console()
    _show_changes(out, differing.changes)
    counts = _counts(differing).values()
    told = "{} allowed that was not, {} denied that was not, {} denied for another reason".format(*counts)
    out.print(told if differing.changes else "no question is answered otherwise")
    if differing.recorded:
        out.print("\nIf rules that only monitor counted, before and after:")
        _show_changes(out, differing.recorded)


def _show_changes(out: Console, changes: Iterable[AnswerChange]) -> None:
    for change in changes:
        sign, style = _SIGNS[change.effect]
        out.print(Text(f"{sign} {change_text(change)}", style))


def change_text(change: AnswerChange) -> str:
    """Return a change in one line: which questions, and what else there is to say of the answer."""
    about = [", ".join(change.actions), f"on {region_text(change.resources, 'resources')}"]
    about[0] += f" {about.pop()}"
    if not change.actors.is_all:
        about.append(f"by {region_text(change.actors, 'actors')}")
    if not change.modes.is_all:
        about.append(f"in {region_text(change.modes, 'modes')}")
    if change.facts:
        about.append(f"where {' or '.join(map(_facts, change.facts))}")
    doubt = "" if change.is_certain else "; there may be no such question"
    return f"{', '.join(about)} ({_reasons(change.before, change.after)}{doubt})"


def _facts(region: FactRegion) -> str:
    """Return the facts of a region as a condition, in which what is not known is said in words."""
    parts = [
        *region.true,
        *(f"!({text})" for text in region.false),
        *(f"`{text}` is not known" for text in region.unknown),
        *(f"`{text}` is not true" for text in region.not_true),
    ]
    return " and ".join(parts)


def _reasons(before: PolicyResult, after: PolicyResult) -> str:
    answers = (("was", before), ("is", after))
    return ", ".join(f"{word} {reason_text(answer.reason)}" for word, answer in answers if isinstance(answer, Deny))


def _show_replay(played: Replay) -> None:
    out = console()
    for change in played.changes[:SHOWN]:
        sign, style = _SIGNS[_effect(change.before, change.after)]
        times = "" if change.count == 1 else f", {change.count} times"
        answers = f"was {answer_text(change.before)}; is {answer_text(change.after)}"
        out.print(Text(f"{sign} {question_text(change.input)}: {answers}{times}", style))
    if len(played.changes) > SHOWN:
        out.print(f"  and {len(played.changes) - SHOWN} more; --json has them all")
    left_out = "".join(f"; left out: {count} {why}" for why, count in played.left_out.items())
    out.print(f"{played.changed} of {played.questions} recorded questions are answered otherwise{left_out}")


def _effect(before: PolicyResult, after: PolicyResult) -> str:
    if isinstance(before, Allow) == isinstance(after, Allow):
        return "reason"
    return "allowed" if isinstance(after, Allow) else "denied"
