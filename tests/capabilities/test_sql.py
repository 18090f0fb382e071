"""The gate of SQLAlchemy engines, on real SQLite files: what is asked, and that what is denied did not happen."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    exists,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, joinedload, selectinload
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.sql import gate_engine, named, query_name
from capgate.errors import ConfigError
from capgate.model import Reason
from capgate.routes.declare import requires

from ..support.gates import events, gated, make_checker
from .kinds import KINDS
from .listening import ACTOR, Listening, reason
from .shop import (
    ORDERS,
    SECRETS,
    Customer,
    Order,
    Secret,
    allowed,
    contents,
    customers,
    orders,
    reading,
    rows,
    secrets,
    writing,
)

READ, WRITE, MIGRATE = "db.read", "db.write", "db.migrate"


# -- what is asked


@pytest.mark.parametrize(
    ("statement", "asked"),
    [
        (select(orders), [(READ, "orders")]),
        (
            select(orders.c.item).join(customers).where(exists().where(secrets.c.id == 1)),
            [(READ, "customers"), (READ, "orders"), (READ, "secrets")],
        ),
        (select(orders.c.id).where(orders.c.id.in_([1, 2, 3])).with_for_update(), [(READ, "orders")]),
        (
            select(func.count(), func.lower(orders.c.item)).select_from(orders).group_by(orders.c.item),
            [(READ, "orders")],
        ),
        (select(orders.c.id).union(select(customers.c.id)).order_by("id"), [(READ, "customers"), (READ, "orders")]),
        (select(select(orders).cte("secrets")), [(READ, "orders")]),
        (
            select(orders.c.item.op("||")("x"), orders.c.item.contains("e"), orders.c.item.regexp_match("x") | True),
            [(READ, "orders")],
        ),
        (insert(orders).values(id=7, item="jam"), [(WRITE, "orders")]),
        (insert(orders).from_select(["item"], select(secrets.c.word)), [(READ, "secrets"), (WRITE, "orders")]),
        (
            upsert(orders).values(id=1, item="jam").on_conflict_do_update(index_elements=["id"], set_={"item": "jam"}),
            [(WRITE, "orders")],
        ),
        (update(orders).values(item="jam"), [(WRITE, "orders")]),
        (update(orders).values(item=select(secrets.c.word).scalar_subquery()), [(READ, "secrets"), (WRITE, "orders")]),
        (update(orders).values(item="jam").returning(orders.c.id), [(READ, "orders"), (WRITE, "orders")]),
        (delete(orders).where(orders.c.id == bindparam("id", 1)), [(WRITE, "orders")]),
        (select(orders).add_cte(delete(secrets).returning(secrets.c.id).cte("gone")), None),
    ],
)
def test_what_sqlalchemy_built_is_asked_for_by_table(
    path: Path, engine: Engine, statement: Any, asked: list[tuple[str, str]] | None
) -> None:
    if asked is None:  # SQLite has no such statement; the question comes before the error, and the answer is no
        with allowed(*reading("orders", "secrets")), engine.begin() as connection, pytest.raises(CapabilityDenied):
            connection.execute(statement)
        return
    with allowed(*{name for _, name in asked}) as listening, engine.begin() as connection:
        connection.execute(statement)
    assert listening.asked == asked
    before = contents(path)
    for action, name in asked:  # and each of these is needed
        entries = [
            {"name": other, "operation": "read" if kind == READ else "write"}
            for kind, other in asked
            if (kind, other) != (action, name)
        ]
        with allowed(*entries), engine.connect() as connection, pytest.raises(CapabilityDenied) as caught:
            connection.execute(statement)
        assert caught.value.decision.input is not None
        assert caught.value.decision.input.action == action
        assert caught.value.decision.input.resource is not None
        assert caught.value.decision.input.resource.id == name
        assert reason(caught.value) == Reason.NOT_IN_ALLOWLIST
    assert contents(path) == before


def test_an_object_relational_mapper_needs_no_other_code(path: Path, engine: Engine) -> None:
    with allowed("orders", "customers") as listening, Session(engine) as session:
        customer = session.scalars(select(Customer).where(Customer.id == 1)).one()
        assert [order.item for order in customer.orders] == ["tea"]  # a lazy load
        session.add(Order(item="jam", customer=customer))
        session.add_all([Order(item=f"pear {n}") for n in range(30)])  # a batch, with the new keys returned
        session.commit()
        customer.name = "Ada L."
        session.flush()
        session.delete(session.scalars(select(Order).where(Order.id == 2)).one())
        session.commit()
        assert session.query(Order).count() == 32
        session.scalars(select(Customer).options(selectinload(Customer.orders))).all()
        session.scalars(select(Customer).options(joinedload(Customer.orders))).unique().all()
        session.execute(insert(Order), [{"item": "egg"}, {"item": "ham"}])
        session.execute(update(Order).where(Order.item == "egg").values(item="eggs"))
        session.bulk_update_mappings(Order.__mapper__, [{"id": 1, "item": "green tea"}, {"id": 3, "item": "honey"}])
        session.commit()
    assert set(listening.asked) == {(READ, "orders"), (WRITE, "orders"), (READ, "customers"), (WRITE, "customers")}
    assert len(contents(path)["orders"]) == 34
    assert contents(path)["secrets"] == SECRETS


def test_a_denied_flush_leaves_the_file_as_it_was(path: Path, engine: Engine) -> None:
    before = contents(path)
    with allowed(*reading("orders"), "customers"):
        with Session(engine) as session:
            session.add(Customer(name="Cy"))
            session.add(Order(item="jam"))
            with pytest.raises(CapabilityDenied):
                session.flush()
            session.rollback()
        assert contents(path) == before
        with Session(engine) as session:  # and the engine goes on
            assert session.query(Order).count() == len(ORDERS)
            with pytest.raises(CapabilityDenied):  # a lazy load of what may not be read
                session.query(Secret).all()


def test_executemany_and_batches(path: Path, engine: Engine) -> None:
    rows = [{"id": n, "item": "jam"} for n in range(10, 2_010)]
    with allowed("orders") as listening, engine.begin() as connection:
        connection.execute(insert(orders), rows[:1_000])
        connection.execute(insert(orders).returning(orders.c.id), rows[1_000:])
        connection.execute(delete(orders).where(orders.c.id == bindparam("the")), [{"the": 1}, {"the": 2}])
    assert set(listening.asked) == {(WRITE, "orders")}
    assert len(contents(path)["orders"]) == 2_000
    with allowed(*reading("orders")), engine.begin() as connection:
        for statement in (insert(orders), insert(orders).returning(orders.c.id)):
            with pytest.raises(CapabilityDenied):
                connection.execute(statement, [{"id": n, "item": "egg"} for n in range(5_000, 6_000)])
    assert len(contents(path)["orders"]) == 2_000


def test_transactions_and_savepoints_need_nothing(path: Path, engine: Engine) -> None:
    with allowed() as listening, engine.begin() as connection:
        with connection.begin_nested():
            pass
        nested = connection.begin_nested()
        nested.rollback()
        connection.exec_driver_sql("SAVEPOINT mine")
        connection.exec_driver_sql("ROLLBACK TO mine")
    assert listening.asked == []


# -- names


def test_a_name_is_asked_for_in_place_of_the_tables(path: Path, engine: Engine) -> None:
    both = text("SELECT word FROM secrets")
    with allowed(*reading("peek", "count"), *writing("forget"), {"name": "clear", "operation": "migrate"}) as listening:
        with engine.begin() as connection:
            assert connection.execute(named("peek", both)).scalar() == "plum"
            assert connection.execute(named("count", select(func.count()).select_from(secrets))).scalar() == 1
            assert connection.exec_driver_sql("SELECT word FROM secrets", execution_options=query_name("peek")).all()
            connection.execute(named("forget", text("DELETE FROM secrets WHERE id = 5")))
            connection.execute(named("forget", delete(secrets).where(secrets.c.id == 5)))
            connection.execute(named("clear", text("CREATE TABLE extra (id INTEGER)")))
        with Session(engine) as session:
            assert session.execute(both, execution_options=query_name("peek")).scalar() == "plum"
            assert session.scalars(named("peek", select(Secret))).one().word == "plum"
    assert listening.asked == [
        *[(READ, "peek"), (READ, "count"), (READ, "peek"), (WRITE, "forget"), (WRITE, "forget"), (MIGRATE, "clear")],
        *[(READ, "peek"), (READ, "peek")],
    ]
    assert "extra" in contents(path)


def test_a_name_does_not_stick_to_a_statement_that_looks_the_same(path: Path, engine: Engine) -> None:
    # Both are compiled once, for both.
    with allowed(*reading("mine", "orders")) as listening, engine.connect() as connection:
        connection.execute(named("mine", select(orders)))
        connection.execute(select(orders))
        connection.execute(named("mine", select(orders)))
        with pytest.raises(CapabilityDenied):
            connection.execute(named("other", select(orders)))
    assert listening.asked == [(READ, "mine"), (READ, "orders"), (READ, "mine"), (READ, "other")]


def test_names_of_connections_and_engines(path: Path, engine: Engine) -> None:
    with allowed("schema") as listening:
        metadata = MetaData()
        Table("extra", metadata, Column("id", Integer, primary_key=True), Column("note", String, server_default="x"))
        migrations = engine.execution_options(**query_name("schema"))
        with migrations.begin() as connection:
            metadata.create_all(connection)
        with engine.connect().execution_options(**query_name("schema")) as connection:
            connection.exec_driver_sql("PRAGMA user_version")
            with pytest.raises(CapabilityDenied):  # SQLAlchemy's option of a connection hides the one of a statement
                connection.execute(named("other", text("SELECT 1")))
            with pytest.raises(CapabilityDenied):
                metadata.tables["extra"].drop(connection.execution_options(**query_name("other")))
    assert {name for _, name in listening.asked} == {"schema", "other"}
    assert "extra" in contents(path)


@pytest.mark.parametrize("option", ["", 7, b"peek", ["peek"]])
def test_a_name_that_is_none_is_denied(path: Path, engine: Engine, option: Any) -> None:
    with (
        allowed("peek", "secrets"),
        engine.connect() as connection,
        pytest.raises(CapabilityDenied) as caught,
    ):
        connection.execute(select(secrets), execution_options={"capgate_query": option})
    assert reason(caught.value) == Reason.MISSING_RESOURCE
    with pytest.raises(ConfigError) as refused:
        query_name(option)
    assert refused.value.setting == "name"


def test_the_class_of_a_statement_is_needed_with_its_name(path: Path, engine: Engine) -> None:
    """An operation of the policy bounds what a name can come to mean."""
    statements = {READ: "SELECT * FROM orders", WRITE: "DELETE FROM orders", MIGRATE: "DROP TABLE orders"}
    before = contents(path)
    for operation, action in (("read", READ), ("write", WRITE), ("migrate", MIGRATE)):
        with allowed({"name": "it", "operation": operation}), engine.connect() as connection:
            for other, sql in statements.items():
                if other == action:
                    continue
                with pytest.raises(CapabilityDenied):
                    connection.execute(named("it", text(sql)))
    assert contents(path) == before


# -- whom is asked


def test_without_anybody_to_ask_nothing_is_sent(path: Path, engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(CapabilityDenied) as caught:
        connection.execute(delete(orders))
    assert reason(caught.value) == Reason.POLICY_UNAVAILABLE
    assert contents(path)["orders"] == ORDERS


def test_capabilities_given_to_the_engine_are_asked_in_place_of_the_current_ones(path: Path) -> None:
    mine = Listening.to({"sql": reading("orders")})
    engine = gate_engine(create_engine(f"sqlite:///{path}"), capabilities=mine)
    try:
        with allowed("orders", "secrets") as others, engine.connect() as connection:
            assert rows(connection) == ORDERS
            with pytest.raises(CapabilityDenied):
                connection.execute(select(secrets))
        assert others.asked == []
        assert mine.asked == [(READ, "orders"), (READ, "secrets")]
    finally:
        engine.dispose()


def test_functions_of_the_application(path: Path) -> None:
    engine = gate_engine(create_engine(f"sqlite:///{path}"), functions=["slug"])

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.create_function("slug", 1, lambda item: f"-{item}-")
        connection.create_function("other", 1, lambda item: item)

    try:
        with allowed("orders"), engine.connect() as connection:
            assert connection.execute(select(func.slug(orders.c.item))).scalars().all() == ["-tea-", "-milk-"]
            with pytest.raises(CapabilityDenied):
                connection.execute(select(func.other(orders.c.item)))
    finally:
        engine.dispose()


def test_only_engines_are_gated(path: Path) -> None:
    for wrong in (None, "sqlite://", object()):
        with pytest.raises(ConfigError) as caught:
            gate_engine(wrong)  # type: ignore[type-var]
        assert caught.value.setting == "engine"


@pytest.mark.parametrize("kind", KINDS)
def test_each_engine_of_policies(path: Path, engine: Engine, kind: str) -> None:
    capabilities = capabilities_for(make_checker(kind, {"sql": [*reading("orders"), "note"]}), ACTOR)
    with using(capabilities), engine.begin() as connection:
        assert rows(connection) == ORDERS
        connection.execute(named("note", insert(orders).values(id=9, item="jam")))
        with pytest.raises(CapabilityDenied):
            connection.execute(insert(orders).values(id=10, item="egg"))
        with pytest.raises(CapabilityDenied):
            connection.execute(select(secrets))
    assert contents(path)["orders"] == [*ORDERS, (9, "jam", None)]


# -- the whole way


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_without_a_policy_call(path: Path, kind: str) -> None:
    """A ``def`` endpoint, in a worker thread; what it is denied is the response, and an event."""
    engine = gate_engine(create_engine(f"sqlite:///{path}"))
    threads: list[int] = []

    @requires("db.read", resource="sql_query:orders")
    def listing(request: Request) -> Response:
        threads.append(threading.get_ident())
        with Session(engine) as session:
            return JSONResponse([order.item for order in session.scalars(select(Order))])

    @requires("db.read", resource="sql_query:orders")
    def ordering(request: Request) -> Response:
        with Session(engine) as session, session.begin():
            session.add(Order(item=request.query_params["item"]))
        return JSONResponse({})

    routes = [Route("/orders", listing), Route("/order", ordering, methods=["POST"])]
    checker = make_checker(kind, {"sql": reading("orders")})
    app = gated([*routes], checker)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            with events() as seen:
                assert (await client.get("/orders")).json() == ["tea", "milk"]
                response = await client.post("/order", params={"item": "jam"})
        assert response.status_code == 403
        assert [(one["action"], one["resource_id"], one["reason"]) for one in seen] == [
            (WRITE, "orders", "not_in_allowlist")
        ]
        assert response.json()["decision_id"] == seen[0]["decision_id"]
        assert contents(path)["orders"] == ORDERS
        assert threads[0] != threading.get_ident()
    finally:
        engine.dispose()
        await checker.aclose()


def test_an_async_engine_outside_of_a_loop_sends_nothing(path: Path) -> None:
    engine = gate_engine(create_async_engine(f"sqlite+aiosqlite:///{path}"))
    with allowed("orders"), pytest.raises(Exception, match="greenlet"):
        engine.sync_engine.connect()
    assert anyio.run(engine.dispose) is None
