"""Checks policy documents: ``capgate check`` tells all mistakes at once, and ``capgate build`` does too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...artifact.load import document_format, read_bytes
from ...policy.mistakes import Finding, find_mistakes
from ...settings.settings import Settings
from ..options import Json
from ..terminal import path_text, print_json, question_text

Strict = Annotated[bool, typer.Option("--strict", help="Take warnings for mistakes.")]


def check(
    document: Annotated[Path, typer.Argument(help="Policy document: TOML if its name ends in .toml, else JSON.")],
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Say all that is wrong with a policy document, with the place and the right spelling.

    Where nothing is wrong it warns of what has no effect: rules that another one hides, allows below a denial of the
    same, sections that a rule empties. What the document asserts (`[[assert]]`) is proven, or refuted with a question;
    where neither is done it is an error, too.

    Exit codes: 0 nothing is wrong; 1 something is; 2 usage, or a file that cannot be read.

    Try:

    - `capgate check policy.toml`
    - `capgate check policy.json --strict --json | jq -r '.findings[].message'`
    """
    data = read_bytes(document, Settings.from_env().limits.module_bytes)
    findings = find_mistakes(data, document_format(document), path_text(document))
    wrong = any(finding.is_error or strict for finding in findings)
    if as_json:
        print_json({"path": path_text(document), "ok": not wrong, "findings": findings})
    else:
        show_findings(document, findings, strict=strict)
        if not findings:
            print(f"{path_text(document)}: nothing is wrong", flush=True)
    raise typer.Exit(1 if wrong else 0)


def show_findings(document: Path, findings: list[Finding], *, strict: bool = False) -> None:
    """Print each of ``findings`` on a line, as compilers do, so that editors and terminals take it for a link."""
    for finding in findings:
        numbers = [str(number) for number in (finding.line, finding.column) if number is not None]
        place = ":".join((path_text(document), *numbers))
        word = "error" if finding.is_error or strict else "warning"
        meant = "" if finding.nearest is None else f"; did you mean {finding.nearest!a}?"
        if finding.example is not None:
            meant = f": {question_text(finding.example)}"
        print(f"{place}: {word}: {finding.setting}: {finding.message}{meant}", flush=True)
