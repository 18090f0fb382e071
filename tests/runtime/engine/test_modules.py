"""What an engine accepts as a module: what capgate admits runs, what is malformed, invalid or newer does not."""

from __future__ import annotations

import pytest
import wasmtime

from capgate.errors import RestrictedModule
from capgate.runtime.engine import load_engine

from ...support.guests import wat

GOOD = wat('(module (memory (export "memory") 1) (func (export "f") (result i32) (i32.const 1)))')

#: Valid text of the proposals that capgate does not admit. (capgate's own restriction comes first; this is the second.)
NEWER = {
    "tail calls": "(module (func $f (return_call $f)))",
    "64-bit memory": "(module (memory i64 1))",
    "two memories": "(module (memory 1) (memory 1))",
    "shared memory": "(module (memory 1 1 shared))",
    "atomics": "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
    "relaxed SIMD": """(module (func (param v128 v128) (result v128)
        (i8x16.relaxed_swizzle (local.get 0) (local.get 1))))""",
    "garbage collection": "(module (type (struct (field i32))))",
    "exceptions": "(module (tag))",
    "function references": "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))",
    "wide arithmetic": """(module (func (param i64 i64) (result i64 i64)
        (i64.mul_wide_u (local.get 0) (local.get 1))))""",
    "custom page sizes": "(module (memory 1 (pagesize 1)))",
}
#: Valid text of the proposals that it does admit.
ADMITTED = {
    "sign extension": "(module (func (param i32) (result i32) (i32.extend8_s (local.get 0))))",
    "saturating conversion": "(module (func (param f32) (result i32) (i32.trunc_sat_f32_s (local.get 0))))",
    "bulk memory": "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))",
    "multi-value": "(module (func (result i32 i32) (i32.const 1) (i32.const 2)))",
    "reference types": "(module (table 1 externref) (func (result funcref) (ref.null func)))",
    "mutable globals": '(module (global (export "g") (mut i32) (i32.const 0)))',
}
#: Well-formed, but no valid module.
INVALID = [
    "(module (func (result i32)))",
    "(module (func (result i32) (i64.const 0)))",
    "(module (func (call 7)))",
    "(module (func (local.set 0 (i32.const 0))))",
    '(module (func (export "a")) (func (export "a")))',
    "(module (memory 65537))",
    "(module (func (drop (i32.load (i32.const 0)))))",
]


@pytest.mark.parametrize("method", ["validate", "compile"])
@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_module_is_refused(engine_name: str, text: str, method: str) -> None:
    with pytest.raises(RestrictedModule) as caught:
        getattr(load_engine(engine_name), method)(wat(text))  # G27
    assert (caught.value.rule, caught.value.where) == ("invalid_module", engine_name)


@pytest.mark.parametrize("method", ["validate", "compile"])
@pytest.mark.parametrize("cut", [8, 9, 12, len(GOOD) // 2, len(GOOD) - 1])
def test_a_module_cut_short_is_refused_or_the_empty_one(engine_name: str, cut: int, method: str) -> None:
    check = getattr(load_engine(engine_name), method)
    if cut == 8:
        check(GOOD[:cut])
        return
    with pytest.raises(RestrictedModule) as caught:
        check(GOOD[:cut])
    assert caught.value.rule == "invalid_module"


@pytest.mark.parametrize("feature", NEWER)
def test_wasmtime_refuses_proposals_that_are_on_by_default(feature: str) -> None:
    data = wat(NEWER[feature])
    for method in (load_engine("wasmtime").validate, load_engine("wasmtime").compile):
        with pytest.raises(RestrictedModule) as caught:
            method(data)  # G25
        assert caught.value.rule == "invalid_module"


@pytest.mark.parametrize("feature", NEWER)
def test_every_engine_refuses_to_compile_proposals_that_are_not_admitted(engine_name: str, feature: str) -> None:
    with pytest.raises(RestrictedModule) as caught:
        load_engine(engine_name).compile(wat(NEWER[feature]))  # G25
    assert (caught.value.rule, caught.value.where) == ("invalid_module", engine_name)


@pytest.mark.parametrize("feature", ADMITTED)
def test_every_engine_runs_what_is_admitted(engine_name: str, feature: str) -> None:
    engine, data = load_engine(engine_name), wat(ADMITTED[feature])
    engine.validate(data)
    engine.compile(data).instantiate()


def test_each_refused_feature_is_a_setting_of_this_wasmtime() -> None:
    """A misspelt one would be an attribute that nobody reads."""
    from capgate.runtime.engine import _wasmtime

    for feature in _wasmtime._REJECTED_FEATURES:
        assert isinstance(vars(wasmtime.Config).get(f"wasm_{feature}"), property), feature
    for setting in ("signals_based_traps", "parallel_compilation", "max_wasm_stack", "cranelift_nan_canonicalization"):
        assert isinstance(vars(wasmtime.Config).get(setting), property), setting
