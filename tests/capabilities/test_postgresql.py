"""The gate of SQLAlchemy on a real PostgreSQL: functions that look like columns, and what its identifiers mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    cast,
    column,
    create_engine,
    delete,
    func,
    insert,
    select,
    table,
    text,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, aliased, joinedload
from sqlalchemy.sql import quoted_name

from capgate.capabilities import CapabilityDenied
from capgate.capabilities.sql import gate_engine, named
from capgate.capabilities.sql.statements import FUNCTIONS, read_statements
from capgate.capabilities.sql.touched_tables import without_own
from capgate.errors import ConfigError
from capgate.model import Reason

from ..support.postgresql_server import postgresql_server
from ..support.tools import examples, require_module
from .listening import allowing, reason
from .shop import Base, Customer, Order, customers, orders, reading, secrets

READ, WRITE, MIGRATE = "db.read", "db.write", "db.migrate"

#: Each table, as it is spelled in a resource where ``public`` is the default, with the one row that it has.
MARKS: Final = {
    "users": 1,
    '"Users"': 2,
    "users ": 3,
    "app.users": 4,
    'app."Users"': 5,
    "grün": 6,
    '"GRÜN"': 7,
    '"App".users': 8,
    "app.public": 9,
    "u&users": 10,
}
WIPING: Final = """
CREATE FUNCTION wipe(orders) RETURNS integer LANGUAGE sql AS 'DELETE FROM secrets; SELECT 1';
CREATE FUNCTION wipe_any(record) RETURNS integer LANGUAGE plpgsql AS 'BEGIN DELETE FROM secrets; RETURN 1; END';
"""
#: Words of other dialects, or of syntax, that in PostgreSQL may be names of functions.
LIKE_WORDS: Final = (
    *("blob", "binary", "by", "conflict", "double", "enum", "index", "key"),
    *("materialized", "regexp", "rlike", "sets", "unsigned"),
    *("ifnull", "datetime", "if", "hex", "json_value", "year", "any_value"),
)
#: Words that the parser takes for a column or a table where a function is called.
LIKE_COLUMNS: Final = ("escape", "is", "over", "partition", "recursive", "set", "cube", "rollup")
WIPING_WORDS: Final = "".join(
    f"CREATE FUNCTION {word}(integer) RETURNS integer LANGUAGE sql AS 'DELETE FROM secrets; SELECT 1';"
    for word in (*LIKE_WORDS, *LIKE_COLUMNS, '"join"')
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for this file, with a shop, functions that do harm, and tables whose names are much alike."""
    require_module("psycopg")
    with postgresql_server() as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            connection.execute(insert(customers).values(id=1, name="Ada"))
            connection.execute(insert(orders), [{"id": 1, "item": "tea", "customer_id": 1}])
            connection.exec_driver_sql(WIPING + WIPING_WORDS)
            connection.exec_driver_sql("CREATE TABLE wiped AS SELECT 1 AS wipe")
            connection.exec_driver_sql('CREATE SCHEMA app; CREATE SCHEMA "App"')
            for spelled, mark in MARKS.items():
                schema, _, name = spelled.rpartition(".")
                quoted = name if name.startswith('"') else f'"{name}"'
                connection.exec_driver_sql(f"CREATE TABLE {schema or 'public'}.{quoted} (id integer)")
                connection.exec_driver_sql(f"INSERT INTO {schema or 'public'}.{quoted} VALUES ({mark})")
        engine.dispose()
        yield url


