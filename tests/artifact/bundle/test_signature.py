"""Signatures of bundles, as OPA makes them: what holds, and that whatever is changed, stripped or missing does not."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from capgate.artifact.bundle import read_bundle
from capgate.artifact.bundle.bundle_keys import ALGORITHMS
from capgate.errors import BundleError, SignatureInvalid
from capgate.store import WasmArtifact

from ...support.guests import guest
from ...support.packing import (
    FILES,
    MODULE,
    configured,
    pack,
    signed,
    token,
)
from .verifying import MOST, NOW, keys, reason


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm(algorithm: str) -> None:
    found = read_bundle(pack(signed(algorithm=algorithm)), MOST, keys(configured(algorithm))).bundle.signature
    assert found is not None
    assert (found.key, found.algorithm, found.scope, found.issuer, found.issued) == (
        "release",
        algorithm,
        "",
        None,
        None,
    )


def test_what_the_signer_says() -> None:
    files = signed(scope="write", iss="builder", iat=int(NOW) - 5, keyid="release", note="OPA lets one add claims")
    found = read_bundle(pack(files), MOST, keys(scope="write")).bundle
    assert found.is_signed
    signature = found.signature
    assert signature is not None
    assert (signature.scope, signature.issuer, signature.issued) == ("write", "builder", NOW - 5)


def test_without_keys_nothing_is_verified_and_nothing_said_to_be() -> None:
    found = WasmArtifact.from_bytes(pack(signed(FILES, "nonsense"))).bundle
    assert found is not None
    assert (found.is_signed, found.signature) == (True, None)


# -- A2: what is stripped or missing is not "unsigned, therefore fine"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "missing"),
        (b'{"signatures": []}', "missing"),
        (b"", "malformed"),
        (b"{}", "malformed"),
        (b"[]", "malformed"),
        (b"null", "malformed"),
        (b'{"signatures": null}', "malformed"),
        (b'{"signatures": {}}', "malformed"),
        (b'{"signatures": [5]}', "malformed"),
        (b'{"signatures": [""]}', "malformed"),
        (b'{"signatures": ["a.b"]}', "malformed"),
        (b'{"signatures": ["a.b.c.d"]}', "malformed"),
        (b'{"signatures": ["\xff"]}', "malformed"),
        (b" " * 3_000_000, "malformed"),
        (b"[" * 100_000, "malformed"),
    ],
)
def test_signature_files_that_are_none(content: bytes | None, expected: str) -> None:
    files = FILES if content is None else {**FILES, "/.signatures.json": content}
    with pytest.raises(SignatureInvalid) as caught:
        read_bundle(pack(files), 8 << 20, keys())
    assert caught.value.reason == expected


def test_one_signature_exactly() -> None:  # A5
    good = token()
    assert reason(signed(FILES, good, good)) == "malformed"
    twice = b'{"signatures": ["a"], "signatures": ["' + good.encode() + b'"]}'
    assert reason({**FILES, "/.signatures.json": twice}) == "malformed"
    plugin = json.dumps({"signatures": [good], "plugin": "custom"}).encode()
    assert reason({**FILES, "/.signatures.json": plugin}) == "malformed"


def test_a_bare_module_is_refused() -> None:  # A2
    for data in (MODULE, guest(), b"", b"\0asm"):
        with pytest.raises(SignatureInvalid) as caught:
            WasmArtifact.from_bytes(data, bundle_keys=keys())
        assert caught.value.reason == "missing"


@pytest.mark.slow
def test_every_flipped_bit_of_the_signatures_is_seen() -> None:  # A1
    files = signed()
    original = files["/.signatures.json"]
    assert read_bundle(pack(files), MOST, keys()).bundle.signature
    for position in range(len(original)):
        for bit in range(8):
            flipped = bytearray(original)
            flipped[position] ^= 1 << bit
            with pytest.raises(SignatureInvalid):
                keys().verify({name[1:]: data for name, data in {**files, "/.signatures.json": bytes(flipped)}.items()})


def test_truncated_signatures_are_refused() -> None:  # A2
    files = {name[1:]: data for name, data in signed().items()}
    original = files[".signatures.json"]
    for length in range(len(original)):
        with pytest.raises(SignatureInvalid):
            keys().verify({**files, ".signatures.json": original[:length]})


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_flipped_bit_of_a_file_is_seen_or_means_nothing(name: str) -> None:  # A1
    files = {key[1:]: data for key, data in signed().items()}
    trusted, original = keys(), FILES[name]
    for position in range(len(original)):
        flipped = bytearray(original)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(SignatureInvalid):
            trusted.verify({**files, name[1:]: bytes(flipped)})


SIGNED = pack(signed())
UNPACKED = gzip.decompress(SIGNED)


@drawn(st.lists(st.tuples(st.integers(0, len(UNPACKED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_is_changed_only_what_was_signed_runs(changes: list[tuple[int, int]]) -> None:  # A1
    """Also inside of the compression, where no checksum helps."""
    tar = bytearray(UNPACKED)
    for position, value in changes:
        tar[position] = value
        header = position - position % 512
        block = tar[header : header + 512]
        if block[257:262] == b"ustar":  # with a checksum that fits
            block[148:156] = b" " * 8
            tar[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    expected = read_bundle(SIGNED, MOST, keys())
    try:
        found = read_bundle(gzip.compress(tar, 1), MOST, keys())
    except (BundleError, SignatureInvalid):
        return
    assert (found.module, found.data, found.bundle.roots) == (expected.module, expected.data, expected.bundle.roots)
