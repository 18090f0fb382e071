"""LEB128, against an independent definition of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate.errors import DecodeError
from capgate.wasm.leb128 import TOO_LARGE, TOO_LONG, read_signed, read_unsigned, signed, unsigned

WIDTHS = st.sampled_from([1, 7, 32, 33, 64])


def value_of(encoded: bytes, *, is_signed: bool) -> int:
    """The number that LEB128 bytes stand for, whatever its width: written from the definition."""
    bits = "".join(f"{byte & 0x7F:07b}" for byte in reversed(encoded))
    number = int(bits, 2)
    return number - (1 << len(bits)) if is_signed and bits[0] == "1" else number


@given(st.integers(0, 2**64 - 1), st.binary())
def test_unsigned_round_trip(value: int, rest: bytes) -> None:
    encoded = unsigned(value)
    assert value_of(encoded, is_signed=False) == value
    assert read_unsigned(encoded + rest, 0, 64) == (value, len(encoded))


@given(st.integers(-(2**63), 2**63 - 1), st.binary())
def test_signed_round_trip(value: int, rest: bytes) -> None:
    encoded = signed(value)
    assert value_of(encoded, is_signed=True) == value
    assert read_signed(encoded + rest, 0, 64) == (value, len(encoded))


@given(st.binary(max_size=12), WIDTHS, st.booleans())
def test_any_bytes(data: bytes, bits: int, is_signed: bool) -> None:
    """Accepted exactly when the number fits ``bits`` and takes no more bytes than that many bits can."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if is_signed else (0, 2**bits)
    length = next((i + 1 for i, byte in enumerate(data) if byte < 0x80), None)
    most = -(-bits // 7)
    outcome = attempt(data, bits, is_signed)
    if length is not None and length <= most and low <= value_of(data[:length], is_signed=is_signed) < high:
        assert outcome == (value_of(data[:length], is_signed=is_signed), length)
    elif isinstance(outcome, DecodeError):
        assert outcome.reason in (TOO_LONG, TOO_LARGE)
        assert outcome.offset <= most
    else:
        assert outcome is None
        assert length is None
        assert len(data) < most


def attempt(data: bytes, bits: int, is_signed: bool) -> tuple[int, int] | DecodeError | None:
    """What was read, the refusal, or ``None`` where the data stops short."""
    try:
        return (read_signed if is_signed else read_unsigned)(data, 0, bits)
    except DecodeError as error:
        return error
    except IndexError:
        return None


def test_unsigned_of_a_negative_number() -> None:
    with pytest.raises(ValueError, match="-1"):
        unsigned(-1)
