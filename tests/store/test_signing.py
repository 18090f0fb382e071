"""Signatures: one algorithm, one format, keys from settings and nowhere else, and each of them counts once."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from capgate.errors import ConfigError, SignatureInvalid
from capgate.limits import MOST_KEYS
from capgate.store import KeyPair, TrustedKeys
from capgate.store.signing import DOMAIN, SIGNATURE_BYTES, Signature, SignatureFile, format_signatures, parse_signatures

from ..support.keys import KEYS, Made, trust
from .test_public_keys import L, is_taken

MADE = Made(keys=KEYS[:2])
A, B, C = (pair.public.id for pair in KEYS)


def refused(keys: TrustedKeys, manifest: bytes, signatures: bytes | None) -> str:
    with pytest.raises(SignatureInvalid) as caught:
        keys.verify(manifest, signatures, path="here")
    assert caught.value.path == "here"
    return caught.value.reason


def file_of(*signatures: tuple[str, bytes], **more: Any) -> bytes:
    listed = [{"key": key, "signature": base64.b64encode(raw).decode()} for key, raw in signatures]
    return json.dumps({"format": 1, "signatures": listed, **more}, indent=2, sort_keys=True).encode() + b"\n"


def raw(number: int) -> bytes:
    return KEYS[number].sign(MADE.manifest).signature


def test_what_was_signed_verifies() -> None:
    assert trust(KEYS[0]).verify(MADE.manifest, MADE.signatures) == (A,)
    assert sorted(trust(*KEYS).verify(MADE.manifest, MADE.signatures)) == sorted((A, B))
    assert file_of(*sorted([(A, raw(0)), (B, raw(1))])) == MADE.signatures


# A1: both signatures are by trusted keys, so each bit counts.
@pytest.mark.parametrize("threshold", [1, 2])
def test_every_flipped_bit_of_the_signatures_is_refused(threshold: int) -> None:
    keys = trust(KEYS[0], KEYS[1], threshold=threshold)
    for position in range(len(MADE.signatures)):
        for bit in range(8):
            flipped = bytearray(MADE.signatures)
            flipped[position] ^= 1 << bit
            try:
                signers = keys.verify(MADE.manifest, bytes(flipped))
            except SignatureInvalid:
                continue
            # A bit of an id makes the other key the only one that has signed: with a threshold of 1 that is enough.
            assert threshold == 1
            assert len(signers) == 1


# A1, A5: all of the manifest is signed, and nothing but it.
@pytest.mark.slow
def test_every_flipped_bit_of_the_manifest_is_refused() -> None:
    keys = trust(KEYS[0])
    for position in range(len(MADE.manifest)):
        for bit in range(8):
            flipped = bytearray(MADE.manifest)
            flipped[position] ^= 1 << bit
            assert refused(keys, bytes(flipped), MADE.signatures) == "forged"


# A1, A2
def test_truncated_at_every_length_is_refused() -> None:
    keys = trust(KEYS[0])
    for length in range(len(MADE.signatures)):
        assert refused(keys, MADE.manifest, MADE.signatures[:length]) == "malformed"
    for length in range(len(MADE.manifest)):
        assert refused(keys, MADE.manifest[:length], MADE.signatures) == "forged"


# A2
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "missing"),
        (b"", "malformed"),
        (b" ", "malformed"),
        (b"null", "malformed"),
        (b"{}", "malformed"),
        (b"[]", "malformed"),
        (b"\xff\xfe{}", "malformed"),
        (b"\xef\xbb\xbf" + MADE.signatures, "malformed"),
        (MADE.signatures + b"\n", "malformed"),
        (MADE.signatures + MADE.signatures, "malformed"),
        (MADE.signatures.replace(b"\n", b"\r\n"), "malformed"),
        (MADE.signatures.replace(b"  ", b" "), "malformed"),
        (b'{"format":1,"signatures":[]}', "malformed"),
        (file_of(), "malformed"),
        (MADE.signatures.replace(b'"format": 1', b'"format": 1,\n  "format": 1'), "malformed"),  # a key twice
        (MADE.signatures.replace(b'"format": 1', b'"format": 2'), "malformed"),
        (MADE.signatures.replace(b'"format": 1', b'"format": 1.0'), "malformed"),
        (MADE.signatures.replace(b'"format": 1', b'"format": "1"'), "malformed"),
        (MADE.signatures.replace(b'"format": 1', b'"format": true'), "malformed"),
        (file_of((A, raw(0)), algorithm="none"), "malformed"),  # A5
        (file_of((A, raw(0)), publicKey=KEYS[0].public.line), "malformed"),  # A4
        (file_of((A, b"")), "malformed"),
        (file_of((A, raw(0)[:63])), "malformed"),  # A21
        (file_of((A, raw(0) + b"\0")), "malformed"),  # A21
        (file_of((A.upper(), raw(0))), "malformed"),
        (file_of((A[:15], raw(0))), "malformed"),
        (file_of(("", raw(0))), "malformed"),
        (file_of((KEYS[0].public.line, raw(0))), "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"signatures":' * 10_000, "malformed"),
        (b" " * (SIGNATURE_BYTES + 1), "malformed"),  # A18
        (MADE.manifest, "malformed"),
    ],
)
def test_a_file_that_is_none_is_refused(data: bytes | None, reason: str) -> None:
    assert refused(trust(KEYS[0]), MADE.manifest, data) == reason


# A2: in base64 the last digit before the padding has bits that mean nothing; only one spelling is taken.
def test_the_idle_bits_of_base64_are_not_free() -> None:
    data = file_of((A, raw(0)))
    text = base64.b64encode(raw(0)).decode()
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = digits.index(text[-3])
    for other in range(last + 1, last + 16 - last % 16):
        changed = text[:-3] + digits[other] + "=="
        assert base64.b64decode(changed) == raw(0)
        assert refused(trust(KEYS[0]), MADE.manifest, data.replace(text.encode(), changed.encode())) == "malformed"


# A4: whoever signs with a key of theirs has signed with nothing.
def test_only_configured_keys_count() -> None:
    stranger = KeyPair.generate()
    signatures = format_signatures([stranger.sign(MADE.manifest)])
    assert refused(trust(KEYS[0]), MADE.manifest, signatures) == "threshold"
    both = format_signatures([stranger.sign(MADE.manifest), KEYS[0].sign(MADE.manifest)])
    assert trust(KEYS[0]).verify(MADE.manifest, both) == (A,)


# A4: an id is a label, and does not make a signature.
def test_keys_swapped() -> None:
    assert refused(trust(KEYS[0]), MADE.manifest, file_of((A, raw(1)))) == "forged"
    assert refused(trust(KEYS[0]), MADE.manifest, file_of((B, raw(0)))) == "threshold"
    swapped = file_of(*sorted([(A, raw(1)), (B, raw(0))]))
    assert refused(trust(KEYS[0], KEYS[1]), MADE.manifest, swapped) == "forged"


def test_one_bad_signature_by_a_trusted_key_spoils_the_file() -> None:
    one_bad = file_of(*sorted([(A, raw(0)), (B, bytes(64))]))
    assert refused(trust(KEYS[0], KEYS[1]), MADE.manifest, one_bad) == "forged"
    assert trust(KEYS[0]).verify(MADE.manifest, one_bad) == (A,)


# A5: one domain, and so one meaning.
@pytest.mark.parametrize(
    "message", [MADE.manifest, DOMAIN[:-1] + MADE.manifest, b"capgate-manifest-v2\0" + MADE.manifest, b""]
)
def test_a_signature_of_something_like_the_manifest_is_none(message: bytes) -> None:
    signature = KEYS[0]._private.sign(message)
    assert refused(trust(KEYS[0]), MADE.manifest, file_of((A, signature))) == "forged"


class TestThreshold:
    # A11
    def test_two_of_three(self) -> None:
        keys = trust(*KEYS, threshold=2)
        for first, second in ((0, 1), (0, 2), (1, 2)):
            signatures = format_signatures([KEYS[first].sign(MADE.manifest), KEYS[second].sign(MADE.manifest)])
            assert len(keys.verify(MADE.manifest, signatures)) == 2
        for one in range(3):
            assert refused(keys, MADE.manifest, format_signatures([KEYS[one].sign(MADE.manifest)])) == "threshold"

    def test_one_key_twice_is_malformed(self) -> None:
        twice = file_of((A, raw(0)), (A, raw(0)))
        assert refused(trust(*KEYS, threshold=2), MADE.manifest, twice) == "malformed"
        assert refused(trust(KEYS[0]), MADE.manifest, twice) == "malformed"

    def test_one_key_under_two_ids_counts_once(self) -> None:
        two = file_of(*sorted([(A, raw(0)), (B, raw(0))]))
        assert refused(trust(*KEYS, threshold=2), MADE.manifest, two) == "forged"
        alias = file_of(*sorted([(A, raw(0)), ("0" * 16, raw(0))]))
        assert refused(trust(*KEYS, threshold=2), MADE.manifest, alias) == "threshold"

    def test_a_key_that_is_no_longer_trusted_does_not_count(self) -> None:
        signatures = format_signatures([KEYS[0].sign(MADE.manifest), KEYS[2].sign(MADE.manifest)])
        assert refused(trust(KEYS[0], KEYS[1], threshold=2), MADE.manifest, signatures) == "threshold"

    def test_says_who_did_sign(self) -> None:
        with pytest.raises(SignatureInvalid) as caught:
            trust(*KEYS, threshold=3).verify(MADE.manifest, MADE.signatures)
        assert (set(caught.value.signers), caught.value.threshold) == ({A, B}, 3)

    @pytest.mark.parametrize("threshold", [0, -1, 3, True, 1.0, "1", None])
    def test_one_that_cannot_be_reached_or_is_none(self, threshold: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            TrustedKeys([KEYS[0].public, KEYS[1].public], threshold)
        assert caught.value.setting == "signature_threshold"

    def test_the_same_key_twice_in_settings(self) -> None:
        with pytest.raises(ConfigError) as caught:
            TrustedKeys([KEYS[0].public, KEYS[0].public.line], 2)
        assert caught.value.setting == "trusted_keys"

    def test_no_keys_is_no_configuration(self) -> None:
        with pytest.raises(ConfigError):
            TrustedKeys([])


# A12: the settings of the change are both keys with a threshold of 2.
def test_a_key_is_replaced_by_signing_with_both() -> None:
    old, new = KEYS[0], KEYS[1]
    by_old, by_new, by_both = (
        format_signatures([pair.sign(MADE.manifest) for pair in pairs]) for pairs in ([old], [new], [old, new])
    )
    during = trust(old, new, threshold=2)
    assert refused(during, MADE.manifest, by_old) == "threshold"
    assert refused(during, MADE.manifest, by_new) == "threshold"
    assert len(during.verify(MADE.manifest, by_both)) == 2
    before, after = trust(old), trust(new)
    assert before.verify(MADE.manifest, by_both) == (old.public.id,)
    assert after.verify(MADE.manifest, by_both) == (new.public.id,)
    assert refused(after, MADE.manifest, by_old) == "threshold"


# A21: the same point, with S as it may not be written.
def test_s_above_the_order_is_refused() -> None:
    signature = raw(0)
    s = int.from_bytes(signature[32:], "little")
    for multiple in range(1, 15):
        changed = signature[:32] + (s + multiple * L).to_bytes(32, "little")
        assert refused(trust(KEYS[0]), MADE.manifest, file_of((A, changed))) == "forged"


# A21: the same point as R, encoded in another way or with the other sign, and R of small order.
def test_other_spellings_of_r_are_refused() -> None:
    signature = raw(0)
    flipped = bytes([*signature[:31], signature[31] ^ 0x80, *signature[32:]])
    for changed in (
        flipped,
        bytes(32) + signature[32:],
        b"\1" + bytes(31) + signature[32:],
        b"\xff" * 32 + signature[32:],
    ):
        assert refused(trust(KEYS[0]), MADE.manifest, file_of((A, changed))) == "forged"


#: From "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko 2020), github.com/novifinancial/ed25519-speccheck,
#: cases.json: public keys for which libraries disagree, by the number of the case.
CONTESTED_KEYS = {
    0: "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    2: "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
    3: "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
    6: "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
}


# A21
def test_contested_keys() -> None:
    taken = {number: is_taken(bytes.fromhex(key)) for number, key in CONTESTED_KEYS.items()}
    # 0 is of small order. In the cases of 2 it is R that is; 3 and 6 are of mixed order, which is their owner's affair.
    assert taken == {0: False, 2: True, 3: True, 6: True}


class TestKeyPair:
    def test_through_pem_and_back(self) -> None:
        for passphrase in (None, b"correct horse"):
            again = KeyPair.from_pem(KEYS[0].to_pem(passphrase), passphrase)
            assert again.public == KEYS[0].public
            assert again.sign(b"x") == KEYS[0].sign(b"x")
        assert b"ENCRYPTED" in KEYS[0].to_pem(b"correct horse")

    def test_shows_nothing_private(self) -> None:
        assert repr(KEYS[0]) == f"KeyPair({KEYS[0].public.line!r})"

    # A5
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n",
            KEYS[0].public.line.encode(),
            ed448.Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            KEYS[0]._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
        ],
        ids=["empty", "cut off", "public", "ed448", "ecdsa", "encrypted"],
    )
    def test_another_file_is_refused(self, data: bytes) -> None:
        with pytest.raises(ConfigError) as caught:
            KeyPair.from_pem(data, path="release.pem")
        assert (caught.value.setting, caught.value.seen) == ("key", "release.pem")

    def test_a_wrong_passphrase_is_refused(self) -> None:
        for data, passphrase in ((KEYS[0].to_pem(b"right"), b"wrong"), (KEYS[0].to_pem(), b"not needed")):
            with pytest.raises(ConfigError):
                KeyPair.from_pem(data, passphrase)


def test_signatures_are_bounded() -> None:
    many = [Signature(f"{number:016x}", bytes(64)) for number in range(MOST_KEYS)]
    assert len(parse_signatures(format_signatures(many))) == MOST_KEYS
    assert len(format_signatures(many)) < SIGNATURE_BYTES
    with pytest.raises(ValueError, match="signatures"):
        format_signatures([*many, Signature("f" * 16, bytes(64))])
    with pytest.raises(ValueError, match="signatures"):
        format_signatures([])


@given(
    st.binary(max_size=300),
    st.lists(st.tuples(st.text("0123456789abcdef", min_size=15, max_size=17), st.binary(max_size=66)), max_size=3),
)
def test_any_bytes_are_refused_and_nothing_else_is_raised(data: bytes, listed: list[tuple[str, bytes]]) -> None:
    keys = trust(KEYS[0])
    for candidate in (data, file_of(*listed), MADE.signatures + data[1:], data):
        if candidate != MADE.signatures:
            refused(keys, MADE.manifest, candidate)


def test_the_file_is_what_msgspec_reads_too() -> None:
    file = msgspec.json.decode(MADE.signatures, type=SignatureFile)
    assert file.signatures == parse_signatures(MADE.signatures)
