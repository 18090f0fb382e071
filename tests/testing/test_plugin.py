"""The pytest plugin as a user has it: a project of its own, and pytest in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

from capgate.artifact.build import build_policy

from ..support.command import environment
from ..support.engines import EXPECTED_ENGINES

pytestmark = pytest.mark.slow

RUNTIMES: Final = ("local", *EXPECTED_ENGINES)
DOCUMENT: Final[dict[str, Any]] = {
    "sql": ["audit"],
    "rules": [{"effect": "deny", "actions": ["db.write"], "actors": ["user:bob"], "reason": "not bob"}],
}
READ: Final = {"action": "db.read", "resource": {"kind": "sql_query", "id": "audit"}}
BOB: Final = {**READ, "action": "db.write", "actor": {"kind": "user", "id": "bob"}}
GOOD: Final = {"description": "Anyone reads.", "input": READ, "expected": {"kind": "allow"}}
WRONG: Final = {"description": "Bob writes.", "input": BOB, "expected": {"kind": "allow"}}
CONFIGURED: Final = "capgate_policy = policy.json\ncapgate_fixtures = fixtures"
PLUGIN: Final = "-p capgate.testing.plugin"


class Project:
    """A folder with a configuration, a policy, fixtures and tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.put("policy.json", DOCUMENT)
        self.put("fixtures/good.json", GOOD)
        self.put("tests/test_own.py", "def test_own():\n    pass\n")
        self.configure(f"addopts = {PLUGIN}", CONFIGURED, "testpaths = tests")

    def put(self, name: str, value: object) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))

    def configure(self, *lines: str) -> None:
        self.put("pytest.ini", "\n".join(["[pytest]", *lines]))

    def run(self, *arguments: str, **changes: str) -> Ran:
        """Run pytest without what other packages announce, which takes longer to load than all that is tested."""
        changes = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **changes}
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        options = ["-p", "no:cacheprovider", "-W", "error", "--strict-config", "--junitxml", str(report)]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=self.folder,
            env=environment(**changes),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        cases = list(ElementTree.parse(report).getroot().iter("testcase")) if report.exists() else []
        return Ran(done.returncode, done.stdout, done.stderr, cases)


class Ran:
    """What pytest did: its exit code, what it printed, and which tests passed and failed."""

    def __init__(self, code: int, out: str, err: str, cases: list[ElementTree.Element]) -> None:
        self.code, self.out, self.err = code, out, err
        self.passed = sorted(str(case.get("name")) for case in cases if not len(case))
        self.failed = sorted(str(case.get("name")) for case in cases if len(case))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def on_each(*names: str) -> list[str]:
    return sorted(f"{name}[{runtime}]" for name in names for runtime in RUNTIMES)


def test_each_fixture_is_a_test_on_each_runtime(project: Project) -> None:
    project.put("fixtures/more/several.json", [GOOD, GOOD])
    project.put("fixtures/lines.jsonl", json.dumps(GOOD))
    project.put("fixtures/.hidden.json", "no fixture")
    project.put("fixtures/README.md", "no fixture")
    ran = project.run()
    assert (ran.code, ran.failed) == (0, [])
    assert ran.passed == sorted([*on_each("good", "several[0]", "several[1]", "lines[0]"), "test_own"])


def test_a_wrong_answer_is_told_without_a_traceback(project: Project) -> None:
    project.put("fixtures/wrong.json", WRONG)
    ran = project.run()
    assert (ran.code, ran.failed) == (1, on_each("wrong"))
    assert ran.passed == sorted([*on_each("good"), "test_own"])
    for part in ("wrong.json:1", "Bob writes.", "user:bob", "rules[0]", '- {"kind":"allow"}', '"not bob"}  wasmtime'):
        assert part in ran.out
    assert "Traceback" not in ran.out
    assert "plugin.py" not in ran.out


def test_selecting(project: Project) -> None:
    project.put("fixtures/other.json", GOOD)
    assert project.run("tests").passed == ["test_own"]
    assert project.run("fixtures/other.json").passed == on_each("other")
    assert project.run("fixtures/other.json::other[wasmtime]").passed == ["other[wasmtime]"]
    assert project.run("-k", "other and local").passed == ["other[local]"]
    # In a folder that is collected anyway, once.
    project.configure(f"addopts = {PLUGIN}", CONFIGURED)
    assert project.run().passed == sorted([*on_each("good", "other"), "test_own"])
    project.configure(f"addopts = {PLUGIN}", CONFIGURED, "testpaths = tests fixtures")
    assert project.run().passed == sorted([*on_each("good", "other"), "test_own"])


def test_nothing_is_left_out_in_silence(project: Project) -> None:
    project.put("fixtures/build/more.json", GOOD)  # a name of norecursedirs
    ran = project.run()
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "more.json" in ran.err
    assert project.run("--ignore", "fixtures/build").code == 0
    assert project.run("tests").code == 0
    project.configure(f"addopts = {PLUGIN}", CONFIGURED, "norecursedirs = .*")
    assert project.run().passed == sorted([*on_each("good", "more"), "test_own"])


@pytest.mark.parametrize("runtimes", [["local"], ["wasmtime"], ["local", "wasmtime"]], ids=" ".join)
def test_engines(runtimes: list[str], project: Project) -> None:
    project.configure(f"addopts = {PLUGIN}", CONFIGURED, f"capgate_engines = {' '.join(runtimes)}")
    assert project.run("fixtures").passed == sorted(f"good[{runtime}]" for runtime in runtimes)


