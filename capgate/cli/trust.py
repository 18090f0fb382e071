"""The keys, limits and times of a command: from its options, or from the variables that applications have."""

from __future__ import annotations

import os

from .._values import PREFIX, parse_trusted
from ..limits import RANGES, Limits
from ..settings import Settings
from ..store.configured import load_trusted_keys
from ..store.signing import TrustedKeys


def trusted(keys: str | None, threshold: int | None) -> TrustedKeys | None:
    """The keys of ``--trusted-keys``, a path or lines with commas between them; ``None`` without the option."""
    return None if keys is None else load_trusted_keys(parse_trusted(keys), 1 if threshold is None else threshold)


def production_limits() -> Limits:
    """The limits that an application with this environment runs under."""
    names = {PREFIX + name.upper() for name in RANGES}
    return Settings.from_env({name: value for name, value in os.environ.items() if name in names}).limits
