"""Shows what each server does where the gate cannot start, and where no lifespan starts it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ...support.servers import PATIENCE, SERVERS, Server, running
from .policies import DOCUMENT, POLICIES, configure

pytestmark = pytest.mark.slow

WITH_LIFESPAN = [server for server in SERVERS if server.runs_lifespan]
WITHOUT_LIFESPAN = [server for server in SERVERS if server.without_lifespan is not None]
UVICORN = SERVERS[0]
HYPERCORN = [server for server in SERVERS if server.parser == "hypercorn"]


def missing_policy(folder: Path) -> dict[str, str]:
    variables = configure("document", folder)
    Path(variables["CAPGATE_POLICY"]).unlink()
    return variables


def check_that_it_ends(
    server: Server, folder: Path, variables: dict[str, str], shown: Iterable[str], code: int, options: str = ""
) -> None:
    with running(server, "starlette", folder, variables, options=options) as child:
        assert child.wait() == code, child.output
        assert all(text in child.output for text in shown), child.output
        assert child.journal.read().lines == []  # not even the application's own lifespan began


@pytest.mark.parametrize("policy", ["document", "artifact", "store"])
@pytest.mark.parametrize("server", WITH_LIFESPAN, ids=str)
def test_a_server_ends_with_the_reason_where_the_gate_cannot_start(server: Server, policy: str, tmp_path: Path) -> None:
    variables = {
        "document": missing_policy(tmp_path),
        "artifact": {"CAPGATE_ARTIFACT": str(tmp_path / "missing.wasm")},
        "store": {
            **configure("store", tmp_path),
            "CAPGATE_POLICY_NAME": "nobody",
        },
    }[policy]
    shown = {"document": "policy.json", "artifact": "missing.wasm", "store": "nobody"}[policy]
    # Of two workers that fail at once, gunicorn exits with 1 instead: the second surprises it while it halts.
    options = "--workers 1" if server.workers > 1 else ""
    check_that_it_ends(server, tmp_path, variables, [shown], server.fails_with, options)


@pytest.mark.parametrize("server", HYPERCORN, ids=str)
def test_hypercorn_without_a_worker_process_says_so_in_its_exit_code(server: Server, tmp_path: Path) -> None:
    check_that_it_ends(server, tmp_path, missing_policy(tmp_path), ["policy.json"], 1, "--workers 0")


@pytest.mark.parametrize(
    ("document", "variables", "shown"),
    [
        ({"sqll": ["good"]}, {}, ["sqll"]),
        (DOCUMENT, {"CAPGATE_STRICT": "true"}, ["/undeclared"]),
        (DOCUMENT, {"CAPGATE_POLCY": "x"}, ["CAPGATE_POLCY", "CAPGATE_POLICY"]),
    ],
    ids=["mistyped section", "undeclared route", "mistyped variable"],
)
def test_other_reasons(document: object, variables: dict[str, str], shown: list[str], tmp_path: Path) -> None:
    configured = configure("document", tmp_path)
    Path(configured["CAPGATE_POLICY"]).write_text(json.dumps(document))
    check_that_it_ends(UVICORN, tmp_path, {**configured, **variables}, shown, UVICORN.fails_with)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("server", WITHOUT_LIFESPAN, ids=str)
def test_without_lifespan_the_first_requests_start_the_gate(server: Server, policy: str, tmp_path: Path) -> None:
    """However many come first, and at once: the policy answers each of them."""
    paths = ["/good", "/bad"] * 10
    with running(server, "starlette", tmp_path, configure(policy, tmp_path), lifespan=False) as child:
        with ThreadPoolExecutor(len(paths)) as threads:
            answers = list(threads.map(child.ask, paths))
        assert [status for status, _ in answers] == [200, 403] * 10
        lines = child.journal.read()
        assert (lines.lifespan, lines.ran, lines.allowed) == ([], ["good"] * 10, ["good"] * 10)
        refused = {body["decision_id"] for status, body in answers if status == 403}
        assert {event["decision_id"] for event in lines.denied} == refused
        assert {event["reason"] for event in lines.denied} == {"not_in_allowlist"}
        assert child.stop() == server.stops_with, child.output


@pytest.mark.parametrize("server", WITHOUT_LIFESPAN, ids=str)
def test_without_lifespan_and_policy_everything_is_denied(server: Server, tmp_path: Path) -> None:
    with running(server, "fastapi", tmp_path, missing_policy(tmp_path), lifespan=False) as child:
        for path in ("/good", "/bad", "/undeclared", "/good"):
            status, body = child.ask(path)
            assert (status, body["reason"]) == (403, "policy_unavailable")
            denied = child.journal.read().denied
            assert [event["decision_id"] for event in denied] == [body["decision_id"]]
        assert "policy.json" in child.output  # the reason is in the log
        assert child.stop() == server.stops_with, child.output


def test_without_lifespan_a_policy_that_comes_later_is_found(tmp_path: Path) -> None:
    variables = missing_policy(tmp_path)
    with running(UVICORN, "starlette", tmp_path, variables, lifespan=False) as child:
        assert child.ask("/good")[0] == 403
        configure("document", tmp_path)
        until = time.monotonic() + PATIENCE / 6
        while (status := child.ask("/good")[0]) != 200 and time.monotonic() < until:
            time.sleep(0.1)
        assert status == 200
