"""Guests written in WebAssembly text, for tests: what capgate's own builder never makes."""

from __future__ import annotations

import struct
from functools import lru_cache

import wasmtime

from capgate.artifact.load import WasmArtifact
from capgate.runtime.abi.canonical_abi import PLAIN, Interface

PAGE = 65_536
#: Where the guests below keep their result record, the text of a reason, and where their allocator starts.
RESULT, REASON, HEAP = 1_024, 2_048, 4_096

#: An allocator that gives every call the next free bytes.
BUMP = f"""
(global $next (mut i32) (i32.const {HEAP}))
(func $bump (param $align i32) (param $size i32) (result i32) (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
                          (i32.sub (i32.const 0) (local.get $align))))
  (global.set $next (i32.add (local.get $at) (local.get $size)))
  (local.get $at))
"""
#: A ``cabi_realloc`` that is :data:`BUMP`.
REALLOC = '(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (call $bump (local.get 2) (local.get 3)))'
ALLOW = f"(i32.const {RESULT})"


@lru_cache(maxsize=256)
def wat(text: str) -> bytes:
    """The binary of a module, or of a component, in text."""
    return bytes(wasmtime.wat2wasm(text))


def i32(value: int) -> str:
    """The instruction that gives ``value``, which may be from -2**31 to 2**32 - 1."""
    return f"(i32.const {value})"


def guest(
    check: str = ALLOW,
    *,
    realloc: str = REALLOC,
    post: str | None = None,
    extra: str = "",
    pages: int = 1,
    interface: Interface = PLAIN,
) -> bytes:
    """A policy module. ``check`` is the body of ``policy-check``, whose parameter is ``$input``; ``post`` that of its
    ``cabi_post``, whose parameter is ``$result``; ``extra`` any other fields of the module."""
    after = "" if post is None else f'(func (export "{interface.post}") (param $result i32) {post})'
    return wat(
        f'(module (memory (export "memory") {pages}) {BUMP} {realloc}'
        f'(func (export "{interface.check}") (param $input i32) (result i32) {check}) {after} {extra})'
    )


def artifact(data: bytes) -> WasmArtifact:
    return WasmArtifact.from_bytes(data)


def denies(text: str) -> str:
    """``extra`` of a :func:`guest` that denies with ``text``."""
    record = struct.pack("<III", 1, REASON, len(text.encode()))
    return data(RESULT, record) + data(REASON, text.encode())


def data(address: int, content: bytes) -> str:
    """The field of a data segment."""
    escaped = "".join(f"\\{byte:02x}" for byte in content)
    return f'(data (i32.const {address}) "{escaped}")'
