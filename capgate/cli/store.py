"""``capgate publish``, ``activate``, ``rollback``, ``reset``, ``status``, ``history`` and ``prune``: what they do."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import typer

from ..actions import VOCABULARY
from ..engine import load_engine
from ..errors import ArtifactNotFound, ConfigError, DigestMismatch
from ..golden import check_fixtures, read_fixtures
from ..golden.subject import ALL
from ..interpreter import CompiledPolicy, PreparedPolicy
from ..limits import Limits
from ..model import ONLY_ENTRYPOINT, Entrypoint, PolicyInput, Resource
from ..policy import is_label
from ..store import Active, PolicyStore, Status, Verifier, WasmArtifact
from ..store.loader import OPA, read_document
from ..store.manifest import MANIFEST_BYTES, Audience
from ..store.signing import SIGNATURE_BYTES
from ..store.verify import MANIFEST_SUFFIX, SIGNATURE_SUFFIX
from .show import Shown, show
from .trust import configured_bundle_keys, production_entrypoint, production_limits, requires_signature, trusted

_VERSION: Final = re.compile(r"[0-9]{1,16}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def open_store(
    path: Path,
    keys: str | None,
    threshold: int | None,
    *,
    mode: str | None = None,
    service: str | None = None,
    verifies: bool = True,
) -> PolicyStore:
    """The store, with the limits of the environment. Says where a command that ``verifies`` looks at no signature, and
    raises :class:`ConfigError` where ``CAPGATE_REQUIRE_SIGNATURE`` asks for one."""
    if verifies and keys is None:
        print("No --trusted-keys: signatures are not looked at, here.", file=sys.stderr, flush=True)
    limits = production_limits()
    audience = Audience(mode=mode, service=service, limits=limits)
    verifier = Verifier(
        trusted(keys, threshold),
        require_signature=verifies and requires_signature(),
        audience=audience,
        limits=limits,
        bundle_keys=configured_bundle_keys(),
    )
    return PolicyStore(path, verifier)


def publish(store: PolicyStore, module: Path, *, as_json: bool) -> None:
    """Put a module and the two files beside it into the store."""

    def beside(suffix: str, most: int) -> bytes:
        return read_document(f"{module}{suffix}", limits=Limits(module_bytes=most))

    signatures: bytes | None
    try:
        signatures = beside(SIGNATURE_SUFFIX, SIGNATURE_BYTES)
    except ArtifactNotFound:
        signatures = None  # which the store refuses, where it trusts keys
    data = read_document(module, limits=store.verifier.limits)
    try:
        release = store.publish(data, beside(MANIFEST_SUFFIX, MANIFEST_BYTES), signatures)
    except DigestMismatch as error:  # of bytes, which have no name
        raise DigestMismatch(expected=error.expected, actual=error.actual, path=str(module)) from error
    manifest = release.manifest
    rows = {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": manifest.sha256,
        "manifest": release.digest,
        "verified": store.verifier.keys is not None,
    }
    show(Shown(rows), as_json=as_json)


def activate(
    store: PolicyStore,
    name: str,
    which: str,
    engine: str,
    note: str,
    *,
    fixtures: Sequence[Path] = (),
    yes: bool,
    as_json: bool,
) -> None:
    """Activate a release that answers in the production runtime, and as its fixtures expect."""
    limits = store.verifier.limits
    answering, expected = answers(engine, limits), read_fixtures(*fixtures, limits=limits) if fixtures else None
    wanted = parse_which(which)
    tried = "its fixtures pass" if fixtures else "it answers a question of each action (there are no --fixtures)"
    _confirm(f"{_now(store, name)} {_release(wanted)} is to become active, if {tried}.", yes)

    def check(artifact: WasmArtifact) -> None:
        answering(artifact)
        if expected is not None:
            engines = ALL if engine == "auto" else (engine,)
            check_fixtures(artifact, expected, limits, engines=engines, entrypoint=entrypoint_of(artifact))

    active = store.activate(name, wanted, check=check, note=note)
    _show_active(active, as_json)


def rollback(
    store: PolicyStore, name: str, to: str | None, engine: str, note: str, *, yes: bool, as_json: bool
) -> None:
    """Go back to the release before, or to another one that was active."""
    wanted = None if to is None else parse_which(to)
    target = "the release before it" if wanted is None else _release(wanted).lower()
    _confirm(f"{_now(store, name)} It is to go back to {target}.", yes)
    active = store.rollback(name, wanted, check=answers(engine, store.verifier.limits), note=note)
    _show_active(active, as_json)


def reset(store: PolicyStore, name: str, to: str | None, engine: str, note: str, *, yes: bool, as_json: bool) -> None:
    """Begin again at a release, and forget that a higher version was active."""
    wanted = None if to is None else parse_which(to)
    target = "the active release" if wanted is None else _release(wanted).lower()
    _confirm(f"{_now(store, name)} It is to begin again at {target}; every version above will be accepted.", yes)
    _show_active(store.reset(name, wanted, check=answers(engine, store.verifier.limits), note=note), as_json)


def status(store: PolicyStore, name: str | None, *, as_json: bool) -> int:
    """Show what is active; the exit code is 1 where a policy could not be loaded now."""
    found = [store.status(each) for each in (store.names() if name is None else (_known(store, name),))]
    data = {"policies": [msgspec.to_builtins(each) for each in found]}
    columns = ("policy", "version", "label", "sha256", "since", "expires", "signed by", "published", "problem")
    show(Shown(data, columns, [_row(each) for each in found]), as_json=as_json)
    return 1 if any(each.problem is not None for each in found) else 0


def history(store: PolicyStore, name: str, *, as_json: bool) -> None:
    """Show what was active, the newest first."""
    records = store.history(name)
    columns = ("#", "when", "action", "version", "sha256", "highest", "note")
    rows = [(r.sequence, r.when, r.action, r.version, r.sha256[:16], r.highest, r.note) for r in records]
    show(Shown({"history": [msgspec.to_builtins(record) for record in records]}, columns, rows), as_json=as_json)


def prune(store: PolicyStore, keep: int, *, yes: bool, as_json: bool) -> None:
    """Remove releases that are superseded."""
    going = store.prune(keep, dry=True)
    if going:
        _confirm(f"{len(going)} folders are to be removed: {', '.join(digest[:16] for digest in going)}.", yes)
    removed = store.prune(keep)
    show(Shown({"removed": list(removed)}, ("removed",), [(digest,) for digest in removed]), as_json=as_json)


def answers(engine: str, limits: Limits) -> Callable[[WasmArtifact], None]:
    """A check that the artifact loads and answers one question of each action, in this runtime under these limits."""

    def check(artifact: WasmArtifact) -> None:
        compiled = CompiledPolicy(PreparedPolicy(artifact, limits, entrypoint_of(artifact)), load_engine(engine))
        for action in VOCABULARY:
            resource = Resource(action.kind, "capgate-trial") if action.kind is not None else None
            compiled.instantiate().call_policy_check(PolicyInput(action.name, resource=resource))

    return check


def entrypoint_of(artifact: WasmArtifact) -> Entrypoint:
    """What the application's own settings say, where the module has entry points at all."""
    return production_entrypoint() if artifact.abi == OPA else ONLY_ENTRYPOINT


