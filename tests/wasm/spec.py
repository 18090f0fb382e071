"""Run the commands of the official test suite against an engine, with the modules changed on the way or not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .engines import Host, Namespace, Trapped, float_of

#: What to do with a module before it is instantiated. May raise to refuse it.
Change = Callable[[bytes], bytes]
#: What to do with the instances that a call can reach before it, and after it, told whether it returned.
Before = Callable[[list[dict[str, Any]]], None]
After = Callable[[str, list[dict[str, Any]], bool], None]


class SpecRun:
    """One file of the suite. ``held`` is the set of (file, line, command) whose assertion holds."""

    def __init__(self, host: Host, change: Change, before: Before | None = None, after: After | None = None) -> None:
        self.host = host
        self.change = change
        self.before = before or (lambda _: None)
        self.after = after or (lambda *_: None)
        self.held: set[tuple[str, int, str]] = set()
        self.refused: list[tuple[str, str]] = []
        self.namespace: Namespace = {"spectest": host.spectest()}
        self.registered: list[dict[str, Any]] = []
        self.by_name: dict[str | None, dict[str, Any]] = {}

    def run(self, file: Path) -> None:
        for command in json.loads(file.read_text())["commands"]:
            self.folder, self.where = file.parent, f"{file.stem}:{command['line']}"
            if self.holds(command):
                self.held.add((file.stem, command["line"], command["type"]))

    def holds(self, command: dict[str, Any]) -> bool:
        """Whether the command does what the suite says it should."""
        kind = command["type"]
        if kind == "module":
            return self.module(command)
        if kind == "register":
            exports = self.by_name.get(command.get("name"), {})
            self.namespace[command["as"]] = exports
            self.registered.append(exports)
            return True
        if kind in ("action", "assert_return"):
            if not self.host.has_references and any(value["type"].endswith("ref") for value in command["expected"]):
                return False
            return self.matches(command.get("expected", []), self.act(command["action"]))
        if kind in ("assert_trap", "assert_exhaustion"):
            return isinstance(self.act(command["action"]), Trapped)
        if command.get("module_type") == "text":
            return False
        return self.loads(command) is None

    def module(self, command: dict[str, Any]) -> bool:
        self.by_name.pop(None, None)
        exports = self.loads(command)
        if exports is None:
            return False
        self.by_name[None] = exports
        if "name" in command:
            self.by_name[command["name"]] = exports
        return True

    def loads(self, command: dict[str, Any]) -> dict[str, Any] | None:
        """The exports of the module, or ``None`` where anything refuses it."""
        data = (self.folder / command["filename"]).read_bytes()
        if not self.host.is_valid(data):
            return None
        try:
            data = self.change(data)
        except Exception as error:
            self.refused.append((self.where, str(error)))
            return None
        self.before(self.reachable())
        try:
            return self.host.instantiate(data, self.namespace)
        except Trapped:
            return None

    def reachable(self) -> list[dict[str, Any]]:
        return list({id(item): item for item in (*self.by_name.values(), *self.registered)}.values())

    def act(self, action: dict[str, Any]) -> list[Any] | Trapped | None:
        """The results, the trap, or ``None`` where the harness cannot ask."""
        exports = self.by_name.get(action.get("module"))
        item = None if exports is None else exports.get(action["field"])
        if exports is None or item is None:
            return None
        if action["type"] == "get":
            return [self.host.value(item)]
        arguments = [argument(value) for value in action["args"]]
        if any(value is NotImplemented for value in arguments):
            return None
        reachable = self.reachable()
        self.before(reachable)
        try:
            result = self.host.call(item, *arguments)
        except Trapped as trap:
            self.after(self.where, reachable, False)
            return trap
        self.after(self.where, reachable, True)
        return result

    def matches(self, expected: list[dict[str, Any]], got: list[Any] | Trapped | None) -> bool:
        if not isinstance(got, list) or len(got) != len(expected):
            return False
        return all(equal(want, value) for want, value in zip(expected, got, strict=True))


def argument(value: dict[str, Any]) -> Any:
    """A value of the suite as an argument; ``NotImplemented`` for references."""
    kind = value["type"]
    if kind in ("i32", "i64"):
        return signed(kind, int(value["value"]))
    if kind in ("f32", "f64"):
        return float_of(kind, int(value["value"]))
    return NotImplemented


def signed(kind: str, value: int) -> int:
    width = 32 if kind == "i32" else 64
    return value - (1 << width) if value >> (width - 1) else value


def equal(want: dict[str, Any], got: Any) -> bool:
    kind = want["type"]
    if kind in ("funcref", "externref"):
        return (got is None) == (want.get("value") == "null")
    if isinstance(got, int):
        return kind in ("i32", "i64") and signed(kind, int(want["value"])) == got
    if not isinstance(got, float) or kind not in ("f32", "f64"):
        return False
    if str(want["value"]).startswith("nan"):
        return math.isnan(got)
    expected = float_of(kind, int(want["value"]))
    if math.isnan(expected):
        return math.isnan(got)
    return expected == got and math.copysign(1, expected) == math.copysign(1, got)
