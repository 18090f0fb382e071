"""Options that several commands have, and how all of them refuse."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ArtifactError, ArtifactNotFound, PolicyError, WasmError

Module = Annotated[
    Path,
    typer.Argument(
        help="The module, or OPA bundle; its two files are beside it, with .manifest.json and .signature.json."
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
    typer.Option(
        help="Golden fixtures, a file or a folder, that the policy has to answer as expected. May be repeated."
    ),
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
        print(f"capgate: {error}", file=sys.stderr, flush=True)
        if as_json:
            facts = {
                key: value for key in ("reason", "field", "path") if (value := getattr(error, key, None)) is not None
            }
            print(json.dumps({"refused": type(error).__name__, "message": str(error), **facts}, indent=2), flush=True)
        raise typer.Exit(1) from error
