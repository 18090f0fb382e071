"""No native code but what this process, or its own child, compiled of a module that was checked and metered."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import capgate

from ...support.tools import ROOT

SOURCES = sorted(Path(capgate.__file__).parent.rglob("*.py"))
ASK = """
import sys
from capgate import PolicyInput, Resource, WasmArtifact, WasmInterpreter, build_policy
artifact = WasmArtifact.from_bytes(build_policy({"sql": ["orders"]}))
asked = PolicyInput("db.read", resource=Resource("sql_query", "orders"))
print(type(WasmInterpreter(artifact, engine=sys.argv[1]).call_policy_check(asked)).__name__)
"""


#: The only functions that write native code, and read it: the child's end of the pipe, and that of whoever started it.
ENDS = {
    ("_wasmer.py", "code"): ["serialize"],
    ("_wasmer.py", "load"): ["deserialize"],
    ("_wasmtime.py", "code"): ["serialize"],
    ("_wasmtime.py", "load"): ["deserialize"],
}
LOADS = [("interpreter.py", "compile", "engine.load(code)")]


def functions(source: Path) -> dict[ast.AST, str]:
    """The name of the innermost function around each node."""
    around: dict[ast.AST, str] = {}
    for node in ast.walk(ast.parse(source.read_text())):
        name = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else around.get(node, "")
        around.setdefault(node, "")
        for child in ast.iter_child_nodes(node):
            around[child] = name
    return around


# A20
def test_nothing_compiled_is_ever_read_or_unpickled() -> None:
    """But what comes from the child that was started to compile it, through its pipe: in one place."""
    seen, loads = 0, []
    ends: dict[tuple[str, str], list[str]] = {}
    for source in SOURCES:
        for node, function in functions(source).items():
            if isinstance(node, (ast.Attribute, ast.Name)):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                if "serialize" in name:
                    assert (source.name, function) in ENDS, (source, node.lineno)
                    ends.setdefault((source.name, function), []).append(name)
                seen += 1
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("engine.load"):
                loads.append((source.name, function, ast.unparse(node)))
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                imported = {alias.name.partition(".")[0] for alias in node.names}
                imported.add((getattr(node, "module", None) or "").partition(".")[0])
                assert not imported & {"pickle", "marshal", "shelve", "dill"}, (source, node.lineno)
    assert seen > 1_000
    assert (ends, loads) == (ENDS, LOADS)


# A20, pitfall 35: neither is what was metered
@pytest.mark.slow
def test_nothing_compiled_is_left_for_the_next_process(engine_name: str, tmp_path: Path) -> None:
    folders = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")}
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **folders}
    command = [sys.executable, "-c", ASK, engine_name]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("Allow\n", 0), done.stderr
    assert list(tmp_path.rglob("*")) == []
