"""Which checker settings give, from real files; and what start-up says where they give none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from capgate.artifact.build import build_policy
from capgate.checker.cached import CachedChecker
from capgate.checker.following import FollowingChecker
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import (
    ArtifactError,
    ArtifactNotFound,
    CapgateError,
    ConfigError,
    DecodeError,
    DigestMismatch,
    RestrictedModule,
)
from capgate.limits import Limits
from capgate.model import Allow, Deny, PolicyInput, Resource
from capgate.runtime.abi.canonical_abi import WITH_FACTS
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings

from ..support.guests import guest, wat
from ..support.opa_guest import ALLOW as ALLOWS
from ..support.opa_guest import opa_guest
from ..support.pool_guests import COUNT, OBEDIENT, TOLD, order
from ..support.stores import Shelf, ask

DOCUMENT = {"name": "shop", "version": "3", "env": ["TZ"]}
TOML = 'name = "shop"\nversion = "3"\nenv = ["TZ"]\n'
MODULE = build_policy(DOCUMENT)
REGO = opa_guest({"orders/decision": ALLOWS})
DIGEST = hashlib.sha256(MODULE).hexdigest()
ALLOWED = PolicyInput("env.read", resource=Resource("env_var", "TZ"))
DENIED = PolicyInput("env.read", resource=Resource("env_var", "PATH"))


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "policy.wasm"
    path.write_bytes(MODULE)
    return path


@pytest.mark.parametrize("pin", [None, DIGEST])
async def test_wasm_where_an_artifact_is_configured(engine_name: str, module: Path, pin: str | None) -> None:
    limits = Limits(deadline=20.0, fuel=5_000_000, memory_pages=100)
    remembering = select_checker(
        Settings(artifact=module, artifact_sha256=pin, engine=engine_name, pool_size=3, limits=limits)
    )
    assert isinstance(remembering, CachedChecker)
    chosen = remembering.inner
    assert isinstance(chosen, WasmPolicyChecker)
    async with remembering:
        for checker in (remembering, chosen):
            assert await checker.check(ALLOWED) == Allow()
            assert await checker.check(DENIED) == Deny("not_in_allowlist")
        assert (chosen.pool.size, chosen.pool.limits, chosen.pool.statistics().idle) == (3, limits, 3)
    assert remembering.policy == chosen.policy
    policy = chosen.policy
    assert (policy.name, policy.version, policy.sha256, policy.engine) == ("shop", "3", DIGEST, engine_name)


@pytest.mark.parametrize("form", ["dict", "json", "toml"])
async def test_local_where_a_document_is_configured(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"policy.{form}"
    path.write_text(TOML if form == "toml" else json.dumps(DOCUMENT))
    remembering = select_checker(
        Settings(policy=DOCUMENT if form == "dict" else path, limits=Limits(input_bytes=1_024))
    )
    assert isinstance(remembering, CachedChecker)
    chosen = remembering.inner
    assert isinstance(chosen, LocalPolicyChecker)
    async with remembering:
        assert await chosen.check(ALLOWED) == Allow()
        assert await chosen.check(DENIED) == Deny("not_in_allowlist")
        for checker in (remembering, chosen):
            long = PolicyInput("env.read", resource=Resource("env_var", "TZ"), args_hash="x" * 1_025)
            assert await checker.check(ALLOWED) == Allow()
            assert await checker.check(long) == Deny("malformed_input")
            assert await checker.check(PolicyInput("env.read", args_hash="x" * 1_025)) == Deny("malformed_input")
    assert (chosen.policy.name, chosen.policy.version, chosen.policy.engine) == ("shop", "3", "local")


async def test_reuse_is_the_operators_word(engine_name: str, tmp_path: Path) -> None:  # G21
    path = tmp_path / "policy.wasm"
    path.write_bytes(OBEDIENT)
    for reuse, tenth in ((False, TOLD), (True, Allow())):
        settings = Settings(artifact=path, engine=engine_name, pool_size=1, reuse=reuse, limits=Limits(deadline=20.0))
        async with select_checker(settings) as chosen:
            answers = [await chosen.check(order(COUNT)) for _ in range(10)]
        assert answers == [TOLD] * 9 + [tenth]


def test_a_module_with_another_digest(module: Path) -> None:
    for pin in ("0" * 64, DIGEST[:-1] + ("0" if DIGEST[-1] != "0" else "1")):
        with pytest.raises(DigestMismatch) as caught:
            select_checker(Settings(artifact=module, artifact_sha256=pin))
        assert (caught.value.expected, caught.value.actual, caught.value.path) == (pin, DIGEST, str(module))
        assert pin in str(caught.value)
        assert DIGEST in str(caught.value)


# -- facts


@pytest.mark.parametrize(
    ("data", "told"), [(guest(), False), (guest(interface=WITH_FACTS), True), (MODULE, True), (REGO, True)]
)
def test_a_module_that_is_told_no_facts_is_rejected_where_they_are_required(
    engine_name: str, tmp_path: Path, data: bytes, told: bool
) -> None:
    path = tmp_path / "policy.wasm"
    path.write_bytes(data)
    for required in (False, True):
        settings = Settings(artifact=path, engine=engine_name, require_facts=required)
        if told or not required:
            assert select_checker(settings).policy is not None
            continue
        with pytest.raises(ArtifactError) as caught:
            select_checker(settings)
        assert caught.value.path == str(path)
        assert all(text in str(caught.value) for text in ("capgate:policy@0.1.0", "require_facts"))


async def test_a_release_that_is_told_no_facts_is_not_followed_where_they_are_required(
    engine_name: str, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path)
    shelf.release(1)
    checker = select_checker(shelf.settings(engine=engine_name, require_facts=True))
    assert isinstance(checker, FollowingChecker)
    async with checker:
        shelf.release(2, guest())
        await checker.refresh()
        status = checker.status()
        assert (status.version, "require_facts" in str(status.problem)) == (1, True)
        assert await checker.check(ask(1)) == Allow()
    with pytest.raises(ArtifactError):
        select_checker(shelf.settings(engine=engine_name, require_facts=True))


def test_a_document_sees_facts() -> None:
    assert select_checker(Settings(policy=DOCUMENT, require_facts=True)).policy is not None


def test_neither_is_configured() -> None:
    with pytest.raises(ConfigError) as caught:
        select_checker(Settings())
    assert caught.value.setting == "policy"


@pytest.mark.parametrize("field", ["artifact", "policy"])
def test_there_is_no_such_file(tmp_path: Path, field: str) -> None:
    for path in (tmp_path / "absent", tmp_path):
        settings: dict[str, Any] = {field: path}
        with pytest.raises(ArtifactNotFound) as caught:
            select_checker(Settings(**settings))
        assert caught.value.path == str(path)


TEXT = b'(module (func (export "policy-check")))'
GARBAGE: dict[str, tuple[bytes, type[CapgateError] | None]] = {
    "empty": (b"", DecodeError),
    "text": (TEXT, DecodeError),
    "noise": (bytes(range(256)), DecodeError),
    "half": (MODULE[: len(MODULE) // 2], DecodeError),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_file_that_is_no_module(tmp_path: Path, name: str) -> None:
    data, cause = GARBAGE[name]
    path = tmp_path / "policy.wasm"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        select_checker(Settings(artifact=path))
    assert type(caught.value.__cause__) is cause
    assert caught.value.path == str(path)


def test_a_module_that_is_no_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.wasm"
    for text in ("(module)", '(module (import "wasi" "exit" (func)) (memory (export "memory") 1))'):
        path.write_bytes(wat(text))
        with pytest.raises(RestrictedModule):
            select_checker(Settings(artifact=path))


def test_a_module_above_the_limits(module: Path) -> None:
    with pytest.raises(ArtifactError):
        select_checker(Settings(artifact=module, limits=Limits(module_bytes=1_024)))
    with pytest.raises(RestrictedModule):
        select_checker(Settings(artifact=module, limits=Limits(memory_pages=1)))


@pytest.mark.parametrize(("text", "setting"), [("", "document"), ("{", "document"), ('{"envy": []}', "envy")])
def test_a_document_that_is_none(tmp_path: Path, text: str, setting: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        select_checker(Settings(policy=path))
    assert (caught.value.setting, caught.value.path, caught.value.line) == (setting, str(path), 1)


async def test_more_input_than_the_module_has_room_for_is_said_at_start_up(engine_name: str, module: Path) -> None:
    settings = Settings(artifact=module, engine=engine_name, limits=Limits(input_bytes=16_000_000))
    chosen = select_checker(settings)
    with pytest.raises(ConfigError) as caught:
        await chosen.start()
    assert caught.value.setting == "input_bytes"
    assert await chosen.check(ALLOWED) == Deny("policy_unavailable")
