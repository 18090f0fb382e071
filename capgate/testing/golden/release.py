"""Judges the fixtures that a release brings, before it becomes active."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ...actions import VOCABULARY, Vocabulary
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint
from ...store.release_fixtures import Fixture, format_fixtures
from ...store.verifier import VerifiedPolicy
from .policy_under_test import ALL
from .run import check_fixtures, require_policies


def release_file(fixtures: Iterable[Fixture]) -> bytes:
    """Return the file with which a policy and ``fixtures`` about it are released.

    Raises :class:`FixtureError` for one that brings a policy of its own, and :class:`ManifestError` for none of them or
    more than such a file may hold.
    """
    given = tuple(fixtures)
    require_policies(given, own=False)
    return format_fixtures(given)


def named(fixtures: Iterable[Fixture]) -> tuple[Fixture, ...]:
    """Return the fixtures of a release, those that have no name by their number."""
    return tuple(
        fixture if fixture.name else msgspec.structs.replace(fixture, name=f"fixtures[{number}]")
        for number, fixture in enumerate(fixtures)
    )


def check_release(
    policy: VerifiedPolicy,
    more: Sequence[Fixture] = (),
    limits: Limits | None = None,
    *,
    engines: str | Iterable[str] = ALL,
    vocabulary: Vocabulary = VOCABULARY,
    entrypoint: Entrypoint = ONLY_ENTRYPOINT,
) -> None:
    """Raise :class:`FixturesFailed` unless ``policy`` answers as its own fixtures, and then ``more``, expect.

    There has to be one of either. For :meth:`PolicyStore.activate`, which reads and verifies the former. Raises what
    :func:`check_fixtures` raises.
    """
    fixtures = (*named(policy.fixtures), *more)
    check_fixtures(policy.artifact, fixtures, limits, engines=engines, vocabulary=vocabulary, entrypoint=entrypoint)
