"""Reads and writes the golden fixtures of a release: one file beside the module, whose digest the manifest has.

So they are signed as well. The file is a list of fixtures as :mod:`capgate.testing.golden` reads them from many files,
each with its name. It has one canonical form: two spaces of indentation, keys sorted, what is empty left out. It is
UTF-8 with lone surrogates as JSON's escapes, and a newline at the end. None of them brings a policy, because they are
about that of the release.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from ..actions import BUILTIN_ACTIONS, is_action_name
from ..errors import DigestMismatch, ManifestError
from ..model import Deny, PolicyInput, PolicyResult, canonical
from ..policy.strict import is_unicode
from .canonical import MalformedFile
from .manifest import Manifest

#: Bytes of the file.
FIXTURES_BYTES: Final = 4 << 20

_BUILTIN: Final = frozenset(action.name for action in BUILTIN_ACTIONS)
_NEEDED: Final = ("input", "expected")
#: What the file of a release holds of a fixture.
_RELEASED: Final = (*_NEEDED, "would_deny", "description", "policy", "register", "name")
_EMPTY: Final[tuple[Any, ...]] = (None, "", [], ())


class Fixture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A golden fixture: a question, the answer that is expected, and where it stands.

    ``would_deny`` is the reason of the first rule that only monitors and would deny it; without it, nobody looks.
    ``name`` tells it from others, and only the file of a release holds it. ``path`` and ``line`` are where it was read;
    no file holds them.
    """

    input: PolicyInput
    expected: PolicyResult
    description: str = ""
    policy: dict[str, Any] | None = None
    register: tuple[str, ...] = ()
    name: str = ""
    path: str = ""
    line: int = 1
    would_deny: str | None = None

    @property
    def answer(self) -> bytes:
        """The expected result as canonical JSON."""
        return canonical(self.expected)

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.path}:{self.line}" if self.path else ""

    def fault(self) -> tuple[str, str] | None:
        """Return where it is wrong, a key such as ``expected.reason``, and why.

        It is ``None`` where nothing is wrong.
        """
        if isinstance(self.expected, Deny) and not is_unicode(self.expected.reason):
            return "expected.reason", "a lone surrogate, which no policy can answer with"
        if (key := next(_infinite(msgspec.to_builtins(self.input), "input"), None)) is not None:
            return key, "a number beyond those of 64 bits, of which JSON readers make an infinity"
        if self.would_deny is not None:
            if isinstance(self.expected, Deny):
                return "would_deny", "a rule that only monitors records nothing where the answer is a denial"
            if not self.would_deny or not is_unicode(self.would_deny):
                return "would_deny", "no reason of a rule, which is text that is not empty"
        for number, action in enumerate(self.register):
            if not is_action_name(action) or action in _BUILTIN:
                reason = f"{action[:128]!a} is no name of an application's own action, such as 'invoice.send'"
                return f"register[{number}]", reason
        return None


def _infinite(value: object, key: str) -> Iterator[str]:
    """Yield the keys of numbers that JSON cannot say."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _infinite(each, f"{key}.{name}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield key


def format_fixtures(fixtures: Iterable[Fixture]) -> bytes:
    """Return the file of those fixtures. Raises :class:`ManifestError` for none, too many, and one that brings a
    policy.
    """
    try:
        data = _encode(fixtures)
    except ValueError as error:  # an infinity
        raise ManifestError(f"not the fixtures of a release: {error}", field="fixtures") from error
    parse_fixtures(data)
    return data


def parse_fixtures(data: bytes, *, path: str | None = None) -> tuple[Fixture, ...]:
    """Return the fixtures of a file, one at least. Raises :class:`ManifestError` for any but the canonical form."""
    try:
        _check_size(data)
        # Not read strictly, because it is compared with the one text that it may be; not by msgspec, because of lone
        # surrogates.
        fixtures = msgspec.convert(json.loads(data.decode()), tuple[Fixture, ...])
        _check(fixtures)
        if _encode(fixtures) != data:
            raise MalformedFile("they are not in canonical form: sorted keys, two spaces, nothing that is empty")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ManifestError(f"not the fixtures of a release: {error}", field="fixtures", path=path) from error
    return fixtures


def fixtures_of(manifest: Manifest, data: bytes | None, *, path: str | None = None) -> tuple[Fixture, ...]:
    """Return the fixtures that ``manifest`` names, which ``data`` has to be.

    ``data`` are the bytes of the file, ``None`` where there is none. Raises :class:`DigestMismatch`, and
    :class:`ManifestError` (``fixtures``) for all else that is wrong.
    """
    if manifest.fixtures is None:
        if data is not None:
            raise ManifestError("there are fixtures, and the manifest names none", field="fixtures", path=path)
        return ()
    if data is None:
        message = f"the fixtures are not there, and the manifest names {manifest.fixtures}"
        raise ManifestError(message, field="fixtures", path=path)
    try:
        _check_size(data)  # before anything is computed of them
    except MalformedFile as error:
        raise ManifestError(str(error), field="fixtures", path=path) from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != manifest.fixtures:
        raise DigestMismatch(expected=manifest.fixtures, actual=actual, path=path)
    return parse_fixtures(data, path=path)


def _encode(fixtures: Iterable[Fixture]) -> bytes:
    plain = json.dumps(
        [_plain(fixture) for fixture in fixtures], indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    return plain.encode(errors="backslashreplace") + b"\n"  # which writes a lone surrogate as JSON's escape


def _plain(fixture: Fixture) -> dict[str, Any]:
    fields = {field: msgspec.to_builtins(getattr(fixture, field)) for field in _RELEASED}
    kept = (
        {*_NEEDED} if fixture.would_deny is None else {*_NEEDED, "would_deny"}
    )  # an empty one is an error, and not lost
    return {field: value for field, value in fields.items() if field in kept or value not in _EMPTY}


def _check_size(data: bytes) -> None:
    if len(data) > FIXTURES_BYTES:
        raise MalformedFile(f"{len(data)} bytes of fixtures, the limit is {FIXTURES_BYTES}")


def _check(fixtures: tuple[Fixture, ...]) -> None:
    if not fixtures:
        raise MalformedFile("there are none")
    for number, fixture in enumerate(fixtures):
        fault = fixture.fault()
        if fault is None and fixture.policy is not None:
            fault = "policy", "it brings a policy of its own, so it would say nothing about the one that is released"
        if fault is not None:
            raise MalformedFile(f"[{number}].{fault[0]}: {fault[1]}")
