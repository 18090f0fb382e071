"""The shop on real parts: SQLite, a payment server, redis and MCP. Each capability is taken away in turn."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, MCPError

from capgate import Limits, Settings, build_policy
from capgate.capabilities.mcp.jsonrpc import DENIED
from tests.support.engines import EXPECTED_ENGINES
from tests.support.gates import events
from tests.support.redis_server import RedisServer, redis_server
from tests.support.serving import served

from . import payments
from .app import LATEST, create_app

POLICY: dict[str, Any] = json.loads(Path(__file__).with_name("policy.json").read_text())
GRACE = {"x-user": "grace"}
TEA = {"item": "tea", "price": 350}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """uvicorn, aiosqlite and redis are asyncio's."""
    return "asyncio"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Shop:
    """The shop, served; and what is at the other ends of it, seen without it."""

    def __init__(self, url: str, database: Path, charges: list[Any], redis: RedisServer) -> None:
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self.url = url
        self.charges = charges
        self.folder = Path()
        self._database = database
        self._redis = redis

    def orders(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._database)) as connection:
            return connection.execute("SELECT item, price, charge FROM orders ORDER BY id").fetchall()

    def add(self) -> None:
        with closing(sqlite3.connect(self._database)) as connection, connection:
            connection.execute("INSERT INTO orders (item, price, charge) VALUES ('coffee', 420, 'ch-0')")

    def cached(self) -> Any:
        value = self._redis.plain.get(LATEST)
        return None if value is None else json.loads(value)

    def cache(self, value: Any) -> None:
        self._redis.plain.set(LATEST, json.dumps(value))


@pytest.fixture
def open_shop(tmp_path: Path, redis: RedisServer) -> Iterator[Any]:
    """A function that opens the shop with a policy, in a mode, on an engine."""
    with ExitStack() as stack:

        def build(policy: dict[str, Any] = POLICY, mode: str = "prod", engine: str = "auto") -> Shop:
            redis.forget()
            artifact, database, provider = tmp_path / "policy.wasm", tmp_path / "shop.db", payments.create_app()
            artifact.write_bytes(build_policy(policy))
            folder = tmp_path / "files"
            folder.mkdir(exist_ok=True)
            port = stack.enter_context(served(provider))
            settings = Settings(
                artifact=artifact, engine=engine, mode=mode, expose_reasons=True, limits=Limits(deadline=20.0)
            )
            app = create_app(
                settings,
                database=f"sqlite+aiosqlite:///{database}",
                payments=f"http://127.0.0.1:{port}",
                cache=f"redis://127.0.0.1:{redis.port}",
                folder=folder,
                environ={"SHOP_CURRENCY": "CHF", "SHOP_SECRET": "s3cret"},
            )
            url = f"http://127.0.0.1:{stack.enter_context(served(app))}"
            shop = Shop(url, database, provider.state.charges, redis)
            shop.folder = folder
            stack.callback(shop.client.close)
            return shop

        yield build


def soon(happened: Callable[[], object]) -> None:
    """Wait for what goes on after a response."""
    until = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def without(section: str, entry: Any = None) -> dict[str, Any]:
    """The policy without a section, or without one entry of it."""
    policy = {name: value for name, value in POLICY.items() if name != section}
    if entry is not None:
        policy[section] = [other for other in POLICY[section] if other != entry]
        assert len(policy[section]) == len(POLICY[section]) - 1
    return policy


@pytest.mark.parametrize("engine", EXPECTED_ENGINES)
def test_with_everything_allowed_everything_happens(open_shop: Any, engine: str) -> None:
    shop = open_shop(engine=engine)
    placed = shop.client.post("/orders", json=TEA, headers=GRACE)
    assert (placed.status_code, placed.json()) == (201, {"id": 1, "item": "tea", "charge": "ch-1"})
    assert shop.orders() == [("tea", 350, "ch-1")]
    assert shop.charges == [{"order": 1, "cents": 350}]
    assert shop.cached() is None
    for _ in range(2):
        assert shop.client.get("/orders").json() == [{"id": 1, "item": "tea"}]
    assert shop.cached() == [{"id": 1, "item": "tea"}]
    assert shop.client.get("/takings").json() == {"tea": 350}


