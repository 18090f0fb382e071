"""The commands, and the words of their help. What they do is imported when they are called."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from . import guide
from .golden import command as golden
from .policy import commands as policies
from .policy.commands import Engine, Json
from .release import commands as releases
from .release import operations

contract = typer.Typer(
    help="Write down what an application declares, and compare that with what was written down before.",
    epilog="Exit codes: 0 written, or equal; 1 something changed; 2 usage or configuration.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app = typer.Typer(
    epilog="Exit codes: 0 as expected; 1 an answer was not the expected one, something changed, or was refused; 2 usage"
    " or configuration. With --json a command prints one JSON object and nothing else. NO_COLOR is respected.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("capgate"))
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ask a sandboxed WebAssembly policy before a sensitive effect of a Starlette or FastAPI application."""


@app.command()
def demo(
    engine: Annotated[Engine, typer.Option(help="What runs the policy; auto prefers wasmer.")] = Engine.auto,
    repeat: Annotated[int, typer.Option(min=1, max=10_000, help="Send each request so many times.")] = 20,
    as_json: Json = False,
    serve: Annotated[bool, typer.Option("--serve", help="Keep the app up afterwards, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Start a gated FastAPI app, send it real requests, and show what was allowed and denied, and why.

    The app runs under uvicorn on 127.0.0.1. Its policy is a short document, built into a WebAssembly module and run in
    the process. Each request is sent several times; times are medians.

    Exit codes: 0 every answer is the expected one; 1 one is not; 2 usage, or it cannot start.

    Try:

    - `capgate demo`
    - `capgate demo --engine wasmtime`
    - `capgate demo --serve --port 8000`, then the curl lines that it prints
    - `capgate demo --json | jq .exchanges`
    """
    from .demo.command import run

    raise typer.Exit(run(engine.value, repeat=repeat, as_json=as_json, serve=serve, port=port))


@contract.command("export")
def contract_export(
    application: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the application is, as for uvicorn.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; without it standard output.")] = None,
    factory: Annotated[bool, typer.Option("--factory", help="APP is a function that makes the application.")] = False,
    as_json: Json = False,
) -> None:
    """Write the handler contract of an application: its routes, what each needs, and the digests of its policy.

    The application is imported, with the current folder on the path, and not started. The settings are those of its
    `CapabilityMiddleware`, or of the environment. The same application always gives the same file, which belongs into
    version control: a diff shows what a change lets the application do. At start-up,

        CAPGATE_CONTRACT=contract.json

    refuses an application, a vocabulary or a policy that is not the one of the contract. The contract is JSON; with
    `--json` so is what there is to say of one that went to a file.

    Exit codes: 0 written; 2 usage, an application that cannot be had, or a file that cannot be written.

    Try:

    - `capgate contract export orders.app:app -o contract.json`
    - `capgate contract export --factory orders.app:create_app | jq .sections`
    """
    from .contract import export

    export(application, output, factory=factory, as_json=as_json)


@contract.command("diff")
def contract_diff(
    old: Annotated[Path, typer.Argument(help="The contract as it was.")],
    new: Annotated[Path, typer.Argument(help="The contract as it is.")],
    as_json: Json = False,
) -> None:
    """Say in words what changed between two handler contracts.

    `+` widens: a new action, resource or route, an open route, a section that became dynamic, a route with one question
    fewer. `-` narrows: the reverse. `~` is neither, or contracts cannot tell, as with another policy.

    Exit codes: 0 nothing changed; 1 something did; 2 usage, or a file that is no contract.

    Try:

    - `capgate contract diff contract.json new.json`
    - `capgate contract diff --json contract.json new.json | jq -e '.widens == 0'`
    """
    from .contract import diff

    raise typer.Exit(diff(old, new, as_json=as_json))


app.add_typer(contract, name="contract")
policies.register(app)
golden.register(app)
releases.register(app)
operations.register(app)
guide.arrange(app)
