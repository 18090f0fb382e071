"""What a text does, told from the text: tables of it, and SQLite as the oracle of everything that it accepts."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import Any, Final, NoReturn

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlglot import Parser, Token

from capgate.capabilities.sql.statements import FUNCTIONS, MIGRATE, OPEN_JOINS, TEXT_LIMIT, Statements, read_statements

from ..support.tools import examples

READ, WRITE = "db.read", "db.write"
SQLITE, POSTGRESQL, MYSQL = "sqlite", "postgresql", "mysql"


def touched(reads: str = "", writes: str = "") -> tuple[tuple[str, str], ...]:
    return tuple(sorted([(READ, name) for name in reads.split()] + [(WRITE, name) for name in writes.split()]))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a FROM t", touched("t")),
        ("SELECT a FROM t WHERE b IN (?, ?, ?) ORDER BY lower(a) LIMIT ?", touched("t")),
        ("SELECT a FROM t FOR UPDATE", touched("t")),  # a lock changes nothing
        ("SELECT a FROM x.t", touched("x.t")),
        ('SELECT a FROM "t u"', ((READ, "t u"),)),
        ("SELECT a FROM t JOIN u ON t.a = u.a WHERE EXISTS (SELECT 1 FROM v)", touched("t u v")),
        ("SELECT a FROM t UNION SELECT a FROM u", touched("t u")),
        ("SELECT replace(a, 'x', 'y'), CAST(a AS VARCHAR(9)) FROM t", touched("t")),
        ("SELECT log10(a) FROM t -- said at the end", touched("t")),
        ("SELECT /* why */ a FROM t", touched("t")),
        ("VALUES (1, 2)", ()),
        # What a WITH defines is no table; what only looks like it is.
        ("WITH x AS (SELECT a FROM t) SELECT a FROM x UNION SELECT a FROM x", touched("t")),
        ("WITH t AS (SELECT a FROM t) SELECT a FROM t", touched("t")),
        ("WITH x AS (SELECT a FROM y), y AS (SELECT a FROM t) SELECT a FROM x", touched("t y")),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n", ()),
        ("SELECT a FROM (WITH x AS (SELECT 1) SELECT * FROM x) AS q, x", touched("x")),
        ("WITH t AS (SELECT 1) SELECT a FROM main.t", touched("main.t")),
        ("WITH t AS (SELECT 1) DELETE FROM t", touched(writes="t")),
        # Writing.
        ("INSERT INTO t (a, b) VALUES (?, ?), (?, ?)", touched(writes="t")),
        ("INSERT INTO t SELECT a FROM u", touched("u", "t")),
        ("INSERT INTO t (a) VALUES (1) RETURNING a", touched(writes="t")),
        ("INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.b", touched(writes="t")),
        ("INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1 RETURNING b", touched("t", "t")),
        ("REPLACE INTO t (a) VALUES (1)", touched(writes="t")),
        ("UPDATE t SET a = (SELECT max(b) FROM u) WHERE c = 1", touched("u", "t")),
        ("UPDATE t SET a = 1 RETURNING b", touched("t", "t")),
        ("UPDATE t SET a = 1 FROM u WHERE t.a = u.a", touched("u", "t")),
        ("DELETE FROM t WHERE a IN (SELECT a FROM t)", touched("t", "t")),
        ("INSERT INTO lower (a) VALUES (1)", touched(writes="lower")),  # a table that is called as a function is
    ],
)
def test_each_table_is_read_or_written(sql: str, expected: tuple[tuple[str, str], ...]) -> None:
    found = read_statements(sql, SQLITE)
    assert found == Statements((WRITE if "INTO" in sql or "UPDATE t" in sql or "DELETE" in sql else READ,), expected)


@pytest.mark.parametrize(
    ("dialect", "sql", "action", "expected"),
    [
        (POSTGRESQL, "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", WRITE, touched("t", "t")),
        (POSTGRESQL, "SELECT t.b ->> 'x' FROM s.t WHERE t.c @> %(c)s::JSONB", READ, touched("s.t")),
        (POSTGRESQL, "SELECT a FROM t WHERE a = ANY ($1::INTEGER[])", READ, touched("t")),
        (POSTGRESQL, "INSERT INTO t (a) VALUES ($1::INTEGER), ($2::INTEGER)", WRITE, touched(writes="t")),
        (POSTGRESQL, "SELECT a FROM t$1", READ, touched("t$1")),
        (POSTGRESQL, "SELECT a INTO u FROM t", WRITE, None),  # the table that it makes has no name here
        (POSTGRESQL, "SELECT nextval('s')", WRITE, None),
        (POSTGRESQL, "DELETE FROM t USING u WHERE t.a = u.a", WRITE, touched("u", "t")),
        (POSTGRESQL, "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", WRITE, touched("u", "t")),
        # MySQL writes to every table of a join.
        (MYSQL, "UPDATE t JOIN u ON t.a = u.a SET u.a = (SELECT max(a) FROM v)", WRITE, touched("u v", "t u")),
        (MYSQL, "UPDATE t SET a = 1", WRITE, touched(writes="t")),
        (MYSQL, "DELETE FROM t USING t, u WHERE t.a = u.a", WRITE, touched("t u", "t u")),
        (MYSQL, "INSERT INTO t (a) VALUES (%s) ON DUPLICATE KEY UPDATE a = VALUES(a)", WRITE, touched(writes="t")),
    ],
)
def test_dialects_differ(dialect: str, sql: str, action: str, expected: tuple[tuple[str, str], ...] | None) -> None:
    content = read_statements(sql, dialect)
    assert (content.actions, content.touched_tables) == ((action,), expected)


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT orders.wipe FROM orders", [("orders", "wipe")]),
        ("SELECT wipe, count(*) FROM orders WHERE item = 'a.b' GROUP BY wipe", []),
        ("SELECT t.*, 1.5, .5 FROM s.t", []),
        ('SELECT O."Wipe", o.Item FROM s.orders AS o', [("s.orders", '"Wipe"'), ("s.orders", "item")]),
        ("SELECT s.t.a, t.b FROM s.t", [("s.t", "a"), ("s.t", "b")]),
        ("SELECT t.a FROM t, s.t AS t", [("s.t", "a"), ("t", "a")]),  # no database takes it; both would have to have it
        ("SELECT a FROM t ORDER BY t.wipe", [("t", "wipe")]),
        ("UPDATE t SET a = t.wipe RETURNING t.b", [("t", "b"), ("t", "wipe")]),
        ("INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = excluded.wipe", [("t", "wipe")]),
        ("INSERT INTO t AS k (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = k.wipe", [("t", "wipe")]),
        ("MERGE INTO t AS k USING u ON k.a = u.wipe WHEN MATCHED THEN DELETE", [("t", "a"), ("u", "wipe")]),
        # What the text itself names.
        ("SELECT x.b FROM (SELECT t.a AS b FROM t) AS x", [("t", "a")]),
        ("SELECT x.b, x.wipe FROM (SELECT b FROM t UNION SELECT wipe FROM t) AS x", [("", "wipe")]),
        ("SELECT x.a FROM (SELECT * FROM t) AS x", [("", "a")]),
        ("WITH x AS (SELECT a FROM t) SELECT y.a, y.wipe FROM x AS y", [("", "wipe")]),
        ("WITH x(b) AS (SELECT a FROM t) SELECT x.b FROM x", []),
        ("WITH x(b) AS (SELECT a FROM t) SELECT x.a FROM x", [("", "a")]),
        ("WITH x AS (DELETE FROM t RETURNING a) SELECT x.a, x.wipe FROM x", [("", "wipe")]),
        ("WITH t AS (SELECT a FROM s.u) SELECT t.a, t.wipe FROM t", [("", "wipe")]),
        ('WITH "t" AS (SELECT a FROM s.u) SELECT t.a, t.wipe FROM t', [("", "wipe"), ("t", "a"), ("t", "wipe")]),
        # What is written is a table, whatever a WITH defines by that name.
        ("WITH t AS (SELECT 1 AS wipe) DELETE FROM t RETURNING t.wipe", [("t", "wipe")]),
        ("WITH t AS (SELECT 1 AS wipe) DELETE FROM t AS k RETURNING k.wipe", [("t", "wipe")]),
        ("WITH t AS (SELECT 1 AS wipe) UPDATE t SET a = t.wipe", [("t", "wipe")]),
        ("WITH t AS (SELECT 1 AS wipe) INSERT INTO t (a) VALUES (1) RETURNING t.wipe", [("t", "wipe")]),
        ("WITH t AS (SELECT 1 AS wipe) MERGE INTO t USING u ON t.wipe = 1 WHEN MATCHED THEN DELETE", [("t", "wipe")]),
        ("WITH t AS (SELECT 1 AS wipe) DELETE FROM s.u USING t WHERE t.wipe = 1", []),
        ("SELECT x.a, x.b FROM t AS x(a)", [("", "b")]),
        ("SELECT x.key FROM jsonb_each('{}') AS x(key, value)", []),
        ("SELECT x.key FROM jsonb_each('{}') AS x", [("", "key")]),
        ("SELECT x.a FROM (VALUES (1)) AS x(a), unnest(x.a) AS y(b) WHERE y.b = 1", []),
        # What nobody can know.
        ("SELECT other.wipe FROM t", [("", "wipe")]),
        ("SELECT d.s.t.wipe FROM s.t", [("", "wipe")]),
        ("SELECT t.a FROM d.s.t", [("", "a")]),
        (f"SELECT t.{'x' * 64} FROM t", [("", "x" * 64)]),
        ("SELECT t.a FROM t; SELECT u.b FROM u", [("t", "a"), ("u", "b")]),
        # Dots of types.
        ("SELECT $1::app.mood, CAST(a AS app.mood) FROM t", []),
    ],
)
def test_columns_that_may_be_functions(sql: str, columns: list[tuple[str, str]]) -> None:  # P-10
    content = read_statements(sql, POSTGRESQL)
    assert MIGRATE not in content.actions
    assert list(content.columns) == sorted(columns)
    assert read_statements(sql, SQLITE).columns == ()


def test_what_a_release_of_the_parser_does_not_know_is_opaque() -> None:
    # sqlglot knows this form since a release after 30.0.
    found = read_statements("UPDATE t, u SET u.a = 1", MYSQL)
    assert found in (Statements((WRITE,), touched("u", "t u")), Statements((MIGRATE,)))


@pytest.mark.parametrize(
    "sql",
    [
        *["BEGIN", "begin immediate", "COMMIT", "ROLLBACK;", "SAVEPOINT sa_1", 'SAVEPOINT "x"'],
        *["ROLLBACK TO SAVEPOINT sa_savepoint_1", "RELEASE SAVEPOINT sa_savepoint_1", "START TRANSACTION", " END "],
    ],
)
def test_transaction_control_needs_nothing(sql: str) -> None:
    assert read_statements(sql, SQLITE).actions == ()


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        # Statements that change more than rows, or that nobody knows.
        *[
            (SQLITE, sql)
            for sql in (
                "CREATE TABLE x (a)",
                "CREATE TABLE x AS SELECT a FROM t",
                "DROP TABLE t",
                "ALTER TABLE t ADD COLUMN a",
                "PRAGMA user_version = 5",
                "PRAGMA table_info(t)",
                "VACUUM INTO 'x'",
                "ATTACH 'x' AS y",
                "REINDEX",
                "EXPLAIN DELETE FROM t",
                "SELECT * FROM pragma_table_info('t')",
                "SELECT * FROM pragma_optimize",
                "",
                ";",
                "-- nothing",
                "f(1)",
                "foo bar",
                "BEGIN; DELETE FROM t",
                "SAVEPOINT x; DELETE FROM t",
                "WITH x AS (DROP TABLE t) SELECT 1",
                "SELECT 1 DELETE FROM t",  # no database splits this, but for one
            )
        ],
        *[
            (POSTGRESQL, sql)
            for sql in (
                "TRUNCATE t",
                "GRANT ALL ON t TO x",
                "COPY t TO PROGRAM 'x'",
                "CALL p()",
                "DO 'begin end'",
                "SET ROLE x",
                "LOCK TABLE t",
                "PREPARE p AS DELETE FROM t",
                "EXECUTE p",
                "DECLARE c CURSOR FOR SELECT 1",
                "EXPLAIN ANALYZE DELETE FROM t",
                "TABLE t",
                "LISTEN x",
            )
        ],
        *[
            (MYSQL, sql)
            for sql in (
                "SELECT 1 INTO OUTFILE '/tmp/x'",
                "SELECT a INTO DUMPFILE '/tmp/x' FROM t",
                "LOAD DATA INFILE '/x' INTO TABLE t",
                "HANDLER t OPEN",
                "KILL 1",
                "DO f()",
            )
        ],
        # Functions that do something, or may.
        (SQLITE, "SELECT load_extension('x')"),
        (SQLITE, "SELECT writefile('x', 'y') FROM t"),
        (SQLITE, "SELECT 1 FROM t AS load_extension WHERE load_extension('x')"),
        (SQLITE, "INSERT INTO readfile (a) SELECT readfile('x')"),
        (SQLITE, "SELECT f1(a) FROM t"),
        (SQLITE, 'SELECT "lower"(a) FROM t'),
        (SQLITE, "SELECT fts3_tokenizer('x', x'00') FROM t"),
        (POSTGRESQL, "SELECT pg_terminate_backend(1)"),
        (POSTGRESQL, "SELECT lo_import('/etc/passwd')"),
        (POSTGRESQL, "SELECT * FROM dblink_exec('x', 'DELETE FROM t')"),
        (POSTGRESQL, "SELECT a FROM t, LATERAL pg_sleep(9)"),
        (POSTGRESQL, "SELECT pg_catalog.pg_read_file('x')"),
        (POSTGRESQL, "SELECT other.lower(a) FROM t"),
        (POSTGRESQL, "SELECT lower(a), set_config('x', 'y', false) FROM t"),
        (MYSQL, "SELECT load_file('x')"),
        (MYSQL, "SELECT sleep(9)"),
        (MYSQL, "SELECT NEXT VALUE FOR s"),
        (POSTGRESQL, "INSERT INTO t VALUES (NEXT VALUE FOR s)"),
        (MYSQL, "SELECT `sleep`(9)"),
        (MYSQL, 'SELECT "sleep"(9)'),
        # Text that is read in several ways.
        (MYSQL, "SELECT 1 /*! INTO OUTFILE '/tmp/x' */"),
        (MYSQL, "SELECT 1 /*!50000 , load_file('x') */"),
        (MYSQL, "SELECT 1 /*M! , load_file('x') */"),
        (MYSQL, "SELECT /*+ SET_VAR(foreign_key_checks = OFF) */ 1"),
        (MYSQL, "SELECT {# \n d '2020-01-01'}, 1 #}"),
        (MYSQL, "SELECT '\\', load_file('x'), '"),
        (POSTGRESQL, "SELECT E'\\'', pg_sleep(9), E'\\''"),
        (POSTGRESQL, "SELECT $$'$$, pg_sleep(9), $$'$$"),
        (POSTGRESQL, "SELECT $a$'$a$, pg_sleep(9), $a$'$a$"),
        (POSTGRESQL, "SELECT /* /* */ ' */ , 1, '"),
        (POSTGRESQL, "SELECT a ` ' ` FROM t"),
        (POSTGRESQL, 'SELECT U&"\\0061" FROM t'),
        (POSTGRESQL, "SELECT u&'!0061' UESCAPE '!' FROM t"),
        # A field of a value, or a function of it.
        (POSTGRESQL, "SELECT (orders).wipe FROM orders"),
        (POSTGRESQL, "SELECT (orders.*).wipe FROM orders"),
        (POSTGRESQL, "SELECT (o.a).wipe FROM orders AS o"),
        (POSTGRESQL, "SELECT o.a[1].wipe FROM orders AS o"),
        (POSTGRESQL, "SELECT ((SELECT orders FROM orders LIMIT 1)).wipe"),
        (SQLITE, "SELECT $x('), 1 FROM t -- ')"),
        (SQLITE, "SELECT :x::y('), 1 FROM t -- ')"),
        (SQLITE, "SELECT 1 -- \r , load_extension('x')"),
        (SQLITE, "SELECT 1\0; DELETE FROM t"),
        (SQLITE, "SELECT\u00a0a FROM t"),
        (SQLITE, "SELECT a FROM t\u2028"),
        (SQLITE, "\ufeffSELECT a FROM t"),
        (SQLITE, "\u017fELECT a FROM t"),
        (SQLITE, "SELECT a FROM t WHERE b = '\ud800'"),
        (SQLITE, "SELECT a\x0bFROM t"),
        # Other databases, and too much.
        ("mssql", "SELECT a FROM t"),
        ("oracle", "SELECT a FROM t"),
        ("", "SELECT a FROM t"),
        (SQLITE, "SELECT " + "(" * 5_000 + "1" + ")" * 5_000),
        (SQLITE, "SELECT a FROM t WHERE b = '" + "x" * TEXT_LIMIT + "'"),
    ],
)
def test_the_rest_is_opaque(dialect: str, sql: str) -> None:
    found = read_statements(sql, dialect)
    assert found.strongest == MIGRATE
    assert found.touched_tables is None


def test_each_of_several_statements_counts() -> None:
    assert read_statements("SELECT a FROM t; DELETE FROM u;", SQLITE) == Statements((READ, WRITE), touched("t", "u"))
    assert read_statements("SELECT a FROM t; DROP TABLE u", SQLITE).actions == (MIGRATE, READ)


@pytest.mark.parametrize(
    "sql", ['SELECT a FROM "t.u"', 'SELECT a FROM x."t.u"', "SELECT a FROM t WHERE a IN u", 'SELECT a FROM ""']
)
def test_a_table_without_a_certain_name_is_none(sql: str) -> None:
    assert read_statements(sql, SQLITE).touched_tables is None


def test_a_batch_of_any_size_is_one_text() -> None:
    for row in ("(?, ?, lower(?))", "(%(a__7)s, %(b__7)s, 7)", "($1::INTEGER, $2::VARCHAR)"):
        dialect = SQLITE if "?" in row else POSTGRESQL
        sql = f"INSERT INTO t (a, b, c) VALUES {', '.join([row] * 20_000)}"
        assert len(sql) > 2 * TEXT_LIMIT
        assert read_statements(sql, dialect).touched_tables == touched(writes="t")


def test_what_is_repeated_is_not_lost() -> None:
    assert read_statements("SELECT (SELECT a FROM u), (SELECT a FROM u) FROM t", SQLITE).touched_tables == touched(
        "t u"
    )
    assert read_statements("SELECT (f(1)), (f(1))", SQLITE).strongest == MIGRATE


def test_functions_of_the_application() -> None:
    assert read_statements("SELECT slug(a) FROM t", SQLITE).strongest == MIGRATE
    assert read_statements("SELECT slug(a) FROM t", SQLITE, functions=frozenset({"SLUG"})).strongest == READ


# P-10: by a name that the database does not have, it calls a function of the user's.
@pytest.mark.parametrize(
    ("dialect", "call"),
    [
        *[(POSTGRESQL, call) for call in ("ifnull(a, 1)", "datetime(a)", "iif(a, 1, 2)", "year(a)", "hex(a)")],
        *[(POSTGRESQL, call) for call in ("json_extract(a, 'x')", "group_concat(a)", "IF(a, 1, 2)", "any_value(a)")],
        *[(SQLITE, call) for call in ("now()", "md5(a)", "concat(a, a)", "greatest(a, 1)", "to_char(a, 'x')")],
        *[(SQLITE, call) for call in ("load_extension(a)", "fts3_tokenizer(a)", "sqlite_log(a)", "optimize(a)")],
        *[(MYSQL, call) for call in ("split_part(a, 'x', 1)", "iif(a, 1, 2)", "to_char(a, 'x')", "string_agg(a, 'x')")],
        *[(MYSQL, call) for call in ("count (a)", "now/* */()", "SUM\n(a)")],  # the user's, in its default mode
    ],
)  # fmt: skip
def test_a_function_of_another_database_is_the_users(dialect: str, call: str) -> None:
    assert read_statements(f"SELECT {call} FROM t", dialect).strongest == MIGRATE


@pytest.mark.parametrize("call", ["ifnull(a, 1)", "count(a)", "coalesce (a, 1)", "json_extract(a, 'x')"])
def test_a_function_of_mysql_is_none_of_the_users(call: str) -> None:
    assert read_statements(f"SELECT {call} FROM t", MYSQL).strongest == READ


def test_each_function_of_sqlite_is_one_that_it_has() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        functions = {name for (name,) in connection.execute("SELECT name FROM pragma_function_list")}
        tables = {name for (name,) in connection.execute("SELECT name FROM pragma_module_list")}
        listed = {name.lower() for name in FUNCTIONS["sqlite"]}
        assert listed - functions - tables == {"cast"}  # which is syntax, and no call without its AS
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("SELECT cast(1)")
    assert read_statements("SELECT cast(1)", SQLITE).strongest == MIGRATE


class NotToBeParsed(BaseException):
    """No error, which :func:`read_statements` would make an opaque statement of."""


@pytest.mark.parametrize(
    "joins",
    [
        *[" JOIN u" * 40, " JOIN u" * (OPEN_JOINS + 1), " STRAIGHT_JOIN u" * 40],
        " JOIN u ON 1 = 1" * 40 + " JOIN u" * 40,
        " JOIN u" * OPEN_JOINS + " ON 1 = 1 JOIN v JOIN u",
        " ON 1 = 1" * 40 + " JOIN u" * 40,  # none is open that these would close
    ],
)
def test_joins_that_take_the_parser_too_long_are_not_parsed(joins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser's time doubles with each join that is open: 40 take it days."""

    def parse(parser: object, tokens: list[Token], sql: str | None = None) -> NoReturn:
        raise NotToBeParsed(sql)

    monkeypatch.setattr(Parser, "parse", parse)
    with pytest.raises(NotToBeParsed):
        read_statements("SELECT * FROM t JOIN w", MYSQL)  # this is how the parser is called
    assert read_statements("SELECT * FROM t" + joins, MYSQL) == Statements((MIGRATE,))


