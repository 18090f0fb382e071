"""``capgate contract``: what it writes, what it says, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate import HandlerContract, Settings, build_policy
from capgate.actions import policy_hash
from capgate.middleware.contract import contract_of
from capgate.routes.contract import ZEROS, ContractAction, ContractRequirement, ContractRoute
from examples.starlette_orders.app import POLICY, create_app

from ..support.command import capgate, environment
from .test_commands import call

pytestmark = pytest.mark.slow

ORDERS = "examples.starlette_orders.app"


def run_in(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """The installed command, as a user calls it in ``folder``, which is then not on the path by itself."""
    code = "import sys; sys.path.remove(''); from capgate.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def expected() -> HandlerContract:
    """Of the example, in a process where nothing else registered an action."""
    settings = Settings(policy=POLICY, service="orders", public=("/health",))
    return contract_of(create_app(), settings)


def test_export_of_an_application_with_a_gate(tmp_path: Path) -> None:
    printed = capgate("contract", "export", f"{ORDERS}:app")
    assert printed.returncode == 0
    contract = HandlerContract.from_json(printed.stdout)
    assert msgspec.structs.replace(contract, policy_hash=policy_hash()) == expected()
    assert contract.to_json().decode() == printed.stdout
    assert "/internal/dump" in printed.stderr  # a route that is denied, since it declares nothing
    output = tmp_path / "contract.json"
    written = capgate("contract", "export", "--factory", f"{ORDERS}:create_app", "-o", str(output))
    assert (written.returncode, written.stdout) == (0, "")
    assert output.read_text() == printed.stdout


APP = """
import capgate
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
print("noise on standard output")

@capgate.requires("db.read", resource="sql_query:list")
async def endpoint(request):
    return PlainTextResponse("")

class Places:
    app = Starlette(routes=[Route("/{id}", endpoint)])

bare = Places.app
wrapped = capgate.CapabilityMiddleware(Starlette(routes=bare.routes), settings=capgate.Settings(service="wrapped"))
resolved = Starlette(routes=bare.routes)
resolved.add_middleware(capgate.CapabilityMiddleware, settings=capgate.Settings(), resolver=lambda scope: None)
broken = Starlette(routes=bare.routes)
broken.add_middleware(capgate.CapabilityMiddleware, settings="nonsense")
checked = Starlette(routes=bare.routes)
checked.add_middleware(capgate.CapabilityMiddleware, settings=capgate.Settings(), checker=capgate.LocalPolicyChecker(
    capgate.RuntimePolicy.from_document({"sql": ["list"]})))

def fails():
    raise LookupError("no database here")

def leaves():
    raise SystemExit("bye")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "syntax.py").write_text("def")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    (tmp_path / "needs.py").write_text("import httpx.absent")
    (tmp_path / "policy.wasm").write_bytes(build_policy({"sql": ["list"]}))
    return tmp_path


def exported(folder: Path, name: str, **changes: str) -> HandlerContract:
    done = run_in(folder, "contract", "export", name, **changes)
    assert done.returncode == 0, done.stderr
    return HandlerContract.from_json(done.stdout)


def test_export_looks_in_the_current_folder_and_takes_the_settings_of_the_environment(folder: Path) -> None:
    contract = exported(folder, "shop:Places.app")
    assert (contract.wasm_policy_hash, contract.artifact_sha256, contract.service) == (ZEROS, ZEROS, None)
    assert [route.path for route in contract.routes] == ["/{id}"]
    variables = {"CAPGATE_ARTIFACT": "policy.wasm", "CAPGATE_SERVICE": "shop", "CAPGATE_CONTRACT": "not-yet.json"}
    contract = exported(folder, "shop:bare", **variables)
    assert contract.wasm_policy_hash == contract.artifact_sha256 != ZEROS
    assert contract.service == "shop"
    again = run_in(folder, "contract", "export", "shop:bare", **variables, PYTHONHASHSEED="7")
    assert again.stdout.encode() == contract.to_json()


