"""Attempts to get a statement past the gate of SQLAlchemy: text, other names, listeners, what was compiled before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    column,
    create_engine,
    delete,
    event,
    extract,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Session, sessionmaker

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.sql import gate_engine, named, query_name
from capgate.capabilities.sql.built_by_sqlalchemy import is_built, trace
from capgate.model import Reason

from ..support.gates import make_checker
from .listening import ACTOR, reason
from .shop import (
    ORDERS,
    allowed,
    contents,
    orders,
    reading,
    rows,
)

READ, WRITE, MIGRATE = "db.read", "db.write", "db.migrate"


@pytest.mark.parametrize(
    "run",
    [
        lambda c: c.execute(text("DELETE FROM orders")),
        lambda c: c.exec_driver_sql("DELETE FROM orders"),
        lambda c: c.exec_driver_sql("DELETE FROM orders WHERE id = ?", [(1,), (2,)]),
        lambda c: c.execute(delete(orders).where(text("1 = 1"))),
        lambda c: c.execute(delete(orders).where(literal_column("1 = 1"))),
        lambda c: c.execute(delete(orders).prefix_with("/* x */")),
        lambda c: c.execute(delete(orders).where(orders.c.id.op("= 1 OR 1 =")(1))),
        lambda c: c.execute(select(text("1")).select_from(orders)),
        lambda c: c.execute(select(orders).order_by(text("1"))),
        lambda c: c.execute(select(orders).where(text("1 = 1 UNION SELECT id, word, 1 FROM secrets"))),
        lambda c: c.execute(select(orders).with_statement_hint("x")),
        lambda c: c.execute(select(orders).with_hint(orders, "INDEXED BY x")),
        lambda c: c.execute(select(orders).suffix_with("LIMIT 1")),
        lambda c: c.execute(text("SELECT id FROM orders").columns(orders.c.id)),
        lambda c: c.execute(select(text("SELECT id FROM orders").columns(orders.c.id).subquery())),
        lambda c: c.execute(insert(orders).values(item=text("'jam'"))),
        lambda c: c.execute(upsert(orders).on_conflict_do_update(index_elements=[text("id")], set_={"item": "x"})),
        lambda c: c.execute(select(func.load_extension("x")).select_from(orders)),
        lambda c: c.execute(select(func.lower(func.writefile("x", orders.c.item)))),
        lambda c: c.execute(select(literal(1))),  # touches no table
        lambda c: MetaData().create_all(c, tables=[Table("extra", MetaData(), Column("id", Integer))]),
        lambda c: orders.drop(c),
        lambda c: c.execute(text("PRAGMA user_version = 7")),
        lambda c: c.execute(text("ATTACH 'other.db' AS other")),
        lambda c: c.execute(text("VACUUM")),
    ],
)  # fmt: skip
def test_text_of_the_application_needs_a_name(path: Path, engine: Engine, run: Callable[[Connection], Any]) -> None:
    before = contents(path)
    with allowed("orders", "secrets", "extra"), engine.begin() as connection:
        with pytest.raises(CapabilityDenied) as caught:
            run(connection)
        assert reason(caught.value) == Reason.MISSING_RESOURCE
    assert contents(path) == before
    everything = capabilities_for(make_checker("local", {"sql": "any"}), ACTOR)
    with using(everything), engine.begin() as connection, pytest.raises(CapabilityDenied):
        run(connection)
    assert contents(path) == before


@pytest.mark.parametrize(
    "statement",
    [
        select(extract("year FROM x) OR (1", orders.c.id)),
        select(orders.c.id.op("-- ")(1)),
        select(orders).with_hint(orders, "ONLY"),
        select(orders).with_statement_hint("x"),
        update(orders).values(item="x").with_hint("ONLY"),
        select(orders).where(orders.c.id.op("/*")(1)),
        select(column("*, (SELECT 1)", is_literal=True)),
    ],
)
def test_text_in_other_dialects(statement: Any) -> None:
    for module in (postgresql, mysql):
        dialect: Dialect = module.dialect()
        trace(dialect)
        trace(dialect)
        assert not is_built(statement.compile(dialect=dialect))
        assert not is_built(statement.compile())  # not traced at all
        plain = select(orders.c.item.op("->>")("x"), func.count(), extract("year", orders.c.id))
        assert is_built(plain.compile(dialect=dialect))


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("DELETE FROM orders", "another statement under the name"),
        ("/* SELECT */ DELETE FROM orders", "a comment first"),
        ("-- SELECT\nDELETE FROM orders", "a line of comment first"),
        ("DELETE/**/FROM/**/orders", "comments for white space"),
        ("delete\n\tfrom\r\norders", "lower case and odd white space"),
        ("DELETE\x0cFROM orders", "a form feed is white space to SQLite"),
        ("WITH x AS (SELECT 1) DELETE FROM orders", "after a WITH"),
        ("WITH x AS (SELECT ')' AS y) DELETE FROM orders WHERE 1 -- SELECT", "a parenthesis in a literal"),
        ("WITH x AS (SELECT :x(') ) DELETE FROM orders -- ') SELECT 1", "a parameter's name with a quote in it"),
        ("SELECT 1; DELETE FROM orders", "two statements"),
        (";DELETE FROM orders", "an empty statement first"),
        ("REPLACE INTO orders (id) VALUES (1)", "a replacing insert"),
        ("INSERT INTO orders SELECT id + 10, word, 1 FROM secrets", "an insert that selects"),
        ("UPDATE orders SET item = 'x' WHERE id IN (SELECT 1)", "a select inside of it"),
        ("DROP TABLE orders", "a schema"),
        ("PRAGMA writable_schema = 1", "a pragma"),
        ("EXPLAIN DELETE FROM orders", "explained"),
        ("SELECT load_extension('x')", "a function that loads code"),
        ("SELECT 1 FROM orders AS load_extension WHERE load_extension('x')", "an alias of that name"),
        ("SELECT\u00a01", "a space that SQLite takes for a letter"),
        ("\ufeffDELETE FROM orders", "a byte order mark"),
        ("SELECT 1\0; DELETE FROM orders", "what comes after a NUL"),
        ("ATTACH ':memory:' AS x", "another database"),
        ("CREATE TRIGGER x AFTER INSERT ON orders BEGIN DELETE FROM orders; END", "a trigger"),
        ("SELECT 1 DELETE FROM orders", "without a semicolon"),
    ],
)
def test_a_name_for_reading_reads(path: Path, engine: Engine, sql: str, why: str) -> None:
    before = contents(path)
    with allowed(*reading("report")) as listening, engine.connect() as connection:
        with pytest.raises(CapabilityDenied):
            connection.execute(named("report", text(sql.replace(":x", r"\:x"))))
        connection.commit()
        with pytest.raises(CapabilityDenied):
            connection.exec_driver_sql(sql, execution_options=query_name("report"))
        connection.commit()
        assert {name for _, name in listening.asked} == {"report"}
    assert contents(path) == before


def test_what_a_listener_makes_of_a_statement_is_what_counts(path: Path, engine: Engine) -> None:
    def rewrite(c: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> tuple[str, Any]:
        return statement.replace("SELECT orders.id", "DELETE FROM orders --"), parameters

    def comment(c: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> tuple[str, Any]:
        return f"{statement} -- traced", parameters

    before = contents(path)
    for first in (True, False):
        for listener, entries in ((rewrite, ["orders", *reading("ids")]), (comment, ["orders"])):
            event.listen(engine, "before_cursor_execute", listener, retval=True, insert=first)
            with allowed(*entries), engine.connect() as connection:
                with pytest.raises(CapabilityDenied) as caught:
                    connection.execute(select(orders.c.id))
                assert reason(caught.value) == Reason.MISSING_RESOURCE
                if listener is rewrite:
                    with pytest.raises(CapabilityDenied):
                        connection.execute(named("ids", select(orders.c.id)))
                connection.commit()
            event.remove(engine, "before_cursor_execute", listener)
    assert contents(path) == before


def test_what_a_listener_makes_of_a_batch(path: Path, engine: Engine) -> None:
    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def rewrite(c: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> tuple[str, Any]:
        return statement.replace("INSERT INTO orders", "INSERT INTO secrets"), parameters

    before = contents(path)
    with allowed("orders", "secrets"), engine.connect() as connection:
        with pytest.raises(CapabilityDenied) as caught:
            connection.execute(insert(orders).returning(orders.c.id), [{"id": 7}, {"id": 8}])
        assert reason(caught.value) == Reason.MISSING_RESOURCE
        connection.commit()
    assert contents(path) == before


def test_statements_that_go_without_parameters(path: Path, engine: Engine) -> None:
    before = contents(path)
    with allowed(*reading("orders")), engine.connect().execution_options(no_parameters=True) as connection:
        assert rows(connection) == ORDERS
        for statement in (delete(orders), named("orders", text("DELETE FROM orders"))):
            with pytest.raises(CapabilityDenied):
                connection.execute(statement)
            connection.commit()
        with pytest.raises(CapabilityDenied):
            connection.exec_driver_sql("DELETE FROM orders")
        connection.commit()
    assert contents(path) == before


def test_it_stays_gated(path: Path, engine: Engine) -> None:
    ways: list[Callable[[], Any]] = [
        lambda: engine.connect(),
        lambda: engine.begin(),
        lambda: engine.connect().execution_options(isolation_level="AUTOCOMMIT"),
        lambda: engine.execution_options(isolation_level="AUTOCOMMIT").connect(),
        lambda: engine.execution_options(compiled_cache=None).begin(),
        lambda: engine.execution_options(x=1).execution_options(y=2).begin(),
        lambda: Session(engine),
        lambda: sessionmaker(bind=engine)(),
        lambda: sessionmaker(engine.execution_options(schema_translate_map={None: "main"}))(),
    ]
    before = contents(path)
    with allowed(*reading("orders")):
        for _ in range(2):
            for way in ways:
                with way() as connection:
                    for statement in (delete(orders), insert(orders).values(item="x"), text("DROP TABLE orders")):
                        with pytest.raises(CapabilityDenied):
                            connection.execute(statement)
            engine.dispose()
    assert contents(path) == before


def test_what_was_compiled_before_is_asked_for_by_what_it_says(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    try:
        kept: dict[Any, Any] = {}
        with engine.connect() as connection:
            connection.execute(select(orders).where(text("1 = 1")))
            connection.execute(select(orders))
            connection.execute(select(orders), execution_options={"compiled_cache": kept})
            gate_engine(engine)
            with allowed("orders"):
                with pytest.raises(CapabilityDenied):
                    connection.execute(select(orders).where(text("1 = 1")))
                with pytest.raises(CapabilityDenied):  # compiled by somebody else, for all that is known
                    connection.execute(select(orders), execution_options={"compiled_cache": kept})
                assert rows(connection) == ORDERS
    finally:
        engine.dispose()
