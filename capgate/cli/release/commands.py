"""The commands from a key to a published release, and the words of their help. What they do is in :mod:`.signing`.

Exit codes: 0 done, 1 refused or not verified, 2 usage or configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..entry import Result
from ..options import Json, Keys, Mode, Module, Passphrase, Service, Store, Threshold, refusing


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (keygen, sign, verify, publish):
        app.command()(command)


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
    from . import signing

    signing.keygen(path, passphrase_file, as_json=as_json)


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
        Result | None, typer.Option(help="What that rule gives: a decision (as if left out), or denials.")
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
    from . import signing

    given = {
        "name": name,
        "label": label,
        "expires": expires,
        "environment": environment or None,
        "service": service,
        "limits": limit or None,
        "policy_hash": vocabulary,
        "fixtures": fixtures or None,
        "entrypoint_name": entrypoint,
        "entrypoint_result": None if entrypoint_result is None else entrypoint_result.value,
    }
    fields: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    with refusing(as_json):
        signing.sign(
            module, key, passphrase_file, version=version, fields=fields, replace_manifest=replace, as_json=as_json
        )


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
    from ...store.manifest import Audience
    from ..trust import production_limits
    from . import signing

    limits = production_limits()
    audience = Audience(name=name, mode=mode, service=service, limits=limits)
    with refusing(as_json):
        signing.verify(module, trusted_keys, threshold, audience, limits=limits, as_json=as_json)


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
    from . import store as commands

    with refusing(as_json):
        commands.publish(commands.open_store(store, trusted_keys, threshold), module, as_json=as_json)