def test_export_takes_the_settings_of_the_gate_wherever_it_is(folder: Path) -> None:
    assert exported(folder, "shop:wrapped", CAPGATE_SERVICE="environment").service == "wrapped"
    checked = exported(folder, "shop:checked", CAPGATE_ARTIFACT="policy.wasm")
    assert (checked.wasm_policy_hash, checked.artifact_sha256 == ZEROS) == (ZEROS, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["shop"],
        [":app"],
        ["shop:"],
        ["absent:app"],
        ["shop:absent"],
        ["shop:Places.absent"],
        ["shop:APP"],
        ["shop:__name__"],
        ["shop:fails"],
        ["--factory", "shop:fails"],
        ["--factory", "shop:leaves"],
        ["--factory", "shop:endpoint"],
        ["shop:resolved"],
        ["shop:broken"],
        ["syntax:app"],
        ["leaves:app"],
        ["needs:app"],
        [".shop:app"],
        ["shop:bare", "-o", "absent/contract.json"],
        ["shop:bare", "-o", "."],
    ],
    ids=" ".join,
)
def test_an_application_that_cannot_be_had_is_exit_code_2(folder: Path, arguments: list[str]) -> None:
    done = run_in(folder, "contract", "export", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "capgate[cli]" not in done.stderr  # it is the application that lacks something
    assert done.stderr.splitlines()[-1].startswith("capgate: ")
    assert not (folder / "contract.json").exists()


def test_a_setting_that_cannot_be_used_is_exit_code_2(folder: Path) -> None:
    for variables in ({"CAPGATE_ARTIFACT": "absent.wasm"}, {"CAPGATE_NONSENSE": "1"}, {"CAPGATE_POOL_SIZE": "0"}):
        done = run_in(folder, "contract", "export", "shop:bare", **variables)
        assert (done.returncode, done.stdout) == (2, "")


# -- diff


def written(folder: Path, name: str, contract: HandlerContract) -> str:
    path = folder / name
    path.write_bytes(contract.to_json())
    return str(path)


def contract(resource: str, *, dynamic: bool = False, **more: Any) -> HandlerContract:
    needed = ContractRequirement("cache.read", resource, dynamic, None, False, ())
    return HandlerContract(
        **{"policy_hash": policy_hash(), **more},
        routes=(ContractRoute("/a/{name}", ("GET",), "declared", (needed,)),),
        actions=(ContractAction("cache.read", "cache", resource.partition(":")[0], True, ()),),
    )


def test_equal_contracts_are_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (written(tmp_path, name, contract("namespace:a")) for name in ("a.json", "b.json"))
    assert call("contract", "diff", one, other) == 0
    assert capsys.readouterr().out == "no changes\n"
    assert call("contract", "diff", "--json", one, other) == 0
    assert json.loads(capsys.readouterr().out) == {"widens": 0, "narrows": 0, "changes": []}


def test_a_change_is_exit_code_1_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = written(tmp_path, "old.json", contract("namespace:a"))
    new = written(tmp_path, "new.json", contract("namespace:{name}", dynamic=True, artifact_sha256="1" * 64))
    assert call("contract", "diff", "--json", old, new) == 1
    told = json.loads(capsys.readouterr().out)
    found = [(one["field"], one["what"], one["name"], one["effect"]) for one in told["changes"]]
    assert found == [
        ("artifactSha256", "changed", "artifactSha256", None),
        ("routes", "changed", "GET /a/{name}", "widens"),
        ("routes", "changed", "GET /a/{name}", "narrows"),
        ("sections", "removed", "cache", "narrows"),
        ("sections", "changed", "cache", "widens"),
    ]
    assert (told["widens"], told["narrows"]) == (2, 2)
    assert told["changes"][2]["after"]["resource"] == "namespace:{name}"
    assert call("contract", "diff", old, new) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines[:-1]] == ["~", "+", "-", "-", "+"]
    assert [line[2:] for line in lines[:-1]] == [one["words"] for one in told["changes"]]


def test_what_is_shown_does_nothing_to_a_terminal(tmp_path: Path) -> None:  # O3
    old = written(tmp_path, "old.json", contract("report:a"))
    new = written(tmp_path, "new.json", contract("report:[red]\x1b[31m\u202e\n:smile:"))
    done = capgate("contract", "diff", old, new)
    assert done.returncode == 1
    assert all(line.isascii() and line.isprintable() for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) == 5
    assert r"[red]\x1b[31m\u202e\n:smile:" in done.stdout


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1, "format": 1}'])
def test_a_file_that_is_no_contract_is_exit_code_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # A2
    good = written(tmp_path, "good.json", contract("namespace:a"))
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    for pair in ((good, str(bad)), (str(bad), good), (good, str(tmp_path / "absent")), (str(tmp_path), good)):
        assert call("contract", "diff", *pair) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("capgate: ")


@pytest.mark.parametrize(
    "arguments", [["contract"], ["contract", "export"], ["contract", "diff", "a"], ["contract", "nonsense"]]
)
def test_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2


@pytest.mark.parametrize("command", ["export", "diff"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("contract", command, "--help") == 0
    assert "Try:" in capsys.readouterr().out


def test_the_contract_of_the_demo(tmp_path: Path) -> None:
    """Its actions include one of the application's own."""
    code = "from capgate.cli.demo.app import create_app; from tests.support.gates import make_checker\n"
    (tmp_path / "shown.py").write_text(code + "app = create_app(make_checker())\n")
    found = exported(tmp_path, "shown:app")
    assert "invoice.send" in {action.name for action in found.actions}
    assert found.sections["actions"].dynamic
    assert found.service == "demo"
