"""Gates SQLAlchemy engines: the statement that reaches the database decides what the policy is asked.

::

    engine = gate_engine(create_async_engine("sqlite+aiosqlite:///shop.db"))

    @requires("db.write", resource="sql_query:place_order")
    async def place_order(request):
        async with sessions() as session, session.begin():                # no policy call from here on
            session.add(Order(item="tea"))                                # db.write on sql_query:orders
            await session.execute(named("count_orders", text("SELECT count(*) FROM orders")))   # db.read, by its name

Each statement is parsed, with sqlglot, in the dialect of the engine, and is one of

``db.read``     SELECT and VALUES; ``FOR UPDATE`` too, since a lock changes nothing
``db.write``    INSERT, REPLACE INTO, UPDATE, DELETE, MERGE, ``SELECT … INTO``, also inside of a CTE; ``nextval``
``db.migrate``  everything else, and whatever is not understood for certain: DDL, PRAGMA, SET, CALL, COPY, EXPLAIN,
                calls of functions that capgate does not know to be pure, in PostgreSQL also what may be such a call
                (see below), text that SQL dialects read differently
                (see :mod:`capgate.capabilities.sql.statements`), dialects other than SQLite, PostgreSQL, MySQL, MariaDB
nothing         BEGIN, COMMIT, ROLLBACK, SAVEPOINT, RELEASE

and of several in one text each is one. A statement that has a *name* is asked for by it, as ``sql_query:<name>``, for
each of these that it is. Where its connection has another name, it is asked for by both.

A statement without a name is asked for by its tables, as ``sql_query:<table>`` or ``sql_query:<schema>.<table>``. That
is ``db.write`` for those it writes to, and ``db.read`` for the others. It is both where UPDATE, DELETE or an upsert
returns rows. The name is spelled as the database reads it, in lower case, without the schema in which it looks by
default; in double quotes where its case counts. That needs a statement which SQLAlchemy built from Core or ORM
constructs. These have to be named:

- one that holds text of the application's (``text()``, ``exec_driver_sql``, ``literal_column``, prefixes, hints)
- one of class ``db.migrate``, and one without tables
- one that an event listener of the application's rewrites

Without a name they are asked for without an id, which policies deny as ``missing_resource``. ``args_hash`` is the
SHA-256 of the text.

PostgreSQL calls the function ``wipe(orders)`` for ``SELECT orders.wipe FROM orders``, unless ``orders`` has a column of
that name. So ``table.column`` is ``db.migrate`` there, unless it is certain that it is a column. That it is of

- a ``Table`` that SQLAlchemy built the statement from; a lightweight ``table()`` is none
- a table of the ``metadata`` of the gate, which has to be what the database has; this is for text
- a subquery, a WITH, or an alias with columns, where the text says how they are called

A column without its table is never such a call. ``(value).field`` always counts as one.

Denied, :class:`~capgate.errors.CapabilityDenied` is raised and the statement is not sent. A transaction goes on, or
not, as after any other error of a statement.

What is not gated:

- connections of the DBAPI (``engine.raw_connection()``, ``connection.connection``) and drivers used directly
- what SQLAlchemy's dialect asks a new connection itself
- what the database does on its own account: views, triggers, defaults, user-defined operators and types, and functions
  that carry the name of a built-in one. In SQLite that is what ``create_function`` registers as ``lower``, which is
  called in place of the database's. In PostgreSQL it is another signature, or a schema that ``search_path`` has before
  ``pg_catalog``
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, TypeVar

from sqlalchemy import MetaData, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPICursor, ExecuteStyle, ExecutionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.base import Executable
from sqlalchemy.util import await_only

from ...enforcement.capabilities import Capabilities, Question
from ...enforcement.current import current
from ...errors import ConfigError
from ...model import Resource
from .built_by_sqlalchemy import is_built, trace, undeclared_in
from .declared_columns import DeclaredColumns
from .statements import MIGRATE, Statements, read_statements
from .touched_tables import without_own

#: The execution option that names a statement, or all statements of a connection or an engine.
QUERY_NAME: Final = "capgate_query"
KIND: Final = "sql_query"

_E = TypeVar("_E", Engine, AsyncEngine)
_S = TypeVar("_S", bound=Executable)


def gate_engine(
    engine: _E,
    *,
    capabilities: Capabilities | None = None,
    functions: Iterable[str] = (),
    metadata: MetaData | None = None,
) -> _E:
    """Have ``engine``, and the engines, connections and sessions made from it, ask before each statement. Returns it.

    ``capabilities``  whom to ask, in place of the current ones of each statement
    ``functions``     names of SQL functions of the application's that only compute a value
    ``metadata``      tables whose columns text of the application's may name with their table, in PostgreSQL

    Statements of an :class:`AsyncEngine` wait for a policy that has to be waited for. Raises :class:`ConfigError` for
    anything that is not an engine.
    """
    target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if not isinstance(target, Engine):
        raise ConfigError("engine", engine, "a sqlalchemy Engine or AsyncEngine")
    trace(target.dialect)
    target.clear_compiled_cache()
    if metadata is not None and not isinstance(metadata, MetaData):
        raise ConfigError("metadata", metadata, "a sqlalchemy MetaData")
    gate = _StatementGate(target, capabilities, frozenset(name.upper() for name in functions), metadata)
    # First of all listeners it notes the statement; as near to the driver as there are events it asks.
    event.listen(target, "before_cursor_execute", gate.note, insert=True)
    event.listen(target, "do_execute", gate.execute, insert=True)
    event.listen(target, "do_executemany", gate.execute, insert=True)
    event.listen(target, "do_execute_no_params", gate.execute_no_params, insert=True)
    return engine


def query_name(name: str) -> dict[str, str]:
    """Return the execution option that names a statement.

    It is for ``execution_options`` of statements, sessions, connections and engines. Raises :class:`ConfigError` for
    anything but a text that is not empty.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError("name", name, "the name of a query, as in 'sql_query:<name>'")
    return {QUERY_NAME: name}