#: Why nothing is ordered: the policy, and whether the cache is emptied before that is known.
TAKEN = {
    "the route": (without("sql", {"name": "place_order", "operation": "write"}), False),
    "the table": (without("sql", "orders"), True),
    "to write to it": ({**POLICY, "sql": [*POLICY["sql"][:-1], {"name": "orders", "operation": "select"}]}, True),
    "the payment": (without("egress"), True),
    "that host": ({**POLICY, "egress": ["payments.example", "127.0.0.2", "localhost"]}, True),
    "the cache": (without("cache"), False),
    "that namespace": ({**POLICY, "cache": ["order", "latest"]}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("taken", TAKEN)
def test_without_one_capability_no_order_is_placed(open_shop: Any, taken: str) -> None:
    policy, emptied = TAKEN[taken]
    shop, before = open_shop(policy), [{"id": 7, "item": "what was there"}]
    shop.cache(before)
    denied = shop.client.post("/orders", json=TEA, headers=GRACE)
    assert (denied.status_code, denied.json()["reason"]) == (403, "not_in_allowlist")
    assert shop.orders() == []
    assert shop.charges == []
    assert shop.cached() == (None if emptied else before)


def test_who_is_not_known_orders_nothing(open_shop: Any) -> None:
    shop = open_shop()
    denied = shop.client.post("/orders", json=TEA)
    assert (denied.status_code, denied.json()["reason"]) == (403, "sign in to order")
    assert (shop.orders(), shop.charges) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "status", "cached"),
    [
        (without("sql", {"name": "list_orders", "operation": "select"}), 403, None),
        (without("sql", "orders"), 403, None),
        (without("cache"), 403, None),
        (POLICY, 200, [{"id": 1, "item": "coffee"}]),
    ],
)
def test_reading_needs_each_capability_it_uses(open_shop: Any, policy: Any, status: int, cached: Any) -> None:
    shop = open_shop(policy)
    shop.add()
    answer = shop.client.get("/orders")
    assert answer.status_code == status
    assert ("coffee" in answer.text) == (status == 200)
    assert shop.cached() == cached


def test_what_is_cached_is_read_without_the_database(open_shop: Any) -> None:
    shop = open_shop(without("sql", "orders"))
    shop.cache([{"id": 1, "item": "coffee"}])
    assert shop.client.get("/orders").json() == [{"id": 1, "item": "coffee"}]


@pytest.mark.slow
def test_sql_by_hand_is_asked_for_by_its_name(open_shop: Any) -> None:
    shop = open_shop(without("sql", "orders"))
    shop.add()
    assert shop.client.get("/takings").json() == {"coffee": 420}
    denied = open_shop(without("sql", {"name": "takings", "operation": "select"})).client.get("/takings")
    assert denied.status_code == 403


def test_a_report_is_written_in_the_background(open_shop: Any) -> None:
    shop = open_shop()
    shop.add()
    assert shop.client.post("/reports").status_code == 202
    report = shop.folder / "takings.csv"
    soon(lambda: report.exists() and report.read_text())
    assert report.read_text() == "coffee,420,CHF\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "status"),
    [
        ("compute", 403),  # declared by the route, so that it is known before anything else
        ("env", 403),
        ("fs", 202),  # the response was under way when the task began
    ],
)
def test_no_report_without_each_capability_it_uses(open_shop: Any, section: str, status: int) -> None:
    shop = open_shop(without(section))
    shop.add()
    with events() as denials:
        assert shop.client.post("/reports").status_code == status
        soon(lambda: denials)
    assert [denial["action"].partition(".")[0] for denial in denials] == [section]
    assert list(shop.folder.iterdir()) == []


ANYBODY = {**POLICY, "rules": POLICY["rules"][1:]}  # without the one about who is not signed in
CALLS: dict[str, dict[str, Any]] = {
    "order_status": {"number": 1},
    "draft_reply": {"number": 1},
    "change_price": {"number": 1, "cents": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "mode", "allowed", "done"),
    [
        (ANYBODY, "prod", {"order_status", "draft_reply"}, {"order_status", "draft_reply"}),
        (ANYBODY, "dev", set(CALLS), set(CALLS)),
        (ANYBODY, "test", set[str](), set[str]()),
        # The tool may be called, and what it does with the table is another question.
        (POLICY, "dev", set(CALLS), {"order_status", "draft_reply"}),
    ],
)
async def test_tools_by_mode(open_shop: Any, policy: Any, mode: str, allowed: set[str], done: set[str]) -> None:
    shop = open_shop(policy, mode)
    shop.add()
    outcomes: dict[str, Any] = {}
    async with Client(f"{shop.url}/mcp/") as client:
        for name, arguments in CALLS.items():
            try:
                outcomes[name] = (await client.call_tool(name, arguments)).is_error
            except MCPError as error:  # noqa: PERF203
                outcomes[name] = error.error.code
    assert {name for name, outcome in outcomes.items() if outcome is False} == done
    assert {name for name, outcome in outcomes.items() if outcome != DENIED} == allowed
    assert shop.orders() == [("coffee", 1 if "change_price" in done else 420, "ch-0")]
