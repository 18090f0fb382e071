"""Changed copies of modules, judged by an engine."""

from __future__ import annotations

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from capgate.errors import DecodeError, RestrictedModule
from capgate.limits import Limits
from capgate.wasm import (
    Module,
    decode,
    encode,
    meter,
    with_custom,
    with_data,
    with_memory,
    with_section,
    without_custom,
)
from capgate.wasm.encode import encoded_size
from capgate.wasm.module import MemoryType

from .wat import compile_wat, is_valid

PLAIN = '(module (memory (export "memory") 1) (func (export "f")) (@custom "a" "1") (@custom "b" "2"))'
WITH_DATA = '(module (memory (export "memory") 1) (data (i32.const 3) "abc") (data $p "passive") (func (data.drop $p)))'


def memory_of(module: Module) -> bytes:
    """The first page and a bit of the memory after instantiation."""
    store = wasmtime.Store()
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, encode(module)), [])
    memory = instance.exports(store)["memory"]
    assert isinstance(memory, wasmtime.Memory)
    return bytes(memory.read(store))


@pytest.mark.parametrize("text", [PLAIN, WITH_DATA])
@given(offset=st.integers(0, 65_000), content=st.binary(max_size=300))
def test_appended_data_is_in_memory(text: str, offset: int, content: bytes) -> None:
    original = decode(compile_wat(text))
    changed = with_data(original, offset, content)
    assert memory_of(changed)[offset : offset + len(content)] == content
    assert len(changed.data) == len(original.data) + 1
    assert changed.data[-1].data == content
    assert changed.data_count == (None if original.data_count is None else original.data_count + 1)


def test_data_above_two_gigabytes() -> None:
    """An address with the top bit set is written as the negative constant that it is."""
    module = with_data(with_memory(decode(compile_wat(PLAIN)), 65_536, 65_536), 2**32 - 1, b"x")
    assert is_valid(encode(module))
    assert module.data[0].offset == b"\x41\x7f\x0b"
    with pytest.raises(ValueError, match="4294967296"):
        with_data(module, 2**32, b"x")


def test_memory_limits() -> None:
    module = with_memory(decode(compile_wat(PLAIN)), 2, 7)
    assert module.memories == [MemoryType(2, 7)]
    assert len(memory_of(module)) == 2 * 65_536
    assert with_memory(module, 3, None).memories == [MemoryType(3, None)]
    with pytest.raises(ValueError, match="0 memories"):
        with_memory(decode(b"\0asm\1\0\0\0"), 1, 1)


def test_without_custom_sections() -> None:  # P-16
    """It is metered to the very bytes that a file without them is, and proved of them."""
    module, stripped = decode(compile_wat(PLAIN)), without_custom(decode(compile_wat(PLAIN)))
    assert [item.id for item in stripped.sections] == [item.id for item in module.sections if item.id]
    file = encode(stripped)
    assert len(file) == encoded_size(stripped) < len(module.source) == encoded_size(module)
    assert meter(stripped).data == meter(decode(file)).data
    limits = Limits(module_bytes=1_024)
    large = with_custom(module, "name", bytes(2_000))
    meter(without_custom(large), limits)
    with pytest.raises(RestrictedModule) as caught:
        meter(large, limits)
    assert caught.value.rule == "module_bytes"


def test_custom_sections() -> None:
    module = decode(compile_wat(PLAIN))
    assert (module.custom("a"), module.custom("b"), module.custom("c")) == (b"1", b"2", None)
    changed = with_custom(with_custom(module, "a", b"new"), "c", b"3")
    assert (changed.custom("a"), changed.custom("b"), changed.custom("c")) == (b"new", b"2", b"3")
    assert [item.name for item in changed.sections if item.id == 0] == ["a", "b", "c"]
    twice = Module(b"", [*module.sections, *(item for item in module.sections if item.name == "a")])
    assert [item.name for item in with_custom(twice, "a", b"").sections if item.id == 0] == ["a", "b"]
    assert is_valid(encode(changed))


def test_untouched_sections_keep_their_bytes() -> None:
    """Also the size of a section in more bytes than it needs.  # G26"""
    original = b"\0asm\1\0\0\0" + b"\1\x84\x80\0\1\x60\0\0"
    changed = with_section(decode(original), 3, b"\0")
    assert encode(changed) == original + b"\3\1\0"


def test_a_new_section_goes_where_it_belongs() -> None:
    module = decode(compile_wat(WITH_DATA))
    changed = with_section(module, 8, b"\0")
    assert is_valid(encode(changed))
    assert changed.start == 0
    assert [item.id for item in changed.sections if item.id] == [1, 3, 5, 7, 8, 12, 10, 11]


def test_what_cannot_be() -> None:
    module = decode(compile_wat(PLAIN))
    with pytest.raises(DecodeError):
        with_section(module, 5, b"\1")
    for section in (0, 13, -1):
        with pytest.raises(ValueError, match="section id"):
            with_section(module, section, b"")