@pytest.fixture(scope="module")
def plain(url: str) -> Iterator[Engine]:
    """An engine without a gate."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def kept(plain: Engine) -> Iterator[Engine]:
    """The same, while there is a secret that has to be there at the end."""
    with plain.begin() as connection:
        connection.execute(delete(secrets))
        connection.execute(insert(secrets).values(id=1, word="plum"))
    yield plain
    with plain.connect() as connection:
        assert connection.execute(select(secrets.c.word)).scalars().all() == ["plum"]


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """A gated engine that knows no columns of tables."""
    engine = gate_engine(create_engine(url))
    yield engine
    engine.dispose()


@pytest.fixture
def knowing(url: str) -> Iterator[Engine]:
    """A gated engine that knows the columns of the shop."""
    engine = gate_engine(create_engine(url), metadata=Base.metadata)
    yield engine
    engine.dispose()


# -- functions that look like columns: P-10

CALLS: Final = [
    "SELECT orders.wipe FROM orders",
    "SELECT o . wipe FROM orders AS o",
    'SELECT o."wipe" FROM public.orders AS o',
    "SELECT public.orders.wipe FROM public.orders",
    "SELECT (orders).wipe FROM orders",
    "SELECT (o.*).wipe FROM orders AS o",
    "SELECT ((SELECT orders FROM orders LIMIT 1)).wipe",
    "SELECT item FROM orders ORDER BY orders.wipe",
    "SELECT item FROM orders WHERE orders.wipe = 1",
    "SELECT count(*) FROM orders GROUP BY orders.wipe",
    "SELECT x.wipe FROM (SELECT o.wipe FROM orders AS o) AS x",
    "SELECT x.wipe_any FROM (SELECT 1 AS a) AS x",
    "WITH x AS (SELECT 1 AS a) SELECT x.wipe_any FROM x",
    'WITH "x" AS (SELECT 1 AS a) SELECT x.wipe_any FROM x',
    "SELECT o.a FROM orders AS o(a) JOIN orders AS p ON p.wipe = 1",
    f"SELECT {'o' * 70}.wipe FROM orders AS {'o' * 63}, (SELECT 1 AS wipe) AS {'z' * 70}",  # cut off at 63
    *(f"SELECT {word}(id) FROM orders" for word in LIKE_WORDS),
    *(f"SELECT 1 FROM orders, {word}(id)" for word in LIKE_WORDS if word != "by"),
    *(f"SELECT {word}(id) FROM orders" for word in LIKE_COLUMNS),
    *(f"SELECT 1 FROM {word}(1)" for word in LIKE_COLUMNS),
    *(f"SELECT 1 FROM orders WHERE 1 BETWEEN {word}(id) AND 2" for word in LIKE_COLUMNS),
    "SELECT count(*) FROM orders GROUP BY item, join(id)",
    "UPDATE orders SET item = 'tea' RETURNING orders.wipe",
    "WITH orders AS (SELECT 1 AS wipe) UPDATE orders SET item = 'tea' RETURNING orders.wipe",
    "INSERT INTO orders (id, item) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET item = 'tea' WHERE excluded.wipe = 1",
]


@pytest.mark.parametrize("sql", CALLS)
def test_a_function_that_looks_like_a_column_is_not_called(kept: Engine, knowing: Engine, sql: str) -> None:
    with kept.connect() as connection:  # the database does call it
        connection.execute(text(sql)).all() if "INSERT" not in sql else connection.execute(text(sql))
        assert connection.execute(select(secrets)).all() == []
        connection.rollback()
    names = [{"name": "peek", "operation": operation} for operation in ("read", "write")]
    with allowing({"sql": names}) as listening, knowing.connect() as connection:
        with pytest.raises(CapabilityDenied) as caught:
            connection.execute(named("peek", text(sql)))
        assert reason(caught.value) == Reason.NOT_IN_ALLOWLIST
        assert listening.asked == [(MIGRATE, "peek")]
        with pytest.raises(CapabilityDenied) as caught:  # which without a name is none of a table
            connection.execute(text(sql))
        assert reason(caught.value) == Reason.MISSING_RESOURCE


def test_each_listed_function_is_one_of_the_catalogue(plain: Engine) -> None:
    """By any other name than these, and words that are none of a function, somebody's own function may be called."""
    listed = {name.lower() for name in FUNCTIONS["postgres"]}
    with plain.connect() as connection:
        query = "SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
        catalogue = set(connection.execute(text(query)).scalars())
        # R: reserved; C: a name of columns that is none of a function or a type
        words = set(
            connection.execute(text("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'C')")).scalars()
        )
        assert listed - catalogue - words == set()
        volatile = text(query + " AND provolatile = 'v' AND proname = ANY (:names)")
        assert set(connection.execute(volatile, {"names": sorted(listed)}).scalars()) == {"random", "gen_random_uuid"}


