"""The options by which commands are told the entry point of a module that OPA compiled."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from ..model import Entrypoint


class Result(str, enum.Enum):
    """What the entry point gives."""

    decision = "decision"
    denials = "denials"


EntrypointName = Annotated[
    str | None,
    typer.Option(
        "--entrypoint",
        metavar="PATH",
        envvar="CAPGATE_ENTRYPOINT",
        help="Of a module that OPA compiled: the rule to ask, such as orders/allow.",
    ),
]
EntrypointResult = Annotated[
    Result,
    typer.Option(
        "--entrypoint-result",
        envvar="CAPGATE_ENTRYPOINT_RESULT",
        help="What that rule gives: a decision, or a set or array of denials.",
    ),
]


def chosen(name: str | None, result: Result) -> Entrypoint:
    """The entry point that the options mean."""
    return Entrypoint(name, result.value)
