"""The fixtures that a release brings, as they are judged before it becomes active."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...actions import VOCABULARY, Vocabulary
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint
from ...store.release_fixtures import Released, Written, format_fixtures
from ...store.verifier import VerifiedPolicy
from .fixtures import Fixture
from .policy_under_test import ALL
from .run import check_fixtures, require_policies


def release_file(fixtures: Iterable[Fixture]) -> bytes:
    """The file with which a policy and ``fixtures`` about it are released. Raises :class:`FixtureError` for one that
    brings a policy of its own, :class:`ManifestError` for none of them or more than such a file may hold."""
    given = tuple(fixtures)
    require_policies(given, own=False)
    return format_fixtures(Released(*(getattr(one, field) for field in Released.__struct_fields__)) for one in given)


def released_fixtures(released: Iterable[Released]) -> tuple[Fixture, ...]:
    """The fixtures of a release, each with a name."""
    return tuple(
        Fixture(
            **{field: getattr(one, field) for field in Written.__struct_fields__},
            name=one.name or f"fixtures[{number}]",
        )
        for number, one in enumerate(released)
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
    """Raise :class:`FixturesFailed` unless ``policy`` answers as its own fixtures, and then ``more``, expect; there has
    to be one of either. For :meth:`PolicyStore.activate`, which reads and verifies the former. Raises what
    :func:`check_fixtures` raises."""
    fixtures = (*released_fixtures(policy.fixtures), *more)
    check_fixtures(policy.artifact, fixtures, limits, engines=engines, vocabulary=vocabulary, entrypoint=entrypoint)
