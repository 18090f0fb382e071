"""Says why a policy is rejected, and ends the command with the exit code for that."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ..errors import ArtifactError, ArtifactNotFound, FixturesFailed, PolicyError, WasmError
from ..testing.golden.report import outcome_data
from .golden.command import show_failure
from .terminal import console


@contextmanager
def reporting_rejection(as_json: bool = False) -> Iterator[None]:
    """End with exit code 1 where a policy is rejected, having said why.

    A file that is not there passes on, to be exit code 2 like every other mistake of the call.
    """
    try:
        yield
    except ArtifactNotFound:
        raise
    except (ArtifactError, PolicyError, WasmError) as error:
        facts: dict[str, object] = {
            key: value
            for key in ("reason", "field", "path", "ahead", "changed")
            if (value := getattr(error, key, None)) is not None
        }
        if isinstance(error, FixturesFailed):
            facts |= {"total": error.total, "failures": [outcome_data(outcome) for outcome in error.failures]}
            if not as_json:
                _show_failures(error)
        print(f"capgate: {error}", file=sys.stderr, flush=True)
        if as_json:
            print(json.dumps({"refused": type(error).__name__, "message": str(error), **facts}, indent=2), flush=True)
        raise typer.Exit(1) from error


def _show_failures(error: FixturesFailed) -> None:
    """Show the fixtures that failed as ``capgate test`` shows them."""
    if error.failures:
        out = console(stderr=True)
        for outcome in error.failures:
            show_failure(out, outcome)
        out.print()