def test_what_a_denied_column_was_is_told(knowing: Engine) -> None:
    with (
        allowing({"sql": reading("peek")}),
        knowing.connect() as connection,
        pytest.raises(CapabilityDenied) as caught,
    ):
        connection.execute(named("peek", text("SELECT o.item, o.wipe, other.x FROM orders AS o")))
    asked = caught.value.decision.input
    assert asked is not None
    assert asked.resource is not None
    assert asked.resource.attributes == {"undeclared_columns": "x,orders.wipe"}


def test_text_names_columns_with_their_table_where_they_are_known(engine: Engine, knowing: Engine) -> None:
    known = "SELECT o.item, c.name FROM orders AS o JOIN public.customers c ON c.id = o.customer_id ORDER BY o.id"
    for sql, needs_metadata in ((known, True), ("SELECT item FROM orders, (SELECT 1 AS a) AS x WHERE x.a = 1", False)):
        with allowing({"sql": reading("peek")}), knowing.connect() as connection:
            assert connection.execute(named("peek", text(sql))).first()
        with allowing({"sql": reading("peek")}) as listening, engine.connect() as connection:
            if needs_metadata:
                with pytest.raises(CapabilityDenied):
                    connection.execute(named("peek", text(sql)))
            else:
                assert connection.execute(named("peek", text(sql))).first()
        assert listening.asked == [(MIGRATE if needs_metadata else READ, "peek")]


@pytest.mark.parametrize("schema", ["app", "public", None])
def test_tables_may_be_declared_later(url: str, schema: str | None) -> None:
    metadata = MetaData()
    engine = gate_engine(create_engine(url), metadata=metadata)
    statement = named("peek", text(f"SELECT users.id FROM {schema or 'public'}.users"))
    with allowing({"sql": reading("peek")}), engine.connect() as connection:
        with pytest.raises(CapabilityDenied):
            connection.execute(statement)
        Table("users", metadata, Column("ID", Integer), schema=schema)  # which is another column
        Table("users", metadata, Column("id", Integer), schema="other")  # and this another table
        with pytest.raises(CapabilityDenied):
            connection.execute(statement)
        Table("users", metadata, Column("id", Integer), schema=schema, extend_existing=True)
        assert connection.execute(statement).scalar() == MARKS["app.users" if schema == "app" else "users"]
    engine.dispose()


def test_only_metadata_says_which_columns_there_are(url: str) -> None:
    wrong: Any = {"orders": ["wipe"]}
    with pytest.raises(ConfigError) as caught:
        gate_engine(create_engine(url), metadata=wrong)
    assert caught.value.setting == "metadata"


def test_a_lightweight_column_is_none_that_is_known(kept: Engine, engine: Engine, knowing: Engine) -> None:
    """Its name may come from whoever asks, as to sort by it."""
    light = table("orders", column("id"), column("wipe"), Column("item", String))
    hostile = [
        select(light.c.wipe),
        select(light.alias("o").c.wipe),
        select(light.c.id).order_by(light.c.wipe),
        update(light).values(item="tea").returning(light.c.wipe),
        select(func.jsonb_each("{}").table_valued("wipe_any").c.wipe_any),
    ]
    for target in (engine, knowing):
        for statement in hostile:
            with (
                allowing({"sql": ["orders"]}),
                target.connect() as connection,
                pytest.raises(CapabilityDenied) as caught,
            ):
                connection.execute(statement)
            assert reason(caught.value) == Reason.MISSING_RESOURCE
    with allowing({"sql": ["orders"]}) as listening, knowing.connect() as connection:
        assert connection.execute(select(light.c.item, light.c.id)).scalars().all() == ["tea"]
        connection.execute(select(column("item")).select_from(light))
    assert set(listening.asked) == {(READ, "orders")}


