"""Tells statements that SQLAlchemy built from those that hold text of the application's: :func:`is_built`.

Of those that it built, :func:`undeclared_in` says which columns are of no table that the application declared.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import AliasedReturnsRows, SelectBase

#: What SQLAlchemy itself writes as a literal column: ``count(*)``, ``EXISTS (SELECT 1)``, and the wildcard of LIKE.
_OWN_TEXT: Final = re.compile(r"\*|\d+|'%'|NULL", re.ASCII)
#: Operators of ``.op()``: PostgreSQL's, or one word. Neither can begin a comment.
_OPERATOR: Final = re.compile(r"(?!.*(?:--|/\*))[-+*/<>=~!@#%^&|?]{1,4}|[A-Za-z]{1,16}", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z_]+", re.ASCII)


class TracedCompiler:
    """Put before a compiler of SQLAlchemy's: notes whether text went into the statement as it is.

    Such text is from ``text()``, ``literal_column()``, prefixes, suffixes, hints, and the like. A construct that
    compiles itself (``sqlalchemy.ext.compiler``) counts as SQLAlchemy's own.
    """

    #: Whether the statement has such text.
    has_text = False
    #: Names, in lower case, of columns that are written with their table, and that no ``Table`` has.
    undeclared: frozenset[str] = frozenset()
    #: Names, in lower case, of tables and columns of those that a ``Table`` has.
    of_tables: frozenset[tuple[str, str]] = frozenset()

    def visit_textclause(self, *args: Any, **kw: Any) -> Any:
        return self._note("visit_textclause", args, kw)

    def visit_column(self, column: Any, *args: Any, **kw: Any) -> Any:
        own = not column.is_literal or _OWN_TEXT.fullmatch(column.name)
        table = column.table
        while isinstance(table, AliasedReturnsRows):
            table = table.element
        if isinstance(table, Table) and isinstance(column, Column):
            unquoted = getattr(table.name, "quote", None) is False  # then the spaces around it are none of its name
            self.of_tables |= {(_lower(table.name).strip() if unquoted else _lower(table.name), _lower(column.name))}
        elif table is not None and not isinstance(table, (SelectBase, UpdateBase)):  # else what that gives by this name
            self.undeclared |= {_lower(column.name)}
        return self._note("visit_column", (column, *args), kw, own)

    def visit_custom_op_binary(self, element: Any, operator: Any, **kw: Any) -> Any:
        return self._note("visit_custom_op_binary", (element, operator), kw, _OPERATOR.fullmatch(operator.opstring))

    def visit_custom_op_unary_operator(self, element: Any, operator: Any, **kw: Any) -> Any:
        own = _OPERATOR.fullmatch(operator.opstring)
        return self._note("visit_custom_op_unary_operator", (element, operator), kw, own)

    def visit_custom_op_unary_modifier(self, element: Any, operator: Any, **kw: Any) -> Any:
        own = _OPERATOR.fullmatch(operator.opstring)
        return self._note("visit_custom_op_unary_modifier", (element, operator), kw, own)

    def visit_extract(self, extract: Any, *args: Any, **kw: Any) -> Any:
        return self._note("visit_extract", (extract, *args), kw, _WORD.fullmatch(extract.field))

    def format_from_hint_text(self, *args: Any, **kw: Any) -> Any:
        return self._note("format_from_hint_text", args, kw)

    def get_select_hint_text(self, *args: Any, **kw: Any) -> Any:
        return self._note("get_select_hint_text", args, kw)

    def get_crud_hint_text(self, *args: Any, **kw: Any) -> Any:
        return self._note("get_crud_hint_text", args, kw)

    def get_statement_hint_text(self, *args: Any, **kw: Any) -> Any:
        return self._note("get_statement_hint_text", args, kw)

    def _note(self, name: str, args: tuple[Any, ...], kw: dict[str, Any], own: object = None) -> Any:
        if not own:
            self.has_text = True
        return getattr(super(), name)(*args, **kw)


def trace(dialect: Dialect) -> None:
    """Have ``dialect`` compile its statements with a :class:`TracedCompiler`. Does nothing the second time."""
    compiler: type[SQLCompiler] = dialect.statement_compiler
    if not issubclass(compiler, TracedCompiler):
        dialect.statement_compiler = type(f"Traced{compiler.__name__}", (TracedCompiler, compiler), {})


def is_built(compiled: object) -> bool:
    """Say whether ``compiled``, of an execution context, was built by SQLAlchemy throughout, after :func:`trace`."""
    return isinstance(compiled, TracedCompiler) and not compiled.has_text


def undeclared_in(compiled: object, columns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return those of ``columns``, table and column as the text has them, that are not certain to be columns.

    Certain are those of a ``Table`` of that name. ``compiled`` is what :func:`is_built`.
    """
    if not isinstance(compiled, TracedCompiler) or any("%(" in name for name in compiled.undeclared):
        return columns  # one that has no name yet, for one
    return tuple(
        (table, column)
        for table, column in columns
        if (name := _bare(column)) in compiled.undeclared or (_bare(table), name) not in compiled.of_tables
    )


def _lower(name: str) -> str:
    return str.lower(name)  # SQLAlchemy's own, of a name that is quoted, leaves it as it is


def _bare(spelled: str) -> str:
    return spelled.rpartition(".")[2].strip('"').lower()
