"""Near the end of Python's stack, a function of the host may not even begin: that is a denial, and nothing worse."""

from __future__ import annotations

import subprocess
import sys

import pytest

from capgate.abi.opa.host import FRAMES, require_room

from ..tools import ROOT


@pytest.mark.parametrize("call", ["as it is", "public"])
def test_a_policy_that_is_asked_with_little_room_on_the_stack(engine_name: str, call: str) -> None:  # P3
    """In a process of its own: where this fails, it ends the process, or allows."""
    if call == "public" and engine_name != "wasmtime":
        pytest.skip("this engine has one way of calling")
    arguments = [sys.executable, "-m", "tests.rego.deep", engine_name, *([call] if call == "public" else [])]
    done = subprocess.run(arguments, cwd=ROOT, check=False, capture_output=True, timeout=120, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "on calling ctypes callback" not in done.stderr
    # The guests that deny, call a builtin within a builtin, and abort; and where there is too little room for them.
    assert {"Deny", "AbiError", "PolicyTrap", "RecursionError"} == set(done.stdout.split("\n")) - {"no room at all", ""}


def test_how_much_room_there_has_to_be() -> None:
    def at(depth: int) -> None:
        if depth:
            at(depth - 1)
        else:
            require_room()

    at(100)
    with pytest.raises(RecursionError):
        at(sys.getrecursionlimit() - FRAMES)
