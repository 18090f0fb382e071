"""Lists the tables that a parsed statement touches, and whether it reads or writes them: :func:`touched_tables`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from sqlglot import exp

from ...spelling import DEFAULT_SCHEMAS, ascii_lower

READ: Final = "db.read"
WRITE: Final = "db.write"

#: Bytes of an identifier that PostgreSQL looks at.
POSTGRES_BYTES: Final = 63
#: What no identifier has that a resource could name.
_UNSPELLED: Final = re.compile(r'[."\x00-\x1f]')
_UPPER: Final = re.compile("[A-Z]", re.ASCII)

DML: Final = (exp.Insert, exp.Update, exp.Delete, exp.Merge)


def touched_tables(tree: exp.Expression, dialect: str) -> tuple[tuple[str, str], ...] | None:
    """Return action and table for each table that ``tree`` touches; ``None`` where the name of one is not certain."""
    # SQLite has `x IN name`, which is a table too.
    if any(node.args.get("field") is not None for node in tree.find_all(exp.In)):
        return None
    written = {id(table): reads for table, reads in _written(tree, dialect)}
    touched: set[tuple[str, str]] = set()
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.Func):
            continue
        target = id(table) in written
        if not target and defined_by(table) is not None:
            continue
        name = table_name(table, dialect)
        if name is None:
            return None
        if target:
            touched.add((WRITE, name))
        if not target or written[id(table)]:
            touched.add((READ, name))
    return tuple(sorted(touched))


def _written(tree: exp.Expression, dialect: str) -> Iterator[tuple[object, bool]]:
    """Yield the tables that are written, each with whether rows that were there before are read as well."""
    for statement in tree.find_all(*DML):
        returns = bool(statement.args.get("returning"))
        if isinstance(statement, exp.Insert):
            target = statement.this.this if isinstance(statement.this, exp.Schema) else statement.this
            yield target, returns and statement.args.get("conflict") is not None
            continue
        yield statement.this, returns
        for table in statement.args.get("tables") or ():
            yield table, returns
        if dialect == "mysql":  # writes to any of the tables that are joined
            for table in statement.find_all(exp.Table):
                if table is not statement.this and table.find_ancestor(exp.Query, *DML) is statement:
                    yield table, True


def defined_by(table: Any) -> Any:
    """Return the definition of ``table`` in a WITH, or ``None``, by rules that hold in each dialect.

    That is a name defined before it, or the one around it where that is RECURSIVE.
    """
    if table.args.get("db") is not None:
        return None
    node: Any = table
    while (parent := node.parent) is not None:
        for cte in _in_sight(parent, node):
            alias = cte.args.get("alias")
            if alias is not None and alias.this == table.this:
                return cte
        node = parent
    return None


def _in_sight(parent: Any, node: Any) -> list[Any]:
    """List what a WITH defines for ``node``, a child of ``parent``."""
    if isinstance(parent, exp.With):
        upto = parent.expressions.index(node) + bool(parent.args.get("recursive"))
        return list(parent.expressions[:upto])
    definitions = parent.args.get("with_") or parent.args.get("with")  # renamed in sqlglot 28
    return [] if definitions is None or definitions is node else list(definitions.expressions)


def table_name(table: Any, dialect: str) -> str | None:
    """Return the table as ``table`` or ``schema.table``, in the spelling that the dialect makes of what is written."""
    if table.args.get("catalog") is not None:
        return None  # a database that may be this one
    parts = [folded(part, dialect) for part in (table.args.get("db"), table.this) if part is not None]
    return None if None in parts else ".".join(filter(None, parts))


def folded(part: Any, dialect: str) -> str | None:
    """Return an identifier as it is spelled in a resource, in double quotes where its case counts.

    Returns ``None`` where that is not certain. SQLite never looks at the case of A to Z, and PostgreSQL does in quotes
    only. In MySQL it depends on the server.
    """
    if not isinstance(part, exp.Identifier) or not part.name or _UNSPELLED.search(part.name):
        return None
    name: str = part.name
    if dialect == "postgres" and len(name.encode("utf-8", "surrogatepass")) > POSTGRES_BYTES:
        return None  # which it cuts off there
    if dialect == "postgres" and not part.args.get("quoted") and ascii_lower(name) != name.lower():
        return None  # which it writes in lower case where the database's encoding has one byte a letter
    if not _UPPER.search(name) or dialect == "sqlite":
        return ascii_lower(name)
    if dialect == "postgres":
        return f'"{name}"' if part.args.get("quoted") else ascii_lower(name)
    return None


def without_own(table: str, own: str | None) -> str | None:
    """Return ``table`` without the schema ``own``, in which the database looks by default.

    ``None`` where another schema has a name that resources are spelled without.
    """
    schema, dot, name = table.partition(".")
    if not dot:
        return table
    if own is not None and schema in (ascii_lower(own), f'"{own}"'):
        return name
    return None if schema in DEFAULT_SCHEMAS else table
