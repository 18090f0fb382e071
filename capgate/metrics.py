"""Exports figures for Prometheus: denials by reason, what the pools do, and which policy answers.

::

    from capgate.metrics import Metrics

    metrics = Metrics(checker)          # in the default registry of prometheus_client, which applications export

Names and labels are stable. Labels hold codes and names of capgate's own and of the policy store, never anything that a
client sent, so their number is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from .actions import VOCABULARY
from .checker.base import PolicyChecker
from .checker.foreign import as_checker
from .errors import ConfigError
from .events import DecisionEvent, add_sink, monitoring, remove_sink, statistics
from .model import REASONS

#: In place of a reason of a policy's own wording, and of an action that nobody registered.
OTHER: Final = "other"

_POOL: Final = {
    "size": ("Instances for each event loop.", GaugeMetricFamily),
    "idle": ("Instances that wait for a question.", GaugeMetricFamily),
    "in_use": ("Instances that are held.", GaugeMetricFamily),
    "waiting": ("Callers that wait for an instance.", GaugeMetricFamily),
    "made": ("Instances that were made.", CounterMetricFamily),
    "retired": ("Instances that trapped, timed out or broke the ABI.", CounterMetricFamily),
    "spent": ("Instances that answered once and are not used again.", CounterMetricFamily),
    "denied_fast": ("Attempts to make an instance that came too soon after a failure.", CounterMetricFamily),
    "calls": ("Questions that instances were asked.", CounterMetricFamily),
}


class Metrics(Collector):
    """Collects from ``checker`` and from the decision events of this process, until :meth:`close`.

    Raises :class:`ConfigError` for a checker that is not capgate's, of which nothing is known.
    """

    def __init__(
        self,
        checker: PolicyChecker,
        registry: CollectorRegistry = prometheus_client.REGISTRY,
        *,
        prefix: str = "capgate",
    ) -> None:
        self._checker = as_checker(checker)
        if self._checker.policy is None:
            raise ConfigError("checker", checker, "one of capgate's own checkers")
        self._prefix = prefix
        self._registry = registry
        self._denials = prometheus_client.Counter(
            f"{prefix}_denials", "Denials, by action and reason.", ["action", "reason"], registry=registry
        )
        self._recorded = prometheus_client.Counter(
            f"{prefix}_would_deny",
            "Denials that were recorded and did not count, by action and reason.",
            ["action", "reason"],
            registry=registry,
        )
        registry.register(self)
        add_sink(self)

    def close(self) -> None:
        """Collect nothing any more."""
        remove_sink(self)
        self._registry.unregister(self)
        self._registry.unregister(self._denials)
        self._registry.unregister(self._recorded)

    def emit(self, event: DecisionEvent) -> None:
        """Count a denial. A :class:`~capgate.events.DecisionSink`."""
        counts = event.would_deny is None
        if event.decision == "deny" or not counts:
            action = event.action if event.action in VOCABULARY.names else OTHER
            reason = event.reason if counts else event.would_deny
            counter = self._denials if counts else self._recorded
            counter.labels(action, reason if reason in REASONS else OTHER).inc()

    def collect(self) -> Iterable[Metric]:
        yield from self._policy()
        yield from self._following()
        yield from self._pool()
        events = statistics()
        yield self._family(CounterMetricFamily, "events_emitted", "Decision events that sinks took.", events.emitted)
        yield self._family(CounterMetricFamily, "events_dropped", "Decision events that sinks lost.", events.dropped)
        gates = "Gates of this process whose denials are recorded and do not count."
        yield self._family(GaugeMetricFamily, "monitoring", gates, monitoring())
        remembered = self._checker.remembered
        if remembered is not None:
            yield self._family(GaugeMetricFamily, "cache_decisions", "Decisions that are remembered.", remembered)

    def _policy(self) -> Iterator[Metric]:
        info = self._checker.policy
        if info is None:
            return
        told = {"name": info.name, "version": info.version, "sha256": info.sha256, "engine": info.engine}
        yield InfoMetricFamily(f"{self._prefix}_policy", "The policy that answers.", told)

    def _following(self) -> Iterator[Metric]:
        status = self._checker.status()
        if status is None:
            return
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield self._family(gauge, "store_sequence", "Record of the store that answers.", status.sequence)
        yield self._family(gauge, "store_version", "Version of the policy that answers.", status.version)
        yield self._family(gauge, "store_looked_seconds", "When the store was last read.", status.looked / 1e9)
        signers = "Trusted keys that signed the policy that answers; 0 where no signature is asked for."
        yield self._family(gauge, "store_signers", signers, len(status.signers))
        problem = 0 if status.problem is None else 1
        yield self._family(gauge, "store_problem", "1 where the active policy does not answer.", problem)
        yield self._family(gauge, "store_rolled_back", "Record left for its faults, 0: none.", status.rolled_back or 0)
        yield self._family(counter, "store_swaps", "How often another policy took over.", status.swaps)

    def _pool(self) -> Iterator[Metric]:
        figures = self._checker.statistics()
        if figures is not None:
            for name, (text, family) in _POOL.items():
                yield self._family(family, f"pool_{name}", text, getattr(figures, name))

    def _family(self, family: Any, name: str, text: str, value: float) -> Metric:
        metric: Metric = family(f"{self._prefix}_{name}", text, value=value)
        return metric
