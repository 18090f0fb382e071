"""Real capabilities that remember what was asked of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from capgate.capabilities import CapabilityDenied, using
from capgate.enforcement.capabilities import Capabilities
from capgate.enforcement.point import EnforcementPoint
from capgate.model import Decision, Resource, Service

from ..support.gates import make_checker

ACTOR = Service("tests")


class Listening(Capabilities, eq=False):
    """Asked by one policy of its own, for one actor."""

    asked: list[tuple[str, str | None]] = []

    @classmethod
    def to(cls, document: dict[str, Any], kind: str = "local") -> Listening:
        """Make one that asks by this document."""
        return cls(EnforcementPoint(make_checker(kind, document)), ACTOR)

    def _hear(self, questions: Iterable[Any]) -> Sequence[Any]:
        heard = list(questions)
        for action, resource, *_ in heard:
            assert resource is None or isinstance(resource, Resource)
            self.asked.append((action, None if resource is None else resource.id))
        return heard

    async def _ask(self, questions: Sequence[Any]) -> list[Decision]:
        return await super()._ask(self._hear(questions))

    def _ask_now(self, questions: Sequence[Any]) -> list[Decision]:
        return super()._ask_now(self._hear(questions))


@contextmanager
def allowing(document: dict[str, Any], kind: str = "local") -> Iterator[Listening]:
    """Capabilities by the policy of this document, in force meanwhile."""
    listening = Listening.to(document, kind)
    with using(listening):
        yield listening


def reason(denial: CapabilityDenied) -> str:
    result: str = denial.decision.result.reason
    return result
