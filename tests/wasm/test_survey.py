"""All that a module needs and may not is named at once, with what to do (P-14)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate.artifact.load import WasmArtifact, artifact_of
from capgate.errors import ArtifactError, DecodeError, RestrictedModule
from capgate.limits import Limits
from capgate.wasm import core_module, decode, meter
from capgate.wasm.encode import vector
from capgate.wasm.opcodes import FEATURES, OPCODES
from capgate.wasm.proposals import IMMEDIATES_OF, REMEDIES
from capgate.wasm.survey import MOST_IMPORTS, survey

from ..support.guests import guest
from ..support.opa_guest import opa_guest
from ..support.tools import require_tool
from . import suite
from .binary import module, one_function
from .shapes import SHAPES
from .wat import compile_wat

#: Fields of a module -> the features that they need beyond 2.0.
USES: Final = {
    """(memory 1) (func (param v128) (result v128) (local v128) (v128.load offset=3 (i32.const 0)) drop
      (v128.const i32x4 1 2 3 4) (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 (local.get 0))
      (i32x4.add (local.get 1)) (v128.load8_lane 3 (i32.const 0) (local.get 0)) drop
      (i8x16.replace_lane 3 (local.get 0) (i32.const 2)) drop)""": {"simd"},
    """(func (param v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 0)))""": {
        "simd",
        "relaxed-simd",
    },
    """(memory 1 2 shared) (func (drop (i32.atomic.rmw.add offset=4 (i32.const 0) (i32.const 1))) atomic.fence
      (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const 0))))""": {"threads"},
    """(table 1 funcref) (type $t (func)) (func $f (return_call $f))
      (func (return_call_indirect (type $t) (i32.const 0)))""": {"tail-call"},
    """(tag $e (param i32)) (func (block $h (result i32) (try_table (catch $e $h) (catch_all 1)
      (throw $e (i32.const 3))) (i32.const 0)) drop)""": {"exceptions"},
    "(func (param exnref) (throw_ref (local.get 0)))": {"exceptions"},
    "(memory i64 1) (func (drop (i32.load (i64.const 0))))": {"memory64"},
    "(table i64 1 funcref)": {"memory64"},
    """(memory $a 1) (memory $b 1) (func (drop (i32.load $b offset=3 (i32.const 0)))
      (memory.copy $a $b (i32.const 0) (i32.const 0) (i32.const 1)) (drop (memory.grow $b (i32.const 0))))""": {
        "multi-memory"
    },
    """(type $s (struct (field (mut i32)) (field i8))) (type $a (array (mut i16)))
      (rec (type $r (sub (struct (field (ref null $r)))))) (func (param anyref)
      (drop (struct.new $s (i32.const 1) (i32.const 2))) (drop (array.new_fixed $a 2 (i32.const 1) (i32.const 1)))
      (drop (ref.test (ref $s) (local.get 0)))
      (block (result anyref) (br_on_cast 0 anyref (ref $s) (local.get 0))) drop)""": {"gc", "function-references"},
    "(type $t (func)) (func (param (ref null $t)) (call_ref $t (local.get 0)))": {"function-references"},
    "(memory 1 (pagesize 1))": {"custom-page-sizes"},
    "(global i32 (i32.add (i32.const 1) (i32.const 2)))": {"extended-const"},
    """(func (result i64 i64)
      (i64.add128 (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1)))""": {"wide-arithmetic"},
    """(type $f (func)) (type $c (cont $f)) (tag $t) (func (param (ref $c))
      (resume $c (on $t 0) (local.get 0)))""": {"stack-switching", "exceptions", "function-references"},
}
#: The last function of each module: it is found behind whatever comes before.
BEHIND: Final = "(func (drop (v128.const i64x2 0 0)))"


@pytest.mark.parametrize("text", USES)
def test_every_feature_is_named(text: str) -> None:
    """Of a module with another one in its last function, both are.  # G25"""
    data = compile_wat(f"(module {text} {BEHIND})")
    with pytest.raises(RestrictedModule) as caught:
        meter(data)
    assert set(caught.value.features) == {*USES[text], "simd"}
    assert all(REMEDIES[name] in str(caught.value) for name in caught.value.features)
    assert caught.value.imports == ()


@pytest.mark.parametrize("text", USES)
def test_a_file_with_them_is_refused_as_it_is_read(text: str) -> None:
    """Or, where it decodes, before it is metered; and imports are named with them."""
    data = compile_wat(f'(module (import "wasi_snapshot_preview1" "fd_write" (func)) (import "env" "a" (func)) {text})')
    with pytest.raises((RestrictedModule, ArtifactError)) as caught:
        meter(artifact_of(data, "x.wasm", None, Limits()).decoded)
    error = caught.value if isinstance(caught.value, RestrictedModule) else caught.value.__cause__
    assert isinstance(error, RestrictedModule)
    assert set(error.features) == USES[text]
    assert error.imports == ("wasi_snapshot_preview1.fd_write", "env.a")


