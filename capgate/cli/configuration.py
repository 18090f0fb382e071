"""Reads the keys, limits and entry point of a command, from its options or the variables that applications have."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..artifact.bundle import BundleKeys
from ..errors import ConfigError
from ..limits import RANGES, Limits
from ..model import Entrypoint
from ..settings.settings import Settings
from ..settings.table import BY_NAME, PREFIX, parse_trusted_keys
from ..settings.trust import load_bundle_keys, load_trusted_keys
from ..store.signing import TrustedKeys


def trusted_keys_from(keys: str | None, threshold: int | None) -> TrustedKeys | None:
    """Return the keys of ``--trusted-keys``, a path or lines with commas between them; ``None`` without the option."""
    return None if keys is None else load_trusted_keys(parse_trusted_keys(keys), 1 if threshold is None else threshold)


def bundle_keys_from(path: str | None, scope: str | None) -> BundleKeys | None:
    """Return the keys of ``--bundle-keys``; ``None`` without the option."""
    if path is None and scope is not None:
        raise ConfigError("--bundle-keys", None, "a file of keys, because there is a scope")
    return None if path is None else load_bundle_keys(path, scope)


def configured_bundle_keys() -> BundleKeys | None:
    """Return the keys of the environment that applications have, for commands that have no option for them."""
    names = (f"{PREFIX}BUNDLE_KEYS", f"{PREFIX}BUNDLE_SCOPE")
    path, scope = (os.environ.get(name) for name in names)
    if path == "":
        raise ConfigError(names[0], path, "the path of a file of keys")
    return bundle_keys_from(path, scope)


def requires_signature() -> bool:
    """Say whether applications with this environment need keys to start, and so a command that verifies."""
    # On its own, because whether that is consistent with the other settings is for the application to find out.
    setting = BY_NAME["require_signature"]
    given = os.environ.get(setting.variable)
    return given is not None and setting.parsed(given) is True


def production_limits() -> Limits:
    """Return the limits that an application with this environment runs under."""
    return _settings(RANGES).limits


def production_entrypoint() -> Entrypoint:
    """Return the entry point that an application with this environment asks, of a module that has some."""
    return _settings(("entrypoint", "entrypoint_result")).entry


def _settings(names: Iterable[str]) -> Settings:
    """Read those settings of the environment alone.

    Commands have options in place of others, which may want each other.
    """
    variables = {PREFIX + name.upper() for name in names}
    return Settings.from_env({name: value for name, value in os.environ.items() if name in variables})
