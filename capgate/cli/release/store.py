"""``capgate publish``, ``activate``, ``rollback``, ``reset`` and ``prune``: what they do."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import typer

from ...artifact.load import read_bytes
from ...errors import ArtifactNotFound, CapgateError, ConfigError, DigestMismatch, FixturesFailed
from ...limits import DIGEST, is_digest
from ...policy import is_label
from ...store import Active, PolicyStore, Verifier
from ...store.manifest import MANIFEST_BYTES, Audience
from ...store.release_fixtures import FIXTURES_BYTES
from ...store.signing import SIGNATURE_BYTES
from ...store.verifier import FIXTURES_SUFFIX, MANIFEST_SUFFIX, SIGNATURE_SUFFIX
from ...testing.golden import read_fixtures
from ..files import read_beside
from ..show import Shown, show
from ..trust import configured_bundle_keys, production_limits, requires_signature, trusted
from .trial import answers, passes

_VERSION: Final = re.compile(r"[0-9]{1,16}", re.ASCII)


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
    """Put a module and the files beside it into the store."""
    # What is not there is refused by the store, where it trusts keys, or the manifest names it.
    signatures = read_beside(module, SIGNATURE_SUFFIX, SIGNATURE_BYTES)
    fixtures = read_beside(module, FIXTURES_SUFFIX, FIXTURES_BYTES)
    data = read_bytes(module, store.verifier.limits.module_bytes)
    stated = read_bytes(f"{module}{MANIFEST_SUFFIX}", MANIFEST_BYTES)
    try:
        release = store.publish(data, stated, signatures, fixtures)
    except DigestMismatch as error:  # of bytes, which have no name
        of_module = error.actual == hashlib.sha256(data).hexdigest()
        path = f"{module}{'' if of_module else FIXTURES_SUFFIX}"
        raise DigestMismatch(expected=error.expected, actual=error.actual, path=path) from error
    manifest = release.manifest
    rows = {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": manifest.sha256,
        "manifest": release.digest,
        "fixtures": manifest.fixtures,
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
    without_fixtures: bool = False,
    yes: bool,
    as_json: bool,
) -> None:
    """Activate a release that answers in the production runtime, and as its fixtures and these expect.

    Where there are none of either, only ``without_fixtures``.
    """
    limits = store.verifier.limits
    more = read_fixtures(*fixtures, limits=limits)
    if fixtures and not more:
        raise FixturesFailed("there are no fixtures in what --fixtures names", failures=(), total=0)
    wanted = parse_which(which)
    tried = "its fixtures and these pass" if more else "its fixtures pass"
    if without_fixtures and not more:
        tried += ", should it have any, and it answers a question of each action"
    _confirm(f"{_now(store, name)} {_release(wanted)} is to become active, if {tried}.", yes)

    check = passes(engine, limits, more, needed=not without_fixtures)
    with _standing(store, name):
        active = store.activate(name, wanted, check=check, note=note)
    _show_active(active, as_json)


def rollback(
    store: PolicyStore, name: str, to: str | None, engine: str, note: str, *, yes: bool, as_json: bool
) -> None:
    """Go back to the release before, or to another one that was active."""
    wanted = None if to is None else parse_which(to)
    target = "the release before it" if wanted is None else _release(wanted).lower()
    _confirm(f"{_now(store, name)} It is to go back to {target}.", yes)
    with _standing(store, name):
        active = store.rollback(name, wanted, check=answers(engine, store.verifier.limits), note=note)
    _show_active(active, as_json)


def reset(store: PolicyStore, name: str, to: str | None, engine: str, note: str, *, yes: bool, as_json: bool) -> None:
    """Begin again at a release whose fixtures pass, if it has any, and forget that a higher version was active."""
    wanted = None if to is None else parse_which(to)
    target = "the active release" if wanted is None else _release(wanted).lower()
    _confirm(f"{_now(store, name)} It is to begin again at {target}; every version above will be accepted.", yes)
    _show_active(
        store.reset(name, wanted, check=passes(engine, store.verifier.limits, needed=False), note=note), as_json
    )


def prune(store: PolicyStore, keep: int, *, yes: bool, as_json: bool) -> None:
    """Remove releases that are superseded."""
    going = store.prune(keep, dry=True)
    if going:
        _confirm(f"{len(going)} folders are to be removed: {', '.join(digest[:16] for digest in going)}.", yes)
    removed = store.prune(keep)
    show(Shown({"removed": list(removed)}, ("removed",), [(digest,) for digest in removed]), as_json=as_json)


def parse_which(text: str) -> int | str:
    """A version, or a digest."""
    if _VERSION.fullmatch(text):
        return int(text)
    if is_digest(text):
        return text
    raise ConfigError("release", text, f"a version such as 7, or {DIGEST}")


def _now(store: PolicyStore, name: str) -> str:
    state = store.status(known(store, name))
    if state.active is None:
        return f"{name}: nothing is active." if state.problem is None else f"{name}: {state.problem}."
    return f"{name}: version {state.active.version} ({state.active.sha256[:16]}) is active."


def known(store: PolicyStore, name: str) -> str:
    """``name``, if anything was published under it: a misspelt one is not a policy of which nothing is active."""
    names = store.names()
    if is_label(name) and name not in names:
        message = f"{name!r} was never published here; what was: {', '.join(names) or 'nothing'}"
        raise ArtifactNotFound(message, path=store.path)
    return name


@contextmanager
def _standing(store: PolicyStore, name: str) -> Iterator[None]:
    """Where a change fails, say what is active: what was before, unless the disk failed in the very last step."""
    try:
        yield
    except CapgateError:
        with suppress(CapgateError):  # it is the first one that matters
            print(f"Not done. {_now(store, name)}", file=sys.stderr, flush=True)
        raise


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
