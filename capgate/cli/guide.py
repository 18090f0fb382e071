"""Puts commands into the order in which they are used: what ``capgate --help`` teaches."""

from __future__ import annotations

from typing import Final, Union

import typer
from typer.models import CommandInfo, TyperInfo

_ABOUT: Final = "Ask a sandboxed WebAssembly policy before a sensitive effect of a Starlette or FastAPI application."

#: Panels of the help, each with its commands in the order of work, and what their exit codes are unless they say so.
PANELS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "Start": (("demo", "new"), "0 as expected; 1 an answer was not; 2 usage or configuration"),
    "Policies": (
        ("schema", "check", "eval", "explain", "build", "inspect", "test", "diff"),
        "0 as expected; 1 an answer was not, or something changed; 2 usage or configuration",
    ),
    "Releases": (
        ("keygen", "sign", "verify", "publish"),
        "0 done; 1 refused, or not verified; 2 usage or configuration",
    ),
    "Operations": (
        ("activate", "rollback", "status", "history", "prune", "reset"),
        "0 done; 1 refused; 2 usage or configuration",
    ),
    "Applications": (
        ("doctor", "contract"),
        "0 nothing is wrong, or changed; 1 something is, or did; 2 usage or configuration",
    ),
}

#: The way of a policy, and the commands that each step needs.
STEPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "Write a document, JSON or TOML: editors complete by `schema`, `check` says what is wrong with it,"
        " and `explain` why it answers as it does.",
        (),
    ),
    ("Make a WebAssembly module of it: `build`.", ()),
    ("See what a change lets through: `diff`.", ()),
    ("Judge golden fixtures as requests are judged: `test`.", ("test",)),
    (
        "Sign the module with its fixtures: `keygen` once, then `sign`; `verify` is what applications do.",
        ("keygen", "sign", "verify"),
    ),
    ("Publish it into a store: `publish`.", ("publish",)),
    ("Have it run: `activate`, and `rollback` if need be.", ("activate", "rollback")),
)

_Info = Union[CommandInfo, TyperInfo]


def arrange(app: typer.Typer) -> None:
    """Put the commands of ``app`` in order, and that order into its help. To be called when all of them are there."""
    panels = {name: panel for panel, (names, _) in PANELS.items() for name in names}
    order = list(panels)
    commands: list[_Info] = [*app.registered_commands, *app.registered_groups]
    for info in commands:
        info.rich_help_panel = panels.get(name_of(info), "Others")
    for command in app.registered_commands:
        panel = panels.get(name_of(command))
        if panel is not None and "Exit codes:" not in (command.callback.__doc__ or "" if command.callback else ""):
            command.epilog = f"Exit codes: {PANELS[panel][1]}."
    app.registered_commands.sort(key=lambda info: order.index(name_of(info)) if name_of(info) in panels else len(order))
    there = {name_of(info) for info in app.registered_commands}
    steps = [text for text, needed in STEPS if there.issuperset(needed)]
    numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(steps, 1))
    app.info.help = f"{_ABOUT}\n\nThe way of a policy:\n\n{numbered}"


def name_of(info: _Info) -> str:
    """Return what the command, or the group of commands, is called."""
    if isinstance(info.name, str):
        return info.name
    return str(getattr(info.callback, "__name__", "")).replace("_", "-")