def test_all_of_them_at_once() -> None:
    """# P-14"""
    data = compile_wat("""(module (import "wasi:x" "f" (func)) (type $s (struct)) (memory i64 1) (memory 1 2 shared)
      (tag $e) (global i32 (i32.sub (i32.const 1) (i32.const 2)))
      (func $f (throw $e)) (func (return_call $f)) (func (drop (i64.atomic.load (i64.const 0))))
      (func (drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0))))
      (func (struct.new $s) drop))""")
    with pytest.raises(RestrictedModule) as caught:
        meter(data)
    assert set(caught.value.features) == {
        *("gc", "memory64", "multi-memory", "threads", "exceptions", "extended-const", "tail-call", "simd"),
        "relaxed-simd",
    }
    assert caught.value.imports == ("wasi:x.f",)


@pytest.mark.parametrize(
    "code", sorted(code for code, row in OPCODES.items() if code < 0xFB and row.feature not in FEATURES)
)
def test_each_opcode_is_passed_over_as_it_is(code: int) -> None:
    """What stands behind its immediates is found; where an opcode opens a block, that ends before the function does."""
    lengths = {"-": 0, "u32": 1, "u32 u32": 2, "block": 1, "catches": 2}
    immediates = IMMEDIATES_OF[code]
    after = b"\x0b" if immediates in ("block", "catches") else b""
    content = b"\x40\0" if immediates == "catches" else b"\x40" if immediates == "block" else bytes(lengths[immediates])
    opened = b"\x06\x40" if code == 0x18 else b""  # delegate ends a try
    seen = survey(one_function(opened + bytes([code]) + content + after + b"\xfe\x03\0"))
    assert set(seen.features) == {OPCODES[code].feature, "threads"}


#: Places where only one thing of a module needs a feature -> those besides that of what stands behind.
PLACES: Final = {
    "(global v128 (v128.const i32x4 1 2 3 4))": set(),
    "(type $s (struct (field i32))) (global (ref $s) (struct.new $s (i32.const 1)))": {"gc", "function-references"},
    "(global (ref i31) (ref.i31 (i32.const 1)))": {"gc", "function-references"},
    '(import "e" "t" (tag (param i32)))': {"exceptions"},
    '(import "e" "m" (memory 1 2 shared))': set(),
    '(import "e" "g" (global v128))': set(),
    '(import "e" "t" (table i64 1 funcref))': {"memory64"},
    "(func $f) (table 1 (ref func) (ref.func $f))": {"function-references"},
    '(memory i64 1) (data (i64.const 0) "x")': {"memory64"},
    "(type $t (func)) (func $f (type $t)) (elem (ref $t) (ref.func $f))": {"function-references"},
    "(elem (ref null any) (ref.null any))": {"gc"},
    "(func (local exnref))": {"exceptions"},
    "(func (param v128 v128 i32) (drop (select (result v128) (local.get 0) (local.get 1) (local.get 2))))": set(),
    '(type $a (array i8)) (data "a") (func (drop (array.new_data $a 0 (i32.const 0) (i32.const 1))))': {"gc"},
    "(func (param externref) (drop (any.convert_extern (local.get 0))))": {"gc"},
    "(tag $e) (func (try_table (catch_ref $e 0) (catch_all_ref 0) (catch_all 0)))": {"exceptions"},
    '(memory 1) (memory 1) (func (memory.init 1 $d (i32.const 0) (i32.const 0) (i32.const 0))) (data $d "")': {
        "multi-memory"
    },
    "(memory 1) (func (v128.store64_lane offset=3 1 (i32.const 0) (v128.const i64x2 0 0)))": set(),
    "(rec (type $a (struct (field (ref $b)))) (type $b (array (ref $a))))": {"gc", "function-references"},
}


@pytest.mark.parametrize("text", PLACES)
def test_each_place_is_looked_at_and_nothing_hides_what_is_behind(text: str) -> None:  # P-14
    data = compile_wat(f"(module {text} {BEHIND} (func (atomic.fence)))")
    assert set(survey(data).features) == {*PLACES[text], "simd", "threads"}


def test_strings() -> None:
    assert survey(one_function(b"\xfb\x82\1\0\xfb\x80\1\0\x1a\x1a\xfe\x03\0")).features == {
        "stringref": "function 0",
        "threads": "function 0",
    }


def test_imports_are_all_named_and_what_is_shown_is_bounded() -> None:
    names = [f"f{number}" for number in range(60)]
    data = compile_wat("(module " + "".join(f'(import "env" "{name}" (func))' for name in names) + ")")
    with pytest.raises(RestrictedModule) as caught:
        meter(data)
    assert caught.value.rule == "import"
    assert caught.value.imports == tuple(f"env.{name}" for name in names)
    assert "f59" not in str(caught.value)
    many = compile_wat("(module " + '(import "a" "b" (func))' * (MOST_IMPORTS + 1) + BEHIND + ")")
    assert len(survey(many).imports) == MOST_IMPORTS


def test_a_module_of_opas_may_import_what_it_may() -> None:
    data = opa_guest(extra="(func (drop (v128.const i64x2 0 0)))")
    with pytest.raises(RestrictedModule) as caught:
        WasmArtifact.from_bytes(data)
    assert (caught.value.features, caught.value.imports) == (("simd",), ())


