"""Reports what came of ``capgate demo``: as data, and as people read it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from ...model import PolicyInfo
from .app import CASES

#: Characters of a line where the output is not a terminal, which would say itself.
WIDTH = 128

DECLARATION = """@app.get("/proxy/{host}")
@requires("http.outbound", resource="host:{host}")
async def proxy(host: str) -> dict[str, str]: ..."""


class DemoExchange(msgspec.Struct, frozen=True):
    """One case as it went. ``asked`` is what the policy was asked; ``check_us`` and ``request_us`` are medians."""

    request: str
    about: str
    expected: str
    got: str
    asked: str | None
    check_us: float | None
    request_us: float


class Report(msgspec.Struct, frozen=True):
    """The whole demo, for ``--json``. ``in_a_row_us`` is one check of ``rounds`` in a row, in the median."""

    engine: str
    url: str
    policy: PolicyInfo
    document: dict[str, Any]
    exchanges: list[DemoExchange]
    repeat: int
    rounds: int
    in_a_row_us: float
    unexpected: int


def show(report: Report, records: Sequence[logging.LogRecord]) -> None:
    """Show the report to people: the policy, a declaration, the table, a decision event of ``records``, the figures."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    say = console.print
    say("[bold]The policy[/], built into a WebAssembly module that runs inside this process:\n")
    say(Syntax(json.dumps(report.document), "json", background_color="default", word_wrap=True))
    say("\n[bold]A declaration[/]; the endpoint itself holds no policy calls:\n")
    say(Syntax(DECLARATION, "python", background_color="default"))
    say(f"\n[bold]The requests[/], each sent {report.repeat} times, and the last answer; times are medians:\n")
    say(_table(report.exchanges))
    events = [record.getMessage() for record in records if record.name == "capgate.decisions"]
    if events:
        say("[bold]A denial is an event[/] of the standard logger capgate.decisions, never sampled:\n")
        say(escape(events[0]), soft_wrap=True, highlight=False)
    _figures(console, report)


def _figures(console: Console, report: Report) -> None:
    policy = report.policy
    console.print(f"\nPolicy {escape(policy.name)} {escape(policy.version)}, sha256 {policy.sha256}", soft_wrap=True)
    console.print(
        f"Engine {report.engine}. One check takes {report.in_a_row_us} µs when {report.rounds} come in a row."
    )
    colour = "red" if report.unexpected else "green"
    console.print(f"{len(report.exchanges)} requests, [{colour}]{report.unexpected} unexpected answers[/].")


def _table(exchanges: list[DemoExchange]) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("request", "the policy was asked", "answer"):
        drawn.add_column(heading)
    for heading in ("check µs", "request µs"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for each in exchanges:
        told = f"[{'green' if each.got == '200' else 'yellow'}]{escape(each.got)}[/]"
        if each.got != each.expected:
            told += f"\n[bold red]expected {escape(each.expected)}[/]"
        check = "-" if each.check_us is None else f"{each.check_us:.1f}"
        request = f"{escape(each.request)}\n[dim]  {escape(each.about)}[/]"
        drawn.add_row(request, escape(each.asked or "-"), told, check, f"{each.request_us:.0f}")
    return drawn


def show_how_to_ask(url: str) -> None:
    """Show a curl line for each case, on standard error, since standard output is the report's."""
    console = Console(stderr=True)
    console.print(f"\nServing on {url} until Ctrl-C; denials are logged below. Try:\n", soft_wrap=True)
    for case in CASES:
        method = "" if case.method == "GET" else f"-X {case.method} "
        headers = "".join(f"-H '{name}: {value}' " for name, value in case.headers.items())
        console.print(f"  curl -i {method}{headers}{url}{case.path}", soft_wrap=True, markup=False, highlight=False)
