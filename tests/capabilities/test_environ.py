"""The gate of environment variables."""

from __future__ import annotations

import copy
import json
import os
import pickle

import httpx
import pytest
from starlette.config import Config
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate.capabilities import CapabilityDenied
from capgate.capabilities.environ import GatedEnviron
from capgate.enforcement.capabilities import BATCH
from capgate.model import Reason
from capgate.routes.declare import requires

from ..support.gates import events, gated, make_checker
from .kinds import KINDS
from .listening import Listening, allowing, reason

NAMES = {"TZ": "UTC", "REGION": "eu", "PASSWORD": "plum"}
POLICY = {"env": ["TZ", "REGION", "ABSENT"]}


def test_each_look_is_asked_for() -> None:
    environ = GatedEnviron(NAMES)
    with allowing(POLICY) as listening:
        assert environ["TZ"] == "UTC"
        assert environ.get("REGION") == "eu"
        assert environ.get("ABSENT", "x") == "x"
        assert "TZ" in environ
        assert "ABSENT" not in environ
        with pytest.raises(KeyError):
            environ["ABSENT"]
    assert listening.asked == [("env.read", name) for name in ("TZ", "REGION", "ABSENT", "TZ", "ABSENT", "ABSENT")]


@pytest.mark.parametrize("name", ["PASSWORD", "NOWHERE", "tz", "Tz"])
def test_what_is_denied_is_raised_whether_it_is_there_or_not(name: str) -> None:
    environ = GatedEnviron(NAMES)
    with allowing(POLICY):
        for look in (environ.__getitem__, environ.get, environ.__contains__, lambda n: environ.get(n, "x")):
            with pytest.raises(CapabilityDenied) as caught:
                look(name)
            assert reason(caught.value) == Reason.NOT_IN_ALLOWLIST


@pytest.mark.parametrize("name", ["", 7, None, b"TZ", "TZ\0", "TZ ", "TZ=UTC"])
def test_what_is_no_name_is_denied(name: object) -> None:
    with allowing({"env": "any"}), pytest.raises(CapabilityDenied) as caught:
        GatedEnviron(NAMES).get(name)  # type: ignore[call-overload]
    assert reason(caught.value) == Reason.MISSING_RESOURCE


def test_what_goes_over_all_of_them_sees_the_allowed_ones() -> None:
    environ = GatedEnviron(NAMES)
    seen = {"TZ": "UTC", "REGION": "eu"}
    with allowing(POLICY):
        assert dict(environ) == environ.copy() == {**environ} == environ == seen
        assert list(environ) == list(environ.keys()) == ["TZ", "REGION"]
        assert list(environ.values()) == ["UTC", "eu"]
        assert list(environ.items()) == [("TZ", "UTC"), ("REGION", "eu")]
        assert len(environ) == 2
        assert json.dumps(dict(environ)).find("plum") == -1
    with allowing({}):
        assert not environ
        assert list(environ) == []


def test_more_variables_than_a_batch_holds() -> None:
    many = {f"V{n}": str(n) for n in range(2 * BATCH + 7)}
    with allowing({"env": [name for name in many if name != "V5"]}):
        assert GatedEnviron(many).copy() == {name: value for name, value in many.items() if name != "V5"}


def test_nothing_takes_the_denied_ones_along() -> None:
    environ = GatedEnviron(NAMES)
    with allowing(POLICY):
        assert "plum" not in repr(environ)
        assert "PASSWORD" not in repr(environ)
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                take(environ)


def test_nobody_to_ask() -> None:
    for look in (GatedEnviron().copy, lambda: GatedEnviron()["PATH"], lambda: len(GatedEnviron())):
        with pytest.raises(CapabilityDenied) as caught:
            look()
        assert reason(caught.value) == Reason.POLICY_UNAVAILABLE


def test_capabilities_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = GatedEnviron(capabilities=Listening.to({"env": ["MINE"]}))
    monkeypatch.setenv("MINE", "1")  # after it was made
    with allowing({}):
        assert environ["MINE"] == os.environ["MINE"] == "1"
        assert list(environ) == ["MINE"]


def test_a_config_of_starlettes() -> None:
    config = Config(environ=GatedEnviron(NAMES))
    with allowing(POLICY):
        assert config("REGION") == "eu"
        assert config("ABSENT", default="x") == "x"
        with pytest.raises(CapabilityDenied):
            config("PASSWORD", default="x")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_without_a_policy_call(kind: str) -> None:
    environ = GatedEnviron(NAMES)

    @requires("env.read", resource="env_var:{name}")
    async def declared(request: Request) -> Response:
        return JSONResponse(environ.get(request.path_params["name"], "absent"))

    @requires("env.read", resource="env_var:TZ")
    def other(request: Request) -> Response:
        return JSONResponse(environ[request.query_params["name"]])

    checker = make_checker(kind, POLICY)
    app = gated([Route("/env/{name}", declared), Route("/any", other)], checker)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert (await client.get("/env/TZ")).json() == "UTC"
        assert (await client.get("/any", params={"name": "TZ"})).json() == "UTC"
        with events() as seen:
            for url in ("/env/PASSWORD", "/any?name=PASSWORD"):
                response = await client.get(url)
                assert response.status_code == 403
                assert "plum" not in response.text
    assert [(one["action"], one["resource_id"]) for one in seen] == [("env.read", "PASSWORD")] * 2
    await checker.aclose()
