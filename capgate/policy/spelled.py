"""Brings the ids of a document into the normal form of their kind, or says how they are spelled."""

from __future__ import annotations

from ..spelling import SPELLINGS, SQL, normal_id
from .places import Key
from .strict import mistake
from .wildcards import EXACT, Match, is_wild, meant_wildcard, read_wildcard, valid_wildcard


def is_writable(kind: str, id: str) -> bool:
    """Say whether a document can name the thing ``id`` of ``kind``, and nothing else."""
    return bool(id) and "*" not in id and not has_blank_edge(kind, id)


def has_blank_edge(kind: str, id: str) -> bool:
    """Say whether ``id`` begins or ends with a blank, which is a slip of the pen. Tables alone may end with one."""
    return kind != SQL and id != id.strip()


def read_entry(where: Key, item: str, kind: str, id: str) -> tuple[Match, str]:
    """Return how ids of ``kind`` are compared with ``id``, which may be a wildcard, and its normal form.

    Raises :class:`ConfigError`, about ``item``, where it has none. What has no normal form is never asked about, so an
    entry of that kind would match nothing. Rules and sections are read alike.
    """
    if has_blank_edge(kind, id):
        raise mistake(where, item, "an id without blanks around it", _like(item, id, id.strip() or None))
    if is_wild(kind, id):
        read = read_wildcard(kind, id)
        if read is not None:
            return read
        raise mistake(where, item, valid_wildcard(kind, id), _like(item, id, meant_wildcard(kind, id)))
    normal = normal_id(kind, id)
    if normal is not None:
        return EXACT, normal
    spelling = SPELLINGS[kind]
    raise mistake(where, item, spelling.valid, _like(item, id, spelling.meant(id)))


def _like(item: str, id: str, meant: str | None) -> str | None:
    """Return ``item`` with what was meant in place of ``id``, at its end."""
    return None if meant is None or meant == id else item[: len(item) - len(id)] + meant