def test_joins_that_are_closed_are_parsed() -> None:
    usual = " JOIN u ON 1 = 1" * 40 + " JOIN x USING (a)" * 40 + " CROSS JOIN v" * 40 + " NATURAL JOIN w" * 40
    assert read_statements("SELECT * FROM t" + usual, MYSQL).touched_tables == touched("t u v w x")
    assert read_statements("SELECT * FROM t" + " JOIN u" * OPEN_JOINS, MYSQL).strongest == READ


def test_hostile_texts_take_no_longer_than_long_ones() -> None:
    """Where one takes hours, the limit of a test stops it."""
    for text in (
        "BEGIN" + " " * 200_000 + "x",
        "SAVEPOINT " * 50_000,
        "SELECT " + "(" * 200_000,
        "SELECT " + "(a " * 100_000 + ")" * 100_000,
        "SELECT (" + "(b) " * 100_000,
        "SELECT " + "(?, " * 100_000,
        "SELECT " + "(?, 1), " * 100_000,
        "SELECT /*" + "*" * 200_000,
        "SELECT " + "/**/" * 100_000,
        "SELECT $" + "a" * 200_000,
        "SELECT " + ":a::" * 100_000,
        "SELECT " + "%(a" * 100_000,
        "SELECT " + "\u00e9" * 200_000,
    ):
        assert read_statements(text, SQLITE).strongest in (READ, MIGRATE)