def test_the_names_of_imports_forge_no_line_of_a_log() -> None:
    data = compile_wat('(module (import "a\\0a\\1b[31m" "\\e2\\80\\ae" (func)))')
    with pytest.raises(RestrictedModule) as caught:
        meter(data)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


WASI: Final = """(import "wasi:cli/environment@0.2.0" (instance $e (export "a" (func))))
    (import "wasi:io/streams@0.2.0" (instance (export "b" (func)))) (alias export $e "a" (func $a))
    (core func $lowered (canon lower (func $a)))
    (core module $m (import "x" "a" (func)) (func (drop (v128.const i64x2 0 0))))
    (core instance (instantiate $m (with "x" (instance (export "a" (func $lowered))))))"""


@pytest.mark.parametrize("more", ["", "(core module (memory i64 1))"])
def test_a_component_for_a_system(more: str) -> None:
    """Both interfaces are named, and the features of what is inside.  # P-14"""
    with pytest.raises(RestrictedModule) as caught:
        core_module(compile_wat(f"(component {WASI} {more})"))
    assert caught.value.rule == "import"
    assert caught.value.imports == ("wasi:cli/environment@0.2.0", "wasi:io/streams@0.2.0")
    assert set(caught.value.features) == {"simd", *(["memory64"] if more else [])}


def test_each_sort_of_import_of_a_component() -> None:
    imports = """(import "m" (core module)) (import "f" (func)) (import "t" (type (sub resource)))
      (type $i u32) (import "e" (type (eq $i))) (import "c" (component)) (import "i" (instance))"""
    with pytest.raises(RestrictedModule) as caught:
        core_module(compile_wat(f"(component {imports})"))
    assert caught.value.imports == ("m", "f", "t", "e", "c", "i")


@pytest.mark.parametrize("passes", [["--enable-simd", "--enable-tail-call"], ["--enable-simd"]])
def test_what_binaryen_makes(passes: list[str], tmp_path: Path) -> None:
    tool = require_tool("wasm-opt")
    source = tmp_path / "in.wat"
    source.write_text("""(module (memory 1) (func $f (export "f") (param v128) (result i32)
      (i32x4.extract_lane 1 (i32x4.mul (local.get 0) (v128.load (i32.const 16))))))""")
    target = tmp_path / "out.wasm"
    subprocess.run([tool, source, "-O2", "-g", *passes, "-o", target], check=True)
    assert survey(target.read_bytes()).features == {"simd": "type 0"}


def test_what_wabt_makes(tmp_path: Path) -> None:
    """The older instructions for exceptions, which other assemblers do not write any more."""
    source = tmp_path / "in.wat"
    source.write_text("""(module (tag $e) (func (try (do (nop)) (catch $e (rethrow 0)) (catch_all))
      (try (do) (delegate 0))) (memory i64 1) (func (drop (v128.const i64x2 0 0))))""")
    target = tmp_path / "out.wasm"
    subprocess.run([require_tool("wat2wasm"), "--enable-all", source, "-o", target], check=True)
    assert set(survey(target.read_bytes()).features) == {"exceptions", "memory64", "simd"}


def test_what_is_admitted_needs_nothing(suite_files: list[Path]) -> None:
    """So a feature is never named for nothing."""
    plain = [shape.data for shape in SHAPES] + [guest()]
    plain += [data for _, kind, _, data in suite.binaries(suite_files) if kind == "module"]
    for data in plain:
        decode(data)
        assert not set(survey(data).features) - {"multi-memory"}, data.hex()


def test_how_much_is_looked_at_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large a file is, of which the first type is not admitted.  # G16"""
    types = [b"\x5f\0", *[b"\x60\0\0"] * 100]
    data = module((1, vector(types)), (5, vector([b"\x04\1"])))
    assert set(survey(data).features) == {"gc", "memory64"}
    monkeypatch.setattr("capgate.wasm.survey.MOST_ITEMS", 50)
    assert set(survey(data).features) == {"gc"}
    code = one_function(b"\1" * 100 + b"\xfe\3\0")
    assert set(survey(code).features) == {"threads"}
    monkeypatch.setattr("capgate.wasm.survey.MOST_CODE", 100)
    assert survey(code).features == {}


def test_malformed_bytes_are_no_feature() -> None:
    with pytest.raises(DecodeError):
        meter(one_function(b"\xff"))


@pytest.mark.sampled
@given(st.data())
def test_any_bytes(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(sorted(USES)))
    changed = bytearray(compile_wat(f"(module {text} {BEHIND})"))
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(8, len(changed) - 1))] = data.draw(st.integers(0, 255))
    seen = survey(bytes(changed[: data.draw(st.integers(8, len(changed)))]))
    assert set(seen.features) <= set(REMEDIES)


def test_every_feature_has_a_remedy() -> None:
    assert {row.feature for row in OPCODES.values()} - FEATURES <= set(REMEDIES)
