"""``capgate test``: exit codes, what is printed and what is written, and that it runs again when a file changes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

from capgate.artifact.build import build_policy
from capgate.cli import main
from capgate.limits import Limits

from ..support.command import capgate, environment
from ..support.engines import EXPECTED_ENGINES
from ..support.pool_guests import ENDLESS, OBEDIENT, TRAP
from ..support.tools import ROOT

pytestmark = pytest.mark.slow

DOCUMENT: Final[dict[str, Any]] = {
    "name": "orders",
    "version": "3",
    "sql": ["audit", {"name": "list", "operation": "select"}],
    "rules": [{"effect": "deny", "actions": ["db.write"], "actors": ["user:bob"], "reason": "not bob"}],
}
READ: Final = {"action": "db.read", "resource": {"kind": "sql_query", "id": "audit"}}
LIST: Final = {"action": "db.read", "resource": {"kind": "sql_query", "id": "list"}}
BOB: Final = {**READ, "action": "db.write", "actor": {"kind": "user", "id": "bob"}}
ALLOW: Final = {"kind": "allow"}


def deny(reason: str) -> dict[str, str]:
    return {"kind": "deny", "reason": reason}


PASSING: Final = [
    {"description": "Anyone reads the audit log.", "input": READ, "expected": ALLOW},
    {"description": "Bob writes nothing.", "input": BOB, "expected": deny("not bob")},
]
FAILING: Final = {"description": "Bob writes.", "input": BOB, "expected": ALLOW}
#: Time for a process to start and judge on a busy machine.
PATIENCE: Final = 60.0


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


@pytest.fixture
def fixtures(tmp_path: Path) -> Path:
    """The folder that is the default one, with fixtures that pass."""
    folder = tmp_path / "fixtures"
    folder.mkdir()
    (folder / "orders.json").write_text(json.dumps(PASSING))
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, called in this process: it is what is tested here, and not how fast Python starts."""
    words = ["capgate", "test", *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            main()
    assert isinstance(caught.value.code, int)
    return subprocess.CompletedProcess(words, caught.value.code, output.getvalue(), errors.getvalue())


def as_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    done = run(*arguments, "--json")
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


# -- exit codes


def test_all_pass(policy: Path, fixtures: Path) -> None:
    code, found = as_json(policy)
    assert (code, found["total"], found["passed"]) == (0, 2, 2)
    assert found["runtimes"] == ["local", *EXPECTED_ENGINES]
    done = capgate("test", str(policy))
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 passed" in done.stdout
    assert all(name in done.stdout for name in found["runtimes"])
    assert "\x1b" not in done.stdout


def test_what_questions_spend(policy: Path, fixtures: Path) -> None:
    """T-8: the dearest ones first, of the fuel that there is."""
    code, found = as_json(policy)
    engines = [name for name in found["runtimes"] if name != "local"]
    assert code == 0
    assert found["fuel_limit"] == Limits().call_fuel
    for outcome in found["outcomes"]:
        assert list(outcome["costs"]) == engines
        assert len({spent["fuel"] for spent in outcome["costs"].values()}) == 1
        assert all(0 < spent["fuel"] < 100_000 and spent["seconds"] >= 0 for spent in outcome["costs"].values())
    dearest = max(spent["fuel"] for outcome in found["outcomes"] for spent in outcome["costs"].values())
    shown = run(policy).stdout
    assert f"{Limits().call_fuel:,}" in shown
    assert f"{dearest:,}" in shown


def test_one_fails(policy: Path, fixtures: Path) -> None:
    (fixtures / "wrong.json").write_text(json.dumps(FAILING))
    code, found = as_json(policy)
    assert (code, found["passed"], found["failed"]) == (1, 2, 1)
    done = run(policy)
    assert (done.returncode, done.stderr) == (1, "")
    for part in ("wrong", "wrong.json:1", "Bob writes.", "user:bob", "rules[0]", "1 failed", "2 passed"):
        assert part in done.stdout
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert any(line.startswith('- {"kind":"allow"}') for line in lines)
    assert any(line.startswith('+ {"kind":"deny","reason":"not bob"}') for line in lines)
    assert "Anyone reads" not in done.stdout


def test_the_order_of_arguments(policy: Path, fixtures: Path, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, [FAILING, PASSING[0]])))
    assert as_json(policy, tmp_path / "more.jsonl")[1]["total"] == 2
    code, found = as_json(policy, fixtures, tmp_path / "more.jsonl")
    assert (code, [one["name"] for one in found["outcomes"]]) == (
        1,
        ["orders[0]", "orders[1]", "more[0]", "more[1]"],
    )


