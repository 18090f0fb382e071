"""A signature covers every file of a bundle, by bytes or by value, and is looked at before anything in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from capgate.artifact.bundle import read_bundle
from capgate.artifact.bundle.contents import DATA_BYTES
from capgate.errors import BundleError

from ...support.guests import guest
from ...support.packing import (
    FILES,
    KEYS,
    listed,
    manifest,
    pack,
    signed,
    token,
    with_files,
)
from .verifying import MOST, keys, reason, with_token


def test_every_file_is_covered_and_nothing_else() -> None:  # A2, A6, A13
    good = token()
    assert reason({**with_token(good), "/extra.rego": b""}) == "files"
    assert reason({**with_token(good), "/orders/data.json": b"{}"}) == "files"
    for name in ("data", "manifest", "module", "rego"):
        assert (
            reason({**with_files(**{name: None}), "/.signatures.json": with_token(good)["/.signatures.json"]})
            == "files"
        )
    for name, other in (
        ("manifest", manifest(revision="2026-12")),
        ("data", b'{"orders": {"admins": ["mallory"]}}'),
        ("module", guest()),
        ("rego", b"package orders\n\nallow := true\n"),
    ):
        files = {**with_files(**{name: other}), "/.signatures.json": with_token(good)["/.signatures.json"]}
        assert reason(files) == "files"


def test_only_the_value_of_structured_files_counts() -> None:
    spaced = json.dumps(json.loads(FILES["/data.json"]), indent=8).encode()
    files = {**with_files(data=spaced), "/.signatures.json": with_token(token())["/.signatures.json"]}
    assert read_bundle(pack(files), MOST, keys()).bundle.signature is not None
    renamed = {"/notes.json": b'{"a": 1}', **FILES}
    files = {**renamed, "/notes.json": b'{"a":1}', "/.signatures.json": signed(renamed)["/.signatures.json"]}
    assert reason(files) == "files"


def test_of_yaml_the_value_counts_too() -> None:  # P-15
    """OPA hashes ``data.yaml`` as it hashes ``data.json``; a file that it does not take for data, by its bytes."""
    value = {"admins": ["ana", "b\u00f6"], "limit": 100, "share": 0.25, "none": None}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    listing = [
        *listed(FILES),
        {"name": "orders/eu/data.yaml", "hash": hashlib.sha256(text).hexdigest(), "algorithm": "SHA-256"},
    ]
    written = b"share: 0.25\nlimit: 100 # a comment\nnone:\nadmins:\n  - ana\n  - 'b\xc3\xb6'\n"
    for content in (text, written):
        files = {**FILES, "/orders/eu/data.yaml": content, **claims(listing)}
        found = read_bundle(pack(files), MOST, keys())
        assert found.bundle.signature is not None
        assert json.loads(found.data)["orders"]["eu"] == value
    for other in (written.replace(b"100", b"101"), b"", b"- 1"):
        assert reason({**FILES, "/orders/eu/data.yaml": other, **claims(listing)}) == "files"
    assert reason({**FILES, "/orders/eu/data.yaml": b"limit: 1_00", **claims(listing)}) == "malformed"
    moved = [*listed(FILES), {**listing[-1], "name": "orders/eu/other.yaml"}]
    assert reason({**FILES, "/orders/eu/other.yaml": written, **claims(moved)}) == "files"


def claims(files: list[Any]) -> dict[str, bytes]:
    return with_token(
        jwt.PyJWS().encode(json.dumps({"files": files}).encode(), KEYS["ES256"], "ES256", {"kid": "release"})
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda files: [], "files"),
        (lambda files: [*files, files[0]], "files"),
        (lambda files: [*files, {**files[0], "name": "more"}], "files"),
        (lambda files: [*files[1:], {**files[0], "name": "/data.json"}], "files"),
        (lambda files: [*files, {**files[0], "name": ".signatures.json"}], "files"),
        (lambda files: [*files[1:], {**files[0], "hash": files[0]["hash"].upper()}], "files"),
        (lambda files: [*files[1:], {**files[0], "hash": ""}], "files"),
        (lambda files: [*files[1:], {**files[0], "algorithm": "MD5"}], "algorithm"),
        (lambda files: [*files[1:], {**files[0], "algorithm": "SHA-1"}], "algorithm"),
        (lambda files: [*files[1:], {**files[0], "algorithm": "sha-256"}], "algorithm"),
        (lambda files: [*files[1:], {**files[0], "algorithm": ""}], "algorithm"),
        (lambda files: [*files[1:], {**files[0], "algorithm": "SHA-512"}], "files"),
        (lambda files: [*files[1:], {"name": files[0]["name"], "hash": files[0]["hash"]}], "malformed"),
        (lambda files: [*files[1:], {**files[0], "size": 1}], "malformed"),
        (lambda files: "data.json", "malformed"),
        (lambda files: None, "malformed"),
    ],
)
def test_lists_of_files(change: Callable[[Any], Any], expected: str) -> None:
    assert reason(claims(change(listed(FILES)))) == expected


def test_nothing_is_read_before_the_signature_holds() -> None:
    """What is wrong with the rest of a bundle is nobody's business until it is known who made it."""
    assert reason(with_files(manifest=b"no JSON")) == "missing"
    assert reason({**FILES, "/data.yaml": b""}) == "missing"
    with pytest.raises(BundleError):
        read_bundle(pack(signed(with_files(manifest=manifest(roots=["other"])))), MOST, keys())


def test_what_replaces_a_file_that_is_signed_chooses_no_work() -> None:  # A18
    """Of structured files the value is hashed. Who cannot sign may still put another one in place of one that was."""
    nested = b"[" + b"[]," * (DATA_BYTES // 3) + b"0]"
    for name in ("/data.json", "/orders/data.json", "/.manifest", "/orders/.manifest"):
        files = {**FILES, name: FILES.get(name, b"{}")}
        with pytest.raises(BundleError) as caught:
            read_bundle(pack({**signed(files), name: nested}), 1 << 26, keys())
        assert caught.value.reason == "size"
    both = {"/data.json": nested[: DATA_BYTES - 100], "/orders/data.json": nested[:200]}
    with pytest.raises(BundleError) as caught:
        read_bundle(pack({**signed(), **both}), 1 << 26, keys())
    assert caught.value.reason == "size"
