"""Public keys as text, and the keys that a library would take and capgate does not."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate import Settings
from capgate.errors import ConfigError
from capgate.limits import MOST_KEYS
from capgate.settings.trust import load_trusted_keys
from capgate.store import KeyPair
from capgate.store.public_keys import PublicKey, parse_key, parse_key_file, parse_keys

from ..support.ed25519_points import SMALL_ORDER, P, encoded
from ..support.keys import KEYS

KEY = KEYS[0].public
L = 2**252 + 27742317777372353535851937790883648493


def line_of(raw: bytes) -> str:
    """A line which is right in everything but the key."""
    return f"capgate-ed25519 {base64.b64encode(raw).decode()} {hashlib.sha256(raw).hexdigest()[:16]}"


def test_a_line_is_read_as_it_is_written() -> None:
    assert parse_key(KEY.line) == KEY
    assert KEY.line == line_of(KEY.raw)
    assert len(KEY.id) == 16


# A3: a key without its id, or with another one, is half a configuration. A11: so a key has one id.
@pytest.mark.parametrize(
    "line",
    [
        "",
        KEY.id,
        KEY.line.rpartition(" ")[0],
        KEY.line.replace(KEY.id, KEYS[1].public.id),
        KEY.line[:-1],
        KEY.line.upper(),
        KEY.line + " ",
        " " + KEY.line,
        KEY.line + "\n",
        KEY.line + " comment",
        KEY.line.replace(" ", "  "),
        KEY.line.replace(" ", "\t"),
        KEY.line.replace("capgate-ed25519", "ssh-ed25519"),
        KEY.line.replace("capgate-ed25519", "none"),
        KEY.line.replace("=", ""),
        line_of(KEY.raw + b"\0"),
        line_of(KEY.raw[:31]),
        line_of(b""),
        KEY.line.encode(),
        None,
        7,
    ],
    ids=repr,
)
def test_another_line_is_refused(line: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_key(line, "CAPGATE_TRUSTED_KEYS")
    assert (caught.value.setting, caught.value.seen) == ("CAPGATE_TRUSTED_KEYS", line)


# A1: a key whose bits were flipped is none, or has another id.
def test_every_flipped_bit_of_a_line_is_refused() -> None:
    data = KEY.line.encode()
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(ConfigError):
                parse_key(flipped.decode("latin-1"))


# A21: OpenSSL verifies with these what nobody has signed.
@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
def test_points_of_small_order_are_refused(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        PublicKey(raw)
    with pytest.raises(ConfigError):
        parse_key(line_of(raw))


# A21: the library does take one, which is why this is looked at here.
def test_the_library_verifies_with_a_key_of_small_order() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    neutral = encoded(1)
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"anything at all")


# A21: y of the field's size and more is a second encoding of a small y.
@pytest.mark.parametrize("y", [*range(P, 2**255)])
@pytest.mark.parametrize("sign", [0, 1])
def test_encodings_that_are_not_canonical_are_refused(y: int, sign: int) -> None:
    with pytest.raises(ConfigError):
        PublicKey(encoded(y, sign))


# A21: about half of all y belong to no point.
def test_what_is_no_point_of_the_curve_is_refused() -> None:
    assert 30 < sum(is_taken(encoded(y)) for y in range(2, 100)) < 68


def is_taken(raw: bytes) -> bool:
    try:
        PublicKey(raw)
    except ConfigError:
        return False
    return True


def test_every_generated_key_is_taken() -> None:
    for _ in range(50):
        public = KeyPair.generate().public
        assert parse_key(public.line) == public


@given(st.binary(max_size=40))
def test_any_bytes_are_a_key_or_a_config_error(raw: bytes) -> None:
    try:
        key = parse_key(line_of(raw))
    except ConfigError:
        return
    assert key.raw == raw


def test_several_keys_each_once() -> None:
    lines = [pair.public.line for pair in KEYS]
    assert parse_keys(lines) == tuple(pair.public for pair in KEYS)
    for wrong in ([], lines + lines[:1], [KeyPair.generate().public.line for _ in range(MOST_KEYS + 1)]):  # A11
        with pytest.raises(ConfigError):
            parse_keys(wrong)


def test_a_file_of_keys() -> None:
    text = f"# the release key\n{KEYS[0].public.line}\n\n{KEYS[1].public.line}"
    assert parse_key_file(text.encode()) == (KEYS[0].public, KEYS[1].public)
    for wrong in (b"", b"# nothing\n", text.encode() + b"\nno key", b"\xff", text.encode("utf-16")):
        with pytest.raises(ConfigError):
            parse_key_file(wrong)


# A mistake that is easily made, and must not end in a log.
def test_a_private_key_is_not_shown(tmp_path: Path) -> None:
    pem = KEYS[0].to_pem().decode()
    secret = pem.splitlines()[1]
    path = tmp_path / "key.pem"
    path.write_text(pem)
    path.chmod(0o644)
    attempts: list[Callable[[], object]] = [
        lambda: parse_key(pem),
        lambda: Settings(artifact="x", trusted_keys=(pem,)),
        lambda: load_trusted_keys(path),
        lambda: load_trusted_keys(pem),
        lambda: load_trusted_keys(f"{pem}\0"),
        lambda: Settings.from_env({"CAPGATE_ARTIFACT": "x", "CAPGATE_TRUSTED_KEYS": f"capgate-ed25519 {pem}"}),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError) as caught:
            attempt()
        shown = "".join(traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__))
        assert secret not in shown


def test_bad_keys_are_refused_without_cryptography() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from capgate import Settings\n"
        "from capgate.errors import ConfigError\n"
        "from capgate.store import TrustedKeys\n"
        f"line = {KEY.line!r}\n"
        "for keys in ((line[:-1],), (line,)):\n"
        "    try: Settings(artifact='x', trusted_keys=keys); TrustedKeys(keys)\n"
        "    except ConfigError as error: print(error.setting)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("trusted_keys\ncryptography\n", "")