def test_a_module(project: Project) -> None:
    (project.folder / "policy.wasm").write_bytes(build_policy(DOCUMENT))
    project.put("fixtures/wrong.json", WRONG)
    project.configure(f"addopts = {PLUGIN}", "capgate_policy = policy.wasm", "capgate_fixtures = fixtures")
    ran = project.run("fixtures")
    assert ran.passed == sorted(f"good[{name}]" for name in EXPECTED_ENGINES)
    assert ran.failed == sorted(f"wrong[{name}]" for name in EXPECTED_ENGINES)


def test_fixtures_that_bring_their_policy(project: Project) -> None:
    project.configure(f"addopts = {PLUGIN}", "capgate_fixtures = fixtures own.json")
    project.put("fixtures/good.json", {**GOOD, "policy": DOCUMENT})
    project.put("own.json", [{**GOOD, "policy": {}}, {**GOOD, "policy": DOCUMENT}])
    ran = project.run()
    assert (ran.code, ran.failed) == (1, on_each("own[0]"))
    assert ran.passed == sorted([*on_each("good", "own[1]"), "test_own"])


def test_limits_come_from_the_environment(project: Project) -> None:
    long = {**READ, "resource": {"kind": "sql_query", "id": "x" * 2_000}}
    project.put("fixtures/good.json", {"input": long, "expected": {"kind": "deny", "reason": "malformed_input"}})
    assert project.run().failed == on_each("good")
    assert project.run(CAPGATE_INPUT_BYTES="1024").failed == []
    assert project.run(CAPGATE_INPUT_BYTES="x").code == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", '{"input": {}, "input": {}}', json.dumps({**GOOD, "policy": {}})]
)
def test_a_file_that_cannot_be_used_is_an_error(text: str, project: Project) -> None:
    project.put("fixtures/bad.json", text)
    ran = project.run()
    assert ran.code == pytest.ExitCode.INTERRUPTED  # errors while collecting
    assert "bad.json" in ran.out
    assert "Traceback" not in ran.out


@pytest.mark.parametrize(
    "lines",
    [
        ["capgate_policy = absent.json", "capgate_fixtures = fixtures"],
        ["capgate_policy = policy.json", "capgate_fixtures = absent"],
        ["capgate_policy = policy.json", "capgate_fixtures = tests"],  # where there are none
        ["capgate_policy = fixtures/good.json", "capgate_fixtures = fixtures"],
        ["capgate_policy = policy.json"],
        [CONFIGURED, "capgate_engines = v8"],
        [CONFIGURED, "capgate_engines ="],
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_used(lines: list[str], project: Project) -> None:
    project.configure(f"addopts = {PLUGIN}", *lines)
    ran = project.run()
    assert (ran.code, ran.passed) == (pytest.ExitCode.USAGE_ERROR, [])
    assert "Traceback" not in ran.err
    assert "INTERNALERROR" not in ran.err


def test_a_policy_that_does_not_run_fails_each_fixture(project: Project) -> None:
    import wasmtime

    (project.folder / "policy.wasm").write_bytes(wasmtime.wat2wasm("(module)"))
    project.configure(f"addopts = {PLUGIN}", "capgate_policy = policy.wasm", "capgate_fixtures = fixtures")
    ran = project.run()
    assert (ran.code, ran.failed) == (1, sorted(f"good[{name}]" for name in EXPECTED_ENGINES))
    assert "RestrictedModule" in ran.out
    assert "Traceback" not in ran.out


def test_the_fixtures_for_tests(project: Project) -> None:
    project.put(
        "tests/test_own.py",
        "import pytest\n"
        "from capgate import PolicyInput, Resource, Deny, Allow\n"
        "QUESTION = PolicyInput('db.read', resource=Resource('sql_query', 'q'))\n"
        "@pytest.mark.parametrize('time', [1, 2])\n"
        "def test_gate(capgate_gate, time):\n"
        "    assert capgate_gate.questions == []\n"
        "    capgate_gate.deny('db.read', 'sql_query:q', reason='told')\n"
        "    assert capgate_gate.evaluate_now(QUESTION) == Deny('told')\n"
        "    assert capgate_gate.denied == ['db.read sql_query:q']\n"
        "@pytest.mark.parametrize('engine', ['local', 'auto'])\n"
        "def test_checker(capgate_checker, engine):\n"
        "    assert capgate_checker({'sql': ['q']}, engine).evaluate_now(QUESTION) == Allow()\n",
    )
    project.configure(f"addopts = {PLUGIN}", "testpaths = tests")
    ran = project.run()
    assert (ran.code, ran.failed, len(ran.passed)) == (0, [], 4)


def test_without_a_configuration_it_does_nothing(project: Project) -> None:
    project.configure(f"addopts = {PLUGIN}")
    ran = project.run()
    assert (ran.code, ran.passed) == (0, ["test_own"])


def test_whoever_does_not_ask_for_it_does_not_have_it(project: Project) -> None:
    """pytest loads what packages announce in every run on the machine, so this package announces nothing."""
    project.put("tests/test_own.py", "import sys\n\ndef test_own():\n    assert 'capgate' not in sys.modules\n")
    project.configure()
    ran = project.run(PYTEST_DISABLE_PLUGIN_AUTOLOAD="")
    assert (ran.code, ran.passed) == (0, ["test_own"])
    from importlib.metadata import distribution

    assert [one.name for one in distribution("capgate").entry_points if one.group == "pytest11"] == []
