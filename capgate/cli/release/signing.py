"""Signs releases: ``capgate keygen``, ``sign`` and ``verify``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import typer

from ...actions import policy_hash
from ...artifact.load import load_wasm_artifact, read_bytes
from ...errors import ArtifactError, ConfigError, FixturesFailed
from ...model import ONLY_ENTRYPOINT, Entrypoint
from ...store.manifest import MANIFEST_BYTES, Audience, Manifest
from ...store.release_fixtures import FIXTURES_BYTES, fixtures_of
from ...store.signing import SIGNATURE_BYTES, KeyPair, Signature, format_signatures, parse_signatures
from ...store.verifier import FIXTURES_SUFFIX, MANIFEST_SUFFIX, SIGNATURE_SUFFIX, VerifiedPolicy, Verifier
from ...testing.golden import check_release, read_fixtures, release_file
from ..configuration import configured_bundle_keys, production_limits, trusted_keys_from
from ..errors import reporting_rejection
from ..files import create_file, read_beside, read_secret, replace_file
from ..options import EntrypointResult, Json, Keys, Mode, Module, Passphrase, Service, Threshold
from ..terminal import path_text, print_facts, print_json

_DAYS: Final = re.compile(r"([0-9]{1,5})d", re.ASCII)


class Beside(NamedTuple):
    """The files beside a module."""

    manifest: Path
    signature: Path
    fixtures: Path

    @classmethod
    def of(cls, module: Path) -> Beside:
        return cls(*(Path(f"{module}{suffix}") for suffix in (MANIFEST_SUFFIX, SIGNATURE_SUFFIX, FIXTURES_SUFFIX)))


class Stated(msgspec.Struct, frozen=True, kw_only=True):
    """What the options of ``sign`` say about a new manifest; ``None`` is what they do not."""

    name: str | None
    label: str | None
    expires: str | None
    environment: list[str] | None
    service: str | None
    limits: list[str] | None
    policy_hash: str | None
    fixtures: list[Path] | None
    entrypoint_name: str | None
    entrypoint_result: Literal["decision", "denials"] | None

    def given(self) -> list[str]:
        """Return the names of those that were given."""
        return [field for field in self.__struct_fields__ if getattr(self, field) is not None]


def keygen(
    path: Annotated[Path, typer.Argument(help="Where to write the private key; the public one goes beside it.")] = Path(
        "capgate-key.pem"
    ),
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Make a key pair to sign policies with, and print the public key.

    The private key has mode 0600; with a passphrase it is encrypted. No file is ever overwritten. The printed line is
    what applications trust: `CAPGATE_TRUSTED_KEYS`, or a line of a file that it names.

    Try:

    - `capgate keygen release.pem`
    - `capgate keygen release.pem --passphrase-file <(pass show capgate)`
    """
    pair, public = KeyPair.generate(), Path(f"{path}.pub")
    if public.exists():
        raise ConfigError("file", str(public), "a name that is free; no key is ever overwritten")
    create_file(path, pair.to_pem(_passphrase(passphrase_file)), 0o600)
    create_file(public, f"{pair.public.line}\n".encode(), 0o644)
    if as_json:
        files = {"private": path_text(path), "public": path_text(public)}
        print_json({"key": pair.public.line, "id": pair.public.id, **files})
    else:
        print(pair.public.line, flush=True)


