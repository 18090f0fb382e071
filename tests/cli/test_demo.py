"""``capgate demo``: real requests against a real server, and an exit code that can be relied on."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
import typer

from capgate.cli.demo import app as demo_app
from capgate.cli.demo.command import demo
from capgate.cli.demo.exchanges import answer
from capgate.cli.options import EngineName
from capgate.errors import ConfigError, PolicyUnavailable
from capgate.model import REASONS

from ..support.command import capgate, environment
from ..support.engines import EXPECTED_ENGINES

pytestmark = pytest.mark.slow


def test_every_answer_is_the_expected_one(engine_name: str) -> None:
    done = capgate("demo", "--engine", engine_name, "--repeat", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["engine"], report["unexpected"]) == (engine_name, 0)
    assert len(report["exchanges"]) == len(demo_app.CASES)
    for sent, case in zip(report["exchanges"], demo_app.CASES, strict=True):
        assert sent["got"] == sent["expected"] == answer(case.status, case.reason)
        assert (sent["check_us"] is None) == (sent["asked"] is None)


def test_auto_takes_the_first_engine_that_imports() -> None:
    assert json.loads(capgate("demo", "--repeat", "1", "--json").stdout)["engine"] == EXPECTED_ENGINES[0]


def test_the_report_for_people_shows_policy_declaration_answers_and_digest() -> None:
    done = capgate("demo", "--repeat", "1")
    assert (done.returncode, done.stderr) == (0, "")
    for shown in ("api.example.com", "@requires", "403 not_in_allowlist", "sha256", EXPECTED_ENGINES[0]):
        assert shown in done.stdout
    assert "Traceback" not in done.stdout


def test_the_cases_allow_and_deny_for_several_reasons() -> None:
    reasons = {case.reason for case in demo_app.CASES}
    assert None in reasons
    assert len(reasons) >= 5
    assert reasons - {None} <= REASONS


def test_one_wrong_answer_is_exit_code_1(
    engine_name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expects_less = demo_app.Case("GET", "/orders", "a query that the policy lists", 403, "not_in_allowlist")
    monkeypatch.setattr(demo_app, "CASES", (*demo_app.CASES[:2], expects_less))
    with pytest.raises(typer.Exit) as caught:
        demo(EngineName(engine_name), repeat=1)
    assert caught.value.exit_code == 1
    out = capsys.readouterr().out
    assert "expected 403 not_in_allowlist" in out
    assert "1 unexpected" in out


def test_the_demo_can_fail_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_app, "Settings", lambda **values: "no settings")
    with pytest.raises(PolicyUnavailable):
        demo(repeat=1, as_json=True)


def test_a_port_that_is_taken_is_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = capgate("demo", "--port", str(port))
        with pytest.raises(ConfigError) as caught:
            demo(repeat=1, as_json=True, port=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert caught.value.seen == port


@contextlib.contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``capgate demo --serve``, and its URL once it has sent its own requests."""
    command = [sys.executable, "-m", "capgate", "demo", "--serve", "--json", "--repeat", "1"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            report = json.loads("".join(_until(lines, "}\n")))
            yield process, report["url"]
        finally:
            process.kill()


def _until(lines: Iterator[str], last: str) -> Iterator[str]:
    for line in lines:
        yield line
        if line == last:
            return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_until_it_is_told_to_end(number: signal.Signals) -> None:
    with serving() as (process, url):
        assert httpx.get(f"{url}/orders", trust_env=False).status_code == 200
        denied = httpx.get(f"{url}/proxy/evil.example", trust_env=False)
        assert (denied.status_code, denied.json()["reason"]) == (403, "not_in_allowlist")
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
    assert f"curl -i {url}/orders" in errors
    assert denied.json()["decision_id"] in errors  # a denial is logged while it serves
    assert "Traceback" not in errors
