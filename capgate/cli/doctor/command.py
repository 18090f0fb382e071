"""Says what is wrong with how an application is put together: ``capgate doctor``."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.text import Text

from ...events import TEXT_LIMIT, printable
from ..options import Json
from ..terminal import console, print_json
from .defect import Defect
from .examine import examine_named

_DENIED: Final = {"all": "every request is denied", "here": "denied", "none": "not denied"}


def doctor(
    application: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the application is, as for uvicorn.")],
    factory: Annotated[bool, typer.Option("--factory", help="APP is a function that makes the application.")] = False,
    as_json: Json = False,
) -> None:
    """Say what is wrong with an application behind a gate, in the order to mend it, with the line to write.

    The application is imported, with the current folder on the path. Its gate is started with the settings that it
    would have here, and closed again; no request is made. It says why the gate does not start,
    which middleware is on the wrong side of it, and which users have no name. It says which routes are denied whoever
    asks, and which public routes are misspelt.

    Exit codes: 0 nothing is wrong; 1 something is; 2 usage, or an application that cannot be had.

    Try:

    - `capgate doctor app:app`
    - `capgate doctor --factory orders.app:create_app --json | jq '.findings[0]'`
    """
    findings = examine_named(application, factory=factory)
    if as_json:
        print_json({"application": application, "findings": findings})
    else:
        _show(application, findings)
    raise typer.Exit(1 if findings else 0)


def _show(application: str, findings: list[Defect]) -> None:
    out = console()
    if not findings:
        out.print(f"{application}: nothing is wrong")
        return
    for number, finding in enumerate(findings, 1):
        place, problem, write = (
            printable(text or "", TEXT_LIMIT) for text in (finding.place, finding.problem, finding.write)
        )
        out.print(Text.assemble(f"{number}. ", (finding.code, "yellow"), f": {place}", f" ({_DENIED[finding.denies]})"))
        out.print(f"   {problem}")
        if write:
            out.print(Text.assemble("   write: ", (write, "bold")))
    out.print(f"\n{len(findings)} wrong")
