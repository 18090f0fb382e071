"""Gated clients of a Redis server, and the policy that they ask."""

from __future__ import annotations

from typing import Any

import pytest

from capgate.capabilities import Capabilities, CapabilityDenied, capabilities_for
from capgate.capabilities.cache import gate_redis
from capgate.model import User

from ..support.gates import make_checker
from ..support.redis_server import RedisServer

POLICY: dict[str, Any] = {"cache": ["orders", "locks"], "sql": ["good"]}
#: One key for each namespace, of the type that its name says; "secret" is denied.
SEED = {"orders:s": "seven", "secret:s": "hidden"}


def admitting(kind: str = "local") -> Capabilities:
    return capabilities_for(make_checker(kind, POLICY), User("ann"))


def client(server: RedisServer, **options: Any) -> Any:
    """A gated client. Much of redis-py is untyped."""
    return gate_redis(server.client(**options))


def async_client(server: RedisServer, **options: Any) -> Any:
    return gate_redis(server.async_client(**options))


def refusal(error: pytest.ExceptionInfo[CapabilityDenied]) -> tuple[str, str | None, str]:
    """What was asked, about which namespace, and the reason."""
    decision = error.value.decision
    assert decision.input.resource.kind == "namespace"
    return decision.input.action, decision.input.resource.id, decision.result.reason
