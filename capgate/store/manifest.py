"""Reads and checks the manifest of a policy, which is what gets signed. Canonical JSON, see :mod:`.canonical`.

::

    {
      "abi": "capgate:policy@0.1.0",
      "created": "2026-10-01T12:00:00Z",
      "entrypoint": null,
      "environment": ["prod"],
      "expires": null,
      "fixtures": "…",
      "format": 1,
      "inputs": ["action", "resource"],
      "label": "2026-10",
      "limits": {"input_bytes": 65536},
      "name": "orders",
      "policyHash": null,
      "service": null,
      "sha256": "…",
      "version": 7
    }
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Final

import msgspec

from ..artifact.load import OPA, OPA_INTERFACE, WITH_FACTS, WITHOUT_FACTS, WasmArtifact
from ..errors import ManifestError
from ..limits import DIGEST, OF_WAITING, RANGES, Limits, is_digest
from ..model import Entrypoint
from ..policy import is_label
from .canonical import MalformedFile, decode, encode

FORMAT: Final = 1
#: What a manifest may call the interface of an artifact, which is :attr:`WasmArtifact.interface`.
ABIS: Final = (WITHOUT_FACTS, WITH_FACTS, OPA_INTERFACE)
#: Bytes of a manifest file.
MANIFEST_BYTES: Final = 65_536
#: JSON has no whole numbers above this that every reader keeps exact.
HIGHEST_VERSION: Final = 2**53 - 1
#: Parts of a policy input, of which a policy may look at some.
INPUTS: Final = ("action", "actor", "args_hash", "facts", "mode", "resource", "service", "timestamp")
#: Limits which a manifest may ask for. A policy cannot need a deadline, nor callers who wait.
LIMITS: Final = tuple(sorted(set(RANGES) - OF_WAITING))
#: Seconds that this clock may be behind the one of whoever signed.
CLOCK_SKEW: Final = 300

#: Fields that the file spells in another way.
_SPELLED: Final = {"policy_hash": "policyHash"}
_ABI: Final = re.compile(r"[a-z0-9][a-z0-9:/@._-]{0,63}", re.ASCII)


class Manifest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename=_SPELLED
):
    """What a signature covers. Raises :class:`ManifestError`, naming the field, for a value that cannot be.

    ``name``         of the policy: its identity, which a signature cannot be moved from
    ``version``      a whole number from 1, which rises with each release
    ``label``        what people call this version; the document's own, usually
    ``sha256``       of the module file
    ``abi``          the interface that the module exports
    ``entrypoint``   of a module that OPA compiled: which entry point is asked, and how its answers read; ``None`` for
                     every other module
    ``policy_hash``  the action vocabulary it was written for (:meth:`~capgate.actions.Vocabulary.policy_hash`), or
                     ``None`` for any
    ``inputs``       the parts of an input that the policy looks at, sorted, or ``None`` where that is not known
    ``limits``       the least that these limits of the runtime have to be for the policy to work
    ``created``      when this was written, in UTC, whole seconds
    ``expires``      when it is no longer to be loaded, or ``None`` for never
    ``environment``  the modes (or tenants) that it is for, sorted, or ``None`` for every one
    ``service``      the one service that it is for, or ``None`` for every one
    ``fixtures``     SHA-256 of the file of golden fixtures that are released with it, or ``None`` where there are none;
                     then the file has no such key, as before there were any
    """

    name: str
    version: int
    sha256: str
    entrypoint: Entrypoint | None
    created: datetime
    label: str
    expires: datetime | None
    environment: tuple[str, ...] | None
    service: str | None
    inputs: tuple[str, ...] | None
    limits: Mapping[str, int]
    policy_hash: str | None
    abi: str
    format: int
    fixtures: str | None = None

    def __post_init__(self) -> None:
        for field, (is_valid, valid) in _CHECKS.items():
            value = getattr(self, field)
            if not is_valid(value):
                spelled = _SPELLED.get(field, field)
                raise ManifestError(f"{spelled} is {value!r}; valid: {valid}", field=spelled)
        if (self.entrypoint is None) == (self.abi == OPA_INTERFACE):
            message = f"entrypoint is {self.entrypoint!r}, and abi {self.abi!r}"
            raise ManifestError(f"{message}; it is for {OPA_INTERFACE!r}, and only for that", field="entrypoint")
        if self.expires is not None and self.expires <= self.created:
            raise ManifestError(f"it expires at {self.expires}, which is not after {self.created}", field="expires")

    @classmethod
    def describing(cls, artifact: WasmArtifact, *, version: int, created: datetime, **fields: Any) -> Manifest:
        """Return the manifest of ``artifact``. ``fields`` are any others; without them it is for everywhere and for
        ever.

        Of a module that OPA compiled, the only entry point is asked for a decision, unless they say otherwise.
        """
        given: dict[str, Any] = {
            "name": artifact.name,
            "label": artifact.version,
            "expires": None,
            "environment": None,
            "service": None,
            "inputs": None if artifact.inputs is None else tuple(sorted(artifact.inputs)),
            "limits": {},
            "policy_hash": None,
            "abi": artifact.interface,
            "entrypoint": _entrypoint_of(artifact),
            "format": FORMAT,
            **fields,
        }
        return cls(version=version, created=created, sha256=artifact.sha256, **given)

    def to_bytes(self) -> bytes:
        """Return the file, which is what gets signed."""
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes, *, path: str | None = None) -> Manifest:
        """Return the manifest of a file. Raises :class:`ManifestError` for anything but what :meth:`to_bytes` gives."""
        if len(data) > MANIFEST_BYTES:
            raise ManifestError(f"{len(data)} bytes, the limit is {MANIFEST_BYTES}", path=path)
        try:
            return decode(data, cls)
        except MalformedFile as error:
            raise ManifestError(str(error), path=path) from error
        except ManifestError as error:
            raise ManifestError(str(error), field=error.field, path=path) from error


def _entrypoint_of(artifact: WasmArtifact) -> Entrypoint | None:
    if artifact.abi != OPA:
        return None
    listed = () if artifact.bundle is None else artifact.bundle.entrypoints
    return Entrypoint(listed[0]) if len(listed) == 1 else Entrypoint()


class Audience(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for a policy. What is ``None`` is not compared: a command that publishes need not know the mode."""

    name: str | None = None
    mode: str | None = None
    service: str | None = None
    policy_hash: str | None = None
    limits: Limits | None = None


