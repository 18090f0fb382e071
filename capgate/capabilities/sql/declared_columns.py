"""Knows which columns an application has declared for each table: :class:`DeclaredColumns`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData

from ...spelling import ascii_lower
from .touched_tables import without_own


class DeclaredColumns:
    """The columns of each table of ``metadata``, spelled as PostgreSQL reads what SQLAlchemy writes."""

    def __init__(self, metadata: MetaData | None) -> None:
        self._metadata = metadata
        self._columns: dict[str, set[str]] = {}

    def has(self, table: str, column: str, own: str | None) -> bool:
        """Say whether ``table`` is declared with ``column``. ``own`` is the schema in which the database looks."""
        name = without_own(table, own)
        if self._metadata is None or not name:
            return False
        if column not in self._columns.get(name, ()):
            self._columns = _columns(self._metadata, own)  # tables may have been declared meanwhile
        return column in self._columns.get(name, ())


def _columns(metadata: MetaData, own: str | None) -> dict[str, set[str]]:
    columns: dict[str, set[str]] = {}
    for table in metadata.tables.values():
        parts = [table.name] if table.schema is None else [table.schema, table.name]
        name = without_own(".".join(map(_spelled, parts)), own)
        if name is not None:
            columns[name] = {_spelled(column.name) for column in table.columns}
    return columns


def _spelled(name: Any) -> str:
    lower = ascii_lower(name)
    if lower == name or getattr(name, "quote", None) is False:
        return lower
    return f'"{name}"'
