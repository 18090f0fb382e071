"""``capgate status`` and ``history``: what is active, what was, and which of it has golden fixtures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...errors import ArtifactError
from ...store import PolicyStore, Status
from ..show import Shown, manifest_data, show
from .store import known


def status(store: PolicyStore, name: str | None, *, as_json: bool) -> int:
    """Show what is active; the exit code is 1 where a policy could not be loaded now."""
    found = [store.status(each) for each in (store.names() if name is None else (known(store, name),))]
    data = {"policies": [_status_data(each) for each in found]}
    columns = (
        *("policy", "version", "label", "sha256", "since", "expires", "signed by", "fixtures", "published"),
        "problem",
    )
    show(Shown(data, columns, [_row(each) for each in found]), as_json=as_json)
    return 1 if any(each.problem is not None for each in found) else 0


def history(store: PolicyStore, name: str, *, as_json: bool) -> None:
    """Show what was active, the newest first."""
    records = store.history(name)
    tested = _tested(store, name)
    columns = ("#", "when", "action", "version", "sha256", "fixtures", "highest", "note")
    rows = [
        (r.sequence, r.when, r.action, r.version, r.sha256[:16], _yes(tested.get(r.manifest)), r.highest, r.note)
        for r in records
    ]
    data = [{**msgspec.to_builtins(record), "fixtures": tested.get(record.manifest)} for record in records]
    show(Shown({"history": data}, columns, rows), as_json=as_json)


def _tested(store: PolicyStore, name: str) -> dict[str, bool]:
    """Whether a release has fixtures, by its digest. Those are missing that were pruned, or cannot be read."""
    try:
        return {release.digest: release.manifest.fixtures is not None for release in store.releases(name)}
    except ArtifactError:
        return {}


def _yes(tested: bool | None) -> str | None:
    return None if tested is None else "yes" if tested else "no"


def _status_data(state: Status) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(state)
    data["manifest"] = None if state.manifest is None else manifest_data(state.manifest)
    data["releases"] = [{"digest": one.digest, "manifest": manifest_data(one.manifest)} for one in state.releases]
    return data


def _row(state: Status) -> Sequence[object]:
    active, manifest = state.active, state.manifest
    published = [release.manifest.version for release in state.releases[:8]]
    if active is None:
        return (state.name, *(None,) * 7, published, state.problem)
    label, expires = (manifest.label, manifest.expires) if manifest is not None else (None, None)
    tested = None if manifest is None else _yes(manifest.fixtures is not None)
    since = active.when
    return (
        state.name,
        active.version,
        label,
        active.sha256[:16],
        since,
        expires,
        state.signers,
        tested,
        published,
        state.problem,
    )
