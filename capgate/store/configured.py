"""What settings say about trust, as a :class:`~capgate.store.Verifier`."""

from __future__ import annotations

import os
from typing import Final

from ..actions import VOCABULARY, Vocabulary
from ..errors import ArtifactError, ConfigError
from ..keys import parse_key_file
from ..settings import Settings
from .clock import Clock
from .files import Folder
from .manifest import Audience
from .signing import TrustedKeys
from .verify import Verifier

#: Bytes of a file of public keys.
KEY_FILE_BYTES: Final = 65_536


def load_trusted_keys(given: tuple[str, ...] | str | os.PathLike[str], threshold: int = 1) -> TrustedKeys:
    """The keys of lines, or of the file at a path, one on each line. Raises :class:`ConfigError`.

    A link is followed, but neither the file at its end nor the folder of that may be writable by others: who can change
    the keys decides what is signed.
    """
    if isinstance(given, tuple):
        return TrustedKeys(given, threshold)
    path = os.fsdecode(given)
    try:
        folder, name = os.path.split(os.path.realpath(path))
        with Folder.root(folder) as parent:
            data = parent.read(name, KEY_FILE_BYTES)
    except (ArtifactError, ValueError) as error:  # ValueError: NUL in the path
        valid = "the path of a file of public keys that only its owner may write"
        # Not the cause where that shows what was given: it may be a key and no path, and a private one.
        raise ConfigError("trusted_keys", path, valid) from (None if "\n" in path else error)
    return TrustedKeys(parse_key_file(data), threshold)


def verifier_for(settings: Settings, *, vocabulary: Vocabulary = VOCABULARY, clock: Clock | None = None) -> Verifier:
    """The verifier of an application with these settings: its keys, its mode and service, its actions, its limits.

    Reads the keys where they are in a file. Raises :class:`ConfigError`.
    """
    given = settings.trusted_keys
    return Verifier(
        None if given is None else load_trusted_keys(given, settings.signature_threshold),
        require_signature=settings.require_signature is True,
        audience=Audience(
            name=settings.policy_name,
            mode=settings.mode,
            service=settings.service,
            policy_hash=vocabulary.policy_hash(),
            limits=settings.limits,
        ),
        limits=settings.limits,
        clock=clock,
    )