# -- SQLite as the oracle: what its authorizer sees is what a statement does.

CORPUS: Final = """SELECT a, b FROM t WHERE a = 1 AND b IN (SELECT b FROM u)
SELECT count(*) FROM t GROUP BY a HAVING count(*) > 1 ORDER BY b LIMIT 1
WITH x AS (SELECT a FROM t), y AS (SELECT a FROM x) SELECT * FROM y UNION SELECT b FROM u
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n
WITH x AS (SELECT a FROM t) DELETE FROM u WHERE b IN (SELECT a FROM x)
WITH x AS (SELECT a FROM t) INSERT INTO u SELECT a, a FROM x
INSERT OR REPLACE INTO t (a, b) VALUES (1, 2) RETURNING a
INSERT INTO t (a, b) VALUES (1, 2) ON CONFLICT (a) DO UPDATE SET b = excluded.b WHERE a IN (SELECT a FROM u)
REPLACE INTO t (a) VALUES (1)
UPDATE t SET a = u.b FROM u WHERE t.a = u.b
DELETE FROM t WHERE a IN (SELECT b FROM u) RETURNING *
SELECT load_extension('x'), replace(a, 'x', 'y'), f1(a) FROM t
PRAGMA user_version = 5
CREATE TABLE z AS SELECT a FROM t
SELECT "a" FROM "t" AS [x y] JOIN `u` ON 1
VALUES (1, 2), (3, (SELECT a FROM t))
SELECT a FROM t WHERE a IN u
SELECT CASE WHEN a THEN b ELSE (SELECT b FROM u) END FROM t NATURAL JOIN u CROSS JOIN t AS w, u AS v
SELECT /* c */ a FROM t -- c
SELECT row_number() OVER (PARTITION BY a ORDER BY b), 'it''s', x'ab' FROM (SELECT a, b FROM t) AS q
SAVEPOINT x
SELECT a FROM main.t ORDER BY (SELECT b FROM u) LIMIT (SELECT 1 FROM u)""".splitlines()
TOKEN: Final = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\[[^\]]*\]|`[^`]*`|--[^\n]*|/\*.*?\*/|\w+|\s+|[^\w\s]", re.DOTALL)
TOKENS: Final = [TOKEN.findall(text) for text in CORPUS]
MORE: Final = [
    *[
        "DELETE FROM t",
        "UPDATE t SET a=1",
        "INSERT INTO u SELECT * FROM t",
        "REPLACE INTO u",
        "TABLE s",
        "UNION SELECT a FROM s",
    ],
    *[
        "(",
        ")",
        "'",
        '"',
        "`",
        "[",
        "]",
        "--",
        "/*",
        "*/",
        "/*!",
        "\n",
        "\r",
        "\x0b",
        "\xa0",
        "\u2028",
        "\ufeff",
        "\u017f",
    ],
    *["\\", "\\'", "$", "$$", "$x(", ":x(", "@x(", "::", "{#", "#}", "{%", ";", ",", ".", "*", "->", "#", "|"],
    *["SELECT", "FROM", "s", "AS", "WITH x AS (", "IN s", "IN (", "JOIN s", "RETURNING *", "VALUES", "NOT", "INTO"],
    *[
        "load_extension(",
        "f1(",
        "AS f1",
        "pragma_user_version",
        "main.",
        "temp.",
        "%s",
        "%(x)s",
        "%%",
        "t.*",
        "x'",
        "E'",
    ],
]
FRAGMENTS: Final = sorted({token for tokens in TOKENS for token in tokens} | set(MORE))
FUNCTION: Final = 31  # these two have no name in Python 3.10's sqlite3
RECURSIVE: Final = 33


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A statement with some tokens taken out, put in, or exchanged."""
    tokens = list(draw(st.sampled_from(TOKENS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(tokens)))
        others = draw(st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=2), st.sampled_from(TOKENS)))
        tokens[at : at + draw(st.integers(0, 2))] = others
    return draw(st.sampled_from(["", "", " "])).join(tokens)


def seen_by_sqlite(sql: str) -> set[tuple[Any, ...]] | None:
    """What SQLite's authorizer is asked while it prepares ``sql``; ``None`` where it does not accept it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.executescript("CREATE TABLE t (a PRIMARY KEY, b); CREATE TABLE u (a, b); CREATE TABLE s (a, b);")
        database.create_function("f1", -1, lambda *_: 1)
        seen: set[tuple[Any, ...]] = set()

        def see(*question: Any) -> int:
            seen.add(question[:3])
            return sqlite3.SQLITE_OK

        database.set_authorizer(see)
        try:
            database.execute(f"EXPLAIN {sql}")
        except sqlite3.ProgrammingError as error:
            return seen if "binding" in str(error) else None
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return None
        return seen