def parse_which(text: str) -> int | str:
    """A version, or a digest."""
    if _VERSION.fullmatch(text):
        return int(text)
    if _DIGEST.fullmatch(text):
        return text
    raise ConfigError("release", text, "a version such as 7, or 64 lower-case hex digits")


def _now(store: PolicyStore, name: str) -> str:
    state = store.status(_known(store, name))
    if state.active is None:
        return f"{name}: nothing is active." if state.problem is None else f"{name}: {state.problem}."
    return f"{name}: version {state.active.version} ({state.active.sha256[:16]}) is active."


def _known(store: PolicyStore, name: str) -> str:
    """``name``, if anything was published under it: a misspelt one is not a policy of which nothing is active."""
    names = store.names()
    if is_label(name) and name not in names:
        message = f"{name!r} was never published here; what was: {', '.join(names) or 'nothing'}"
        raise ArtifactNotFound(message, path=store.path)
    return name


def _release(wanted: int | str) -> str:
    return f"Version {wanted}" if isinstance(wanted, int) else f"Release {wanted[:16]}"


def _confirm(plan: str, yes: bool) -> None:
    """Say what will happen. Without ``--yes``, ask on a terminal, and elsewhere do nothing."""
    print(plan, file=sys.stderr, flush=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("--yes", False, "--yes, where there is no terminal to ask on; nothing was changed")
    typer.confirm("Go on?", abort=True, err=True)


def _show_active(active: Active, as_json: bool) -> None:
    keys = ("name", "version", "sha256", "action", "when", "sequence", "highest", "note")
    show(Shown({key: value for key, value in msgspec.to_builtins(active).items() if key in keys}), as_json=as_json)


def _row(state: Status) -> Sequence[object]:
    active, manifest = state.active, state.manifest
    published = [release.manifest.version for release in state.releases[:8]]
    if active is None:
        return (state.name, None, None, None, None, None, None, published, state.problem)
    label, expires = (manifest.label, manifest.expires) if manifest is not None else (None, None)
    since = active.when
    return (
        state.name,
        active.version,
        label,
        active.sha256[:16],
        since,
        expires,
        state.signers,
        published,
        state.problem,
    )
