"""Writes the page of the command line, from what each command says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import typer

from capgate.cli.app import app

#: Where the page has its commands.
MARK: Final = "<!-- the commands -->"


def made() -> str:
    """Return every command in the order in which they are used, as Markdown."""
    group: Any = typer.main.get_command(app)
    return "\n".join(line for name, command in group.commands.items() for line in _lines(command, f"capgate {name}"))


def _lines(command: Any, path: str) -> Iterator[str]:
    """Yield the section of a command; of a group, that of each command in it."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from _lines(inner, f"{path} {name}")
    if hasattr(command, "commands"):
        return
    arguments = [_argument(param) for param in command.params if param.param_type_name == "argument"]
    yield from (f"## `{path}`", "", "```text", " ".join([path, *arguments, "[OPTIONS]"]), "```", "")
    yield from ((command.help or "").replace("\f", "").strip(), "")
    rows = [(_shown(param), _about(param)) for param in command.params if not param.hidden and param.help]
    if rows:
        yield from ("| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), "")
    if command.epilog:
        yield from (command.epilog, "")


def _argument(param: Any) -> str:
    name = (param.metavar or param.name.upper()) + ("..." if param.nargs != 1 else "")
    return name if param.required else f"[{name}]"


def _shown(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{_argument(param)}`"
    return ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])


def _about(param: Any) -> str:
    default = param.default
    shown = f" Default: `{default}`." if isinstance(default, (str, int, float)) and default not in ("", False) else ""
    return " ".join(str(param.help).split()).replace("|", "\\|") + shown
