"""Gathers the commands; each is a function, declared where its work is done."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import guide
from .contract import contract
from .demo.command import demo
from .doctor.command import doctor
from .eval import evaluate
from .golden.command import judge_fixtures
from .new.command import new
from .policy.build import build, schema
from .policy.check import check
from .policy.diff import diff
from .policy.explain import explain
from .policy.inspect import inspect
from .release.signing import keygen, sign, verify
from .release.store import activate, history, prune, publish, reset, rollback, status

app = typer.Typer(
    epilog="Exit codes: 0 as expected; 1 an answer was not the expected one, something changed, or was refused; 2 usage"
    " or configuration. With --json a command prints one JSON object and nothing else. NO_COLOR is respected.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ask a sandboxed WebAssembly policy before a sensitive effect of a Starlette or FastAPI application."""


for command in (
    *(demo, schema, check, explain, build, inspect, diff),
    *(keygen, sign, verify, publish),
    *(activate, rollback, status, history, prune, reset),
    doctor,
):
    app.command()(command)
app.command("eval")(evaluate)
app.command("test")(judge_fixtures)
app.add_typer(new, name="new")
app.add_typer(contract, name="contract")
guide.arrange(app)
