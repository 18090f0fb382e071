"""Declarations whose actions are typed: what is misspelt is found by type checkers, and where it is declared."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, Union, get_args

import pytest

from capgate import BuiltinAction, TypedRequires, requires
from capgate.actions import BUILTIN_ACTIONS, VOCABULARY
from capgate.errors import ConfigError
from capgate.routes.declare import declared

from ..support.command import environment
from ..support.tools import ROOT, require_module

Small = Literal["db.read", "db.write"]
HEADER = """\
from typing import Literal, Union
from capgate import BuiltinAction, TypedRequires, requires as untyped

requires = TypedRequires[Union[BuiltinAction, Literal["orders.refund"]]]()
"""
RIGHT = """
@requires("db.read", resource="sql_query:x")
@requires("orders.refund")
async def endpoint(number: int) -> str:
    return str(number)

@untyped("db.raed")
def other() -> None: ...

async def call() -> None:
    text: str = await endpoint(7)
"""
#: What a type checker has to find, each in one line.
WRONG = [
    'requires("db.raed", resource="sql_query:x")',
    'requires("orders.refunds")',
    'requires("db.read", resorce="sql_query:x")',
    'requires(str("db.read"))',
    'TypedRequires[Literal["db.read"]]()("db.write")',
]


def check(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[int]]:
    """What mypy says in strict mode: its exit code, and the lines with an error."""
    require_module("mypy")
    import mypy.api

    monkeypatch.chdir(ROOT)
    path = tmp_path / "application.py"
    path.write_text(code)
    cache = ROOT / ".mypy_cache"
    out, errors, status = mypy.api.run(["--strict", "--cache-dir", str(cache), "--no-error-summary", str(path)])
    assert errors == ""
    return status, [int(line.split(":")[1]) for line in out.splitlines() if ": error:" in line]


@pytest.mark.slow
def test_mypy_finds_each_misspelt_action_and_takes_each_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(tmp_path, HEADER + RIGHT, monkeypatch) == (0, [])
    first = HEADER.count("\n") + 1
    code = HEADER + "\n".join(WRONG) + "\n"
    assert check(tmp_path, code, monkeypatch) == (1, list(range(first, first + len(WRONG))))


@pytest.mark.slow
def test_pyright_finds_each_misspelt_action_and_takes_each_right_one(tmp_path: Path) -> None:
    pytest.importorskip("pyright")  # which fetches the checker itself when it is run first
    path = tmp_path / "application.py"
    for code, lines in ((HEADER + RIGHT, 0), (HEADER + "\n".join(WRONG) + "\n", len(WRONG))):
        path.write_text(code)
        done = subprocess.run(
            [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(path)],
            cwd=ROOT,
            env=environment(PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, sys.path)])),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.stdout.count(" - error:") == lines, done.stdout


def test_it_declares_what_requires_does() -> None:
    typed: TypedRequires[Small] = TypedRequires[Small]()

    def endpoint() -> None: ...

    def other() -> None: ...

    typed("db.read", resource="sql_query:{x}", args_hash="body")(endpoint)
    requires("db.read", resource="sql_query:{x}", args_hash="body")(other)
    assert declared(endpoint) == declared(other) != ()


@pytest.mark.parametrize(
    "vocabulary", [Small, Union[Small, Literal["fs.read"]], Literal["db.read", "db.write", "fs.read"]]
)
def test_an_action_of_another_vocabulary_is_an_error_where_it_is_declared(vocabulary: Any) -> None:
    typed: Any = TypedRequires[vocabulary]()
    typed("db.write")
    for action, nearest in (("db.raed", "db.read"), ("tool.compile", None), (None, None), (7, None)):
        with pytest.raises(ConfigError) as caught:
            typed(action)
        assert (caught.value.setting, caught.value.nearest) == ("action", nearest)


@pytest.mark.parametrize(
    "made", [TypedRequires(), TypedRequires[str](), TypedRequires[Any]()], ids=["bare", "str", "Any"]
)
def test_without_a_vocabulary_nothing_is_declared(made: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        made("db.read")
    assert caught.value.setting == "vocabulary"


def test_it_takes_what_requires_takes() -> None:
    own = list(inspect.signature(TypedRequires.__call__).parameters.values())[1:]
    assert [(p.name, p.kind, p.default) for p in own] == [
        (p.name, p.kind, p.default) for p in inspect.signature(requires).parameters.values()
    ]


def test_an_action_that_is_not_registered_is_still_an_error() -> None:
    typed = TypedRequires[Literal["orders.unregistered"]]()
    assert "orders.unregistered" not in VOCABULARY
    with pytest.raises(ConfigError) as caught:
        typed("orders.unregistered")
    assert caught.value.seen == "orders.unregistered"


def test_the_type_of_the_built_in_actions_has_all_of_them() -> None:
    assert get_args(BuiltinAction) == tuple(action.name for action in BUILTIN_ACTIONS)
