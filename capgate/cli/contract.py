"""Exports and compares handler contracts: ``capgate contract export`` and ``diff``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text
from starlette.types import ASGIApp

from ..errors import ConfigError
from ..middleware.contract import contract_of, read_contract
from ..middleware.middleware import CapabilityMiddleware
from ..routes.contract import ZEROS, ContractChange, HandlerContract, changes, quoted
from ..settings.settings import Settings
from .files import write_output
from .options import Json, Output
from .terminal import console, path_text, print_json

#: How many applications may be around one another on the way to the gate.
DEPTH: Final = 32

_SIGNS: Final = {"widens": ("+", "yellow"), "narrows": ("-", "green"), None: ("~", "")}

contract = typer.Typer(
    help="Write down what an application declares, and compare that with what was written down before.",
    epilog="Exit codes: 0 written, or equal; 1 something changed; 2 usage or configuration.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@contract.command()
def export(
    application: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the application is, as for uvicorn.")],
    output: Output = None,
    factory: Annotated[bool, typer.Option("--factory", help="APP is a function that makes the application.")] = False,
    as_json: Json = False,
) -> None:
    """Write the handler contract of an application: its routes, what each needs, and the digests of its policy.

    The application is imported, with the current folder on the path, and not started. The settings are those of its
    `CapabilityMiddleware`, or of the environment. The same application always gives the same file, which belongs into
    version control: a diff shows what a change lets the application do. At start-up,

        CAPGATE_CONTRACT=contract.json

    refuses an application, a vocabulary or a policy that is not the one of the contract. The contract is JSON; with
    `--json` so is what there is to say of one that went to a file.

    Exit codes: 0 written; 2 usage, an application that cannot be had, or a file that cannot be written.

    Try:

    - `capgate contract export orders.app:app -o contract.json`
    - `capgate contract export --factory orders.app:create_app | jq .sections`
    """
    exported, settings = contract_here(load_application(application, factory=factory))
    data = exported.to_json()
    if output is None:
        sys.stdout.write(data.decode("ascii"))
        sys.stdout.flush()
    else:
        write_output(output, data)
    denied = [route.name for route in exported.routes if route.status in ("undeclared", "unresolvable")]
    if as_json:
        if output is not None:
            counts = {"routes": len(exported.routes), "actions": len(exported.actions), "denied": denied}
            digest = {"artifactSha256": exported.artifact_sha256}
            print_json({"path": path_text(output), **counts, **digest, "settings": settings})
        return
    out = console(stderr=True)
    out.print(f"{len(exported.routes)} routes, {len(exported.actions)} actions; settings: {settings}")
    if exported.artifact_sha256 == ZEROS:
        out.print("no policy is configured here, so the contract names none and fits no policy of capgate's")
    if denied:
        out.print(f"denied, since they declare nothing: {', '.join(denied)}")


def load_application(application: str, *, factory: bool) -> ASGIApp:
    """Return the ASGI application at ``module:attribute``, imported with the current folder on the path.

    Raises :class:`ConfigError` for one that cannot be had.
    """
    module_name, colon, path = application.partition(":")
    if not module_name or not colon or not path:
        raise ConfigError("application", application, "module:attribute, such as orders.app:app")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    with contextlib.redirect_stdout(sys.stderr):  # what it prints is not part of a contract
        try:
            loaded: Any = functools.reduce(getattr, path.split("."), importlib.import_module(module_name))
        except (Exception, SystemExit) as error:
            raise ConfigError("application", application, f"one that imports; {_error_text(error)}") from error
        if factory:
            try:
                loaded = loaded()
            except (Exception, SystemExit) as error:
                raise ConfigError("application", application, f"one that can be made; {_error_text(error)}") from error
    if not callable(loaded):
        raise ConfigError("application", application, f"an ASGI application, not a {type(loaded).__name__}")
    if not factory and inspect.isfunction(loaded) and not _takes_scope(loaded):
        raise ConfigError("application", application, "an ASGI application; with --factory, a function that makes one")
    app: ASGIApp = loaded
    return app


def _takes_scope(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        return False
    return True


def _error_text(error: BaseException) -> str:
    """Say what was raised, and by which line, if that is one of a file and not of importing as such."""
    importing = (__file__, importlib.__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in importing]
    lines = [f" ({frame.filename}, line {frame.lineno})" for frame in frames if frame.filename[:1] != "<"]
    where = lines[-1] if lines else ""
    return quoted(f"{type(error).__name__}: {error}{where}")


def contract_here(app: ASGIApp) -> tuple[HandlerContract, str]:
    """Return the contract of ``app`` with the settings of its gate, and for people where these come from.

    The gate is ``app`` itself, one of its middleware, or in what it is around. Without one, the settings are those of
    the environment. Raises what :func:`~capgate.middleware.contract.contract_of` raises.
    """
    inner: Any = app
    for _ in range(DEPTH):
        if isinstance(inner, CapabilityMiddleware):
            return inner.contract(app), "those of its CapabilityMiddleware"
        for middleware in getattr(inner, "user_middleware", ()):
            if isinstance(middleware.cls, type) and issubclass(middleware.cls, CapabilityMiddleware):
                inner = middleware.cls(inner, *middleware.args, **middleware.kwargs)
                break
        else:
            inner = inner.func if isinstance(inner, functools.partial) else getattr(inner, "app", None)
    return contract_of(app, Settings.from_env()), "those of the environment, as it has no CapabilityMiddleware"


@contract.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The contract as it was.")],
    new: Annotated[Path, typer.Argument(help="The contract as it is.")],
    as_json: Json = False,
) -> None:
    """Say in words what changed between two handler contracts.

    `+` widens: a new action, resource or route, an open route, a section that became dynamic, a route with one question
    fewer. `-` narrows: the reverse. `~` is neither, or contracts cannot tell, as with another policy.

    Exit codes: 0 nothing changed; 1 something did; 2 usage, or a file that is no contract.

    Try:

    - `capgate contract diff contract.json new.json`
    - `capgate contract diff --json contract.json new.json | jq -e '.widens == 0'`
    """
    differing = changes(read_contract(old), read_contract(new))
    counts = {effect: sum(change.effect == effect for change in differing) for effect in ("widens", "narrows")}
    if as_json:
        print_json({**counts, "changes": differing})
    else:
        _show(differing, counts)
    raise typer.Exit(1 if differing else 0)


def _show(differing: list[ContractChange], counts: dict[str, int]) -> None:
    """Print one line for each change, and one that counts them."""
    out = console()
    for change in differing:
        sign, style = _SIGNS[change.effect]
        out.print(Text(f"{sign} {change.sentence}", style))
    other = len(differing) - sum(counts.values())
    out.print(f"{counts['widens']} widen, {counts['narrows']} narrow, {other} neither" if differing else "no changes")
