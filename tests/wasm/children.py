"""Attacks run in child processes with an outer kill: a guest that gets away hangs the child, not the test."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from ..support.tools import ROOT


class Attack(NamedTuple):
    """One guest: what was expected, what came, in how many milliseconds."""

    guest: str
    expected: str
    got: str
    milliseconds: float


def attack(engine: str, *arguments: str, seconds: int) -> list[Attack]:
    """What each hostile guest did. One that ran for ``seconds`` of processor time hung, and those behind it never ran.

    The clock counts only where something waits: a busy machine makes nothing hang.
    """
    bound = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))"
    program = f"{bound}; import sys; from tests.wasm.attack import main; main(*sys.argv[1:])"
    command = [sys.executable, "-c", program, engine, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        output, errors = child.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        child.kill()
        output, errors = child.communicate()
    lines = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    out = [
        Attack(before["guest"], before["expected"], after["got"], after["ms"])
        for before, after in zip(lines[::2], lines[1::2], strict=False)
    ]
    if len(lines) % 2:
        out.append(Attack(lines[-1]["guest"], lines[-1]["expected"], "hung or crashed", seconds * 1e3))
    if not out:
        raise RuntimeError(f"{command} said nothing: {errors[-2000:]}")
    return out
