"""Holds which policy of a name is active: one small file, ``active.json``, replaced as a whole with each change.

Records that are superseded are kept beside it as history, each with the digest of the one before it.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

import msgspec

from ..errors import StoreError
from ..limits import is_digest
from ..policy import is_label
from .canonical import MalformedFile, decode, encode
from .manifest import Manifest, is_time, is_version

FORMAT: Final = 1
#: Bytes of a record.
RECORD_BYTES: Final = 8_192
NOTE_LENGTH: Final = 256
ACTIONS: Final = ("activate", "rollback", "reset")


class Active(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a policy became active.

    ``sequence``  counts the changes of this name, from 1; it only rises, and tells followers that there is news
    ``name, version, sha256``  of the manifest: the policy, its version, the digest of the module
    ``manifest``  digest of the manifest file, by which the store finds it
    ``previous``  digest of the manifest to which a rollback leads, or ``None``
    ``highest``   the highest version that was active; activating goes above it
    ``action``    ``activate``, ``rollback`` or ``reset``
    ``when``      in UTC, whole seconds
    ``note``      why, in the words of whoever did it
    ``before``    digest of the record before this one, or ``None`` for the first
    ``checksum``  SHA-256 of this record with an empty checksum: against bit rot, not against an attacker
    """

    sequence: int
    name: str
    version: int
    sha256: str
    manifest: str
    previous: str | None
    highest: int
    action: str
    when: datetime
    note: str = ""
    before: str | None = None
    checksum: str = ""
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """Return the file, with the checksum that belongs in it."""
        return encode(msgspec.structs.replace(self, checksum=self._checksum()))

    @classmethod
    def from_bytes(cls, data: bytes, name: str, *, path: str | None = None) -> Active:
        """Return the record of the policy ``name`` that ``data`` is.

        Raises :class:`StoreError` (``corrupt``).
        """
        try:
            active = decode(data, cls)
        except MalformedFile as error:
            raise StoreError(f"malformed: {error}", reason="corrupt", path=path) from error
        if active.name != name or not active._is_sound():
            raise StoreError(f"it does not add up: {active!r}", reason="corrupt", path=path)
        return active

    @property
    def digest(self) -> str:
        """SHA-256 of the file, by which the next record names this one."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def _checksum(self) -> str:
        return hashlib.sha256(encode(msgspec.structs.replace(self, checksum=""))).hexdigest()

    def _is_sound(self) -> bool:
        return (
            self.checksum == self._checksum()
            and self.format == FORMAT
            and is_label(self.name)
            and is_version(self.sequence)
            and is_version(self.version)
            and is_version(self.highest)
            and self.version <= self.highest
            and is_digest(self.sha256)
            and is_digest(self.manifest)
            and all(digest is None or is_digest(digest) for digest in (self.previous, self.before))
            and self.action in ACTIONS
            and is_time(self.when)
            and is_note(self.note)
        )


def is_note(note: object) -> bool:
    """Say whether ``note`` is printable text of at most :data:`NOTE_LENGTH` characters."""
    return type(note) is str and len(note) <= NOTE_LENGTH and note.isprintable()


def make_record(
    action: str,
    manifest: Manifest,
    digest: str,
    before: Active | None,
    *,
    sequence: int,
    previous: str | None,
    highest: int,
    when: datetime,
    note: str = "",
) -> Active:
    """Return the record that ``action`` made the manifest with that digest active, after ``before``."""
    return Active(
        sequence=sequence,
        name=manifest.name,
        version=manifest.version,
        sha256=manifest.sha256,
        manifest=digest,
        previous=previous,
        highest=highest,
        action=action,
        when=when,
        note=note,
        before=None if before is None else before.digest,
    )