def test_a_column_of_a_select_that_is_named_like_a_table_is_none_of_the_table(kept: Engine, engine: Engine) -> None:
    """SQLAlchemy writes it with that name, and the database takes that for the table, of which it has no column."""
    any_other = select(orders.c.id.label("wipe_any"))
    other, wiped = select(orders.c.id.label("wipe")), Table("wiped", MetaData(), Column("wipe", Integer))
    hostile: list[Any] = [
        update(orders).values(item="tea").returning(other.subquery("orders").c.wipe),
        update(orders).values(item="tea").returning(other.cte("orders").c.wipe),
        select(orders.c.item).order_by(other.subquery("orders").c.wipe),
        # Nor is it one of another Table that has such a column, or of a SELECT that has the name.
        select(orders.c.item).where(orders.c.id == wiped.c.wipe).order_by(other.subquery("orders").c.wipe),
        select(select(orders.c.item).subquery("x")).order_by(any_other.subquery("x").c.wipe_any),
    ]
    for statement in hostile:
        with kept.connect() as connection:  # the database does call it
            connection.execute(statement).all()
            assert connection.execute(select(secrets)).all() == []
            connection.rollback()
        with allowing({"sql": ["orders", "wiped"]}), engine.connect() as connection:
            with pytest.raises(CapabilityDenied) as caught:
                connection.execute(statement)
            assert reason(caught.value) == Reason.MISSING_RESOURCE


def test_what_sqlalchemy_builds_from_tables_needs_no_more(engine: Engine) -> None:
    other, count = aliased(Order), select(orders.c.customer_id, func.count().label("n")).group_by(orders.c.customer_id)
    counted = count.subquery()
    recent = select(orders).where(orders.c.id > 0).cte("recent")
    lateral = select(customers.c.name).where(customers.c.id == orders.c.customer_id).lateral("l")
    pairs = values(column("a", Integer), column("b", String), name="pairs").data([(1, "x")])
    statements: list[Any] = [
        select(orders).join(customers),
        select(counted.c.n, customers.c.name).join(customers, customers.c.id == counted.c.customer_id),
        select(recent.c.item).where(recent.c.id.in_(select(orders.c.id))),
        select(recent.alias("again").c.item),
        select(pairs.c.b, orders.c.item).join(orders, orders.c.id == pairs.c.a),
        select(orders.c.item, lateral.c.name).join(lateral, lateral.c.name != ""),
        select(func.jsonb_each(cast({"a": 1}, JSONB)).table_valued("key", "value").render_derived().c.key).join(
            orders, orders.c.id > 0
        ),
        upsert(orders).values(id=1, item="tea").on_conflict_do_update(index_elements=["id"], set_={"item": "tea"}),
        update(orders).values(item=orders.c.item).returning(orders.c.item),
        select(delete(orders).where(orders.c.id < 0).returning(orders.c.id).cte("gone").c.id),
    ]
    with allowing({"sql": ["orders", "customers"]}) as listening, engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)
    with allowing({"sql": ["orders", "customers"]}), Session(engine) as session:
        assert session.scalars(select(Customer).options(joinedload(Customer.orders))).unique().one().orders
        assert session.scalars(select(other).join(other.customer).order_by(other.id)).first()
        session.add(Order(id=50, item="jam"))
        session.flush()
    assert {name for _, name in listening.asked} == {"orders", "customers"}


# -- what an identifier means: the database as the oracle

NAMES: Final = ["users", "Users", "USERS", "users ", "grün", "GRÜN", "Grün", "public", "app", "u&users", "missing"]
SCHEMAS: Final = ["public", "Public", "PUBLIC", "app", "App", "APP", "pg_catalog"]
SEARCH_PATHS: Final = {"public": "public", "app": "app,public"}


@pytest.fixture(scope="module")
def searching(url: str) -> Iterator[dict[str, tuple[Engine, Engine]]]:
    """For each default schema an engine without a gate, and a gated one."""
    made = {}
    for own, path in SEARCH_PATHS.items():
        options = {"options": f"-csearch_path={path}"}
        plain, gated = (create_engine(url, connect_args=options) for _ in range(2))
        for engine in (plain, gate_engine(gated)):
            with engine.connect():
                assert engine.dialect.default_schema_name == own
        made[own] = (plain, gated)
    yield made
    for engines in made.values():
        for engine in engines:
            engine.dispose()


