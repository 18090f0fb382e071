"""Works on a store: ``capgate publish``, ``activate``, ``rollback``, ``reset``, ``status``, ``history``, ``prune``."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from ...artifact.load import read_bytes
from ...errors import (
    ArtifactError,
    ArtifactNotFound,
    CapgateError,
    ConfigError,
    DigestMismatch,
    FixturesFailed,
    StoreError,
)
from ...limits import DIGEST, is_digest
from ...policy import is_label
from ...store import Active, PolicyStore, Status, Verifier
from ...store.manifest import MANIFEST_BYTES, Audience
from ...store.release_fixtures import FIXTURES_BYTES
from ...store.signing import SIGNATURE_BYTES
from ...store.verifier import FIXTURES_SUFFIX, MANIFEST_SUFFIX, SIGNATURE_SUFFIX
from ...testing.golden import read_fixtures
from ..configuration import configured_bundle_keys, production_limits, requires_signature, trusted_keys_from
from ..errors import reporting_rejection
from ..files import read_beside
from ..options import (
    CheckingEngine,
    Json,
    Keys,
    Mode,
    Module,
    Note,
    PolicyName,
    Service,
    Store,
    Threshold,
    ToRelease,
    WhichRelease,
    Yes,
)
from ..terminal import print_facts, print_rows
from .activation_checks import answers, passes
from .signing import manifest_facts

_VERSION: Final = re.compile(r"[0-9]{1,16}", re.ASCII)


def publish(
    module: Module,
    store: Store,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Add a module with its manifest and fixtures to a store. Nothing that runs changes.

    A store that is not there is made. With trusted keys the signature has to hold; without, it is not looked at.

    Try:

    - `capgate publish policy.wasm --store /srv/policies --trusted-keys keys.txt`
    """
    with reporting_rejection(as_json):
        opened = open_store(store, trusted_keys, threshold)
        # What is not there is rejected by the store, where it trusts keys, or the manifest names it.
        signatures = read_beside(module, SIGNATURE_SUFFIX, SIGNATURE_BYTES)
        fixtures = read_beside(module, FIXTURES_SUFFIX, FIXTURES_BYTES)
        data = read_bytes(module, opened.verifier.limits.module_bytes)
        stated = read_bytes(f"{module}{MANIFEST_SUFFIX}", MANIFEST_BYTES)
        try:
            release = opened.publish(data, stated, signatures, fixtures)
        except DigestMismatch as error:  # of bytes, which have no name
            of_module = error.actual == hashlib.sha256(data).hexdigest()
            path = f"{module}{'' if of_module else FIXTURES_SUFFIX}"
            raise DigestMismatch(expected=error.expected, actual=error.actual, path=path) from error
        manifest = release.manifest
        facts = {
            "name": manifest.name,
            "version": manifest.version,
            "sha256": manifest.sha256,
            "manifest": release.digest,
            "fixtures": manifest.fixtures,
            "verified": opened.verifier.keys is not None,
        }
        print_facts(facts, as_json=as_json)