def test_nothing_is_a_failure(policy: Path, fixtures: Path) -> None:
    assert as_json(policy, "-k", "no such thing")[0] == 1
    (fixtures / "orders.json").write_text("[]")
    code, found = as_json(policy)
    assert (code, found["total"], found["outcomes"]) == (1, 0, [])
    assert "nothing was tested" in run(policy).stdout
    (fixtures / "orders.json").unlink()
    assert run(policy).returncode == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", '[{"input": {}, "input": {}}]', '{"input": {"action": "a"}, "expected": "allow"}', "\xff"],
)
def test_a_bad_fixture_is_exit_code_2(text: str, policy: Path, fixtures: Path) -> None:
    (fixtures / "bad.json").write_bytes(text.encode("latin-1"))
    done = run(policy)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(fixtures / "bad.json") in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_cannot_be_carried_out_is_exit_code_2(policy: Path, fixtures: Path, tmp_path: Path) -> None:
    module = tmp_path / "policy.wasm"
    module.write_bytes(build_policy(DOCUMENT))
    (tmp_path / "text.wasm").write_text("(module)")
    own = tmp_path / "own.json"
    own.write_text(json.dumps({**FAILING, "policy": {}}))
    for arguments in (
        [tmp_path / "absent.json"],
        [tmp_path],
        [tmp_path / "text.wasm"],
        [policy, tmp_path / "absent"],
        [policy, "--engine", "v8"],
        [policy, "--min-coverage", "101"],
        [policy, "--junit", tmp_path / "absent" / "r.xml"],
        [module, "--engine", "local"],
        [module, "--coverage"],
        [module, "--min-coverage", "50"],
        [policy, own],  # it would say nothing about the policy
        ["--own-policy", fixtures],
        ["--own-policy", own, "--coverage"],
        [],
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert "Traceback" not in done.stderr


def test_an_engine_that_is_not_here_is_exit_code_2(policy: Path, fixtures: Path) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'wasmer': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from capgate.cli import main\n"
        "main()\n"
    )

    def without_wasmer(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "test", str(policy), *map(str, arguments)]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False)

    done = without_wasmer("--engine", "wasmer")
    assert (done.returncode, done.stdout) == (2, "")
    assert "wasmer" in done.stderr
    found = without_wasmer("--json")
    assert (found.returncode, json.loads(found.stdout)["runtimes"]) == (0, ["local", "wasmtime"])


# -- what is judged, and by whom


def test_engines(policy: Path, fixtures: Path, tmp_path: Path) -> None:
    assert as_json(policy, "--engine", "wasmtime")[1]["runtimes"] == ["wasmtime"]
    both = as_json(policy, "--engine", "wasmtime", "--engine", "local")[1]
    assert both["runtimes"] == ["local", "wasmtime"]
    assert as_json(policy, "--engine", "auto")[1]["runtimes"] == [EXPECTED_ENGINES[0]]
    module = tmp_path / "m.wasm"
    module.write_bytes(build_policy(DOCUMENT))
    code, found = as_json(module)
    assert (code, found["runtimes"], found["policy"]["kind"]) == (0, list(EXPECTED_ENGINES), "module")
    assert found["policy"]["name"] == "orders"


def test_a_module_that_traps_and_one_that_never_returns(tmp_path: Path) -> None:
    module = tmp_path / "m.wasm"
    module.write_bytes(OBEDIENT)
    cases = [
        {"input": {**READ, "timestamp": TRAP}, "expected": deny("policy_trap")},
        {"input": {**READ, "timestamp": ENDLESS}, "expected": deny("policy_timeout")},
        {"input": READ, "expected": ALLOW},
    ]
    (tmp_path / "f.json").write_text(json.dumps(cases))
    code, found = as_json(module, tmp_path / "f.json")
    assert (code, found["passed"]) == (0, 3)


def test_limits_come_from_the_environment(policy: Path, fixtures: Path, tmp_path: Path) -> None:
    long = {**READ, "resource": {"kind": "sql_query", "id": "x" * 2_000}}
    (fixtures / "long.json").write_text(json.dumps({"input": long, "expected": deny("malformed_input")}))
    command = ("test", str(policy), "--engine", "local")
    assert capgate(*command).returncode == 1
    assert capgate(*command, CAPGATE_INPUT_BYTES="1024").returncode == 0
    assert capgate(*command, CAPGATE_FUEL="0").returncode == 2


def test_keyword(policy: Path, fixtures: Path) -> None:
    (fixtures / "wrong.json").write_text(json.dumps(FAILING))
    for keyword, total in (("AUDIT", 1), ("bob", 2), ("orders", 2), ("wrong", 1), ("[1]", 1)):
        assert as_json(policy, "-k", keyword)[1]["total"] == total, keyword