def check_audience(manifest: Manifest, audience: Audience, *, path: str | None = None) -> None:
    """Raise :class:`ManifestError` where the policy is for somebody else, or needs what this runtime does not have."""

    def reject(field: str, wanted: object, given: object) -> None:
        raise ManifestError(f"{field} is {given!r}, and here it is {wanted!r}", field=field, path=path)

    if manifest.abi not in ABIS:
        reject("abi", ABIS, manifest.abi)
    if audience.name is not None and manifest.name != audience.name:
        reject("name", audience.name, manifest.name)
    if audience.mode is not None and manifest.environment is not None and audience.mode not in manifest.environment:
        reject("environment", audience.mode, manifest.environment)
    if audience.service is not None and manifest.service is not None and audience.service != manifest.service:
        reject("service", audience.service, manifest.service)
    if None not in (audience.policy_hash, manifest.policy_hash) and audience.policy_hash != manifest.policy_hash:
        reject("policyHash", audience.policy_hash, manifest.policy_hash)
    rego, facts = manifest.abi == OPA_INTERFACE, "facts" in (manifest.inputs or ())
    limits = None if audience.limits is None else audience.limits.resolved(rego=rego, built=True, facts=facts)
    for name, needed in manifest.limits.items() if limits is not None else ():
        if getattr(limits, name) < needed:
            reject(f"limits.{name}", getattr(limits, name), needed)


def check_time(manifest: Manifest, now: float, *, path: str | None = None) -> None:
    """Raise :class:`ManifestError` unless ``now``, in seconds since the epoch, is within the time of the manifest.

    A clock more than :data:`CLOCK_SKEW` behind the time of creation is wrong, and would take no notice of an expiry.
    """
    created = manifest.created.timestamp()
    if not now >= created - CLOCK_SKEW:
        message = f"created at {manifest.created}, {created - now:.0f} s later than it is by the clock here"
        raise ManifestError(message, field="created", path=path)
    if manifest.expires is not None and not now < manifest.expires.timestamp():
        message = f"expired at {manifest.expires}, {now - manifest.expires.timestamp():.0f} s ago by the clock here"
        raise ManifestError(message, field="expires", path=path)


# -- what a field may be


def _is_text(value: object) -> bool:
    return type(value) is str and len(value) <= 256 and value.isprintable()


def is_time(value: object) -> bool:
    """Say whether ``value`` is a time as manifests and records have it: in UTC, without a fraction of a second."""
    return isinstance(value, datetime) and value.tzinfo is timezone.utc and not value.microsecond and value.year > 1970


def is_version(value: object) -> bool:
    """Say whether ``value`` is a whole number from 1 to :data:`HIGHEST_VERSION`."""
    return type(value) is int and 1 <= value <= HIGHEST_VERSION


def _is_entrypoint(value: object) -> bool:
    return isinstance(value, Entrypoint) and (value.name is None or (_is_text(value.name) and value.name != ""))


def _is_sorted(value: object, is_item: Callable[[object], bool]) -> bool:
    """Say whether ``value`` is a tuple that is not empty, in order, with nothing twice."""
    return type(value) is tuple and len(value) > 0 and all(map(is_item, value)) and list(value) == sorted(set(value))


def _are_limits(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        name in LIMITS and type(least) is int and RANGES[name][0] <= least <= RANGES[name][1]
        for name, least in value.items()
    )


_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "format": (lambda value: type(value) is int and value == FORMAT, str(FORMAT)),
    "name": (is_label, "1 to 64 letters, digits, dots, underscores, plus and minus signs"),
    "version": (is_version, f"a whole number from 1 to {HIGHEST_VERSION}"),
    "label": (_is_text, "printable text of at most 256 characters"),
    "abi": (lambda value: type(value) is str and _ABI.fullmatch(value) is not None, f"such as {WITHOUT_FACTS!r}"),
    "sha256": (is_digest, DIGEST),
    "entrypoint": (
        lambda value: value is None or _is_entrypoint(value),
        "name (printable text of at most 256 characters, or null) and result, or null",
    ),
    "fixtures": (lambda value: value is None or is_digest(value), f"{DIGEST}, or no such key"),
    "policy_hash": (lambda value: value is None or is_digest(value), f"{DIGEST}, or null"),
    "inputs": (
        lambda value: value is None or _is_sorted(value, INPUTS.__contains__),
        f"some of {INPUTS}, sorted, or null",
    ),
    "limits": (_are_limits, f"whole numbers within the ranges of {', '.join(LIMITS)}"),
    "created": (is_time, "a time such as 2026-10-01T12:00:00Z"),
    "expires": (lambda value: value is None or is_time(value), "a time such as 2026-10-01T12:00:00Z, or null"),
    "environment": (
        lambda value: value is None or _is_sorted(value, lambda mode: _is_text(mode) and mode != ""),
        "names of modes or tenants, sorted, each once, at least one; or null",
    ),
    "service": (lambda value: value is None or (_is_text(value) and value != ""), "the name of a service, or null"),
}