def named(name: str, statement: _S) -> _S:
    """Name ``statement``: a policy is asked for ``sql_query:<name>``."""
    return statement.execution_options(**query_name(name))


class _StatementGate:
    """The listeners of one gated engine."""

    def __init__(
        self,
        engine: Engine,
        capabilities: Capabilities | None,
        functions: frozenset[str],
        metadata: MetaData | None,
    ) -> None:
        self._dialect = engine.dialect
        self._is_async = engine.dialect.is_async
        self._capabilities = capabilities
        self._functions = functions
        self._declared = DeclaredColumns(metadata)

    def note(
        self,
        connection: Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: object,
        context: ExecutionContext | None,
        executemany: bool,
    ) -> None:
        """Remember the statement before other listeners see it.

        Those of a dialect that is being set up do not get here.
        """
        if context is None:
            self._require(self._questions(statement, [], None))
        else:
            context.__dict__.setdefault("_capgate_noted", {})[self] = statement

    def execute(
        self, cursor: DBAPICursor, statement: str, parameters: object, context: ExecutionContext | None
    ) -> None:
        """Ask for ``statement``, which is about to be sent. Raises :class:`CapabilityDenied`."""
        noted = None if context is None else context.__dict__.get("_capgate_noted", {}).get(self)
        if context is not None and noted is not None:
            built = noted == statement and _is_sqlalchemys(statement, context)
            self._require(self._questions(statement, _names(context), context.compiled if built else None))

    def execute_no_params(self, cursor: DBAPICursor, statement: str, context: ExecutionContext | None) -> None:
        self.execute(cursor, statement, (), context)

    def _questions(self, statement: str, names: list[object], built: object) -> list[Question]:
        """List what to ask for ``statement``; ``built`` is what SQLAlchemy compiled, if it is all its own."""
        content = read_statements(statement, self._dialect.name, functions=self._functions)
        undeclared = self._undeclared(content.columns, built) if content.columns else ()
        if undeclared:
            others = content.actions if len(content.actions) > 1 else ()  # of other statements, perhaps
            content = Statements(tuple(sorted({MIGRATE, *others})), undeclared=undeclared)
        digest = hashlib.sha256(statement.encode("utf-8", "surrogatepass")).hexdigest()
        if names:
            ids = [name if isinstance(name, str) and name else None for name in names]
            return [(action, Resource(KIND, id, _facts(content)), digest) for id in ids for action in content.actions]
        if built is not None and content.touched_tables:
            own = self._dialect.default_schema_name
            touched = dict.fromkeys((action, without_own(table, own)) for action, table in content.touched_tables)
            return [(action, Resource(KIND, table), digest) for action, table in touched]
        return [(content.strongest, Resource(KIND, None, _facts(content)), digest)] if content.actions else []

    def _undeclared(self, columns: tuple[tuple[str, str], ...], built: object) -> tuple[tuple[str, str], ...]:
        """Return those of ``columns`` of which nobody said that there is such a column."""
        unknown = columns if built is None else undeclared_in(built, columns)
        own = self._dialect.default_schema_name
        return tuple((table, column) for table, column in unknown if not self._declared.has(table, column, own))

    def _require(self, questions: list[Question]) -> None:
        if not questions:  # transaction control
            return
        capabilities = self._capabilities or current()
        if self._is_async:
            await_only(capabilities.require_all(questions))
        else:
            capabilities.require_all_now(questions)


def _names(context: ExecutionContext) -> list[object]:
    """List the names of a statement. It may have two, since options of a connection hide those of a statement."""
    statement = context.invoked_statement
    if statement is None:  # DDL, and text that goes to the driver
        statement = getattr(context.compiled, "statement", None)
    own = None if statement is None else statement.get_execution_options().get(QUERY_NAME)
    given = context.execution_options.get(QUERY_NAME)
    return [name for name in (own, None if given == own else given) if name is not None]


def _is_sqlalchemys(statement: str, context: ExecutionContext) -> bool:
    """Say whether SQLAlchemy built ``statement``. Rows of a batch are added to what was compiled."""
    compiled = context.compiled
    batch = context.execute_style is ExecuteStyle.INSERTMANYVALUES
    return is_built(compiled) and (batch or statement == context.statement)


def _facts(content: Statements) -> dict[str, str]:
    """Make attributes for checkers of an application's: the tables, or what hinders that they are certain."""
    if content.undeclared:
        return {"undeclared_columns": ",".join(".".join(filter(None, place)) for place in content.undeclared)}
    if not content.touched_tables:
        return {}
    return {"tables": ",".join(sorted({table for _, table in content.touched_tables}))}
