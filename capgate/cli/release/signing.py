"""``capgate keygen``, ``sign`` and ``verify``: what they do. Their words :mod:`.releases`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...actions import policy_hash
from ...artifact.load import load_wasm_artifact, read_bytes
from ...errors import ArtifactError, ConfigError, FixturesFailed
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint
from ...store.manifest import MANIFEST_BYTES, Audience, Manifest
from ...store.release_fixtures import FIXTURES_BYTES, fixtures_of
from ...store.signing import SIGNATURE_BYTES, KeyPair, format_signatures, parse_signatures
from ...store.verifier import FIXTURES_SUFFIX, MANIFEST_SUFFIX, SIGNATURE_SUFFIX, VerifiedPolicy, Verifier
from ...testing.golden import check_release, read_fixtures, release_file
from ..files import create, read_beside, read_secret, replace
from ..show import Shown, manifest_data, show, shown
from ..trust import configured_bundle_keys, production_limits, trusted

_DAYS: Final = re.compile(r"([0-9]{1,5})d", re.ASCII)


class Beside(NamedTuple):
    """The files beside a module."""

    manifest: Path
    signature: Path
    fixtures: Path

    @classmethod
    def of(cls, module: Path) -> Beside:
        return cls(*(Path(f"{module}{suffix}") for suffix in (MANIFEST_SUFFIX, SIGNATURE_SUFFIX, FIXTURES_SUFFIX)))


def keygen(path: Path, passphrase_file: Path | None, *, as_json: bool) -> None:
    """Write a new private key to ``path`` (mode 0600), its public key beside it with ``.pub``, and print the latter."""
    pair, public = KeyPair.generate(), Path(f"{path}.pub")
    if public.exists():
        raise ConfigError("file", str(public), "a name that is free; no key is ever overwritten")
    create(path, pair.to_pem(_passphrase(passphrase_file)), 0o600)
    create(public, f"{pair.public.line}\n".encode(), 0o644)
    rows = {"key": pair.public.line, "id": pair.public.id, "private": shown(path), "public": shown(public)}
    show(Shown(rows, plain=pair.public.line), as_json=as_json)


def sign(
    module: Path,
    keys: Sequence[Path],
    passphrase_file: Path | None,
    *,
    version: int | None,
    fields: dict[str, Any],
    replace_manifest: bool,
    as_json: bool,
) -> None:
    """Sign the manifest of ``module``, a new one where there is a ``version``; else that beside it, once more.

    Either way its fixtures have to pass.
    """
    beside = Beside.of(module)
    passphrase = _passphrase(passphrase_file)
    pairs = [KeyPair.from_pem(read_secret(key, private=True), passphrase, path=str(key)) for key in keys]
    if version is None:
        manifest, present = _present(module, beside, fields)
        fixtures = read_beside(module, FIXTURES_SUFFIX, FIXTURES_BYTES)
    else:
        _make_way(beside, version, with_fixtures="fixtures" in fields, replaced=replace_manifest)
        fixtures = _fixtures(fields.pop("fixtures", ()))
        manifest, present = _described(module, version, fields, fixtures), ()
    _judge(module, manifest, fixtures, str(beside.fixtures))
    data = manifest.to_bytes()
    signatures = format_signatures((*present, *(pair.sign(data) for pair in pairs)))
    # The signature goes first when a manifest is replaced, so that no moment has the new one with the old signature.
    if version is not None:
        beside.signature.unlink(missing_ok=True)
        if fixtures is None:
            beside.fixtures.unlink(missing_ok=True)
        else:
            replace(beside.fixtures, fixtures)
        replace(beside.manifest, data)
    replace(beside.signature, signatures)
    signed = [signature.key for signature in parse_signatures(signatures)]
    files = [shown(path) for path in beside if path != beside.fixtures or fixtures is not None]
    rows = {**manifest_data(manifest), "signatures": signed, "files": files}
    show(Shown(rows), as_json=as_json)


def verify(
    module: Path, keys: str | None, threshold: int | None, audience: Audience, *, limits: Limits, as_json: bool
) -> None:
    """Verify the module with the files beside it; what is wrong is raised."""
    if keys is None:
        raise ConfigError("--trusted-keys", None, "a file of public keys, or their lines with commas between them")
    verifier = Verifier(
        trusted(keys, threshold),
        require_signature=True,
        audience=audience,
        limits=limits,
        bundle_keys=configured_bundle_keys(),
    )
    policy = verifier.load(module)
    fixtures = read_beside(module, FIXTURES_SUFFIX, FIXTURES_BYTES)
    fixtures_of(policy.manifest, fixtures, path=f"{module}{FIXTURES_SUFFIX}")
    show(_verified(policy), as_json=as_json)


def _verified(policy: VerifiedPolicy) -> Shown:
    rows = {"verified": True, **manifest_data(policy.manifest), "signers": list(policy.signers)}
    return Shown(rows)


def _make_way(beside: Beside, version: int, *, with_fixtures: bool, replaced: bool) -> None:
    """Raise :class:`ConfigError` where what is there may not be replaced: fixtures go only for others, or with the
    manifest that names them."""
    if not replaced:
        for path in (beside.manifest, beside.fixtures if with_fixtures else None):
            if path is not None and path.exists():
                valid = f"--replace with it, because there is a {path}; or no version"
                raise ConfigError("--version", version, valid)
    if with_fixtures or not beside.fixtures.exists():
        return
    try:
        named = Manifest.from_bytes(_read(beside.manifest, MANIFEST_BYTES)).fixtures
    except ArtifactError:
        named = None
    if named != hashlib.sha256(_read(beside.fixtures, FIXTURES_BYTES)).hexdigest():
        valid = f"some, or no {beside.fixtures}, which this manifest would not name"
        raise ConfigError("--fixtures", None, valid)


def _fixtures(paths: Sequence[Path]) -> bytes | None:
    """The file of the fixtures at ``paths``; ``None`` where there are no paths."""
    if not paths:
        return None
    found = read_fixtures(*paths, limits=production_limits())
    if not found:
        raise FixturesFailed("there are no fixtures in what --fixtures names", failures=(), total=0)
    return release_file(found)


def _judge(module: Path, manifest: Manifest, data: bytes | None, path: str) -> None:
    """Raise :class:`FixturesFailed` where the module does not answer as the fixtures of ``manifest`` expect."""
    fixtures = fixtures_of(manifest, data, path=path)
    if fixtures:
        limits, entrypoint = production_limits(), manifest.entrypoint or ONLY_ENTRYPOINT
        policy = VerifiedPolicy(load_wasm_artifact(module, manifest.sha256), manifest, fixtures=fixtures)
        check_release(policy, limits=limits, entrypoint=entrypoint)


def _present(module: Path, beside: Beside, fields: dict[str, Any]) -> tuple[Manifest, Any]:
    """The manifest that is there, of exactly this module, and its signatures."""
    if fields:
        raise ConfigError(
            "--version", None, f"the version of a new manifest, since {', '.join(sorted(fields))} is given"
        )
    manifest = Manifest.from_bytes(_read(beside.manifest, MANIFEST_BYTES), path=str(beside.manifest))
    load_wasm_artifact(module, manifest.sha256)
    if not beside.signature.exists():
        return manifest, ()
    return manifest, parse_signatures(_read(beside.signature, SIGNATURE_BYTES), path=str(beside.signature))


def _described(module: Path, version: int, fields: dict[str, Any], fixtures: bytes | None) -> Manifest:
    created = datetime.now(timezone.utc).replace(microsecond=0)
    if "expires" in fields:
        fields["expires"] = parse_time(fields["expires"], created)
    if "environment" in fields:
        fields["environment"] = tuple(sorted(set(fields["environment"])))
    if fixtures is not None:
        fields["fixtures"] = hashlib.sha256(fixtures).hexdigest()
    if "limits" in fields:
        fields["limits"] = dict(map(_limit, fields["limits"]))
    artifact = load_wasm_artifact(module)
    asked = {key: fields.pop(f"entrypoint_{key}") for key in ("name", "result") if f"entrypoint_{key}" in fields}
    if asked:
        fields["entrypoint"] = Entrypoint(**asked)
    fields["policy_hash"] = _policy_hash(fields.get("policy_hash", "any"))
    return Manifest.describing(artifact, version=version, created=created, **fields)


def parse_time(text: str, now: datetime) -> datetime:
    """A time in UTC as RFC 3339 writes it, or ``90d``: so many days from ``now``."""
    valid = "a time such as 2027-01-31T00:00:00Z, or a number of days such as 90d"
    days = _DAYS.fullmatch(text)
    try:
        if days is not None:
            return now + timedelta(days=int(days[1]))
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError) as error:
        raise ConfigError("--expires", text, valid) from error


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise ConfigError("--limit", text, "a name and a whole number, such as fuel=1000000")
    return name, int(number)


def _policy_hash(text: str) -> str | None:
    return {"any": None, "builtin": policy_hash()}.get(text, text)


def _passphrase(path: Path | None) -> bytes | None:
    return None if path is None else read_secret(path, private=True).rstrip(b"\r\n")


def _read(path: Path, most: int) -> bytes:
    return read_bytes(path, most)
