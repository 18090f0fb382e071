"""``capgate inspect``: what is said of each kind of file, and that hostile ones neither break nor run it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capgate import build_policy
from capgate.limits import REGO_FUEL, Limits
from capgate.rego import NOT_PROVIDED
from capgate.wasm import decode, meter, without_custom

from ..support.command import capgate
from ..support.guests import ALLOW, guest, wat
from ..support.opa_guest import DENY, opa_guest
from ..support.packing import configured, manifest, pack, signed, token, with_files
from .test_commands import call

Inspect = Callable[..., dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy"


@pytest.fixture
def inspect(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inspect:
    """What ``--json`` says of a file with those bytes."""

    def inspected(data: bytes, *options: str, code: int = 0, **environment: str) -> dict[str, Any]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        path.write_bytes(data)
        assert call("inspect", str(path), "--json", *options) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (found["size"], found["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        return found

    return inspected


@pytest.fixture
def keys(tmp_path: Path) -> str:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(configured()))
    return str(file)


BUNDLE = with_files(module=opa_guest({"orders/allow": DENY, "orders/other": DENY}, ("hex.encode",)))


def test_a_document(inspect: Inspect) -> None:
    found = inspect(b'{"name": "orders", "version": "3", "cache": ["orders"]}')
    assert (found["kind"], found["name"], found["version"]) == ("document", "orders", "3")
    assert found["inputs"] == ["action", "resource"]
    assert inspect(b'{"nane": "orders"}', code=1)["refused"]
    assert inspect(b"\xff", code=1)["kind"] == "document"


def test_rules_that_only_monitor_are_named(inspect: Inspect) -> None:
    rules = [
        {"effect": "deny", "actions": ["db.write"]},
        {"effect": "deny", "actions": ["db.read"], "reason": "not yet", "monitor": True},
    ]
    document = {"sql": "any", "rules": rules}
    for data in (json.dumps(document).encode(), build_policy(document)):
        assert inspect(data)["monitored"] == ["rules[1] not yet"]
    assert "monitored" not in inspect(build_policy({"sql": "any", "rules": rules[:1]}))


def test_a_module_that_capgate_built(inspect: Inspect) -> None:
    data = build_policy({"name": "orders", "version": "3", "cache": ["orders"]})
    found = inspect(data)
    assert (found["kind"], found["abi"], found["abi_version"]) == ("module", "capgate", "capgate:policy@0.1.0")
    assert (found["name"], found["version"], found["inputs"], found["reused"]) == (
        "orders",
        "3",
        ["action", "resource"],
        True,
    )
    assert found["module"]["size"] == len(data)
    assert found["module"]["imports"] == []
    assert {"name": "memory", "kind": "memory"} in found["module"]["exports"]
    assert "entrypoints" not in found


def test_the_interface_has_a_version(inspect: Inspect) -> None:
    from capgate.runtime.abi.canonical_abi import WITH_FACTS

    found = inspect(guest(interface=WITH_FACTS))
    assert (found["abi"], found["abi_version"], found["refused"]) == ("capgate", "capgate:policy@0.2.0", [])


def test_all_that_a_module_needs_and_may_not(inspect: Inspect) -> None:  # P-14
    system, field = '(import "wasi_snapshot_preview1" "fd_write" (func))', "(memory i64 1) (tag (param i32))"
    told = {"features": ["memory64", "exceptions"], "imports": ["wasi_snapshot_preview1.fd_write"]}
    found = inspect(wat(f"(module {system} {field})"), code=1)
    assert (found["kind"], found["not_admitted"], len(found["refused"])) == ("module", told, 1)
    component = f"""(component (import "wasi:cli/environment@0.2.0" (instance $e (export "a" (func))))
      (alias export $e "a" (func $a)) (core func (canon lower (func $a))) (core module {field}))"""
    told["imports"] = ["wasi:cli/environment@0.2.0"]
    assert inspect(wat(component), code=1)["not_admitted"] == told
    assert "not_admitted" not in inspect(b"\0asm\1\0\0\0\xff", code=1)


@pytest.mark.parametrize("body", ["unreachable", "(loop $on (br $on))", "(drop (memory.grow (i32.const 60)))"])
@pytest.mark.parametrize("interface", ["capgate", "opa"])
def test_an_initializer_that_fails(inspect: Inspect, interface: str, body: str, engine_name: str) -> None:  # P-12
    field = f'(func (export "_initialize") {body})'
    data = guest(extra=field) if interface == "capgate" else opa_guest(extra=field)
    found = inspect(data, "--engine", engine_name, code=1, CAPGATE_FUEL="20000")
    assert (found["abi"], len(found["refused"])) == (interface, 1)


@pytest.mark.parametrize(
    ("check", "fuel"),
    [(ALLOW, range(1, 1_000)), ("unreachable", None), ("(loop $on (br $on)) unreachable", range(20_000, 20_001))],
)
def test_what_a_question_spends(inspect: Inspect, check: str, fuel: range | None) -> None:  # T-8
    question = inspect(guest(check), CAPGATE_FUEL="20000")["question"]
    assert question["fuel_limit"] == 20_000
    assert question["milliseconds"] >= 0
    assert question["fuel"] is None if fuel is None else question["fuel"] in fuel


def test_the_metered_size_is_that_of_what_runs(inspect: Inspect) -> None:
    from capgate.runtime.abi.canonical_abi import CHECK, REALLOC

    data = guest()
    found = inspect(data)
    assert found["module"]["metered_size"] == len(
        meter(without_custom(decode(data)), Limits(), entries=(CHECK, REALLOC), keeps_state=True).data
    )
    assert (found["module"]["memory"], found["reused"]) == ([{"minimum": 1, "maximum": None}], True)


def test_a_bundle(inspect: Inspect, engine_name: str) -> None:
    found = inspect(pack(BUNDLE), "--engine", engine_name)
    assert (found["kind"], found["abi"], found["abi_version"], found["engine"]) == ("bundle", "opa", "1.1", engine_name)
    assert found["entrypoints"] == ["orders/allow", "orders/other"]
    assert found["builtins"] == [{"name": "hex.encode", "state": "provided"}]
    assert found["question"] == {"fuel_limit": REGO_FUEL}
    bundle = found["bundle"]
    assert (bundle["revision"], bundle["roots"], bundle["entrypoints"]) == ("2026-11", ["orders"], ["orders/allow"])
    assert bundle["signature"] == {"state": "none"}
    assert bundle["data_bytes"] == len(json.dumps(json.loads(BUNDLE["/data.json"]), separators=(",", ":")))
    assert bundle["files"]["policy.wasm"] == found["module"]["size"] == len(BUNDLE["/policy.wasm"])
    imports = {(one["module"], one["name"], one["kind"]) for one in found["module"]["imports"]}
    assert imports == {("env", "memory", "memory"), ("env", "opa_abort", "function")}
    assert inspect(BUNDLE["/policy.wasm"], "--engine", engine_name)["entrypoints"] == found["entrypoints"]


def test_builtins_that_are_not_there(inspect: Inspect) -> None:
    found = inspect(opa_guest(builtins=("http.send", "orders.magic", "hex.encode")), code=1)
    states = {one["name"]: one["state"] for one in found["builtins"]}
    refused = {name: "refused" if name in NOT_PROVIDED else "unknown" for name in ("http.send", "orders.magic")}
    assert states == {**refused, "hex.encode": "provided"}
    assert all(one["why"] == NOT_PROVIDED[one["name"]] for one in found["builtins"] if one["state"] == "refused")
    assert len(found["refused"]) == 1


# A2, A4, A5: the same words for a bundle as an application has for it
def test_signatures(inspect: Inspect, keys: str) -> None:
    def state(data: bytes, *options: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = inspect(data, *options, code=code)["bundle"]["signature"]
        return found

    good = pack(signed(BUNDLE, iss="builder"))
    assert state(good)["state"] == "not verified"
    verified = state(good, "--bundle-keys", keys)
    assert (verified["state"], verified["key"], verified["algorithm"]) == ("verified", "release", "ES256")
    assert verified["issuer"] == "builder"
    wrong = pack(signed(BUNDLE, token(BUNDLE, key=None, algorithm="RS256")))
    assert state(wrong, "--bundle-keys", keys, code=1) == {"state": "wrong", "why": "algorithm"}
    assert state(pack(BUNDLE), "--bundle-keys", keys, code=1) == {"state": "none", "why": "missing"}
    more = pack({**signed(BUNDLE), "/more.rego": b""})
    assert state(more, "--bundle-keys", keys, code=1) == {"state": "wrong", "why": "files"}
    assert state(good, "--bundle-keys", keys, "--bundle-scope", "write", code=1) == {"state": "wrong", "why": "scope"}


def test_a_module_cannot_be_signed_by_bundle_keys(inspect: Inspect, keys: str) -> None:
    found = inspect(guest(), CAPGATE_BUNDLE_KEYS=keys, code=1)
    assert len(found["refused"]) == 1
    assert found["abi_version"]  # and the rest is shown


def test_the_rest_of_a_refused_bundle_is_shown(inspect: Inspect) -> None:
    found = inspect(pack(with_files(manifest=manifest(roots=["other"]))), code=1)
    assert (found["kind"], found["bundle"]["reason"]) == ("bundle", "roots")
    assert inspect(pack(BUNDLE)[:-9], code=1)["bundle"]["reason"] == "gzip"
    lists_another = with_files(
        module=opa_guest(), manifest=manifest(wasm=[{"entrypoint": "orders/x", "module": "/policy.wasm"}])
    )
    assert inspect(pack(lists_another))["unknown"]


@pytest.mark.parametrize(
    ("data", "abi"),
    [
        (wat("(module)"), "capgate"),
        (guest(extra='(func (export "capgate-meter:reset"))'), "capgate"),
        (wat('(module (global (export "opa_wasm_abi_version") i32 (i32.const 2)))'), "opa"),
        (opa_guest(start="(loop (br 0))"), "opa"),  # G2
        (opa_guest(start="unreachable"), "opa"),  # G19
        (guest(extra="(func $s (loop (br 0))) (start $s)"), "capgate"),  # G2
        (opa_guest({}).replace(b"{}", b"[]"), "opa"),
    ],
)
def test_what_is_refused_is_shown_all_the_same(inspect: Inspect, data: bytes, abi: str, engine_name: str) -> None:
    found = inspect(data, "--engine", engine_name, code=1)
    assert (found["abi"], found["kind"]) == (abi, "module")
    assert found["refused"]
    assert "exports" in found["module"]


def test_limits_that_it_would_break(inspect: Inspect) -> None:
    data = pack(BUNDLE)
    assert inspect(data, CAPGATE_MODULE_BYTES="1024", code=1)["bundle"]["entrypoints"]
    assert inspect(guest(pages=3), CAPGATE_MODULE_BYTES="100000", CAPGATE_MEMORY_PAGES="2", code=1)["refused"]


@pytest.mark.parametrize("data", [b"\0asm", b"\0asm\x01\0\0\0\xff", b"\x1f\x8b", b"\0asm\x0d\0\x01\0"])
def test_what_is_malformed(inspect: Inspect, data: bytes) -> None:
    found = inspect(data, code=1)
    assert found["refused"]
    assert "module" not in found


def test_people_see_printable_ascii(path: Path) -> None:
    name = "a\\e2\\80\\ae\\1b]0;x\\07"  # turns the line around, and sets the title of the terminal
    path.write_bytes(wat(f'(module (func (export "{name}")))'))
    done = capgate("inspect", str(path))
    assert done.returncode == 1
    assert done.stdout.replace("\n", "").isprintable()
    assert done.stdout.isascii()
    assert str(hashlib.sha256(path.read_bytes()).hexdigest()) in done.stdout


def test_usage(path: Path, tmp_path: Path) -> None:
    assert call("inspect", str(path)) == 2  # not there
    assert call("inspect", str(tmp_path)) == 2  # A14
    path.write_bytes(guest())
    assert call("inspect", str(path), "--bundle-scope", "write") == 2  # A3
    assert call("inspect", str(path), "--bundle-keys", str(tmp_path / "none.json")) == 2
