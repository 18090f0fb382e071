"""Options that several commands have, and how all of them refuse."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ArtifactError, ArtifactNotFound, FixturesFailed, PolicyError, WasmError

Module = Annotated[
    Path,
    typer.Argument(
        help="The module, or OPA bundle; its files are beside it, with .manifest.json, .signature.json, .fixtures.json."
    ),
]
Name = Annotated[str, typer.Argument(help="Name of the policy.")]
Which = Annotated[str, typer.Argument(help="Version, or SHA-256 of the module or of the manifest.")]
To = Annotated[str | None, typer.Option("--to", help="Version, or SHA-256 of the module or of the manifest.")]
Store = Annotated[Path, typer.Option("--store", "-s", help="Folder of the store.")]
Keys = Annotated[
    str | None,
    typer.Option(
        "--trusted-keys",
        "-k",
        envvar="CAPGATE_TRUSTED_KEYS",
        help="File of public keys, or their lines with commas between them. With keys, signatures are required.",
    ),
]
Threshold = Annotated[
    int | None,
    typer.Option(
        envvar="CAPGATE_SIGNATURE_THRESHOLD", help="How many of the keys have to have signed; 1 if not given."
    ),
]
Mode = Annotated[str | None, typer.Option(help="The mode that the policy has to be for, such as prod.")]
Service = Annotated[str | None, typer.Option(help="The service that the policy has to be for.")]
Engine = Annotated[str, typer.Option(envvar="CAPGATE_ENGINE", help="What tries the policy: auto, wasmer or wasmtime.")]
Fixtures = Annotated[
    list[Path] | None,
    typer.Option(help="More golden fixtures, a file or a folder, that it has to answer as expected. May be repeated."),
]
WithoutFixtures = Annotated[
    bool, typer.Option("--without-fixtures", help="Also if there are no fixtures to judge it by, its own or others.")
]
Note = Annotated[str, typer.Option(help="Why, for the history.")]
Passphrase = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File with the passphrase of the private key; may be a pipe.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@contextmanager
def refusing(as_json: bool = False) -> Iterator[None]:
    """A policy that is refused is exit code 1; a file that is not there is 2, like every other mistake of the call."""
    try:
        yield
    except ArtifactNotFound:
        raise
    except (ArtifactError, PolicyError, WasmError) as error:
        facts: dict[str, Any] = {
            key: value for key in ("reason", "field", "path") if (value := getattr(error, key, None)) is not None
        }
        if isinstance(error, FixturesFailed):
            facts |= _failures(error, shown=not as_json)
        print(f"capgate: {error}", file=sys.stderr, flush=True)
        if as_json:
            print(json.dumps({"refused": type(error).__name__, "message": str(error), **facts}, indent=2), flush=True)
        raise typer.Exit(1) from error


def _failures(error: FixturesFailed, *, shown: bool) -> dict[str, Any]:
    """The fixtures that failed as data; if they are to be ``shown``, as ``capgate test`` shows them, too."""
    from ..testing.golden.report import outcome_data
    from .golden.run import plain_console, show_failure

    if shown and error.failures:
        console = plain_console(stderr=True)
        for outcome in error.failures:
            show_failure(console, outcome)
        console.print()
    return {"total": error.total, "failures": [outcome_data(outcome) for outcome in error.failures]}