def spelled_as(mark: int, own: str, schema: object) -> str | None:
    """The resource of the table that has this mark, where ``own`` is the default schema.

    Without a ``schema``, the table is asked for without one, in whichever schema the database finds it.
    """
    spelled = next(spelled for spelled, its in MARKS.items() if its == mark)
    its, _, name = spelled.rpartition(".")
    return without_own(f"{its or 'public'}.{name}", own) if schema else name


@pytest.mark.sampled
@settings(max_examples=examples(120), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(NAMES),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, *SCHEMAS]),
    st.sampled_from([None, True, False]),
    st.sampled_from(sorted(SEARCH_PATHS)),
    st.sampled_from(sorted(MARKS)),
)
def test_no_spelling_of_a_table_passes_its_denial(
    searching: dict[str, tuple[Engine, Engine]],
    name: str,
    quote: bool | None,
    schema: str | None,
    quote_schema: bool | None,
    own: str,
    denied: str,
) -> None:
    plain, gated = searching[own]
    statement = select(
        Table(
            quoted_name(name, quote),
            MetaData(),
            Column("id", Integer),
            schema=None if schema is None else quoted_name(schema, quote_schema),
        ).c.id
    )
    with plain.connect() as connection:
        try:
            mark = connection.execute(statement).scalar()
        except SQLAlchemyError:
            mark = None  # there is no such table, or it is no statement at all
    resource = None if mark is None else spelled_as(mark, own, schema)
    rule = {"effect": "deny", "actions": [READ], "resources": [f"sql_query:{denied}"]}
    with allowing({"sql": "any", "rules": [rule]}), gated.connect() as connection:
        try:
            read = connection.execute(statement).scalar()
        except (CapabilityDenied, SQLAlchemyError):
            read = None
    assert read in (None, mark)
    if resource is None or resource == denied:
        assert read is None
    else:
        assert read == mark  # nobody denied this
        with allowing({"sql": [resource]}), gated.connect() as connection:
            assert connection.execute(statement).scalar() == mark


SPACE: Final = st.sampled_from(["", " ", "\n", "/* x */", "-- x\n", "\t"])
IDENTIFIERS: Final = [
    *[
        "users",
        "Users",
        "USERS",
        '"users"',
        '"Users"',
        '"users "',
        '"USERS"',
        'U&"users"',
        'u&"\\0075sers"',
        '"u&users"',
    ],
    *[
        'U&"Users"',
        "U&\"!0055sers\" UESCAPE '!'",
        "grün",
        "GRÜN",
        '"GRÜN"',
        "Grün",
        "users$",
        "public",
        'us"ers',
        "`users`",
    ],
    *[
        "[users]",
        "'users'",
        "users.users",
        "\uff55sers",
        "u\u017fers",
        "users\u00a0",
        "users\u200b",
        '"users" "x"',
        "users x",
    ],
]


@pytest.mark.sampled
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(IDENTIFIERS),
    st.sampled_from(["", "public", "PUBLIC", '"public"', "app", "App", '"App"', 'U&"app"', '"Public"']),
    st.lists(SPACE, min_size=3, max_size=3),
    st.sampled_from(sorted(SEARCH_PATHS)),
)
@example("U&\"!0055sers\" UESCAPE '!'", "", [" ", "", ""], "public")
def test_text_means_the_table_that_the_database_takes_it_for(
    searching: dict[str, tuple[Engine, Engine]], identifier: str, schema: str, space: list[str], own: str
) -> None:
    place = f"{schema}{space[1]}.{space[2]}" if schema else ""
    sql = f"SELECT id FROM {space[0]}{place}{identifier}"
    content = read_statements(sql, "postgresql")
    with searching[own][0].connect() as connection:
        try:
            mark = connection.exec_driver_sql(sql).scalar()
        except SQLAlchemyError:
            mark = None
    assume(mark is not None)
    assert mark is not None
    if MIGRATE in content.actions or content.touched_tables is None:
        return
    assert [without_own(table, own) for _, table in content.touched_tables] == [spelled_as(mark, own, schema)]
