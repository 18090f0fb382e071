"""Policies for gated HTTP, and what became of a request."""

from __future__ import annotations

import httpx
import pytest

from capgate.capabilities import Capabilities, CapabilityDenied, capabilities_for
from capgate.capabilities.http import (
    OutboundRules,
)
from capgate.model import Resource, User

from ..support.gates import make_checker
from .http_servers import Server

ALLOWED, DENIED = "127.0.0.1", "127.0.0.2"


def admitting(*hosts: str, kind: str = "local") -> Capabilities:
    return capabilities_for(make_checker(kind, {"egress": list(hosts)}), User("ann"))


def refusal(error: pytest.ExceptionInfo[CapabilityDenied]) -> tuple[str, Resource]:
    """The reason, and the resource that was asked about."""
    decision = error.value.decision
    assert decision.input.action == "http.outbound"
    return decision.result.reason, decision.input.resource


def asked_about(outbound: OutboundRules, request: httpx.Request) -> Resource:
    """What the first question about ``request`` is about, which is its URL."""
    resource = outbound.questions(request)[0][1]
    assert isinstance(resource, Resource)
    return resource


def assert_untouched(server: Server) -> None:
    assert (server.arrivals.connections, server.arrivals.requests) == (0, [])
