"""Lists the columns that a PostgreSQL statement names with their table: :func:`qualified_columns`.

To PostgreSQL ``orders.wipe`` is a column where ``orders`` has one of that name. Where it has none, it is a call of the
function ``wipe(orders)``, which may do anything. The text does not tell which, so whoever knows the columns of each
table has to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

from sqlglot import Token, TokenType, exp

from .touched_tables import DML

#: In place of a table: nobody can know what is named here.
NOBODY_KNOWS: Final = ""

Fold = Callable[[Any], "str | None"]


#: A schema, if it is written, and a name.
_Place = tuple["str | None", "str | None"]


class _Source(NamedTuple):
    """What a name before a dot stands for: a table of the database, or rows whose columns the text itself names."""

    table: str = NOBODY_KNOWS
    columns: frozenset[str] = frozenset()


def qualified_columns(
    tree: exp.Expression, tokens: list[Token], fold: Fold, table_name: Fold, defined_by: Callable[[Any], Any]
) -> tuple[tuple[str, str], ...] | None:
    """Return table and column for each ``table.column`` of ``tree`` that may be a call of a function instead.

    ``fold`` spells an identifier, ``table_name`` a table, and ``defined_by`` gives what a WITH defines as that table.
    The table is :data:`NOBODY_KNOWS` where the name before the dot stands for none. Returns ``None`` where a dot of the
    text is none that is understood.
    """
    if not _accounts_for_dots(tree, tokens):
        return None
    sources: dict[_Place, list[_Source]] = {}
    for place, source in _sources(tree, fold, table_name, defined_by):
        sources.setdefault(place, []).append(source)
    columns: set[tuple[str, str]] = set()
    for column in tree.find_all(exp.Column):
        if isinstance(column.this, exp.Star) or column.args.get("table") is None:
            continue
        name = fold(column.this)
        schema = column.args.get("db")
        place = (None if schema is None else fold(schema) or NOBODY_KNOWS, fold(column.args["table"]))
        # One that has no spelling, as it is too long, is not for certain another one that has none.
        meant = [] if place[1] is None or column.args.get("catalog") is not None else sources.get(place, [])
        if not meant or name is None:
            columns.add((NOBODY_KNOWS, column.name))
            continue
        columns.update((source.table, name) for source in meant if name not in source.columns)
    return tuple(sorted(columns))


def _accounts_for_dots(tree: exp.Expression, tokens: list[Token]) -> bool:
    """Say whether each dot before a name is one of a column, a table, or a type.

    It is not where a field is selected from a value, as in ``(orders).wipe``.
    """
    dots = sum(
        token.token_type == TokenType.DOT and after.token_type not in (TokenType.STAR, TokenType.NUMBER)
        for token, after in pairwise(tokens)
    )
    for node in tree.find_all(exp.Column, exp.Table, exp.Dot):
        if isinstance(node, exp.Dot):
            if node.find_ancestor(exp.DataType) is None:
                return False
            dots -= 1
        elif isinstance(node, exp.Table) or not isinstance(node.this, exp.Star):
            dots -= sum(node.args.get(part) is not None for part in ("table", "db", "catalog"))
        else:
            dots -= sum(node.args.get(part) is not None for part in ("db", "catalog"))
    return dots == 0


def _sources(
    tree: exp.Expression, fold: Fold, table_name: Fold, defined_by: Callable[[Any], Any]
) -> Iterator[tuple[_Place, _Source]]:
    """Yield what stands before a dot, as schema and name, with what that is."""
    written: set[int] = set()  # which are tables, whatever a WITH defines by their names
    for statement in tree.find_all(*DML):
        target = statement.this.this if isinstance(statement.this, exp.Schema) else statement.this
        written.add(id(target))
        if isinstance(statement, exp.Insert):
            yield (None, "excluded"), _Source(table_name(target) or NOBODY_KNOWS)
    definitions = [(fold(cte.args["alias"].this), cte) for cte in tree.find_all(exp.CTE)]
    for node in tree.walk():
        alias: Any = node.args.get("alias")
        is_alias = isinstance(alias, exp.TableAlias) and alias.this is not None
        if not isinstance(node, exp.Table) or isinstance(node.this, exp.Func):
            if is_alias and not isinstance(node, exp.CTE):
                yield (None, fold(alias.this)), _rows(node, alias, fold)
            continue
        schema, own = node.args.get("db"), fold(node.this)
        places: list[_Place] = [(None, fold(alias.this) if is_alias else own)]
        if schema is not None and not is_alias:
            places.append((fold(schema) or NOBODY_KNOWS, own))
        meant = [_rows(cte, cte.args["alias"], fold) for name, cte in definitions if schema is None and name == own]
        if id(node) in written:
            meant = [_Source(table_name(node) or NOBODY_KNOWS)]
        elif is_alias and alias.columns:  # which rename what the table has
            meant = [_rows(node, alias, fold)]
        elif defined_by(node) is None:
            meant.append(_Source(table_name(node) or NOBODY_KNOWS))
        yield from ((place, source) for place in places for source in meant)


def _rows(node: Any, alias: Any, fold: Fold) -> _Source:
    named = alias.columns or [_output(value) for value in _selected(node.this)]
    return _Source(columns=frozenset(filter(None, (fold(name) for name in named if name is not None))))


def _selected(query: Any) -> Iterable[Any]:
    """Return what the first SELECT of ``query`` gives, by which its columns are named."""
    while isinstance(query, (exp.Subquery, exp.SetOperation)):
        query = query.this
    if isinstance(query, exp.Select):
        return list(query.expressions)
    returning = query.args.get("returning") if isinstance(query, exp.Expression) else None
    return list(returning.expressions) if isinstance(returning, exp.Returning) else ()


def _output(value: Any) -> Any:
    """Return the identifier by which a column of a query is named for certain."""
    if isinstance(value, exp.Alias):
        return value.args.get("alias")
    return value.this if isinstance(value, exp.Column) else None