def sign(
    module: Module,
    key: Annotated[list[Path], typer.Option("--key", help="Private key; may be given several times.")],
    version: Annotated[
        int | None,
        typer.Option(help="Version of the release, above the last one. Without it, what is there is signed."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the policy, if not the module's own.")] = None,
    label: Annotated[str | None, typer.Option(help="What people call this version.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="2027-01-31T00:00:00Z, or 90d from now. Never, if left out.")
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option(help="Mode it is for, such as prod; several times for several.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="The one service that it is for.")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="Least that a limit has to be, such as fuel=1000000; several times.")
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="Actions it was written for: any, builtin, or a policyHash of 64 hex digits.")
    ] = None,
    entrypoint: Annotated[
        str | None,
        typer.Option(help="Of a module that OPA compiled: the rule to ask, such as orders/allow, if it has several."),
    ] = None,
    entrypoint_result: Annotated[
        EntrypointResult | None, typer.Option(help="What that rule gives: a decision (as if left out), or denials.")
    ] = None,
    fixtures: Annotated[
        list[Path] | None,
        typer.Option(help="Golden fixtures to release with it, a file or a folder, judged now. May be repeated."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a manifest that is there, with its fixtures.")
    ] = False,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Write the manifest of a module or of an OPA bundle, and sign it; or add a signature to the one that is there.

    Signed is everything in the manifest, with the SHA-256 of the file. Of a module that OPA compiled, that includes
    which entry point is asked, and what it gives. The golden fixtures are signed with it: they have to pass now, and
    again before it is activated. Without any, `activate` wants to be told so.

    Try:

    - `capgate sign policy.wasm --key release.pem --version 7 --fixtures fixtures/ --expires 90d`
    - `capgate sign bundle.tar.gz --key release.pem --version 7 --name orders --entrypoint orders/allow`
    - `capgate sign policy.wasm --key second.pem`, which adds a second signature
    """
    stated = Stated(
        name=name,
        label=label,
        expires=expires,
        environment=environment or None,
        service=service,
        limits=limit or None,
        policy_hash=vocabulary,
        fixtures=fixtures or None,
        entrypoint_name=entrypoint,
        entrypoint_result=None if entrypoint_result is None else entrypoint_result.value,
    )
    with reporting_rejection(as_json):
        beside = Beside.of(module)
        passphrase = _passphrase(passphrase_file)
        pairs = [KeyPair.from_pem(read_secret(path, private=True), passphrase, path=str(path)) for path in key]
        present: Sequence[Signature] = ()
        if version is None:
            manifest, present = _present(module, beside, stated)
            golden = read_beside(module, FIXTURES_SUFFIX, FIXTURES_BYTES)
        else:
            _make_way(beside, version, with_fixtures=stated.fixtures is not None, replaced=replace)
            golden = _fixtures_file(stated.fixtures or ())
            manifest = _described(module, version, stated, golden)
        _check_fixtures(module, manifest, golden, str(beside.fixtures))
        data = manifest.to_bytes()
        signatures = format_signatures((*present, *(pair.sign(data) for pair in pairs)))
        _write_beside(beside, None if version is None else data, golden, signatures)
        files = [path_text(path) for path in beside if path != beside.fixtures or golden is not None]
        signed = [signature.key for signature in parse_signatures(signatures)]
        print_facts({**manifest_facts(manifest), "signatures": signed, "files": files}, as_json=as_json)


def verify(
    module: Module,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    name: Annotated[str | None, typer.Option(help="The name that the policy has to have.")] = None,
    mode: Mode = None,
    service: Service = None,
    as_json: Json = False,
) -> None:
    """Verify a signed module or bundle, as an application with these keys would, and the fixtures that were signed with
    it. The exit code is 1 if it would be refused. With `CAPGATE_BUNDLE_KEYS`, a bundle's own signature has to hold as
    well.

    Try:

    - `capgate verify policy.wasm --trusted-keys keys.txt --mode prod`
    """
    limits = production_limits()
    audience = Audience(name=name, mode=mode, service=service, limits=limits)
    with reporting_rejection(as_json):
        if trusted_keys is None:
            raise ConfigError("--trusted-keys", None, "a file of public keys, or their lines with commas between them")
        verifier = Verifier(
            trusted_keys_from(trusted_keys, threshold),
            require_signature=True,
            audience=audience,
            limits=limits,
            bundle_keys=configured_bundle_keys(),
        )
        policy = verifier.load(module)
        fixtures = read_beside(module, FIXTURES_SUFFIX, FIXTURES_BYTES)
        fixtures_of(policy.manifest, fixtures, path=f"{module}{FIXTURES_SUFFIX}")
        facts = {"verified": True, **manifest_facts(policy.manifest), "signers": list(policy.signers)}
        print_facts(facts, as_json=as_json)


def manifest_facts(manifest: Manifest) -> dict[str, object]:
    """Return a manifest as data, where ``fixtures`` is said also if there are none."""
    return {**msgspec.to_builtins(manifest), "fixtures": manifest.fixtures}


def _write_beside(beside: Beside, manifest: bytes | None, fixtures: bytes | None, signatures: bytes) -> None:
    """Write the signatures, and before them the manifest, unless it is there, with its fixtures.

    The old signature goes first, so that no moment has the new manifest with it.
    """
    if manifest is not None:
        beside.signature.unlink(missing_ok=True)
        if fixtures is None:
            beside.fixtures.unlink(missing_ok=True)
        else:
            replace_file(beside.fixtures, fixtures)
        replace_file(beside.manifest, manifest)
    replace_file(beside.signature, signatures)


def _make_way(beside: Beside, version: int, *, with_fixtures: bool, replaced: bool) -> None:
    """Raise :class:`ConfigError` where what is there may not be replaced.

    Fixtures go only for others, or with the manifest that names them.
    """
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


def _fixtures_file(paths: Sequence[Path]) -> bytes | None:
    """Return the file of the fixtures at ``paths``; ``None`` where there are no paths."""
    if not paths:
        return None
    fixtures = read_fixtures(*paths, limits=production_limits())
    if not fixtures:
        raise FixturesFailed("there are no fixtures in what --fixtures names", failures=(), total=0)
    return release_file(fixtures)


def _check_fixtures(module: Path, manifest: Manifest, data: bytes | None, path: str) -> None:
    """Raise :class:`FixturesFailed` where the module does not answer as the fixtures of ``manifest`` expect."""
    fixtures = fixtures_of(manifest, data, path=path)
    if fixtures:
        limits, entrypoint = production_limits(), manifest.entrypoint or ONLY_ENTRYPOINT
        policy = VerifiedPolicy(load_wasm_artifact(module, manifest.sha256), manifest, fixtures=fixtures)
        check_release(policy, limits=limits, entrypoint=entrypoint)


def _present(module: Path, beside: Beside, stated: Stated) -> tuple[Manifest, Sequence[Signature]]:
    """Return the manifest that is there, of exactly this module, and its signatures."""
    if given := stated.given():
        valid = f"the version of a new manifest, since {', '.join(sorted(given))} is given"
        raise ConfigError("--version", None, valid)
    manifest = Manifest.from_bytes(_read(beside.manifest, MANIFEST_BYTES), path=str(beside.manifest))
    load_wasm_artifact(module, manifest.sha256)
    if not beside.signature.exists():
        return manifest, ()
    return manifest, parse_signatures(_read(beside.signature, SIGNATURE_BYTES), path=str(beside.signature))


def _described(module: Path, version: int, stated: Stated, fixtures: bytes | None) -> Manifest:
    """Return the manifest of ``module`` as ``stated``, with the digest of its ``fixtures``."""
    created = datetime.now(timezone.utc).replace(microsecond=0)
    fields: dict[str, Any] = {"policy_hash": _policy_hash("any" if stated.policy_hash is None else stated.policy_hash)}
    for field in ("name", "label", "service"):
        if (value := getattr(stated, field)) is not None:
            fields[field] = value
    if stated.expires is not None:
        fields["expires"] = parse_time(stated.expires, created)
    if stated.environment is not None:
        fields["environment"] = tuple(sorted(set(stated.environment)))
    if fixtures is not None:
        fields["fixtures"] = hashlib.sha256(fixtures).hexdigest()
    if stated.limits is not None:
        fields["limits"] = dict(map(_limit, stated.limits))
    artifact = load_wasm_artifact(module)
    if stated.entrypoint_name is not None or stated.entrypoint_result is not None:
        fields["entrypoint"] = Entrypoint(stated.entrypoint_name, stated.entrypoint_result or "decision")
    return Manifest.describing(artifact, version=version, created=created, **fields)


def parse_time(text: str, now: datetime) -> datetime:
    """Return a time in UTC as RFC 3339 writes it, or ``90d``: so many days from ``now``."""
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
