"""No native code but what this process compiled itself, of a module that it has checked and metered."""

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


# A20
def test_nothing_compiled_is_ever_read_or_unpickled() -> None:
    seen = 0
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, (ast.Attribute, ast.Name)):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                assert "serialize" not in name, (source, node.lineno)
                seen += 1
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                imported = {alias.name.partition(".")[0] for alias in node.names}
                imported.add((getattr(node, "module", None) or "").partition(".")[0])
                assert not imported & {"pickle", "marshal", "shelve", "dill"}, (source, node.lineno)
    assert seen > 1_000


# A20
@pytest.mark.slow
def test_nothing_compiled_is_left_for_the_next_process(engine_name: str, tmp_path: Path) -> None:
    folders = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")}
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **folders}
    command = [sys.executable, "-c", ASK, engine_name]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("Allow\n", 0), done.stderr
    assert list(tmp_path.rglob("*")) == []
