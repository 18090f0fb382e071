"""What the tests of each gated client start with: servers, folders, a database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from sqlalchemy import Engine, create_engine

from capgate.capabilities.files import GatedFiles
from capgate.capabilities.sql import gate_engine

from ..support.redis_server import RedisServer, redis_server
from .http_requests import ALLOWED, DENIED
from .http_servers import Server, serving
from .redis_clients import SEED
from .shop import make_shop


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server for the whole run."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """A Redis server with a little in it, and no command counted."""
    running.forget()
    running.plain.mset(SEED)
    for name in ("orders", "secret"):
        running.plain.rpush(f"{name}:l", "a", "b", "c")
        running.plain.sadd(f"{name}:set", "m")
        running.plain.zadd(f"{name}:z", {"m": 1})
        running.plain.hset(f"{name}:h", "f", "v")
        running.plain.xadd(f"{name}:x", {"f": "v"}, id="1-1")
    running.plain.config_resetstat()
    return running


@pytest.fixture
def allowed() -> Iterator[Server]:
    """A web server at an address that policies allow."""
    with serving(ALLOWED) as server:
        yield server


@pytest.fixture
def denied() -> Iterator[Server]:
    """A web server at an address that policies deny."""
    with serving(DENIED) as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a single certificate: to load all that certifi has takes longer than a test."""
    first, end, _ = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----\n")
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(first + end)
    return path


@pytest.fixture
def environment_of_httpx(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    """No variable that httpx reads a proxy from, and few certificates."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a few files, for the gate of files, beside one that is none of its business."""
    root = tmp_path / "root"
    for name, text in {"a.txt": "a", "pub/x": "public", "priv/x": "private", "pub/deep/er/y": "deep"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("outside")
    (tmp_path / "root-2").mkdir()
    (tmp_path / "root-2" / "x").write_text("outside")
    return root


@pytest.fixture
def files(root: Path) -> Iterator[GatedFiles]:
    """The gate of ``root``."""
    with GatedFiles(root) as files:
        yield files


@pytest.fixture(scope="session")
def new_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the shop of each test is a copy of: to copy a file takes less time than to write a database."""
    path = tmp_path_factory.mktemp("shops") / "shop.db"
    make_shop(path)
    return path


@pytest.fixture
def path(tmp_path: Path, new_shop: Path) -> Path:
    """The SQLite file of a shop."""
    return Path(shutil.copy(new_shop, tmp_path / "shop.db"))


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    """A gated engine for that file."""
    engine = gate_engine(create_engine(f"sqlite:///{path}"))
    yield engine
    engine.dispose()
