"""``capgate keygen``, ``sign`` and ``verify``: what they do. Their words :mod:`.releases`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import msgspec

from ..actions import policy_hash
from ..errors import ConfigError
from ..limits import Limits
from ..model import Entrypoint
from ..store.loader import load_wasm_artifact, read_document
from ..store.manifest import MANIFEST_BYTES, Audience, Manifest
from ..store.signing import SIGNATURE_BYTES, KeyPair, format_signatures, parse_signatures
from ..store.verify import MANIFEST_SUFFIX, SIGNATURE_SUFFIX, VerifiedPolicy, Verifier
from .files import create, read_secret, replace
from .show import Shown, show, shown
from .trust import configured_bundle_keys, trusted

_DAYS: Final = re.compile(r"([0-9]{1,5})d", re.ASCII)


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
    """Sign the manifest of ``module``, a new one where there is a ``version``; else that beside it, once more."""
    beside = Path(f"{module}{MANIFEST_SUFFIX}"), Path(f"{module}{SIGNATURE_SUFFIX}")
    passphrase = _passphrase(passphrase_file)
    pairs = [KeyPair.from_pem(read_secret(key, private=True), passphrase, path=str(key)) for key in keys]
    if version is None:
        manifest, present = _present(module, beside, fields)
    else:
        if beside[0].exists() and not replace_manifest:
            raise ConfigError("--version", version, f"--replace with it, because there is a {beside[0]}; or no version")
        manifest, present = _described(module, version, fields), ()
    data = manifest.to_bytes()
    signatures = format_signatures((*present, *(pair.sign(data) for pair in pairs)))
    # The signature goes first when a manifest is replaced, so that no moment has the new one with the old signature.
    if version is not None:
        beside[1].unlink(missing_ok=True)
        replace(beside[0], data)
    replace(beside[1], signatures)
    signed = [signature.key for signature in parse_signatures(signatures)]
    rows = {**msgspec.to_builtins(manifest), "signatures": signed, "files": [shown(path) for path in beside]}
    show(Shown(rows), as_json=as_json)


def verify(
    module: Path, keys: str | None, threshold: int | None, audience: Audience, *, limits: Limits, as_json: bool
) -> None:
    """Verify the module with the two files beside it; what is wrong is raised."""
    if keys is None:
        raise ConfigError("--trusted-keys", None, "a file of public keys, or their lines with commas between them")
    verifier = Verifier(
        trusted(keys, threshold),
        require_signature=True,
        audience=audience,
        limits=limits,
        bundle_keys=configured_bundle_keys(),
    )
    show(_verified(verifier.load(module)), as_json=as_json)


def _verified(policy: VerifiedPolicy) -> Shown:
    rows = {"verified": True, **msgspec.to_builtins(policy.manifest), "signers": list(policy.signers)}
    return Shown(rows)


def _present(module: Path, beside: tuple[Path, Path], fields: dict[str, Any]) -> tuple[Manifest, Any]:
    """The manifest that is there, of exactly this module, and its signatures."""
    if fields:
        raise ConfigError(
            "--version", None, f"the version of a new manifest, since {', '.join(sorted(fields))} is given"
        )
    manifest = Manifest.from_bytes(_read(beside[0], MANIFEST_BYTES), path=str(beside[0]))
    load_wasm_artifact(module, manifest.sha256)
    if not beside[1].exists():
        return manifest, ()
    return manifest, parse_signatures(_read(beside[1], SIGNATURE_BYTES), path=str(beside[1]))


def _described(module: Path, version: int, fields: dict[str, Any]) -> Manifest:
    created = datetime.now(timezone.utc).replace(microsecond=0)
    if "expires" in fields:
        fields["expires"] = parse_time(fields["expires"], created)
    if "environment" in fields:
        fields["environment"] = tuple(sorted(set(fields["environment"])))
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
    return read_document(path, limits=Limits(module_bytes=most))
