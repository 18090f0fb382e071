"""Writes an application to begin with: ``capgate new app``."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import string
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import typer

from ...errors import ConfigError
from ..options import Json
from ..terminal import console, path_text, print_json

#: What files of the template end with, so that nothing takes them for a part of capgate.
SUFFIX: Final = ".template"
#: What a folder may be called: its name is that of the policy, of the service and of the fixtures.
NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}", re.ASCII)
#: What the tests of a new application need besides the extra ``cli``.
FOR_TESTS: Final = ("pytest", "httpx2")

new = typer.Typer(
    help="Write what one begins with, into a folder of its own.",
    epilog="Exit codes: 0 written; 2 usage, or a folder that is not empty.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@new.command()
def app(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="The folder to make; what it is called is the name.")],
    as_json: Json = False,
) -> None:
    """Write a FastAPI application with a gate, its policy, golden fixtures and tests, ready to run.

    Everything is in one folder, which has to be new or empty. Nothing is asked, and nothing is installed.

    Exit codes: 0 written; 2 usage, or a folder that is not empty.

    Try:

    - `capgate new app orders`
    """
    name = _name_of(folder)
    written = write_application(folder, name)
    needed = [package for package in FOR_TESTS if importlib.util.find_spec(package) is None]
    steps = [f"cd {shlex.quote(path_text(folder))}", "python -m pytest", "uvicorn app:app"]
    if as_json:
        print_json({"path": path_text(folder), "files": written, "needed": needed, "next": steps})
        return
    out = console()
    for file in written:
        out.print(path_text(folder / file))
    if needed:
        out.print(f"\nIts tests need: pip install {' '.join(needed)}")
    out.print("\nNext:\n")
    for step in steps:
        out.print(f"  {step}")


def _name_of(folder: Path) -> str:
    name = os.path.basename(os.path.abspath(folder))
    if NAME.fullmatch(name) is None:
        valid = "a folder whose name is 1 to 63 letters, digits, underscores and minus signs, a letter first"
        raise ConfigError("NAME", path_text(folder), valid)
    return name


def write_application(folder: Path, name: str) -> list[str]:
    """Write the files of the template into ``folder``, and return what they are called, sorted.

    Raises :class:`ConfigError` for a folder that is not empty, for what is no folder, and for what cannot be written.
    No file is ever replaced.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError("NAME", path_text(folder), "a folder that is new or empty")
        written = []
        for file, text in _filled(name).items():
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            with path.open("x", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            written.append(file)
    except OSError as error:
        raise ConfigError("NAME", path_text(folder), f"a folder that can be written: {error.strerror}") from error
    return written


def _filled(name: str) -> dict[str, str]:
    """Return the files of a new application, by their paths in its folder, sorted."""
    texts = {}
    for file in files(__package__).joinpath("template").iterdir():
        if file.name.endswith(SUFFIX):
            text = string.Template(file.read_text(encoding="utf-8")).substitute(name=name)
            texts[file.name.removesuffix(SUFFIX).replace("+", "/").replace("NAME", name)] = text
    return dict(sorted(texts.items()))
