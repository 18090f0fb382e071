"""Which modules of OPA's ABI are refused before anything of them runs, and by which name (M1, M10, G22)."""

from __future__ import annotations

import pytest

from capgate.artifact.load import WasmArtifact
from capgate.errors import ConfigError, RestrictedModule
from capgate.limits import KNOWN_PAGES, Limits
from capgate.model import ALLOW, Entrypoint, PolicyInput
from capgate.runtime.abi.opa.interface import DATA_BYTE, MODULE_BYTE, MODULE_BYTES, loading_fuel
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from capgate.wasm import decode, encode, with_custom, with_data
from capgate.wasm.module import MemoryType

from ..support.guests import artifact, data, guest
from ..support.rego_guests import HONEST, IMPORTED, SIGNATURES, VERSIONS, liar, opa_policy


def refusal(module: bytes) -> tuple[str, str]:
    with pytest.raises(RestrictedModule) as caught:
        PreparedPolicy(WasmArtifact.from_bytes(module), Limits())
    return caught.value.rule, caught.value.where


def versions(major: str, minor: str | None) -> str:
    fields = f'(global (export "opa_wasm_abi_version") {major})'
    return fields if minor is None else f'{fields} (global (export "opa_wasm_abi_minor_version") {minor})'


def i32(value: int) -> str:
    return f"i32 (i32.const {value})"


@pytest.mark.parametrize("minor", range(4))
def test_the_versions_that_are_known(minor: int) -> None:
    prepared = PreparedPolicy(WasmArtifact.from_bytes(opa_policy({}, minor=minor)), Limits())
    assert prepared.facts is not None
    assert prepared.facts.minor == minor


@pytest.mark.parametrize(
    "text",
    [
        versions(i32(0), i32(3)),
        versions(i32(2), i32(0)),
        versions(i32(-1), i32(0)),
        versions(i32(1), i32(4)),
        versions(i32(1), i32(-1)),
        versions(i32(1), i32(2**31)),
        versions(i32(1), None),
        versions("(mut i32) (i32.const 1)", i32(3)),
        versions(i32(1), "(mut i32) (i32.const 3)"),
        versions("i64 (i64.const 1)", i32(3)),
        versions("f32 (f32.const 1)", i32(3)),
    ],
)
def test_other_versions(text: str) -> None:
    assert refusal(liar(versions=text))[0] == "abi_version"


@pytest.mark.parametrize("versions", ["", '(func (export "opa_wasm_abi_version"))'])
def test_a_module_from_before_the_versions_is_opas_and_its_version_is_what_is_missing(versions: str) -> None:
    """# P-15"""
    module = liar(versions=versions)
    assert WasmArtifact.from_bytes(module).abi == "opa"
    assert refusal(module) == ("abi_version", "opa_wasm_abi_version")


def test_a_module_of_another_interface_is_not_opas() -> None:
    extra = '(func (export "capgate:policy/policy@0.1.0#policy-check") (param i32) (result i32) (local.get 0))'
    assert WasmArtifact.from_bytes(liar(versions="", extra=extra)).abi == "capgate"
    assert WasmArtifact.from_bytes(liar(versions="", without="opa_eval_ctx_new")).abi == "capgate"


@pytest.mark.parametrize("name", sorted(HONEST))
def test_an_export_that_is_missing(name: str) -> None:
    assert refusal(liar(without=name)) == ("missing_export", name)


@pytest.mark.parametrize("name", sorted(HONEST))
@pytest.mark.parametrize(
    "instead", ["(func {export} (param i64))", "(func {export} {more} )", "(global {export} i32 (i32.const 0))"]
)
def test_an_export_of_another_type(name: str, instead: str) -> None:
    parameters, results = SIGNATURES[name]
    more = f"{'(param i32)' * (parameters + 1)} {'(result i32) (i32.const 0)' * results}"
    field = instead.format(export=f'(export "{name}")', more=more)
    rule, where = refusal(liar(without=name, extra=field))
    assert rule == ("export_kind" if field.startswith("(global") else "export_type")
    assert where == name


def test_a_version_lacks_what_came_later_and_a_later_one_does_not() -> None:
    older = VERSIONS.replace("(i32.const 3)", "(i32.const 1)")
    PreparedPolicy(WasmArtifact.from_bytes(liar(without="opa_eval", versions=older)), Limits())
    assert refusal(liar(without="opa_eval"))[1] == "opa_eval"
    oldest = VERSIONS.replace("(i32.const 3)", "(i32.const 0)")
    PreparedPolicy(WasmArtifact.from_bytes(liar(memory="", without="opa_eval", versions=oldest)), Limits())
    assert refusal(liar(memory="", without="opa_eval", versions=older)) == ("missing_export", "memory")
    assert refusal(liar(memory='(global (export "memory") i32 (i32.const 0))')) == ("export_kind", "memory")


