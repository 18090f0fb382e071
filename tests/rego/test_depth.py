"""A function of the host may not even begin, for want of room on the stack or because of a signal: that is a denial,
and nothing worse."""

from __future__ import annotations

import subprocess
import sys

import pytest

from capgate.runtime.abi.opa.host import FRAMES, require_room

from ..support.tools import ROOT, examples

pytestmark = pytest.mark.slow

ROUNDS = examples(700)


def run(module: str, engine: str, *more: str) -> tuple[set[str], str]:
    """What the script printed, and its errors. In a process of its own, which would end where this fails."""
    arguments = [sys.executable, "-m", f"tests.rego.{module}", engine, *more]
    done = subprocess.run(arguments, cwd=ROOT, check=False, capture_output=True, timeout=300, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    return set(done.stdout.split("\n")) - {""}, done.stderr


@pytest.mark.parametrize("call", ["as it is", "public"])
def test_a_policy_that_is_asked_with_little_room_on_the_stack(engine_name: str, call: str) -> None:  # P3
    if call == "public" and engine_name != "wasmtime":
        pytest.skip("this engine has one way of calling")
    found, errors = run("deep", engine_name, *([call] if call == "public" else []))
    assert "on calling ctypes callback" not in errors
    # The guests that deny, call a builtin within a builtin, and abort; and where there is too little room for them.
    assert found - {"no room at all"} == {"Deny", "AbiError", "PolicyTrap", "RecursionError"}


@pytest.mark.parametrize("call", ["as it is", "public"])
def test_a_policy_that_is_interrupted_anywhere(engine_name: str, call: str) -> None:  # P3
    """What a handler raises is not lost: the question that it ended is denied, whichever instruction it was at."""
    if call == "public" and engine_name != "wasmtime":
        pytest.skip("this engine has one way of calling")
    found, _ = run("interrupted", engine_name, str(ROUNDS), *([call] if call == "public" else []))
    assert found <= {"Deny", "PolicyTrap", "interrupted outside"}
    assert "PolicyTrap" in found, "none was interrupted"


def test_how_much_room_there_has_to_be() -> None:
    def at(depth: int) -> None:
        if depth:
            at(depth - 1)
        else:
            require_room()

    at(100)
    with pytest.raises(RecursionError):
        at(sys.getrecursionlimit() - FRAMES)
