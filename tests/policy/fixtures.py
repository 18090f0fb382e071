"""The golden fixtures of ``fixtures/policy``: in each file a question, a policy document and the expected answer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from capgate.actions import Vocabulary
from capgate.model import PolicyInput, PolicyResult, canonical
from capgate.policy import RuntimePolicy

FOLDER = Path(__file__).parents[2] / "fixtures" / "policy"


class Fixture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file. ``register`` names an application's own actions, which a checker's vocabulary has to know."""

    description: str
    input: PolicyInput
    policy: dict[str, Any]
    expected: PolicyResult
    register: list[str] = []
    name: str = ""

    @property
    def answer(self) -> bytes:
        """The expected result as canonical bytes."""
        return canonical(self.expected)

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
    found = [_load(path) for path in sorted(FOLDER.glob("*.json"))]
    if len(found) < 40 or len(found) != len(list(FOLDER.iterdir())):
        raise AssertionError(f"{len(found)} fixtures in {FOLDER}, and nothing else is expected there")
    return tuple(found)


def _load(path: Path) -> Fixture:
    raw = msgspec.json.decode(path.read_bytes())
    return msgspec.convert({**raw, "name": path.stem}, Fixture)
