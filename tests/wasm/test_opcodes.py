"""The opcode table, against an assembler and a validator that know nothing of it."""

from __future__ import annotations

import pytest

from capgate.errors import DecodeError
from capgate.wasm import decode
from capgate.wasm.leb128 import unsigned
from capgate.wasm.module import FuncType
from capgate.wasm.opcodes import FEATURES, IMMEDIATES, OPCODES, Opcode, describe

from .wat import compile_wat, is_valid

ALLOWED = [row for row in OPCODES.values() if row.allowed]
PLAIN = [row for row in ALLOWED if row.operands is not None]
TYPES = {"i": "i32", "I": "i64", "f": "f32", "F": "f64", "r": "funcref"}
IMMEDIATE_TEXT = {
    "i32": "5",
    "i64": "5",
    "f32": "5",
    "f64": "5",
    "ref": "func",
    "func": "$f",
    "table": "$t",
    "tables": "$t $t",
    "data": "$d",
    "init": "$d",
    "elem": "$e",
    "eleminit": "$t $e",
}
FUNCTION_HEADER = b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0"


def encoded(row: Opcode) -> bytes:
    return bytes([row.code]) if row.code < 0x100 else bytes([row.code >> 8]) + unsigned(row.code & 0xFF)


@pytest.mark.slow
@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_name_number_immediates_and_effect(row: Opcode) -> None:
    """The assembler turns the name into this opcode, and the validator finds exactly these operands and results."""
    operands, results = row.operands or "", row.results or ""
    text = f"""(module (memory 1) (table $t 1 funcref) (elem $e func) (data $d "x")
      (func $f (export "f") (param {" ".join(TYPES[letter] for letter in operands)})
               (result {" ".join(TYPES[letter] for letter in results)})
        {" ".join(f"local.get {i}" for i in range(len(operands)))}
        {row.name} {IMMEDIATE_TEXT.get(row.immediates, "")}))"""
    data = compile_wat(text)
    assert is_valid(data)
    module = decode(data)
    body = module.code[0]
    code = module.source[body.start : body.end]
    assert code[2 * len(operands) :].startswith(encoded(row))
    assert isinstance(module.function_type(0), FuncType)


def test_every_byte_is_in_the_table_or_illegal() -> None:
    for byte in range(256):
        if byte in OPCODES or byte == 0xFC:
            continue
        assert reason_of(bytes([byte])) == "illegal opcode"


@pytest.mark.parametrize("row", [row for row in OPCODES.values() if not row.allowed], ids=lambda row: row.name)
def test_other_proposals_are_not_decoded(row: Opcode) -> None:
    """# G25"""
    assert reason_of(encoded(row)) == "illegal opcode"
    assert row.name in describe(row.code)
    assert row.feature in describe(row.code)


def reason_of(instruction: bytes) -> str:
    body = b"\0" + instruction + bytes(20) + b"\x0b"
    code = b"\1" + unsigned(len(body)) + body
    with pytest.raises(DecodeError) as caught:
        decode(FUNCTION_HEADER + b"\x0a" + unsigned(len(code)) + code)
    return caught.value.reason


def test_the_table_is_consistent() -> None:
    assert {row.immediates for row in OPCODES.values()} == set(IMMEDIATES)
    assert {row.feature for row in ALLOWED} <= FEATURES
    assert all(row.immediates != "?" for row in ALLOWED)
    assert len({row.name for row in OPCODES.values()}) == len(OPCODES)
    assert all((row.operands is None) == (row.results is None) for row in OPCODES.values())


def test_an_unknown_opcode_has_a_description() -> None:
    assert "0x27" in describe(0x27)
    assert "simd" in describe(0xFD0C)
