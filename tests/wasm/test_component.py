"""The core module inside a component."""

from __future__ import annotations

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from capgate.errors import DecodeError, RestrictedModule
from capgate.wasm import core_module, decode

from .wat import compile_wat

CORE = compile_wat('(module (func (export "f") (result i32) (i32.const 42)))')


def component(inside: str) -> bytes:
    return compile_wat(f"(component {inside})")


ONE = component('(core module $m (func (export "f") (result i32) (i32.const 42))) (core instance (instantiate $m))')


def test_a_core_module_is_returned_as_it_is() -> None:
    assert core_module(CORE) is CORE
    assert core_module(memoryview(CORE)) == CORE


def test_a_component_around_one_module() -> None:
    inner = core_module(ONE)
    store = wasmtime.Store()
    function = wasmtime.Instance(store, wasmtime.Module(store.engine, inner), []).exports(store)["f"]
    assert isinstance(function, wasmtime.Func)
    assert function(store) == 42


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "(core module) (core module)",
        "(component (core module))",
        "(core module) (component (core module))",
        "(core module) (component (component (core module)))",
    ],
)
def test_other_components(inside: str) -> None:
    """# G25"""
    with pytest.raises(RestrictedModule) as caught:
        core_module(component(inside))
    assert caught.value.rule == "component"


def test_components_inside_that_hold_no_code_are_passed_over() -> None:
    assert core_module(component("(core module) (component (component))")) == compile_wat("(module)")


def test_an_inner_component_ends_where_it_says() -> None:
    whole = bytearray(component("(core module) (component (component))"))
    at = whole.rindex(b"\0asm") - 1
    whole[at] += 1
    with pytest.raises(DecodeError):
        core_module(bytes(whole))


LIFTED = """(core module $m (memory (export "memory") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8))
      (func (export "f") (param i32 i32)) (func (export "post")))
    (core instance $i (instantiate $m))
    (alias core export $i "memory" (core memory $memory))
    (alias core export $i "realloc" (core func $realloc))
    (alias core export $i "f" (core func $f))
    (alias core export $i "post" (core func $post))
    (func (export "f") (param "text" string)
      (canon lift (core func $f) (memory $memory) (realloc $realloc) string-encoding={} (post-return $post)))"""


def test_strings_are_utf8() -> None:
    assert core_module(component(LIFTED.format("utf8"))).startswith(b"\0asm\1\0\0\0")
    for encoding in ("utf16", "latin1+utf16"):
        with pytest.raises(RestrictedModule) as caught:
            core_module(component(LIFTED.format(encoding)))
        assert caught.value.rule == "component"


@pytest.mark.parametrize("data", [b"", b"\0asm", b"(module)", b"\0asm\2\0\0\0", b"\0asm\x0d\0\0\0", b"\0asm\1\0\1\0"])
def test_neither(data: bytes) -> None:
    with pytest.raises(DecodeError):
        core_module(data)
    with pytest.raises(DecodeError):
        decode(data)


def test_only_bytes_are_bytes() -> None:
    with pytest.raises(TypeError):
        core_module("(component)")  # type: ignore[arg-type]


def test_truncated_at_every_length() -> None:
    """A shorter file is refused, or holds the whole module: what is cut off then is only what surrounds it."""
    inner = core_module(ONE)
    complete = ONE.index(inner) + len(inner)
    for length in range(len(ONE)):
        found = attempt(ONE[:length])
        assert found == (inner if found and length >= complete else None)


def attempt(data: bytes) -> bytes | None:
    try:
        return core_module(data)
    except (DecodeError, RestrictedModule):
        return None


@given(st.binary(max_size=100))
def test_any_bytes(rest: bytes) -> None:
    found = attempt(b"\0asm\x0d\0\1\0" + rest)
    assert found is None or found in rest
