"""What Prometheus is told, in its own format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from capgate.enforcement.capabilities import Capabilities
from capgate.enforcement.point import EnforcementPoint
from capgate.errors import ConfigError
from capgate.events import MonitorPeriod
from capgate.metrics import OTHER, Metrics
from capgate.model import ALLOW, PolicyInput, Resource, User
from capgate.settings.select import select_checker

from ..support.gates import KINDS, POLICY, make_checker
from ..support.stores import Shelf, ask


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def read(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels."""
    text = prometheus_client.generate_latest(registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def closing() -> Iterator[list[Metrics]]:
    found: list[Metrics] = []
    yield found
    for one in found:
        one.close()


async def test_denials_that_do_not_count_have_a_counter_of_their_own(
    registry: CollectorRegistry, closing: list[Metrics]
) -> None:
    checker = make_checker()
    closing.append(Metrics(checker, registry))
    before = read(registry)["capgate_monitoring",]
    period = MonitorPeriod(None)
    period.begin()
    gate = Capabilities(EnforcementPoint(checker, period=period), User("ada"))
    for question in (("db.read", "sql_query:bad"), ("db.read", "sql_query:bad"), ("no.such.action", None)):
        assert await gate.check(*question) is ALLOW
    found = read(registry)
    assert found["capgate_would_deny_total", "db.read", "not_in_allowlist"] == 2
    assert found["capgate_would_deny_total", OTHER, "unknown_action"] == 1
    assert not [name for name, *_ in found if name == "capgate_denials_total"]
    assert found["capgate_monitoring",] == before + 1
    period.leave()
    assert read(registry)["capgate_monitoring",] == before


@pytest.mark.parametrize("kind", KINDS)
async def test_denials_and_pools(kind: str, registry: CollectorRegistry, closing: list[Metrics]) -> None:
    async with make_checker(kind) as checker:
        closing.append(Metrics(checker, registry))
        for id in ("good", "bad", "bad"):
            await checker.check(PolicyInput("db.read", resource=Resource("sql_query", id)))
        await checker.check(PolicyInput("no.such.action"))
        found = read(registry)
        assert found["capgate_denials_total", "db.read", "not_in_allowlist"] == 2
        assert found["capgate_denials_total", OTHER, "unknown_action"] == 1
        (info,) = [labels for name, *labels in found if name == "capgate_policy_info"]
        assert set(info) == {checker.policy.engine, "web", "7", checker.policy.sha256}
        if kind != "local":
            assert found["capgate_pool_calls_total",] == 3
            assert found["capgate_pool_size",] == 2


async def test_a_policys_own_words_are_no_label(registry: CollectorRegistry, closing: list[Metrics]) -> None:
    rules = [{"effect": "deny", "actions": ["db.read"], "reason": "words of its own"}]
    checker = make_checker(document={**POLICY, "rules": rules})
    closing.append(Metrics(checker, registry))
    await checker.check(PolicyInput("db.read", resource=Resource("sql_query", "good")))
    assert read(registry)["capgate_denials_total", "db.read", OTHER] == 1


async def test_which_policy_of_a_store_answers(  # O7
    tmp_path: Path, registry: CollectorRegistry, closing: list[Metrics]
) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1)
    checker: Any = select_checker(shelf.settings(cache_size=10))
    async with checker:
        closing.append(Metrics(checker, registry))
        await checker.check(ask(1))
        before = read(registry)
        shelf.release(2)
        await checker.inner.refresh()
        shelf.release(3, b"\0asm\x01\0\0\0")
        await checker.inner.refresh()
        after = read(registry)
    assert [found["capgate_store_version",] for found in (before, after)] == [1, 2]
    assert [found["capgate_store_swaps_total",] for found in (before, after)] == [0, 1]
    assert [found["capgate_store_problem",] for found in (before, after)] == [0, 1]
    assert [found["capgate_store_signers",] for found in (before, after)] == [1, 1]
    assert before["capgate_cache_decisions",] == 1
    assert after["capgate_store_looked_seconds",] >= before["capgate_store_looked_seconds",] > 0


def test_after_close_nothing_is_left(registry: CollectorRegistry) -> None:
    metrics = Metrics(make_checker(), registry)
    metrics.close()
    assert read(registry) == {}
    Metrics(make_checker(), registry).close()


def test_a_checker_of_somebody_elses_has_no_figures(registry: CollectorRegistry) -> None:
    with pytest.raises(ConfigError) as caught:
        Metrics(object(), registry)  # type: ignore[arg-type]
    assert caught.value.setting == "checker"