MEMORY = '(import "env" "memory" (memory 2))'


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        ('(import "env" "clock" (func (param i32)))', "import"),
        ('(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))', "import"),
        ('(import "env2" "opa_abort" (func (param i32)))', "import"),
        ('(import "env" "opa_builtin5" (func (param i32 i32 i32 i32 i32 i32 i32) (result i32)))', "import"),
        ('(import "env" "opa_Abort" (func (param i32)))', "import"),
        ('(import "env" "table" (table 1 funcref))', "import"),
        ('(import "env" "opa_abort" (func (param i32))) (import "env" "opa_abort" (func (param i32)))', "import"),
        ('(import "env" "opa_abort" (func (param i64)))', "import_type"),
        ('(import "env" "opa_abort" (func (param i32) (result i32)))', "import_type"),
        ('(import "env" "opa_builtin0" (func (param i32) (result i32)))', "import_type"),
        ('(import "env" "opa_abort" (global i32))', "import_type"),
        ('(import "env" "opa_println" (table 1 funcref))', "import_type"),
    ],
)
def test_imports_of_something_else(extra: str, rule: str) -> None:
    assert refusal(liar(imported=f"{MEMORY} {extra}"))[0] == rule


def test_the_memory_is_imported() -> None:
    assert refusal(liar(imported="(memory 2)"))[0] == "missing_import"
    assert refusal(liar(imported='(import "env" "memory" (global i32)) (memory 2)'))[0] == "import_type"


def test_the_memory_is_within_the_limits() -> None:
    """G14, G15: what there is at first, and what it may become."""
    assert refusal(liar(pages=1_025))[0] == "memory_pages"
    metered = decode(PreparedPolicy(WasmArtifact.from_bytes(liar()), Limits()).metered.data)
    assert [item.type for item in metered.imported("memory")] == [MemoryType(2, KNOWN_PAGES)]


def test_a_memory_that_may_not_be_what_it_has_to_be() -> None:
    """G14: neither engine is asked to make one with less at most than at least."""
    imported = IMPORTED.replace("(memory {pages})", "(memory 2 3)")
    PreparedPolicy(WasmArtifact.from_bytes(liar(imported=imported, extra=data(3 * 65_536 - 1, b"a"))), Limits())
    assert refusal(liar(imported=imported, extra=data(3 * 65_536, b"a"))) == ("memory_pages", "memory 0")


def test_names_of_ours_are_refused() -> None:
    """G23, G24."""
    for name in ("capgate-meter:restore", "capgate-meter:x", "capgate-meter:fuel"):
        assert refusal(liar(extra=f'(func (export "{name}"))'))[0] == "reserved_name"


@pytest.mark.parametrize(
    ("entrypoint", "setting"),
    [(Entrypoint("p"), "entrypoint"), (Entrypoint(result="denials"), "entrypoint_result")],
)
def test_other_modules_have_no_entry_points(entrypoint: Entrypoint, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PreparedPolicy(artifact(guest()), Limits(), entrypoint)
    assert caught.value.setting == setting


def test_memory_is_large_enough_for_what_is_written_into_it(engine_name: str) -> None:
    """OPA declares the memory of its library, to which a policy may add more than fits: 3 pages for 3.2, for one."""
    artifact = WasmArtifact.from_bytes(liar(extra=data(3 * 65_536 - 1, b"ab"), pages=2))
    prepared = PreparedPolicy(artifact, Limits())
    assert prepared.facts is not None
    assert prepared.facts.memory.minimum == 4
    assert WasmInterpreter(artifact, engine=engine_name).call_policy_check(PolicyInput("db.read")) == ALLOW
    with pytest.raises(RestrictedModule) as caught:
        PreparedPolicy(artifact, Limits(memory_pages=3))  # G14
    assert caught.value.rule == "memory_pages"
    top = WasmArtifact.from_bytes(liar(extra=data(0xFFFFFFFF, b"a"), pages=2))
    with pytest.raises(RestrictedModule):
        PreparedPolicy(top, Limits())


@pytest.mark.slow
def test_its_code_is_tried_in_a_child_first_like_any_other(engine_name: str) -> None:  # G16 G17
    """That its state can be restored says nothing about what a compiler makes of it."""
    bomb = liar(extra=f"(func (param i32) (result i32) (local.get 0) {'f32.convert_i32_s i32.trunc_f32_s ' * 37_500})")
    limits = Limits(compile_seconds=0.2, compile_megabytes=8_192)
    prepared = PreparedPolicy(WasmArtifact.from_bytes(bomb), limits)
    assert prepared.pure
    with pytest.raises(RestrictedModule) as caught:
        CompiledPolicy(prepared, load_engine(engine_name))
    assert (caught.value.rule, caught.value.where) == ("compile_time", engine_name)


def test_what_is_not_set_up_buys_no_fuel_for_loading() -> None:  # G2
    """A custom section may be as long as one likes; a data segment has to be put somewhere."""
    limits, small = Limits(), liar()
    plain = loading_fuel(limits, decode(small), 2)
    padding = encode(with_custom(decode(small), "padding", bytes(1_000_000)))
    assert loading_fuel(limits, decode(padding), 2) == plain
    longer = decode(liar(extra=data(70_000, bytes(50_000))))
    assert plain + 50_000 * MODULE_BYTE <= loading_fuel(limits, longer, 2) < plain + 51_000 * MODULE_BYTE
    huge = with_data(decode(small), 70_000, bytes(MODULE_BYTES))
    assert loading_fuel(limits, huge, 2) == limits.call_fuel + MODULE_BYTES * MODULE_BYTE + 2 * DATA_BYTE
