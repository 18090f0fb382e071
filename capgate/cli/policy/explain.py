"""Explains answers: ``capgate explain`` says which rule or section decided, and what gives the opposite answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from ...artifact.load import PolicyFile, read_policy
from ...conditions import ConditionPart, Unknown
from ...model import Allow, PolicyInput, PolicyResult
from ...policy import RuntimePolicy
from ...policy.analysis.advice import UNLOOKED, Account, Obstacle, RuleMatch, account_for
from ...policy.places import find
from ...policy.strict import TOML
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
from ..terminal import answer_text, console, print_json, question_text
from .questions import Asker, asked_question, needed_facts, policy_facts

#: How many rules people are shown.
SHOWN: Final = 20

_WHY: Final = {
    "default": "nothing admits it",
    "unknown_action": "the document does not know this action",
    "missing_resource": "the action needs a resource with an id, and the question has none",
    "wrong_kind": "the action does not act on resources of this kind",
    "malformed_input": "the question is malformed",
}
_UNKNOWN: Final = {
    "missing_fact": "there is no {}",
    "wrong_type": "{} is of another type",
    "overflow": "a number has more than 64 bits",
    "out_of_range": "a time is none of the years 1 to 9999",
    "too_long": "its lists have too many elements",
}
_QUESTION: Final = "No change of the document allows this; it would have to be another question."


def explain(
    policy: Annotated[Path, typer.Argument(help="Policy document, module, or OPA bundle.")],
    question: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="The question: in words, JSON, or a file of JSON; - is standard input.",
            show_default=False,
        ),
    ],
    engine: ModuleEngine = EngineName.auto,
    entrypoint: AskedEntrypoint = None,
    entrypoint_result: AskedEntrypointResult = EntrypointResult.decision,
    as_json: Json = False,
) -> None:
    """Say how a policy answers a question, which rule or section decides, and what would have to change.

    The question is in words, such as `db.read sql_query:audit as user:ada in prod`. Facts come last, as in
    `order.refund order:17 as user:ada with args.amount=5 actor.roles=[editor,support] resource.owner="17"`. They are
    numbers, `true` and `false`, lists of texts, and text. That is in quotes where it would read as anything else. For
    whom somebody acts is `actor.on_behalf_of=user:ada`. Or the question is JSON, as it is or in a
    file. That is a golden fixture, a line of the log `capgate.decisions`, or a policy input, such as
    `{"action": "db.read", "resource": {"kind": "sql_query", "id": "audit"}}`. Each change that is offered was tried,
    and gives the opposite answer; with `--json` it is a JSON Patch of the document. A module has no rules to be read:
    of it only the answer is known.

    Exit codes: 0 allowed; 1 denied; 2 usage, or a file that cannot be used.

    Try:

    - `capgate explain policy.toml 'db.read sql_query:audit as user:ada'`
    - `capgate explain policy.toml 'order.refund order:17 as user:ada with args.amount=5 actor.roles=[support]'`
    - `capgate explain policy.toml question.json`
    - `grep 8c1f0f7bb3b44ab6 decisions.log | capgate explain policy.toml -`
    - `capgate explain policy.json fixtures/refund.json --json | jq '.remedies[0]'`
    """
    limits = Settings.from_env().limits
    file = read_policy(policy, limits=limits)
    input = asked_question(question, needed_facts(file.policy))
    facts = {"policy": policy_facts(file), "input": input}
    if isinstance(file.policy, RuntimePolicy):
        account = account_for(file.raw, input)
        result = account.result
        if as_json:
            parts = ("by", "rule", "section", "monitored", "nearest", "unknown", "rules", "remedies", "turns")
            print_json({**facts, "result": result, **{part: getattr(account, part) for part in parts}})
        else:
            _show_account(file, input, account)
    else:
        asker = Asker(file.policy, engine.value, limits, asked_entrypoint(entrypoint, entrypoint_result))
        result, inputs = asker.ask(input), None if asker.inputs is None else sorted(asker.inputs)
        if as_json:
            print_json({**facts, "result": result, "by": "module", "engine": asker.engine, "inputs": inputs})
        else:
            _show_module(input, result, asker.engine, inputs)
    raise typer.Exit(0 if isinstance(result, Allow) else 1)


def show_answer(out: Console, input: PolicyInput, result: PolicyResult) -> None:
    """Print an answer, and below it the question."""
    out.print(Text(answer_text(result), "green" if isinstance(result, Allow) else "yellow"))
    out.print(f"  {question_text(input)}")


def _show_module(input: PolicyInput, result: PolicyResult, engine: str, inputs: list[str] | None) -> None:
    out = console()
    show_answer(out, input, result)
    looks = "" if inputs is None else f"; it looks at {', '.join(inputs)}"
    out.print(f"  by the module, on {engine}{looks}")
    out.print("\nA module has no rules to be read, so there is no saying why.")


def _show_account(file: PolicyFile, input: PolicyInput, account: Account) -> None:
    out = console()
    show_answer(out, input, account.result)
    out.print(f"  {why_text(file, account)}")
    if account.monitored is not None:
        line = _line(file, account.monitored)
        out.print(f"  recorded: rules[{account.monitored}]{line} would deny it, and only monitors")
    _show_rules(out, input, account)
    _show_remedies(out, account)
    _show_turns(out, account)


def _show_rules(out: Console, input: PolicyInput, account: Account) -> None:
    """Show those that match, and of the others those that nearly do."""
    if account.by in UNLOOKED:
        out.print("\nNo rule was looked at.")
    if account.rules:
        out.print(f"\nRules about {input.action}:")
    nearest = sorted(account.rules, key=lambda match: len(match.unmet))[:SHOWN]
    for rule in sorted(nearest, key=lambda match: match.rule):
        out.print(Text(f"  {_rule(rule)}", "" if rule.unmet else "bold"))
        if rule.condition is not None:
            _show_part(out, rule.condition, 4)
    if len(account.rules) > SHOWN:
        out.print(f"  and {len(account.rules) - SHOWN} more; --json has them all")


def _show_part(out: Console, part: ConditionPart, indent: int) -> None:
    """Show a condition with its answer, and below it its parts with theirs."""
    said = f"not known: {_unknown(part.answer)}" if isinstance(part.answer, Unknown) else str(part.answer).lower()
    out.print(Text(f"{' ' * indent}{part.text}: {said}"))
    for inner in part.parts:
        _show_part(out, inner, indent + 2)


def _unknown(unknown: Unknown) -> str:
    return _UNKNOWN.get(unknown.reason, unknown.reason).format(unknown.fact)


def _show_turns(out: Console, account: Account) -> None:
    if account.turns:
        out.print(f"\nIt would be {_opposite(account)} with another fact:")
    for turn in account.turns:
        out.print(Text(f"  without {turn.fact}" if turn.goes else f"  {turn.fact} = {json.dumps(turn.value)}", "bold"))


def _opposite(account: Account) -> str:
    return "denied" if isinstance(account.result, Allow) else "allowed"


def why_text(file: PolicyFile, account: Account) -> str:
    """Say what decided, in one line: a rule with its place in the file, a section, or that nothing did."""
    if account.rule is not None:
        why = "" if account.unknown is None else f", whose condition is not known: {_unknown(account.unknown)}"
        return f"by rules[{account.rule}]{_line(file, account.rule)}{why}"
    meant = "" if account.nearest is None else f"; did you mean {account.nearest}?"
    return f"by the section `{account.section}`" if account.section else _WHY[account.by] + meant


def _line(file: PolicyFile, rule: int) -> str:
    line, _ = find(file.text.decode(), file.format == TOML, ("rules", rule))
    return f" ({file.path}:{line})"


def _rule(match: RuleMatch) -> str:
    effect = match.effect
    unmet = ["condition" if each == "when" else each for each in match.unmet]
    verb = "allows" if effect == "allow" else "would deny" if match.monitor else "denies"
    how = f"does not match: its {' and its '.join(unmet)}" if unmet else f"matches and {verb} it"
    return f"rules[{match.rule}] ({effect}{', which only monitors' if match.monitor else ''}) {how}"


def _show_remedies(out: Console, account: Account) -> None:
    if not account.remedies:
        out.print(f"\n{_QUESTION}")
        return
    out.print(f"\nTo have it {_opposite(account)}:")
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
