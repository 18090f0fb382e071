"""Brings the ids of a document into the normal form of their kind, or says how they are spelled."""

from __future__ import annotations

from typing import Final

from ..spelling import SPELLINGS, normal_id
from .places import Key
from .strict import mistake

#: Goes on after a beginning, to see whether anything can.
_MORE: Final = "x"


def normal_entry(where: Key, item: str, kind: str, id: str) -> str:
    """Return the normal form of ``id``. Raises :class:`ConfigError`, about ``item``, where it has none.

    What has no normal form is never asked about, so an entry of that kind would match nothing.
    """
    normal = normal_id(kind, id)
    if normal is not None:
        return normal
    spelling = SPELLINGS[kind]
    raise mistake(where, item, spelling.valid, _like(item, id, spelling.meant(id)))


def normal_beginning(where: Key, item: str, kind: str, text: str) -> str:
    """Return the normal form of the beginning of ids.

    Raises :class:`ConfigError`, about ``item``, where none begins so.
    """
    normal = normal_id(kind, text + _MORE)
    if normal is not None and normal.endswith(_MORE) and (len(normal) > len(_MORE) or not text):
        return normal[: -len(_MORE)]
    spelling = SPELLINGS[kind]
    meant = spelling.meant(text + _MORE)
    if meant is not None:
        meant = f"{meant.removesuffix(_MORE)}*" if meant.endswith(_MORE) else meant
    raise mistake(
        where, item, f"what ids begin with, of which each is {spelling.valid}", _like(item, f"{text}*", meant)
    )


def _like(item: str, id: str, meant: str | None) -> str | None:
    """Return ``item`` with what was meant in place of ``id``, at its end."""
    return None if meant is None or meant == id else item[: len(item) - len(id)] + meant
