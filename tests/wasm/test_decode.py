"""The decoder: the official suite, and hostile bytes."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import DecodeError
from capgate.wasm import Module, decode, encode
from capgate.wasm.leb128 import unsigned
from capgate.wasm.module import F64, I32, I64, Export, FuncType, MemoryType

from . import suite
from .wat import compile_wat

ROOM = Path(decode.__code__.co_filename).parent

TraceFunction = Callable[[FrameType, str, Any], Any]

HEADER = b"\0asm\1\0\0\0"

SAMPLE = """
(module
  (type (func (param i32 i64) (result f64)))
  (import "env" "memory" (memory 2 5))
  (import "env" "log" (func $log (param i32)))
  (import "env" "base" (global i32))
  (table 3 4 funcref)
  (global $counter (mut i64) (i64.const -1))
  (func $main (export "main") (type 0) (local i32 i32 f64)
    (block (result i32) (loop $again (br_if $again (i32.eqz (local.get 0)))) (i32.const 7))
    (call $log)
    (f64.const nan:0x123456))
  (func $start)
  (start $start)
  (elem (i32.const 1) $main $start)
  (elem funcref (ref.func $main) (ref.null func))
  (elem declare func $start)
  (data (i32.const 16) "hello")
  (data $passive "bytes")
  (func (data.drop $passive)))
"""


@pytest.mark.slow
def test_every_module_of_the_suite_round_trips(suite_files: list[Path]) -> None:
    """Valid and invalid modules alike come back byte for byte: only malformed ones are refused here."""
    seen: Counter[str] = Counter()
    for name, kind, text, data in suite.binaries(suite_files):
        if kind == "assert_malformed" or (kind == "assert_invalid" and text.startswith("unknown")):
            continue
        assert encode(decode(data)) == data, name
        assert encode(decode(data, bodies=False)) == data, name
        seen[kind] += 1
    print(dict(seen))
    assert seen["module"] > 1000
    assert seen["assert_invalid"] > 1000


def test_every_malformed_module_is_refused_in_the_words_of_the_suite(suite_files: list[Path]) -> None:
    count = 0
    for name, kind, text, data in suite.binaries(suite_files):
        if kind != "assert_malformed":
            continue
        with pytest.raises(DecodeError) as caught:
            decode(data)
        assert caught.value.reason.startswith(text), (name, text, caught.value.reason)
        assert 0 <= caught.value.offset <= len(data)
        count += 1
    print(f"{count} malformed modules")
    assert count > 700


def test_what_a_module_says() -> None:
    module = decode(compile_wat(SAMPLE))
    assert module.types[0] == FuncType((I32, I64), (F64,))
    assert [(item.module, item.name, item.kind) for item in module.imports] == [
        ("env", "memory", "memory"),
        ("env", "log", "function"),
        ("env", "base", "global"),
    ]
    assert module.imports[0].type == MemoryType(2, 5)
    assert module.function_type(0) == FuncType((I32,), ())
    assert module.function_type(1) == module.types[0]
    with pytest.raises(IndexError):
        module.function_type(4)
    assert (module.tables[0].minimum, module.tables[0].maximum) == (3, 4)
    assert (module.globals[0].type.type, module.globals[0].type.mutable) == (I64, True)
    assert module.export("main") == Export("main", "function", 1)
    assert module.export("other") is None
    assert module.start == 2
    assert [(item.mode, item.count) for item in module.elements] == [("active", 2), ("passive", 2), ("declarative", 1)]
    assert module.elements[0].functions == (1, 2)
    assert [(item.mode, item.data) for item in module.data] == [("active", b"hello"), ("passive", b"bytes")]
    assert module.code[0].local_count == 3
    assert module.source[module.code[0].end - 1] == 0x0B
    assert module.data_count == 2


def test_only_bytes_are_bytes() -> None:
    data = compile_wat(SAMPLE)
    assert encode(decode(bytearray(data))) == encode(decode(memoryview(data))) == data
    for other in ("\0asm", None, 8, [0, 1]):
        with pytest.raises(TypeError):
            decode(other)  # type: ignore[arg-type]


def test_truncated_at_every_length() -> None:
    data = compile_wat(SAMPLE)
    ends = {8} | {item.offset + len(item.payload) for item in decode(data).sections}
    # A module that stops between two sections is another module, unless the counts of its sections then differ.
    assert {length for length in range(len(data)) if is_module_or_decode_error(data[:length])} <= ends


def is_module_or_decode_error(data: bytes) -> bool:
    """The property: nothing but a module or ``DecodeError``; and what decodes is written back as it was."""
    outcome = attempt(data)
    if isinstance(outcome, Module):
        assert encode(outcome) == data
        return True
    assert 0 <= outcome.offset <= len(data)
    assert outcome.reason
    return False


def attempt(data: bytes) -> Module | DecodeError:
    try:
        return decode(data)
    except DecodeError as error:
        return error


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_bytes(data: bytes) -> None:
    is_module_or_decode_error(data)
    is_module_or_decode_error(HEADER + data)


@pytest.mark.slow
@given(st.integers(0, 12), st.binary(max_size=60))
@settings(max_examples=500)
def test_any_section_contents(section: int, payload: bytes) -> None:
    is_module_or_decode_error(HEADER + bytes([section]) + unsigned(len(payload)) + payload)


@pytest.mark.slow
@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_any_function_body(code: bytes) -> None:
    body = b"\0" + code + b"\x0b"
    code_section = b"\1" + unsigned(len(body)) + body
    sections = ((1, b"\1\x60\0\0"), (3, b"\1\0"), (10, code_section))
    is_module_or_decode_error(HEADER + b"".join(bytes([i]) + unsigned(len(p)) + p for i, p in sections))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=500)
def test_any_mutation_of_a_module(draw: st.DataObject) -> None:
    data = bytearray(compile_wat(SAMPLE))
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data) - 1))
        how = draw.draw(st.sampled_from(["set", "insert", "delete"]))
        if how == "set":
            data[at] = draw.draw(st.integers(0, 255))
        elif how == "insert":
            data.insert(at, draw.draw(st.integers(0, 255)))
        else:
            del data[at]
    is_module_or_decode_error(bytes(data))


@pytest.mark.parametrize("section", range(13))
def test_counts_that_promise_more_than_there_is(section: int) -> None:
    """A vector of 2^32-1 entries in a few bytes costs nothing.  # G16, pitfall 32"""
    payload = unsigned(2**32 - 1)
    is_module_or_decode_error(HEADER + bytes([section]) + unsigned(len(payload)) + payload)


