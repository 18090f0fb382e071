"""The application on real parts: SQLite, tokens signed by a key, the built policy. Each fact is taken away in turn."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.testclient import TestClient

from capgate import RuntimePolicy, Settings, build_policy

from .app import create_app
from .sign_token import claims_of
from .test_policy import DOCUMENT, MISSING, OWED, TENANT, UNLISTED, document

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = OWN.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
#: Invoice 1: of ada, of acme, 50.00 to be paid.
ROW = {"id": 1, "tenant": "acme", "owner": "ada", "total": 5000, "paid": 0}
#: Requests by what they do.
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "list": ("GET", "/tenants/acme/invoices", None),
    "draft": ("POST", "/tenants/acme/invoices", {"total": 700}),
    "read": ("GET", "/invoices/1", None),
    "pay": ("POST", "/invoices/1/payment", {"amount": 5000}),
    "delete": ("DELETE", "/invoices/1", None),
}


ADA, BEN, CLEO, EVE = (
    claims_of("ada", "acme"),
    claims_of("ben", "acme", "accountant"),
    claims_of("cleo", "acme", "manager"),
    claims_of("eve", "evil", "manager", "accountant"),
)


class Invoices:
    """The application, and its table as it is seen without it."""

    def __init__(self, client: TestClient, database: Path) -> None:
        self.client, self._database = client, database

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._database)) as connection:
            return connection.execute("SELECT id, tenant, owner, total, paid FROM invoices ORDER BY id").fetchall()

    def put(self, **changed: Any) -> None:
        """Have invoice 1, as it is or with other values."""
        with closing(sqlite3.connect(self._database)) as connection, connection:
            connection.execute("DELETE FROM invoices")
            row = {**ROW, **changed}
            connection.execute("INSERT INTO invoices VALUES (:id, :tenant, :owner, :total, :paid)", row)

    def empty(self) -> None:
        with closing(sqlite3.connect(self._database)) as connection, connection:
            connection.execute("DELETE FROM invoices")

    def send(self, request: tuple[str, str, Any], given: dict[str, Any] | None, key: Ed25519PrivateKey = OWN) -> Any:
        """The answer's JSON, or the reason of a denial; ``None`` for an empty answer that is none."""
        method, path, body = request
        headers = {} if given is None else {"authorization": f"Bearer {jwt.encode(given, key, 'EdDSA')}"}
        response = self.client.request(method, path, json=body, headers=headers)
        if response.status_code == 403:
            return response.json()["reason"]
        assert response.status_code in (200, 201, 204), response
        return response.json() if response.content else None


@contextmanager
def serving(folder: Path, policy: RuntimePolicy | dict[str, Any]) -> Iterator[Invoices]:
    artifact, database = folder / "policy.wasm", folder / "invoices.db"
    artifact.write_bytes(build_policy(policy))
    settings = Settings(artifact=artifact, expose_reasons=True)
    app = create_app(settings, key=PUBLIC.decode(), database=f"sqlite+aiosqlite:///{database}")
    with TestClient(app) as client:
        yield Invoices(client, database)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Invoices]:
    with serving(tmp_path_factory.mktemp("invoices"), document()) as invoices:
        yield invoices


@pytest.fixture
def invoices(served: Invoices) -> Invoices:
    served.put()
    return served


# -- what is allowed happens


def test_an_invoice_is_drafted_read_paid_and_no_longer_deleted(invoices: Invoices) -> None:
    assert invoices.send(REQUESTS["draft"], ADA) == 2
    assert invoices.send(REQUESTS["list"], ADA) == [1, 2]
    assert invoices.send(("GET", "/invoices/2", None), ADA) == {"owner": "ada", "total": 700, "paid": False}
    assert invoices.send(("POST", "/invoices/2/payment", {"amount": 300}), BEN) is None
    assert invoices.send(("POST", "/invoices/2/payment", {"amount": 400}), CLEO) is None
    assert invoices.rows()[1] == (2, "acme", "ada", 0, 1)
    assert invoices.send(("DELETE", "/invoices/2", None), ADA) == UNLISTED
    assert invoices.send(REQUESTS["delete"], ADA) is None
    assert [row[0] for row in invoices.rows()] == [2]


# -- each fact taken away

