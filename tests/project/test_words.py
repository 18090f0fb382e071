"""Holds the package to its words, and to how its rooms are told apart."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .words import PACKAGE, breaches, modules

#: The rooms of the house, and the flat files of words beside them.
ROOMS = {
    *(
        "conditions",
        "rego",
        "policy",
        "wasm",
        "artifact",
        "routes",
        "store",
        "runtime",
        "checker",
        "settings",
        "enforcement",
    ),
    *("middleware", "capabilities", "testing", "cli"),
}
FLAT = {
    *("__init__", "__main__", "errors", "model", "spelling", "actions", "limits", "events", "log_writer"),
    *("facts", "fastapi", "logged_facts", "metrics"),
}


def test_docstrings_begin_with_verbs_and_names_say_what_they_hold() -> None:
    assert list(breaches()) == []


def test_a_breach_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text('"""What it is."""\n\n\nclass Same:\n    pass\n')
    (tmp_path / "a.py").write_text(
        f'"""Holds {"one word and " * 12}another."""\n\n\nclass Same:\n    pass\n\n\nfound = 1\n'
    )
    lines = list(breaches(tmp_path, tmp_path))
    for part in (
        "begins with 'What'",
        "sentence of",
        "'found' does not say",
        "file a.py is there 2",
        "class Same is there 2",
    ):
        assert any(part in line for line in lines), part
    assert len(lines) == 5


def test_the_rooms_are_these() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == ROOMS
    assert {path.stem for path in PACKAGE.glob("*.py")} == FLAT


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_says_which_file_to_read_first(room: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    named = [path for path in (PACKAGE / room).rglob("*.py") if f"``{path.relative_to(PACKAGE / room)}``" in text]
    assert named, text


@pytest.mark.slow
def test_checkers_are_told_apart_at_the_door_only() -> None:
    """Nobody asks a checker for its class but the door that wraps what applications bring."""
    names = {"Checker", "PolicyChecker", "LocalPolicyChecker", "WasmPolicyChecker", "CachedChecker", "FollowingChecker"}
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                assert not asked & names or path.name == "foreign.py", f"{path}:{node.lineno}"
