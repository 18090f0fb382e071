"""The golden fixtures of ``fixtures/policy``: in each file a question, a policy document and the expected answer."""

from __future__ import annotations

from functools import cache
from typing import Any

from capgate.actions import Vocabulary
from capgate.policy import RuntimePolicy
from capgate.testing import golden

from .tools import ROOT

FOLDER = ROOT / "fixtures" / "policy"


class Fixture(golden.Fixture, frozen=True, kw_only=True):
    """One file. ``register`` names an application's own actions, which a checker's vocabulary has to know."""

    policy: dict[str, Any]

    def runtime_policy(self) -> RuntimePolicy:
        return RuntimePolicy.from_document(self.policy)

    def vocabulary(self) -> Vocabulary:
        """The built-in actions and those of ``register``, which need a resource where the document lists some."""
        known = Vocabulary()
        for action in self.register:
            known.register(action, resource_required=isinstance(self.policy.get("actions", {}).get(action), list))
        return known


@cache
def load_fixtures() -> tuple[Fixture, ...]:
    """Every fixture, by name. An unreadable or unknown file is an error, and so is an empty folder."""
    found = [_load(fixture) for fixture in golden.read_fixtures(FOLDER)]
    if len(found) < 40 or len(found) != len(list(FOLDER.iterdir())):
        raise AssertionError(f"{len(found)} fixtures in {FOLDER}, and nothing else is expected there")
    return tuple(found)


def _load(fixture: golden.Fixture) -> Fixture:
    if fixture.policy is None or not fixture.description:
        raise AssertionError(f"{fixture.where}: it needs a policy and a description")
    return Fixture(**{name: getattr(fixture, name) for name in golden.Fixture.__struct_fields__})
