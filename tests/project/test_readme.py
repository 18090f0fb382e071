"""The README is held to what it says: its commands make their own environment, its first program runs."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Final

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate import User

from ..docs.pages import Text
from ..support.tools import ROOT

pytestmark = pytest.mark.slow

README: Final = Text(ROOT / "README.md")


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_the_commands_make_their_own_environment(heading: str) -> None:
    lines = README.under(heading).blocks("")[0].splitlines()
    assert lines[0] == "python3 -m venv .venv"
    assert all(shlex.split(line)[0].startswith(".venv/bin/") for line in lines[1:])


async def test_the_first_program_answers_as_shown(caplog: pytest.LogCaptureFixture) -> None:
    scope: dict[str, Any] = {"__name__": "readme"}
    exec(compile(README.blocks("python")[0], "README.md", "exec"), scope)
    app: ASGIApp = scope["app"]
    transcript = README.blocks("console")[0].splitlines()
    commands = [line.removeprefix("$ curl ").split() for line in transcript if line.startswith("$ curl ")]
    answers = [line for line in transcript if not line.startswith("$")]
    assert len(commands) == len(answers) == 2
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        for arguments, shown in zip(commands, answers, strict=True):
            method = arguments[1] if arguments[0] == "-X" else "GET"
            response = await client.request(method, "/" + arguments[-1].partition("/")[2])
            answer, expected = response.json(), json.loads(shown)
            if isinstance(expected, dict):
                assert re.fullmatch("[0-9a-f]{32}", answer.pop("decision_id"))
                assert re.fullmatch("[0-9a-f]{32}", expected.pop("decision_id"))
                assert response.status_code == 403
            assert answer == expected
    shown = json.loads(README.blocks("json")[0])
    (event,) = [json.loads(record.getMessage()) for record in caplog.records if record.name == "capgate.decisions"]
    assert re.fullmatch("[0-9a-f]{32}", shown.pop("decision_id"))
    assert shown.items() <= event.items()

    async def as_manager(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "user": User("ada", roles=("manager",))}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=as_manager), base_url="http://localhost") as client:
        assert (await client.delete("/orders")).json() == "all gone"
