"""Declares the options that several commands have."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from ..model import Entrypoint


class EngineName(str, enum.Enum):
    """The ``engine`` of :class:`capgate.WasmPool`."""

    auto = "auto"
    wasmer = "wasmer"
    wasmtime = "wasmtime"


class EntrypointResult(str, enum.Enum):
    """What an entry point gives."""

    decision = "decision"
    denials = "denials"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file; without it standard output.")]

# -- of commands that ask a policy

ModuleEngine = Annotated[
    EngineName,
    typer.Option(metavar="ENGINE", help="What runs a module: auto (which prefers wasmer), wasmer or wasmtime."),
]
AskedEntrypoint = Annotated[
    str | None,
    typer.Option(
        "--entrypoint",
        metavar="PATH",
        envvar="CAPGATE_ENTRYPOINT",
        help="Of a module that OPA compiled: the rule to ask, such as orders/allow.",
    ),
]
AskedEntrypointResult = Annotated[
    EntrypointResult,
    typer.Option(
        "--entrypoint-result",
        metavar="RESULT",
        envvar="CAPGATE_ENTRYPOINT_RESULT",
        show_envvar=False,  # which is too long for the column that it has in 80
        help="What that rule gives: decision; or denials, a set or array of them. Else what the environment says.",
    ),
]


def asked_entrypoint(name: str | None, result: EntrypointResult) -> Entrypoint:
    """Return the entry point that the two options mean."""
    return Entrypoint(name, result.value)


# -- of commands that verify

Module = Annotated[
    Path,
    typer.Argument(
        help="The module, or OPA bundle; its files are beside it, with .manifest.json, .signature.json, .fixtures.json."
    ),
]
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
Passphrase = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File with the passphrase of the private key; may be a pipe.")
]

# -- of commands on a store

Store = Annotated[Path, typer.Option("--store", "-s", help="Folder of the store.")]
PolicyName = Annotated[str, typer.Argument(help="Name of the policy.")]
WhichRelease = Annotated[str, typer.Argument(help="Version, or SHA-256 of the module or of the manifest.")]
ToRelease = Annotated[str | None, typer.Option("--to", help="Version, or SHA-256 of the module or of the manifest.")]
CheckingEngine = Annotated[
    str, typer.Option(envvar="CAPGATE_ENGINE", help="What tries the policy: auto, wasmer or wasmtime.")
]
Note = Annotated[str, typer.Option(help="Why, for the history.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