@pytest.mark.sampled
@settings(max_examples=examples(400))
@given(mutants())
@example("SELECT $x('), 1 FROM t -- ')")
@example("WITH x AS (SELECT a FROM s) DELETE FROM t")
@example("SELECT a FROM t WHERE a IN s")
def test_sqlite_does_nothing_that_was_not_told(sql: str) -> None:
    seen = seen_by_sqlite(sql)
    found = read_statements(sql, SQLITE)
    if seen is None or found.strongest == MIGRATE:
        return
    codes = {code for code, _, _ in seen}
    changes = codes - {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_TRANSACTION, 32, FUNCTION, RECURSIVE}
    assert changes <= {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
    assert not changes or WRITE in found.actions
    assert {two.upper() for code, _, two in seen if code == FUNCTION} <= FUNCTIONS["sqlite"] | {"->", "->>"}
    if found.touched_tables is not None:
        # A name that a WITH defines looks like a table of which no column is read.
        read = {
            one
            for code, one, two in seen
            if code == sqlite3.SQLITE_READ and one in ("t", "u", "s") and (two or "WITH" not in sql.upper())
        }
        assert read <= {name.rpartition(".")[2] for _, name in found.touched_tables}
        written = {one for code, one, _ in seen if code in changes}
        assert written <= {name.rpartition(".")[2] for action, name in found.touched_tables if action == WRITE}