def activate(
    name: PolicyName,
    release: WhichRelease,
    store: Store,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    mode: Mode = None,
    service: Service = None,
    engine: CheckingEngine = "auto",
    fixtures: Annotated[
        list[Path] | None,
        typer.Option(
            help="More golden fixtures, a file or a folder, that it has to answer as expected. May be repeated."
        ),
    ] = None,
    without_fixtures: Annotated[
        bool,
        typer.Option("--without-fixtures", help="Also if there are no fixtures to judge it by, its own or others."),
    ] = False,
    note: Note = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a published release the active one. Applications that follow the store take it up.

    It is verified, and has to answer in this runtime, under the limits of the environment, as the golden fixtures
    expect that it was signed with. Where one fails, what is active stays, and the exit code is 1. A release that was
    signed without any needs `--fixtures`, or `--without-fixtures`. Versions only rise.

    Try:

    - `capgate activate orders 7 --store /srv/policies --trusted-keys keys.txt --yes`
    - `capgate activate orders 7 --store /srv/policies --fixtures staging/fixtures/`
    """
    with reporting_rejection(as_json):
        opened = open_store(store, trusted_keys, threshold, mode=mode, service=service)
        limits = opened.verifier.limits
        more = read_fixtures(*(fixtures or ()), limits=limits)
        if fixtures and not more:
            raise FixturesFailed("there are no fixtures in what --fixtures names", failures=(), total=0)
        wanted = parse_release(release)
        tried = "its fixtures and these pass" if more else "its fixtures pass"
        if without_fixtures and not more:
            tried += ", should it have any, and it answers a question of each action"
        _confirm(f"{_active_now(opened, name)} {_release_text(wanted)} is to become active, if {tried}.", yes)
        check = passes(engine, limits, more, needed=not without_fixtures)
        with _saying_what_is_active(opened, name):
            active = opened.activate(name, wanted, check=check, note=note)
        _print_active(active, as_json)


def rollback(
    name: PolicyName,
    store: Store,
    to: ToRelease = None,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    engine: CheckingEngine = "auto",
    note: Note = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Go back to the release that was active before, or to another one that was active.

    It needs no fixtures: where it goes was active before. The highest version stays on record: a release after this has
    to have a higher one.

    Try:

    - `capgate rollback orders --store /srv/policies --yes --note "denies too much"`
    - `capgate rollback orders --to 5 --store /srv/policies`
    """
    with reporting_rejection(as_json):
        opened = open_store(store, trusted_keys, threshold)
        wanted = None if to is None else parse_release(to)
        target = "the release before it" if wanted is None else _release_text(wanted).lower()
        _confirm(f"{_active_now(opened, name)} It is to go back to {target}.", yes)
        with _saying_what_is_active(opened, name):
            active = opened.rollback(name, wanted, check=answers(engine, opened.verifier.limits), note=note)
        _print_active(active, as_json)


def reset(
    name: PolicyName,
    store: Store,
    to: ToRelease = None,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    engine: CheckingEngine = "auto",
    note: Note = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget that higher versions were active, and begin again at a release. For two accidents only.

    A version was activated that leaves no room above it; or the record of what is active was lost or damaged. Until the
    next release, everything published that has a higher version can be activated: prune, or sign a new one. If the
    release has fixtures, they have to pass.

    Try:

    - `capgate rollback orders --store /srv/policies && capgate reset orders --store /srv/policies`
    """
    with reporting_rejection(as_json):
        opened = open_store(store, trusted_keys, threshold)
        wanted = None if to is None else parse_release(to)
        target = "the active release" if wanted is None else _release_text(wanted).lower()
        plan = f"It is to begin again at {target}; every version above will be accepted."
        _confirm(f"{_active_now(opened, name)} {plan}", yes)
        check = passes(engine, opened.verifier.limits, needed=False)
        _print_active(opened.reset(name, wanted, check=check, note=note), as_json)


def status(
    store: Store,
    name: Annotated[str | None, typer.Argument(help="Name of the policy; all of them, if left out.")] = None,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Show which policies are active, verified now with their fixtures. The exit code is 1 if one could not be loaded,
    its fixtures could not be judged again, or something in the store was passed over.

    Try:

    - `capgate status --store /srv/policies --trusted-keys keys.txt`
    """
    with reporting_rejection(as_json):
        opened = open_store(store, trusted_keys, threshold)
        states = [opened.status(each) for each in (opened.names() if name is None else (_known(opened, name),))]
        data = {"policies": [_status_data(state) for state in states]}
        columns = ("policy", "version", "label", "sha256", "since", "expires", "signed by", "fixtures", "published")
        print_rows(data, (*columns, "problem"), [_status_row(state) for state in states], as_json=as_json)
        raise typer.Exit(1 if any(state.problem is not None for state in states) else 0)


def history(name: PolicyName, store: Store, as_json: Json = False) -> None:
    """Show what was active when, the newest first, and which of it was released with fixtures.

    Try:

    - `capgate history orders --store /srv/policies --json`
    """
    with reporting_rejection(as_json):
        opened = open_store(store, None, None, verifies=False)
        records = opened.history(name)
        tested = _tested(opened, name)
        columns = ("#", "when", "action", "version", "sha256", "fixtures", "highest", "note")
        rows = [
            (r.sequence, r.when, r.action, r.version, r.sha256[:16], _yes(tested.get(r.manifest)), r.highest, r.note)
            for r in records
        ]
        data = [{**msgspec.to_builtins(record), "fixtures": tested.get(record.manifest)} for record in records]
        print_rows({"history": data}, columns, rows, as_json=as_json)


def prune(
    store: Store,
    keep: Annotated[int, typer.Option(min=0, max=1_000, help="Releases to keep of those that were active.")] = 5,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove releases that are superseded, never the active one or the one before it.

    Try:

    - `capgate prune --store /srv/policies --keep 3`
    """
    with reporting_rejection(as_json):
        opened = open_store(store, None, None, verifies=False)
        going = opened.prune(keep, dry=True)
        if going:
            _confirm(f"{len(going)} folders are to be removed: {', '.join(digest[:16] for digest in going)}.", yes)
        removed = opened.prune(keep)
        print_rows({"removed": list(removed)}, ("removed",), [(digest,) for digest in removed], as_json=as_json)


def open_store(
    path: Path,
    keys: str | None,
    threshold: int | None,
    *,
    mode: str | None = None,
    service: str | None = None,
    verifies: bool = True,
) -> PolicyStore:
    """Return the store, with the limits of the environment.

    Says where a command that ``verifies`` looks at no signature. Raises :class:`ConfigError` where
    ``CAPGATE_REQUIRE_SIGNATURE`` asks for one.
    """
    if verifies and keys is None:
        print("No --trusted-keys: signatures are not looked at, here.", file=sys.stderr, flush=True)
    limits = production_limits()
    audience = Audience(mode=mode, service=service, limits=limits)
    verifier = Verifier(
        trusted_keys_from(keys, threshold),
        require_signature=verifies and requires_signature(),
        audience=audience,
        limits=limits,
        bundle_keys=configured_bundle_keys(),
    )
    return PolicyStore(path, verifier)


def parse_release(text: str) -> int | str:
    """Return a version, or a digest. Raises :class:`ConfigError` for what is neither."""
    if _VERSION.fullmatch(text):
        return int(text)
    if is_digest(text):
        return text
    raise ConfigError("release", text, f"a version such as 7, or {DIGEST}")


def _release_text(wanted: int | str) -> str:
    return f"Version {wanted}" if isinstance(wanted, int) else f"Release {wanted[:16]}"


def _known(store: PolicyStore, name: str) -> str:
    """Return ``name`` if anything was published under it: a misspelt one is not a policy of which nothing is active."""
    names = store.names()
    if is_label(name) and name not in names:
        message = f"{name!r} was never published here; what was: {', '.join(names) or 'nothing'}"
        raise ArtifactNotFound(message, path=store.path)
    return name


# -- what is active


def _active_now(store: PolicyStore, name: str) -> str:
    state = store.status(_known(store, name))
    if state.active is None:
        return f"{name}: nothing is active." if state.problem is None else f"{name}: {state.problem}."
    return f"{name}: version {state.active.version} ({state.active.sha256[:16]}) is active."


@contextmanager
def _saying_what_is_active(store: PolicyStore, name: str) -> Iterator[None]:
    """Say what is active where a change fails: what was before, unless the disk failed in the very last step."""
    try:
        yield
    except CapgateError as error:
        done = "Done all the same" if isinstance(error, StoreError) and error.changed else "Not done"
        with suppress(CapgateError):  # it is the first one that matters
            print(f"{done}. {_active_now(store, name)}", file=sys.stderr, flush=True)
        raise


def _confirm(plan: str, yes: bool) -> None:
    """Say what will happen. Without ``--yes``, ask on a terminal, and elsewhere do nothing."""
    print(plan, file=sys.stderr, flush=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("--yes", False, "--yes, where there is no terminal to ask on; nothing was changed")
    typer.confirm("Go on?", abort=True, err=True)


def _print_active(active: Active, as_json: bool) -> None:
    keys = ("name", "version", "sha256", "action", "when", "sequence", "highest", "note")
    print_facts({key: value for key, value in msgspec.to_builtins(active).items() if key in keys}, as_json=as_json)


# -- as data and in rows


def _tested(store: PolicyStore, name: str) -> dict[str, bool]:
    """Say of each release, by its digest, whether it has fixtures.

    Those are missing that were pruned, or cannot be read.
    """
    try:
        return {release.digest: release.manifest.fixtures is not None for release in store.releases(name)}
    except ArtifactError:
        return {}


def _yes(tested: bool | None) -> str | None:
    return None if tested is None else "yes" if tested else "no"


def _status_data(state: Status) -> dict[str, object]:
    data: dict[str, object] = msgspec.to_builtins(state)
    data["manifest"] = None if state.manifest is None else manifest_facts(state.manifest)
    data["releases"] = [
        {"digest": release.digest, "manifest": manifest_facts(release.manifest)} for release in state.releases
    ]
    return data


def _status_row(state: Status) -> Sequence[object]:
    active, manifest = state.active, state.manifest
    published = [release.manifest.version for release in state.releases[:8]]
    if active is None:
        return (state.name, *(None,) * 7, published, state.problem)
    label, expires = (manifest.label, manifest.expires) if manifest is not None else (None, None)
    tested = None if manifest is None else _yes(manifest.fixtures is not None)
    named = (state.name, active.version, label, active.sha256[:16], active.when, expires)
    return (*named, state.signers, tested, published, state.problem)
