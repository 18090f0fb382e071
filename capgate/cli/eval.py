"""Asks a policy one question: ``capgate eval`` gives the answer, what decided, and the fuel that it took."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..artifact.load import PolicyFile, read_policy
from ..errors import ArtifactError, ConfigError
from ..limits import Limits
from ..model import Allow, Entrypoint, PolicyInput, PolicyResult
from ..policy.analysis.advice import Account, account_for
from ..settings.settings import Settings
from .options import (
    AskedEntrypoint,
    AskedEntrypointResult,
    EngineName,
    EntrypointResult,
    Json,
    ModuleEngine,
    asked_entrypoint,
)
from .policy.explain import show_answer, why_text
from .policy.questions import Asker, asked_question, policy_facts
from .terminal import console, print_json


def evaluate(
    policy: Annotated[Path, typer.Argument(help="Policy document, module, or OPA bundle.")],
    question: Annotated[
        str,
        typer.Argument(
            metavar="QUESTION",
            help="The question: in words, JSON, or a file of JSON; - is standard input.",
            show_default=False,
        ),
    ],
    engine: ModuleEngine = EngineName.auto,
    entrypoint: AskedEntrypoint = None,
    entrypoint_result: AskedEntrypointResult = EntrypointResult.decision,
    as_json: Json = False,
) -> None:
    """Put one question to a policy, and say in short what it answers, what decided, and what fuel that took.

    The question is written as for `explain`, which also says what would have to change. A document is asked as the
    module that it builds into, too; one that builds into none is asked in Python alone, and takes no fuel.

    Exit codes: 0 allowed; 1 denied; 2 usage, or a file that cannot be used.

    Try:

    - `capgate eval policy.toml 'db.read sql_query:audit as user:ada'`
    - `capgate eval policy.wasm question.json --json | jq .fuel`
    """
    limits = Settings.from_env().limits
    file, input = read_policy(policy, limits=limits), asked_question(question)
    account = account_for(file.raw, input) if file.document is not None else None
    asker = _asker_of(file, engine.value, limits, asked_entrypoint(entrypoint, entrypoint_result))
    result = agreed_answer(file, input, account, asker)
    if as_json:
        facts: dict[str, object] = {"policy": policy_facts(file), "input": input, "result": result}
        facts["by"] = "module" if account is None else account.by
        facts |= {part: getattr(account, part, None) for part in ("rule", "section")}
        print_json(facts | {part: getattr(asker, part, None) for part in ("engine", "fuel", "fuel_limit")})
    else:
        out = console()
        show_answer(out, input, result)
        out.print("  by the module" if account is None else f"  {why_text(file, account)}")
        if asker is not None and asker.fuel is not None:
            out.print(f"  {asker.fuel:,} of {asker.fuel_limit:,} fuel, on {asker.engine}")
    raise typer.Exit(0 if isinstance(result, Allow) else 1)


def _asker_of(file: PolicyFile, engine: str, limits: Limits, entrypoint: Entrypoint) -> Asker | None:
    """Return what asks the module; ``None`` for a document that builds into none."""
    try:
        return Asker(file.policy, engine, limits, entrypoint)
    except ConfigError:
        if file.document is None:
            raise
        return None


def agreed_answer(file: PolicyFile, input: PolicyInput, account: Account | None, asker: Asker | None) -> PolicyResult:
    """Return the answer, which is one. Raises :class:`ArtifactError` where a document has another as a module."""
    answers = [account.result] if account is not None else []
    if asker is not None:
        answers.append(asker.ask(input))
    if any(answer != answers[0] for answer in answers):
        raise ArtifactError(f"answers {answers[0]!r} in Python, and {answers[-1]!r} as a module", path=file.path)
    return answers[0]