WHO = {"list": ADA, "draft": ADA, "read": BEN, "pay": BEN, "delete": ADA}
#: (what is sent, the claim that the token lacks, why it is denied)
CLAIMS = [
    *(("list", claim, UNLISTED) for claim in ("tid", "sub", "exp", "aud")),
    *(("draft", claim, UNLISTED) for claim in ("tid", "sub", "exp", "aud")),
    *(("read", claim, MISSING) for claim in ("tid", "sub", "exp", "aud")),
    *(("pay", claim, MISSING) for claim in ("tid", "sub", "exp", "aud")),
    *(("delete", claim, MISSING) for claim in ("tid", "sub", "exp", "aud")),
    ("read", "realm_access", UNLISTED),
    ("pay", "realm_access", UNLISTED),
]
#: (what is sent, the column that is NULL, why it is denied)
COLUMNS = [
    ("read", "tenant", MISSING),
    ("pay", "tenant", MISSING),
    ("pay", "total", MISSING),
    ("delete", "tenant", MISSING),
    ("delete", "owner", UNLISTED),
    ("delete", "paid", UNLISTED),
]


@pytest.mark.parametrize(("sent", "claim", "reason"), CLAIMS)
def test_without_a_claim_nothing_happens(invoices: Invoices, sent: str, claim: str, reason: str) -> None:
    before = invoices.rows()
    fewer = {name: value for name, value in WHO[sent].items() if name != claim}
    assert len(fewer) == len(WHO[sent]) - 1
    assert invoices.send(REQUESTS[sent], fewer) == reason
    assert invoices.rows() == before
    assert invoices.send(REQUESTS[sent], WHO[sent]) not in (UNLISTED, MISSING)


@pytest.mark.parametrize(("sent", "column", "reason"), COLUMNS)
def test_without_a_value_nothing_happens(invoices: Invoices, sent: str, column: str, reason: str) -> None:
    invoices.put(**{column: None})
    before = invoices.rows()
    assert invoices.send(REQUESTS[sent], WHO[sent]) == reason
    assert invoices.rows() == before


@pytest.mark.parametrize("sent", ["read", "pay", "delete"])
def test_without_the_invoice_nothing_is_known_of_it(invoices: Invoices, sent: str) -> None:
    invoices.empty()
    assert invoices.send(REQUESTS[sent], WHO[sent]) == "facts_unavailable"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, MISSING),
        (None, MISSING),
        ({"amount": None}, MISSING),
        ({"amount": "5000"}, MISSING),  # text, which FastAPI would take for a number
        ({"amount": 5000.0}, MISSING),
        ({"amount": 5001}, OWED),
        ({"amount": -1}, UNLISTED),
    ],
)
def test_without_an_amount_that_is_owed_nothing_is_paid(invoices: Invoices, body: Any, reason: str) -> None:
    before = invoices.rows()
    assert invoices.send((*REQUESTS["pay"][:2], body), BEN) == reason
    assert invoices.rows() == before


@pytest.mark.parametrize(("sent", "reason"), [("list", UNLISTED), ("draft", UNLISTED), ("read", MISSING)])
def test_without_a_token_of_that_key_nobody_is_known(invoices: Invoices, sent: str, reason: str) -> None:
    assert invoices.send(REQUESTS[sent], None) == reason
    assert invoices.send(REQUESTS[sent], WHO[sent], key=OTHER) == reason
    assert invoices.send(REQUESTS[sent], {**WHO[sent], "exp": time.time() - 600}) == reason


def test_without_the_rule_for_statements_none_is_sent(tmp_path: Path) -> None:
    policy = tomllib.loads(DOCUMENT.read_text())
    fewer = {**policy, "rules": [rule for rule in policy["rules"] if "resources" not in rule]}
    assert len(fewer["rules"]) == len(policy["rules"]) - 1
    with serving(tmp_path, fewer) as invoices:
        invoices.put()
        for sent, given in WHO.items():
            assert invoices.send(REQUESTS[sent], given) == UNLISTED
        assert invoices.rows() == [tuple(ROW.values())]


# -- denied, with and without


@pytest.mark.parametrize("sent", ["read", "pay", "delete"])
@pytest.mark.parametrize("claim", [None, "tid", "sub", "realm_access"])
@pytest.mark.parametrize("column", [None, "tenant", "owner", "total", "paid"])
def test_what_another_tenant_is_denied_stays_denied(
    invoices: Invoices, sent: str, claim: str | None, column: str | None
) -> None:
    if column is not None:
        invoices.put(**{column: None})
    before = invoices.rows()
    fewer = {name: value for name, value in EVE.items() if name != claim}
    unknown = claim in ("tid", "sub") or column == "tenant"
    assert invoices.send(REQUESTS[sent], fewer) == (MISSING if unknown else TENANT)
    assert invoices.rows() == before


@pytest.mark.parametrize("sent", ["list", "draft"])
def test_nobody_acts_in_another_tenant(invoices: Invoices, sent: str) -> None:
    assert invoices.send(REQUESTS[sent], EVE) == UNLISTED
    assert len(invoices.rows()) == 1
