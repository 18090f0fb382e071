"""``capgate contract``: the contract of an application, and what changed between two."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from ..errors import ConfigError
from ..middleware.contract import contract_of, read_contract
from ..middleware.middleware import CapabilityMiddleware
from ..routes.contract import ZEROS, ContractChange, HandlerContract, changes, quoted
from ..settings.settings import Settings
from .policy.build import write
from .words import print_json

#: How many applications may be around one another on the way to the gate.
DEPTH: Final = 32

_SIGNS: Final = {"widens": ("+", "yellow"), "narrows": ("-", "green"), None: ("~", "")}


def export(application: str, output: Path | None, *, factory: bool, as_json: bool) -> None:
    """Write the contract of the application that ``application`` names, and say on standard error what to know of it.

    Raises :class:`ConfigError` for an application that cannot be had, and whatever
    :func:`~capgate.middleware.contract.contract_of` raises.
    """
    contract, settings = contract_here(load(application, factory=factory))
    data = contract.to_json()
    if output is None:
        sys.stdout.write(data.decode("ascii"))
        sys.stdout.flush()
    else:
        write(output, data)
    denied = [one.name for one in contract.routes if one.status in ("undeclared", "unresolvable")]
    if as_json:
        if output is not None:
            counts = {"routes": len(contract.routes), "actions": len(contract.actions), "denied": denied}
            shown = os.fsencode(output).decode("utf-8", "replace")
            print_json({"path": shown, **counts, "artifactSha256": contract.artifact_sha256, "settings": settings})
        return
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(contract.routes)} routes, {len(contract.actions)} actions; settings: {settings}")
    if contract.artifact_sha256 == ZEROS:
        console.print("no policy is configured here, so the contract names none and fits no policy of capgate's")
    if denied:
        console.print(f"denied, since they declare nothing: {', '.join(denied)}")


def load(application: str, *, factory: bool) -> Any:
    """The ASGI application at ``module:attribute``, imported with the current folder on the path."""
    module_name, colon, path = application.partition(":")
    if not module_name or not colon or not path:
        raise ConfigError("application", application, "module:attribute, such as orders.app:app")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    with contextlib.redirect_stdout(sys.stderr):  # what it prints is not part of a contract
        try:
            found: Any = functools.reduce(getattr, path.split("."), importlib.import_module(module_name))
        except (Exception, SystemExit) as error:
            raise ConfigError("application", application, f"one that imports; {_told(error)}") from error
        if factory:
            try:
                found = found()
            except (Exception, SystemExit) as error:
                raise ConfigError("application", application, f"one that can be made; {_told(error)}") from error
    if not callable(found):
        raise ConfigError("application", application, f"an ASGI application, not a {type(found).__name__}")
    if not factory and inspect.isfunction(found) and not _takes_scope(found):
        raise ConfigError("application", application, "an ASGI application; with --factory, a function that makes one")
    return found


def _takes_scope(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        return False
    return True


def _told(error: BaseException) -> str:
    """What was raised, and by which line, if that is one of a file and not of importing as such."""
    importing = (__file__, importlib.__file__)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename not in importing]
    lines = [f" ({one.filename}, line {one.lineno})" for one in frames if one.filename[:1] != "<"]
    where = lines[-1] if lines else ""
    return quoted(f"{type(error).__name__}: {error}{where}")


def contract_here(app: Any) -> tuple[HandlerContract, str]:
    """The contract of ``app`` with the settings of its gate, which is itself, among its middleware, or of what it is
    around; without one, with those of the environment. Second, where the settings were found, for people."""
    inner = app
    for _ in range(DEPTH):
        if isinstance(inner, CapabilityMiddleware):
            return inner._startup.contract(app), "those of its CapabilityMiddleware"
        for one in getattr(inner, "user_middleware", ()):
            if isinstance(one.cls, type) and issubclass(one.cls, CapabilityMiddleware):
                inner = one.cls(inner, *one.args, **one.kwargs)
                break
        else:
            inner = inner.func if isinstance(inner, functools.partial) else getattr(inner, "app", None)
    return contract_of(app, Settings.from_env()), "those of the environment, as it has no CapabilityMiddleware"


def diff(old: Path, new: Path, *, as_json: bool) -> int:
    """Print what changed; 1 if anything did, else 0. Raises what :func:`~capgate.middleware.contract.read_contract` raises."""
    found = changes(read_contract(old), read_contract(new))
    counts = {effect: sum(one.effect == effect for one in found) for effect in ("widens", "narrows")}
    if as_json:
        print_json({**counts, "changes": found})
    else:
        show(found, counts)
    return 1 if found else 0


def show(found: list[ContractChange], counts: dict[str, int]) -> None:
    """One line for each change, and one that counts them."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for one in found:
        sign, style = _SIGNS[one.effect]
        console.print(Text(f"{sign} {one.sentence}", style))
    other = len(found) - sum(counts.values())
    console.print(f"{counts['widens']} widen, {counts['narrows']} narrow, {other} neither" if found else "no changes")
