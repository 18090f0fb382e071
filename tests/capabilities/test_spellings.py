"""One thing in all its spellings, through the gated clients: what is denied is not reached, and what is allowed is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    delete,
    insert,
    quoted_name,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.http import OutboundRules, gated_client
from capgate.capabilities.sql import gate_engine
from capgate.capabilities.sql.statements import read_statements
from capgate.checker.local import LocalPolicyChecker
from capgate.enforcement.capabilities import Capabilities
from capgate.model import Service
from capgate.policy import RuntimePolicy

from ..support.tools import examples
from .http_servers import Server, serving

pytestmark = pytest.mark.usefixtures("environment_of_httpx")


def judged_by(document: dict[str, Any]) -> Capabilities:
    return capabilities_for(LocalPolicyChecker(RuntimePolicy.from_document(document)), Service("test"))


def all_but(section: str, action: str, resource: str) -> Capabilities:
    return judged_by({section: "any", "rules": [{"effect": "deny", "actions": [action], "resources": [resource]}]})


# -- hosts

NUMBERS = ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "0x7F000001", "00177.1", "127.0.0.1.", "[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("host", NUMBERS)
def test_no_spelling_of_an_address_passes_its_denial(host: str) -> None:  # P-1
    with serving("127.0.0.1") as server:
        url = f"http://{host}:{server.port}/"
        if not host.endswith("."):  # of which resolvers take no address
            with httpx.Client() as ungated:
                assert ungated.get(url).status_code == 200, "without the gate it is reached"
        arrived = len(server.arrivals.requests)
        denying = all_but("egress", "http.outbound", "host:127.0.0.1")
        with using(denying), gated_client() as client, pytest.raises(CapabilityDenied):
            client.get(url)
        assert len(server.arrivals.requests) == arrived
        if not host.endswith("."):
            with using(judged_by({"egress": ["0x7f.1"]})), gated_client() as client:
                assert client.get(url).status_code == 200


@pytest.mark.parametrize("host", NUMBERS)
def test_no_spelling_of_an_address_passes_the_denial_of_its_network(host: str) -> None:  # P-6
    with serving("127.0.0.1") as server:
        url = f"http://{host}:{server.port}/"
        with using(all_but("egress", "http.outbound", "host:127.0.0.0/8")), gated_client() as client:
            with pytest.raises(CapabilityDenied):
                client.get(url)
            assert server.arrivals.requests == []
        if not host.endswith("."):
            with using(judged_by({"egress": ["127.0.0.0/8"]})), gated_client() as client:
                assert client.get(url).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "a.localhost", "A.LocalHost."])
def test_no_spelling_of_a_name_passes_the_denial_of_its_ending(host: str) -> None:  # P-6
    is_below = "a." in host.lower()
    with serving("127.0.0.1") as server:
        url = f"http://{host}:{server.port}/"
        with using(judged_by({"egress": ["*.localhost"]})), gated_client() as client:
            if not is_below:
                with pytest.raises(CapabilityDenied):
                    client.get(url)
        with using(all_but("egress", "http.outbound", "host:*.localhost")), gated_client() as client:
            if is_below:
                with pytest.raises(CapabilityDenied):
                    client.get(url)
            else:
                assert client.get(url).status_code == 200
        assert len(server.arrivals.requests) == (not is_below)


@pytest.mark.parametrize("host", ["0177.1", "127.1", "0x7f.1"])
def test_a_proxy_may_read_an_address_in_another_way(host: str, allowed: Server) -> None:
    outbound = OutboundRules(None, None, f"http://localhost:{allowed.port}")
    first, *_ = outbound.questions(httpx.Request("GET", f"http://{host}/"))
    resource: Any = first[1]
    assert (resource.id, resource.attributes["refused"]) == (None, "address")
    first, *_ = outbound.questions(httpx.Request("GET", "http://127.0.0.1/"))
    assert getattr(first[1], "id", None) == "127.0.0.1"


# -- tables


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path / 'db'}")
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE users (id INTEGER)"))
        connection.execute(text("INSERT INTO users VALUES (7)"))
        connection.execute(text("CREATE TABLE grün (id INTEGER)"))
    yield gate_engine(made)
    made.dispose()


def a_table(name: str, schema: str | None = None, quote: bool | None = None) -> Table:
    return Table(quoted_name(name, quote), MetaData(), Column("id", Integer), schema=schema)


SPELLED = st.tuples(
    st.sampled_from(["users", "Users", "USERS", "uSeRs"]), st.sampled_from([None, "main", "MAIN"]), st.booleans()
)


@pytest.mark.sampled
@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SPELLED, SPELLED)
def test_no_spelling_of_a_table_passes_its_denial(
    engine: Engine, asked: tuple[Any, ...], written: tuple[Any, ...]
) -> None:  # P-2
    table = a_table(*asked)
    name = ".".join(filter(None, [written[1], f'"{written[0].lower()}"' if written[2] else written[0]]))
    denying = all_but("sql", "db.read", f"sql_query:{name}")
    with using(denying), engine.connect() as connection, pytest.raises(CapabilityDenied):
        connection.execute(select(table))
    with using(judged_by({"sql": [name]})), engine.begin() as connection:
        assert connection.execute(select(table)).scalars().all() == [7]
        connection.execute(insert(table).values(id=8))
        connection.execute(delete(table).where(table.c.id == 8))


def test_sqlite_folds_nothing_but_ascii(engine: Engine) -> None:
    with using(judged_by({"sql": ["grün"]})), engine.connect() as connection:
        assert connection.execute(select(a_table("GRüN"))).all() == []
        for other in ("GRÜN", "GRUN"):  # other tables, which do not exist
            with pytest.raises(CapabilityDenied):
                connection.execute(select(a_table(other)))


def test_tables_of_the_database_itself_have_two_names(engine: Engine) -> None:
    names = ["sqlite_master", "sqlite_schema", "SQLITE_MASTER"]
    for denied in names:
        with using(all_but("sql", "db.read", f"sql_query:{denied}")), engine.connect() as connection:
            for name in names:
                with pytest.raises(CapabilityDenied):
                    connection.execute(select(Table(name, MetaData(), Column("name", Integer))))


def test_another_schema_is_another_table(engine: Engine) -> None:
    with using(judged_by({"sql": ["users"]})), engine.connect() as connection:
        for schema in ("temp", "other", "public"):
            with pytest.raises(CapabilityDenied):
                connection.execute(select(a_table("users", schema)))
    admitting = judged_by({"sql": ["temp.users"]})
    with using(admitting), engine.connect() as connection, pytest.raises(SQLAlchemyError):
        connection.execute(select(a_table("Users", "TEMP")))  # asked, and then there is no such table


@pytest.mark.parametrize(
    ("sql", "dialect", "tables"),
    [
        ('SELECT 1 FROM "Users"', "sqlite", ["users"]),
        ("SELECT 1 FROM [Users]", "sqlite", ["users"]),
        ("SELECT 1 FROM Users", "postgresql", ["users"]),
        ('SELECT 1 FROM "Users"', "postgresql", ['"Users"']),
        ('SELECT 1 FROM "users"', "postgresql", ["users"]),
        ('SELECT 1 FROM APP."Users"', "postgresql", ['app."Users"']),
        ('SELECT 1 FROM "order items"', "postgresql", ["order items"]),
        ("SELECT 1 FROM shop.public.users", "postgresql", None),
        (f"SELECT 1 FROM {'x' * 64}", "postgresql", None),
        (f"SELECT 1 FROM {'x' * 63}", "postgresql", ["x" * 63]),
        (f'SELECT 1 FROM "{"é" * 32}"', "postgresql", None),
        ("SELECT 1 FROM users", "mysql", ["users"]),
        ("SELECT 1 FROM `Users`", "mysql", None),
        ("SELECT 1 FROM Shop.users", "mysql", None),
    ],
)
def test_tables_are_spelled_as_their_database_reads_them(sql: str, dialect: str, tables: list[str] | None) -> None:
    touched = read_statements(sql, dialect).touched_tables
    assert (None if touched is None else [table for _, table in touched]) == tables


def test_the_default_schema_is_left_out(tmp_path: Path) -> None:
    engine = gate_engine(create_engine(f"sqlite:///{tmp_path / 'db'}"))
    with engine.connect():
        engine.dialect.default_schema_name = "app"  # as PostgreSQL tells it of a connection
    with using(judged_by({"sql": ["users"]})), engine.connect() as connection:
        for schema in (None, "app", "App"):
            with pytest.raises(SQLAlchemyError):
                connection.execute(select(a_table("users", schema)))
        for schema in ("main", "public"):
            with pytest.raises(CapabilityDenied):
                connection.execute(select(a_table("users", schema)))
    engine.dispose()
