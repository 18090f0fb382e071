"""The commands that change or show what is active in a store, and the words of their help. What they do is in
:mod:`.store` and :mod:`.standing`.

Exit codes: 0 done, 1 refused or not verified, 2 usage or configuration.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import (
    Engine,
    Fixtures,
    Json,
    Keys,
    Mode,
    Name,
    Note,
    Service,
    Store,
    Threshold,
    To,
    Which,
    WithoutFixtures,
    Yes,
    refusing,
)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (activate, rollback, reset, status, history, prune):
        app.command()(command)


def activate(
    name: Name,
    release: Which,
    store: Store,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    mode: Mode = None,
    service: Service = None,
    engine: Engine = "auto",
    fixtures: Fixtures = None,
    without_fixtures: WithoutFixtures = False,
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
    from . import store as commands

    with refusing(as_json):
        opened = commands.open_store(store, trusted_keys, threshold, mode=mode, service=service)
        commands.activate(
            opened,
            name,
            release,
            engine,
            note,
            fixtures=fixtures or [],
            without_fixtures=without_fixtures,
            yes=yes,
            as_json=as_json,
        )


def rollback(
    name: Name,
    store: Store,
    to: To = None,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    engine: Engine = "auto",
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
    from . import store as commands

    with refusing(as_json):
        opened = commands.open_store(store, trusted_keys, threshold)
        commands.rollback(opened, name, to, engine, note, yes=yes, as_json=as_json)


def reset(
    name: Name,
    store: Store,
    to: To = None,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    engine: Engine = "auto",
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
    from . import store as commands

    with refusing(as_json):
        opened = commands.open_store(store, trusted_keys, threshold)
        commands.reset(opened, name, to, engine, note, yes=yes, as_json=as_json)


def status(
    store: Store,
    name: Annotated[str | None, typer.Argument(help="Name of the policy; all of them, if left out.")] = None,
    trusted_keys: Keys = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Show which policies are active, verified now with their fixtures. The exit code is 1 if one could not be loaded,
    or its fixtures could not be judged again.

    Try:

    - `capgate status --store /srv/policies --trusted-keys keys.txt`
    """
    from . import standing
    from . import store as commands

    with refusing(as_json):
        raise typer.Exit(standing.status(commands.open_store(store, trusted_keys, threshold), name, as_json=as_json))


def history(name: Name, store: Store, as_json: Json = False) -> None:
    """Show what was active when, the newest first, and which of it was released with fixtures.

    Try:

    - `capgate history orders --store /srv/policies --json`
    """
    from . import standing
    from . import store as commands

    with refusing(as_json):
        standing.history(commands.open_store(store, None, None, verifies=False), name, as_json=as_json)


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
    from . import store as commands

    with refusing(as_json):
        commands.prune(commands.open_store(store, None, None, verifies=False), keep, yes=yes, as_json=as_json)
