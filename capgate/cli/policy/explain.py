"""``capgate explain``: which rule or section decided, and what would have to change for the opposite answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from ...artifact.load import PolicyFile, read_policy
from ...model import Allow, Entrypoint, PolicyInput, PolicyResult
from ...policy import RuntimePolicy
from ...policy.analysis.advice import Account, Obstacle, RuleMatch, account_for
from ...policy.places import find
from ...policy.strict import TOML
from ...settings.settings import Settings
from ..words import answered, asked, console, print_json
from .asking import Asker, about, read_question

#: How many rules people are shown.
SHOWN: Final = 20

_WHY: Final = {
    "default": "nothing admits it",
    "unknown_action": "the document does not know this action",
    "missing_resource": "the action needs a resource with an id, and the question has none",
    "wrong_kind": "the action does not act on resources of this kind",
    "malformed_input": "the question is malformed",
}
_QUESTION: Final = "No change of the document allows this; it would have to be another question."


def run(policy: Path, question: Path, *, engine: str, entrypoint: Entrypoint, as_json: bool) -> int:
    """Explain the answer; 0 if it is an allow, else 1. Raises :class:`CapgateError` for files that cannot be used."""
    limits = Settings.from_env().limits
    opened, input = read_policy(policy, limits=limits), read_question(question)
    if isinstance(opened.policy, RuntimePolicy):
        account = account_for(opened.raw, input)
        result, told = account.result, _as_data(account)
    else:
        asker = Asker(opened.policy, engine, limits, entrypoint)
        account, result = None, asker.ask(input)
        inputs = None if asker.inputs is None else sorted(asker.inputs)
        told = {"by": "module", "engine": asker.engine, "inputs": inputs}
    if as_json:
        print_json({"policy": about(opened), "input": input, "result": result, **told})
    else:
        _show(opened, input, result, account, told)
    return 0 if isinstance(result, Allow) else 1


def _as_data(account: Account) -> dict[str, Any]:
    names = ("by", "rule", "section", "rules", "remedies")
    return {name: getattr(account, name) for name in names}


def _show(
    opened: PolicyFile, input: PolicyInput, result: PolicyResult, account: Account | None, told: dict[str, Any]
) -> None:
    out = console()
    out.print(Text(answered(result), "green" if isinstance(result, Allow) else "yellow"))
    out.print(f"  {asked(input)}")
    if account is None:
        looks = "" if told["inputs"] is None else f"; it looks at {', '.join(told['inputs'])}"
        out.print(f"  by the module, on {told['engine']}{looks}")
        out.print("\nA module has no rules to be read, so there is no saying why.")
        return
    out.print(f"  {_why(opened, account)}")
    _show_rules(out, input, account)
    _show_remedies(out, account)


def _show_rules(out: Console, input: PolicyInput, account: Account) -> None:
    """Those that match, and of the others those that nearly do."""
    if account.rules:
        out.print(f"\nRules about {input.action}:")
    nearest = sorted(account.rules, key=lambda one: len(one.unmet))[:SHOWN]
    for one in sorted(nearest, key=lambda one: one.rule):
        out.print(Text(f"  {_rule(one)}", "" if one.unmet else "bold"))
    if len(account.rules) > SHOWN:
        out.print(f"  and {len(account.rules) - SHOWN} more; --json has them all")


def _why(opened: PolicyFile, account: Account) -> str:
    if account.rule is not None:
        return f"by rules[{account.rule}]{_line(opened, account.rule)}"
    return f"by the section `{account.section}`" if account.section else _WHY[account.by]


def _line(opened: PolicyFile, rule: int) -> str:
    line, _ = find(opened.text.decode(), opened.format == TOML, ("rules", rule))
    return f" ({opened.path}:{line})"


def _rule(one: RuleMatch) -> str:
    verb = "denies" if one.effect == "deny" else "allows"
    how = f"does not match: its {' and its '.join(one.unmet)}" if one.unmet else f"matches and {verb} it"
    return f"rules[{one.rule}] ({one.effect}) {how}"


def _show_remedies(out: Console, account: Account) -> None:
    if not account.remedies:
        out.print(f"\n{_QUESTION}")
        return
    opposite = "denied" if isinstance(account.result, Allow) else "allowed"
    out.print(f"\nTo have it {opposite}:")
    for number, needs in enumerate(account.remedies):
        if number:
            out.print("or all of this:" if len(needs) > 1 else "or:")
        for need in needs:
            _show_need(out, need)


def _show_need(out: Console, need: Obstacle) -> None:
    first, *others = need.ways
    out.print(Text.assemble(f"  {need.words}: ", (first.words, "bold")))
    for way in others:
        out.print(Text.assemble("    or: ", (way.words, "bold")))
