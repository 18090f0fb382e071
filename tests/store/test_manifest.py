"""Manifests: one canonical form, every field checked, and what has to agree before a policy is used."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate.actions import VOCABULARY, Vocabulary
from capgate.errors import ManifestError
from capgate.limits import FUEL, OF_WAITING, REGO_FUEL, Limits
from capgate.model import Entrypoint
from capgate.runtime.abi.canonical_abi import PLAIN, WITH_FACTS
from capgate.store import Audience, Manifest
from capgate.store.manifest import CLOCK_SKEW, HIGHEST_VERSION, LIMITS, MANIFEST_BYTES, check_audience, check_time

from ..support.guests import artifact, guest
from ..support.keys import DAY, NOW, Clock, Made, verifier

#: That of now. Applications whose tests are collected afterwards register actions of their own.
POLICY_HASH = VOCABULARY.policy_hash()
MADE = Made(
    7,
    label="2024-10",
    expires=NOW + 90 * DAY,
    environment=("prod", "test"),
    service="orders-api",
    inputs=("action", "resource"),
    limits={"fuel": 1_000_000},
    policy_hash=POLICY_HASH,
)
MANIFEST = MADE.parsed


def test_the_file_is_for_people_too() -> None:
    assert json.loads(MADE.manifest) == {
        "abi": "capgate:policy@0.1.0",
        "created": "2024-10-01T12:00:00Z",
        "entrypoint": None,
        "environment": ["prod", "test"],
        "expires": "2024-12-30T12:00:00Z",
        "format": 1,
        "inputs": ["action", "resource"],
        "label": "2024-10",
        "limits": {"fuel": 1_000_000},
        "name": "orders",
        "policyHash": POLICY_HASH,
        "service": "orders-api",
        "sha256": MANIFEST.sha256,
        "version": 7,
    }
    assert Manifest.from_bytes(MADE.manifest) == MANIFEST
    assert MADE.manifest == json.dumps(json.loads(MADE.manifest), indent=2, sort_keys=True).encode() + b"\n"


def test_fixtures_are_named_only_where_there_are_some() -> None:
    """A manifest of the time before there were any is one as before."""
    assert MANIFEST.fixtures is None
    assert b"fixtures" not in MADE.manifest
    named = msgspec.structs.replace(MANIFEST, fixtures="0" * 64)
    assert json.loads(named.to_bytes())["fixtures"] == "0" * 64
    assert Manifest.from_bytes(named.to_bytes()) == named


# A1, A2: whatever a flipped bit gives, it is no manifest, or another one in its canonical form.
def test_every_flipped_bit_is_seen() -> None:
    for position in range(len(MADE.manifest)):
        for bit in range(8):
            flipped = bytearray(MADE.manifest)
            flipped[position] ^= 1 << bit
            try:
                parsed = Manifest.from_bytes(bytes(flipped))
            except ManifestError:
                continue
            assert parsed != MANIFEST
            assert parsed.to_bytes() == flipped


def test_truncated_at_every_length_is_refused() -> None:
    for length in range(len(MADE.manifest)):
        with pytest.raises(ManifestError):
            Manifest.from_bytes(MADE.manifest[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b"\xef\xbb\xbf" + MADE.manifest,
        MADE.manifest + b"\n",
        MADE.manifest + b"\0",
        MADE.manifest.replace(b"\n", b"\r\n"),
        MADE.manifest.replace(b'"version": 7', b'"version": 7,\n  "version": 8'),  # a key twice
        MADE.manifest.replace(b'"version": 7', b'"version": 7.0'),
        MADE.manifest.replace(b'"version": 7', b'"version": 07'),
        MADE.manifest.replace(b'"version": 7', b'"version": 7e0'),
        MADE.manifest.replace(b'"name": "orders"', b'"name": "\\u006frders"'),
        MADE.manifest.replace(b'"format": 1,', b'"extra": 1,\n  "format": 1,'),
        MADE.manifest.replace(b'  "service": "orders-api",\n', b""),
        MADE.manifest.replace(b'  "format": 1', b'  "fixtures": null,\n  "format": 1'),
        MADE.manifest.replace(b"T12:00:00Z", b"T12:00:00+00:00"),
        MADE.manifest.replace(b"T12:00:00Z", b"T12:00:00.0Z"),
        MADE.manifest.replace(b"2024-10-01T12:00:00Z", b"2024-10-01 12:00:00Z"),
        json.dumps(json.loads(MADE.manifest), sort_keys=True).encode(),
        msgspec.json.encode(MANIFEST),
        b"[" * MANIFEST_BYTES,
        b'{"abi":' * 5_000,
        b" " * (MANIFEST_BYTES + 1),  # A18
    ],
)
def test_another_form_is_refused(data: bytes) -> None:
    assert data != MADE.manifest
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(data, path="manifest.json")
    assert caught.value.path == "manifest.json"


@pytest.mark.parametrize(
    ("field", "spelled", "values"),
    [
        ("format", "format", [0, 2, True, "1", None]),
        ("name", "name", ["", "..", "a/b", "/a", "a\0b", "a" * 65, " a", "\u00e9", "a\n", None, 7]),  # A17
        ("version", "version", [0, -1, HIGHEST_VERSION + 1, True, 1.0, "1", None]),
        ("label", "label", ["\n", "x" * 257, "\u202e", "\ud800", None, 7]),
        ("abi", "abi", ["", "A", "a b", "x" * 65, None]),
        (
            "entrypoint",
            "entrypoint",
            [
                "orders/allow",
                {"name": "orders/allow"},
                Entrypoint(),  # of capgate's own interface, which has none
                Entrypoint("orders/allow"),
                *(Entrypoint(name) for name in ("", "\n", "x" * 257)),
            ],
        ),
        ("sha256", "sha256", ["", MANIFEST.sha256.upper(), MANIFEST.sha256[:63], MANIFEST.sha256 + "\n", None]),  # A22
        ("fixtures", "fixtures", ["", "0" * 63, "A" * 64, "0" * 64 + "\n", 7]),  # A22
        ("policy_hash", "policyHash", ["", "0" * 63, "A" * 64, 7]),
        ("inputs", "inputs", [(), ("resource", "action"), ("action", "action"), ("colour",), ["action"], "action"]),
        (
            "limits",
            "limits",
            [
                {"fuel": 1},
                {"fuel": 10**12},
                {"fuel": True},
                {"fuel": 1e6},
                {"deadline": 1},
                {"waiters": 1},
                {"body_seconds": 1},
                {"actor_seconds": 1},
                {"x": 1},
                None,
            ],
        ),
        (
            "created",
            "created",
            [
                NOW.replace(tzinfo=None),
                NOW.replace(microsecond=1),
                NOW.astimezone(timezone(timedelta(hours=1))),
                datetime(1970, 1, 1, tzinfo=timezone.utc),
                "2024-10-01T12:00:00Z",
                None,
            ],
        ),
        ("expires", "expires", [NOW, NOW - DAY, NOW.replace(tzinfo=None), "never"]),
        (
            "environment",
            "environment",
            [(), ("test", "prod"), ("prod", "prod"), ("",), ("a\n",), ["prod"], "prod", (7,)],
        ),
        ("service", "service", ["", "\n", "x" * 257, 7]),
    ],
)
def test_every_field_is_checked_by_name(field: str, spelled: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ManifestError) as caught:
            msgspec.structs.replace(MANIFEST, **{field: value})
        assert caught.value.field == spelled, value


def test_there_is_a_case_for_every_field() -> None:
    marks = test_every_field_is_checked_by_name.pytestmark  # what parametrize leaves
    assert {case[0] for case in marks[0].args[1]} == set(Manifest.__struct_fields__)


def test_a_field_that_is_wrong_in_a_file_is_named_with_its_path() -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(MADE.manifest.replace(b'"version": 7', b'"version": 0'), path="manifest.json")
    assert (caught.value.field, caught.value.path) == ("version", "manifest.json")


def test_the_limits_that_it_may_ask_for() -> None:
    assert set(LIMITS) == set(Limits.__struct_fields__) - OF_WAITING


@given(st.binary(max_size=400))
def test_any_bytes_are_a_manifest_or_a_manifest_error(data: bytes) -> None:
    for candidate in (data, MADE.manifest[: len(data)] + data, MADE.manifest + data):
        try:
            parsed = Manifest.from_bytes(candidate)
        except ManifestError:
            continue
        assert parsed.to_bytes() == candidate


class TestAudience:
    def refused(self, manifest: Manifest = MANIFEST, **audience: Any) -> str | None:
        with pytest.raises(ManifestError) as caught:
            check_audience(manifest, Audience(**audience), path="manifest.json")
        assert caught.value.path == "manifest.json"
        return caught.value.field

    def test_who_says_nothing_is_not_asked(self) -> None:
        check_audience(MANIFEST, Audience())

    # A6, A7
    def test_what_it_is_for(self) -> None:
        check_audience(
            MANIFEST,
            Audience(name="orders", mode="test", service="orders-api", policy_hash=POLICY_HASH, limits=Limits()),
        )
        assert self.refused(name="Orders") == "name"
        assert self.refused(mode="dev") == "environment"
        assert self.refused(service="billing") == "service"

    def test_what_is_for_everybody(self) -> None:
        anywhere = Made().parsed
        check_audience(
            anywhere, Audience(name="orders", mode="dev", service="x", policy_hash="0" * 64, limits=Limits())
        )

    def test_another_vocabulary(self) -> None:
        own = Vocabulary()
        own.register("invoice.send")
        assert self.refused(policy_hash=own.policy_hash()) == "policyHash"

    def test_a_runtime_with_too_little(self) -> None:
        check_audience(MANIFEST, Audience(limits=Limits(fuel=1_000_000)))
        assert self.refused(limits=Limits(fuel=999_999)) == "limits.fuel"

    def test_a_runtime_with_the_fuel_of_its_kind_of_module(self) -> None:
        rego = msgspec.structs.replace(
            MANIFEST, abi="opa:wasm@1", entrypoint=Entrypoint("orders/allow"), limits={"fuel": REGO_FUEL}
        )
        check_audience(rego, Audience(limits=Limits()))
        assert self.refused(rego, limits=Limits(fuel=REGO_FUEL - 1)) == "limits.fuel"
        check_audience(MANIFEST, Audience(limits=Limits()))
        assert (
            self.refused(msgspec.structs.replace(MANIFEST, limits={"fuel": FUEL + 1}), limits=Limits()) == "limits.fuel"
        )

    # A6
    def test_an_interface_that_does_not_exist_here(self) -> None:
        for interface in (PLAIN, WITH_FACTS):
            made = Manifest.describing(
                artifact(guest(interface=interface)), version=1, created=MANIFEST.created, name="x"
            )
            assert made.abi == interface.name.replace("/policy", "")
            check_audience(made, Audience())
        for abi in ("opa-1.2", "capgate:policy@0.3.0"):
            assert self.refused(msgspec.structs.replace(MANIFEST, abi=abi)) == "abi"


class TestTime:
    # A10
    def refused(self, now: float) -> str | None:
        with pytest.raises(ManifestError) as caught:
            check_time(MANIFEST, now)
        return caught.value.field

    def test_from_creation_to_expiry(self) -> None:
        created, expires = NOW.timestamp(), (NOW + 90 * DAY).timestamp()
        for now in (created - CLOCK_SKEW, created, expires - 0.001):
            check_time(MANIFEST, now)
        for now in (expires, expires + 1, 1e18, float("inf")):
            assert self.refused(now) == "expires"
        for now in (created - CLOCK_SKEW - 1, 0.0, float("-inf"), float("nan")):  # set back
            assert self.refused(now) == "created"

    def test_without_expiry(self) -> None:
        check_time(Made().parsed, 1e12)

    def test_it_is_judged_by_the_time_that_it_is(self) -> None:  # S-1
        clock = Clock()
        made = Made(1, expires=NOW + 90 * DAY)
        verifying = verifier(clock=clock)
        for clock.now, refused in ((NOW, False), (NOW + 91 * DAY, True), (NOW, False), (NOW - DAY, True), (NOW, False)):
            if refused:
                with pytest.raises(ManifestError):
                    verifying.manifest(*made.files[1:3])
            else:
                assert verifying.manifest(*made.files[1:3])[0] == made.parsed