def test_deep_nesting_is_no_recursion() -> None:
    """A hundred thousand blocks decode, or fail, without using the Python stack.  # G17"""
    depth = 100_000
    body = b"\0" + b"\x02\x40" * depth + b"\x0b" * (depth + 1)
    code = b"\1" + unsigned(len(body)) + body
    data = HEADER + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\x0a" + unsigned(len(code)) + code
    assert is_module_or_decode_error(data)
    assert not is_module_or_decode_error(data[:-1])


def test_large_data_costs_no_work_per_byte() -> None:
    """The decoder executes as many lines of Python for ten megabytes of data as for ten kilobytes."""
    lines_executed(10_000)  # what the first call alone does
    assert lines_executed(10_000_000) == lines_executed(10_000)


def lines_executed(size: int) -> int:
    segment = b"\1\0\x41\0\x0b" + padded(size) + bytes(size)
    data = HEADER + b"\5\3\1\0\1" + b"\x0b" + padded(len(segment)) + segment
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction:
        nonlocal count
        count += event == "line" and Path(frame.f_code.co_filename).parent == ROOM
        return trace

    gc.collect()  # so that no finalizer of what tests before this left runs meanwhile
    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        decode(data)
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def padded(value: int) -> bytes:
    """Unsigned LEB128 in five bytes."""
    return bytes(value >> shift & 0x7F | (0x80 if shift < 28 else 0) for shift in range(0, 35, 7))
