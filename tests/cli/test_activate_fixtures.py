"""A release is activated only after its golden fixtures passed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from capgate import build_policy
from capgate.errors import ArtifactNotFound
from capgate.store import PolicyStore

from ..support.command import capgate

pytestmark = pytest.mark.slow

ALLOWED = {"action": "cache.read", "resource": {"kind": "namespace", "id": "orders"}}


def fixture(expected: str) -> str:
    result = {"kind": "allow"} if expected == "allow" else {"kind": "deny", "reason": "not_in_allowlist"}
    return json.dumps({"description": "orders", "input": ALLOWED, "expected": result})


def publish(folder: Path, version: int) -> None:
    module = folder / f"policy{version}.wasm"
    module.write_bytes(build_policy({"name": "orders", "version": str(version), "cache": ["orders"]}))
    key = folder / "release.pem"
    if not key.exists():
        assert capgate("keygen", str(key)).returncode == 0
    signed = capgate("sign", str(module), "--key", str(key), "--version", str(version))
    assert signed.returncode == 0, signed.stderr
    published = capgate("publish", str(module), "--store", str(folder / "store"))
    assert published.returncode == 0, published.stderr


@pytest.mark.parametrize(("expected", "code"), [("allow", 0), ("deny", 1)])
def test_fixtures_have_to_pass_first(tmp_path: Path, expected: str, code: int) -> None:
    publish(tmp_path, 1)
    fixtures, store = tmp_path / "fixtures", str(tmp_path / "store")
    fixtures.mkdir()
    (fixtures / "orders.json").write_text(fixture(expected))
    done = capgate("activate", "orders", "1", "--store", store, "--fixtures", str(fixtures), "--yes")
    assert done.returncode == code, done.stderr
    if code:
        with pytest.raises(ArtifactNotFound):
            PolicyStore(store).read_active("orders")
        # The running one stays.
        assert capgate("activate", "orders", "1", "--store", store, "--yes", "--without-fixtures").returncode == 0
        publish(tmp_path, 2)
        assert capgate("activate", "orders", "2", "--store", store, "--fixtures", str(fixtures), "-y").returncode == 1
    assert PolicyStore(store).read_active("orders").version == 1


def test_a_folder_without_fixtures_tests_nothing(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    (tmp_path / "none").mkdir()
    store = str(tmp_path / "store")
    done = capgate("activate", "orders", "1", "--store", store, "--fixtures", str(tmp_path / "none"), "--yes")
    assert done.returncode != 0
    with pytest.raises(ArtifactNotFound):
        PolicyStore(store).read_active("orders")
