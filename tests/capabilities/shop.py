"""A shop in a real SQLite file, a gated engine for it, and a look at the file from outside."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from .listening import Listening, allowing

#: What the tables hold at first.
ORDERS = [(1, "tea", 1), (2, "milk", 2)]
SECRETS = [(1, "plum")]


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"))
    customer: Mapped[Customer | None] = relationship(back_populates="orders")


class Secret(Base):
    __tablename__ = "secrets"
    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str]


orders, customers, secrets = (Base.metadata.tables[name] for name in ("orders", "customers", "secrets"))


def make_shop(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);"
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, customer_id INTEGER REFERENCES customers);"
            "CREATE TABLE secrets (id INTEGER PRIMARY KEY, word TEXT);"
            "INSERT INTO customers VALUES (1, 'Ada'), (2, 'Bo');"
        )
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)", ORDERS)
        database.executemany("INSERT INTO secrets VALUES (?, ?)", SECRETS)
        database.commit()


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of the file, as somebody else sees it."""
    with closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: list(database.execute(f"SELECT * FROM {name} ORDER BY 1")) for name in names}


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    """The orders, as the connection reads them."""
    return [tuple(row) for row in connection.execute(select(orders))]


def allowed(*entries: object) -> AbstractContextManager[Listening]:
    """Capabilities by a policy whose ``sql`` section has these entries, in force meanwhile."""
    return allowing({"sql": list(entries)})


def reading(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "operation": "select"} for name in names]


def writing(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "operation": "write"} for name in names]
