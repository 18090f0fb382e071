"""Makes files of policy documents: ``capgate build`` a module, ``capgate schema`` the schema by which editors help."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...artifact.build import build_policy
from ...artifact.load import DEFAULT_LIMITS, WasmArtifact, document_format, load_policy, read_bytes
from ...errors import ConfigError
from ...policy import RuntimePolicy
from ...policy.mistakes import Finding, find_mistakes
from ...policy.schema import document_schema
from ...testing.golden.fixture_schema import fixtures_schema, question_schema
from ..files import write_output
from ..options import Json, Output
from ..terminal import path_text, print_json
from .check import Strict, show_findings

#: Bytes of a document from which on building it takes long enough to say how far it is.
LARGE: Final = 250_000


class SchemaOf(str, Enum):
    """What there are schemas of."""

    documents = "documents"
    fixtures = "fixtures"
    questions = "questions"


_SCHEMAS: Final = {
    SchemaOf.documents: document_schema,
    SchemaOf.fixtures: fixtures_schema,
    SchemaOf.questions: question_schema,
}


def schema(
    of: Annotated[SchemaOf, typer.Argument(help="What the schema is of.")] = SchemaOf.documents,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Write the JSON Schema of policy documents, golden fixtures or questions, by which editors complete and underline.

    A document names it with the key `$schema`; in TOML most editors want a first line `#:schema policy.schema.json`.

    Exit codes: 0 written; 2 usage, or a file that cannot be written.

    Try:

    - `capgate schema -o policy.schema.json`
    - `capgate schema fixtures -o fixtures.schema.json`
    - `capgate schema | jq '.properties | keys'`
    """
    data = f"{json.dumps(_SCHEMAS[of](), indent=2)}\n".encode("ascii")
    if output is None:
        print(data.decode("ascii"), end="", flush=True)
        return
    write_output(output, data)
    if as_json:
        print_json({"path": path_text(output), "sha256": hashlib.sha256(data).hexdigest()})


def build(
    document: Annotated[Path, typer.Argument(help="Policy document: TOML if its name ends in .toml, else JSON.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the module.")] = Path("policy.wasm"),
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Build a policy document into a WebAssembly module, and print the SHA-256 to pin it by.

    All mistakes of the document are told, as by `capgate check`. The same document always gives the same bytes. Then,
    in the environment of the application:

        CAPGATE_ARTIFACT=policy.wasm CAPGATE_ARTIFACT_SHA256=...

    Exit codes: 0 built; 2 usage, a bad document, or a file that cannot be written; the one that is there stays.

    Try:

    - `capgate build policy.toml`
    - `capgate build policy.json -o build/policy.wasm --json | jq -r .sha256`
    """
    with _progress(document) as advance:
        policy = _checked(document, strict=strict)
        artifact = WasmArtifact.from_bytes(build_policy(policy, progress=advance))
    write_output(output, artifact.data)
    if as_json:
        facts = {name: getattr(artifact, name) for name in ("sha256", "name", "version")}
        sizes = {"bytes": len(artifact.data), "inputs": sorted(artifact.inputs or ())}
        print_json({"path": path_text(output), **facts, **sizes})
    else:
        print(f"{artifact.sha256}  {path_text(output)}", flush=True)  # as sha256sum does


def _checked(document: Path, *, strict: bool) -> RuntimePolicy:
    """Return the policy. Where its document has several mistakes, show all of them, and end."""
    policy = None
    try:
        policy = load_policy(document)
        findings = _findings(document) if strict else []
    except ConfigError:
        findings = _findings(document)
        if len(findings) < 2:
            raise
    if policy is None or findings:
        with contextlib.redirect_stdout(sys.stderr):
            show_findings(document, findings, strict=strict)
        raise typer.Exit(2)
    return policy


def _findings(document: Path) -> list[Finding]:
    return find_mistakes(read_bytes(document, DEFAULT_LIMITS.module_bytes), document_format(document))


@contextlib.contextmanager
def _progress(document: Path) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what is told how far it is: a bar on standard error, where that is a terminal and the document large."""
    console = Console(stderr=True)
    if not console.is_terminal or _size(document) < LARGE:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda done, total: progress.update(task, description="building", completed=done, total=total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # whoever reads it says so
        return 0
