"""Which engine answers, where one, the other or none of them imports."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import pytest

from capgate.errors import ConfigError, EngineUnavailable
from capgate.runtime.engine import ENGINES, available_engines, load_engine

from ...support.engines import EXPECTED_ENGINES
from ...support.tools import ROOT

pytestmark = pytest.mark.slow

#: A process in which importing some packages fails, in the way that is asked for. Prints what each engine's name gives.
PROGRAM: Final = """
import builtins, importlib.abc, json, sys
blocked, failure = json.loads(sys.argv[1])

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise getattr(builtins, failure)("blocked here")

sys.meta_path.insert(0, Blocker())
from capgate.runtime.engine import available_engines, load_engine
from capgate.errors import EngineUnavailable
found = {"available": available_engines()}
for name in ("auto", "wasmer", "wasmtime"):
    try:
        found[name] = load_engine(name).name
    except EngineUnavailable as error:
        found[name] = [error.engine, error.hint]
print(json.dumps(found))
"""
FAILURES: Final = ("ImportError", "OSError", "AttributeError")


def without(*blocked: str, failure: str = "ImportError") -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, json.dumps([blocked, failure])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_engines_of_this_python() -> None:
    assert available_engines() == EXPECTED_ENGINES
    assert load_engine().name == load_engine("auto").name == EXPECTED_ENGINES[0]
    for name in EXPECTED_ENGINES:
        engine = load_engine(name)
        assert (engine.name, load_engine(name) is engine) == (name, True)
        assert engine.version[0].isdecimal()
        assert engine.thread_bound == (name == "wasmer")


@pytest.mark.parametrize("name", ["", "Wasmer", "wasmtime ", "v8", "_wasmtime", "base", "../x", None, 1])
def test_another_name_is_a_bad_setting(name: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_engine(name)  # C1
    assert (caught.value.setting, caught.value.seen) == ("engine", name)
    assert all(engine in caught.value.valid for engine in ("auto", *ENGINES))


@pytest.mark.parametrize("failure", FAILURES)
def test_without_wasmer_auto_is_wasmtime(failure: str) -> None:
    found = without("wasmer", "wasmer_compiler_cranelift", failure=failure)
    assert (found["auto"], found["wasmtime"], found["available"]) == ("wasmtime", "wasmtime", ["wasmtime"])
    engine, hint = found["wasmer"]
    assert engine == "wasmer"
    assert "wasmer==1.1.0" in hint
    assert "3.10" in hint
    assert "blocked here" in hint


def test_without_its_compiler_wasmer_is_not_available() -> None:
    assert without("wasmer_compiler_cranelift")["wasmer"][0] == "wasmer"


@pytest.mark.parametrize("failure", FAILURES)
def test_without_wasmtime_there_is_what_the_python_has(failure: str) -> None:
    found = without("wasmtime", failure=failure)
    assert found["wasmtime"][0] == "wasmtime"
    assert "wasmtime>=46" in found["wasmtime"][1]
    if "wasmer" in EXPECTED_ENGINES:
        assert (found["auto"], found["available"]) == ("wasmer", ["wasmer"])
    else:
        assert (found["auto"][0], found["available"]) == ("auto", [])


@pytest.mark.parametrize("failure", FAILURES)
def test_without_any_engine_the_error_says_what_each_needs(failure: str) -> None:
    found = without("wasmer", "wasmtime", failure=failure)
    assert found["available"] == []
    engine, hint = found["auto"]
    assert engine == "auto"
    assert "wasmer==1.1.0" in hint
    assert "wasmtime>=46" in hint
    assert sys.version.split()[0] in hint


@pytest.mark.parametrize("name", ["auto", *ENGINES])
def test_without_the_global_lock_there_is_no_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:  # C1, P18
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(EngineUnavailable) as caught:
        load_engine(name)
    assert caught.value.engine == name
    assert "PYTHON_GIL" in caught.value.hint
    assert available_engines() == ()