def test_each_with_its_own_policy(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{**one, "policy": DOCUMENT} for one in (*PASSING, FAILING)]))
    code, found = as_json("--own-policy", tmp_path)
    assert (code, found["passed"], found["failed"], found["policy"]) == (1, 2, 1, None)
    done = run("--own-policy", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "rules[0]" in done.stdout
    some = sorted((ROOT / "fixtures" / "policy").glob("rules_*.json"))[:4]
    assert as_json("--own-policy", *some)[0] == 0


# -- coverage and JUnit


def test_coverage(policy: Path, fixtures: Path) -> None:
    code, found = as_json(policy, "--coverage")
    assert (code, found["coverage"]["covered"], found["coverage"]["total"]) == (0, 2, 3)
    assert found["coverage"]["missing"] == [{"path": "sql", "entry": "list", "operation": "read"}]
    assert as_json(policy)[1]["coverage"] is None
    assert [run(policy, "--min-coverage", wanted).returncode for wanted in ("0", "66.6", "66.7", "100")] == [0, 0, 1, 1]
    done = run(policy, "--min-coverage", "100")
    assert "'list'" in done.stdout
    assert "66.6%" in done.stdout
    (fixtures / "list.json").write_text(json.dumps({"input": LIST, "expected": ALLOW}))
    assert run(policy, "--min-coverage", "100").returncode == 0


def test_junit(policy: Path, fixtures: Path, tmp_path: Path) -> None:
    (fixtures / "wrong.json").write_text(json.dumps(FAILING))
    report = tmp_path / "r.xml"
    for more in ([], ["--json"]):
        report.write_text("an older one")
        assert run(policy, "--junit", report, *more).returncode == 1
        root = ElementTree.parse(report).getroot()
        runtimes = 1 + len(EXPECTED_ENGINES)
        assert (root.get("tests"), root.get("failures")) == (str(3 * runtimes), str(runtimes))
        assert {case.get("name") for case in root.iter("testcase")} == {"orders[0]", "orders[1]", "wrong"}


# -- on a terminal


def test_output_that_has_not_every_letter(policy: Path, fixtures: Path) -> None:
    (fixtures / "grün.json").write_text(json.dumps({**FAILING, "description": "Öffnen …"}))
    done = capgate("test", str(policy), "--engine", "local", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (1, "")
    assert "gr\\xfcn" in done.stdout


def readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read, or the end, in time. Not by select(), which knows 1,024 descriptors only."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(1_000 * seconds))


def test_on_a_terminal_there_is_colour_and_progress(policy: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.json"
    many.write_text(json.dumps(PASSING * 200))
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "capgate", "test", str(policy), str(many)],
        env=environment(TERM="xterm-256color"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while readable(ours, PATIENCE):
            part = os.read(ours, 65_536)
            shown += part
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
        assert child.wait(PATIENCE) == 0
    assert b"\x1b[" in shown
    assert b"/400" in shown
    assert b"400 passed" in shown


# -- watching


class Watching:
    """``capgate test --watch`` as a child, and what it has said so far."""

    def __init__(self, *arguments: object) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "capgate", "test", *map(str, arguments), "--watch"],
            env=environment(PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = ""

    def until(self, pattern: str, times: int = 1) -> None:
        """Read until ``pattern`` was there so many times."""
        until = time.monotonic() + PATIENCE
        stream = self.child.stdout
        assert stream is not None
        while len(re.findall(pattern, self.said)) < times:
            left = until - time.monotonic()
            assert left > 0, self.said
            if readable(stream.fileno(), left):
                part = os.read(stream.fileno(), 65_536)
                assert part, self.said
                self.said += part.decode()

    def end(self) -> int:
        self.child.send_signal(signal.SIGINT)
        return self.child.wait(PATIENCE)

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()


def test_watching(policy: Path, fixtures: Path) -> None:
    with Watching(policy, "--engine", "local") as watching:
        watching.until("watching;")
        assert "2 passed" in watching.said
        # A new folder, a file that is replaced as editors do it, one that is bad for a while, one that is gone.
        (fixtures / "new").mkdir()
        (fixtures / "new" / "wrong.json").write_text(json.dumps(FAILING))
        watching.until("2 passed, 1 failed")
        other = policy.with_suffix(".new")
        other.write_text(json.dumps({"sql": "any"}))
        os.replace(other, policy)
        watching.until("policy 0 [^\n]*\n(?s:.*)2 passed, 1 failed")
        (fixtures / "orders.json").write_text("{")
        watching.until("capgate: ")
        (fixtures / "orders.json").unlink()
        watching.until(r"1 fixture: 1 passed[^\n]*\nwatching;")
        assert watching.end() == 0


def test_the_exit_code_of_watching_is_that_of_the_last_run(policy: Path, fixtures: Path) -> None:
    (fixtures / "orders.json").write_text(json.dumps(FAILING))
    with Watching(policy, "--engine", "local") as watching:
        watching.until("watching;")
        assert watching.end() == 1
    policy.write_text("{")
    with Watching(policy, "--engine", "local") as watching:
        watching.until("watching;")
        assert watching.end() == 2


def test_without_watchfiles_it_says_what_to_install(policy: Path, fixtures: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['watchfiles'] = None\n"
        "from capgate.cli import main\n"
        f"sys.argv = ['capgate', 'test', {str(policy)!r}, '--watch']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert "watchfiles" in done.stderr
    assert "capgate[cli]" in done.stderr
    assert "Traceback" not in done.stderr
