"""``capgate test``: its options and the words of its help. What it does is in ``golden_run`` and ``golden_watch``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from ..entry import EntrypointName, EntrypointResult, Result, chosen


class Runtime(str, enum.Enum):
    """Where fixtures are judged."""

    all = "all"
    auto = "auto"
    local = "local"
    wasmer = "wasmer"
    wasmtime = "wasmtime"


def judge(
    policy: Annotated[Path, typer.Argument(help="Policy document, module or OPA bundle; with --own-policy: fixtures.")],
    fixtures: Annotated[
        list[Path] | None,
        typer.Argument(help="Files and folders; without any, the folder `fixtures` beside the policy."),
    ] = None,
    engine: Annotated[
        list[Runtime] | None,
        typer.Option(help="Judge here; may be repeated. all: in Python (documents only) and on each engine."),
    ] = None,
    keyword: Annotated[
        str, typer.Option("-k", metavar="TEXT", help="Only fixtures with this in their name or description.")
    ] = "",
    own_policy: Annotated[
        bool, typer.Option("--own-policy", help="Each fixture brings its policy document; there is no POLICY.")
    ] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Say which rules and entries no fixture is about (documents only).")
    ] = False,
    min_coverage: Annotated[
        float | None,
        typer.Option(min=0, max=100, metavar="PERCENT", help="Fail below this coverage; implies --coverage."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the outcomes as JUnit XML, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    entrypoint: EntrypointName = None,
    entrypoint_result: EntrypointResult = Result.decision,
    watch: Annotated[
        bool, typer.Option("--watch", help="Run again whenever the policy or a fixture changes, until Ctrl-C.")
    ] = False,
) -> None:
    """Judge golden fixtures: questions, each with the answer that the policy has to give.

    A fixture is a JSON object with an `input`, the `expected` answer and perhaps a `description`. A file holds one of
    them or a list; a .jsonl file has one on each line. A policy document is evaluated in Python, and as a module on
    each engine that imports here, by the code and under the limits (`CAPGATE_FUEL` and the others) that serve
    requests. Every answer is compared byte for byte. That no fixture was found is a failure.

    Exit codes: 0 every answer is the expected one; 1 one is not, or the coverage is too low; 2 usage, a file that
    cannot be used, an engine that is not here.

    Try:

    - `capgate test policy.json`
    - `capgate test policy.wasm fixtures/orders --engine wasmtime`
    - `capgate test policy.json --min-coverage 100 --junit report.xml`
    - `capgate test policy.json -k refund --watch`
    - `capgate test --own-policy fixtures/policy`
    - `capgate test policy.wasm --entrypoint orders/allow`
    """
    from .run import Options, run

    options = Options(
        policy=None if own_policy else policy,
        fixtures=(*((policy,) if own_policy else ()), *(fixtures or ())),
        engines=tuple(one.value for one in engine or (Runtime.all,)),
        keyword=keyword,
        coverage=coverage or min_coverage is not None,
        min_coverage=min_coverage,
        junit=junit,
        as_json=as_json,
        entrypoint=chosen(entrypoint, entrypoint_result),
    )
    if not watch:
        raise typer.Exit(run(options))
    from .watch import watch as run_again

    raise typer.Exit(run_again(options))


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("test")(judge)
