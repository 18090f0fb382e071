"""The golden fixtures of a release: one signed file, kept beside the manifest and read before it is activated."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate import Allow, Deny, PolicyInput, Resource, User
from capgate.errors import ArtifactError, DigestMismatch, FixturesFailed, ManifestError, StoreError
from capgate.model import canonical
from capgate.store import PolicyStore, StoreReader, VerifiedPolicy
from capgate.store.release_fixtures import FIXTURES_BYTES, Fixture, fixtures_of, format_fixtures, parse_fixtures
from capgate.store.signing import format_signatures

from ..runtime.abi.inputs import INPUTS
from ..support.keys import GOLDEN, KEYS, NOW, Clock, Made, released, store_at, verifier
from .states import refused, snapshot

FILE = format_fixtures(GOLDEN)
MADE = Made(2, fixtures=GOLDEN)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> PolicyStore:
    """Version 1 is active, and was released without fixtures, as was usual once."""
    store = store_at(path)
    store.publish(*Made(1).files)
    store.activate("orders", 1)
    return store


def in_store(path: Path) -> Path:
    return path / "sha256" / MADE.digest / "fixtures.json"


def not_fixtures(data: bytes) -> str | None:
    with pytest.raises(ManifestError) as caught:
        parse_fixtures(data, path="fixtures.json")
    assert caught.value.path == "fixtures.json"
    return caught.value.field


class TestFile:
    def test_is_for_people_too(self) -> None:
        assert json.loads(FILE)[0] == {
            "description": "Nobody reads 1.",
            "expected": {"kind": "deny", "reason": "not_in_allowlist"},
            "input": msgspec.to_builtins(GOLDEN[0].input),
            "name": "queries/1",
        }
        assert json.dumps(json.loads(FILE), indent=2, sort_keys=True).encode() + b"\n" == FILE
        assert parse_fixtures(FILE) == GOLDEN

    @given(
        st.lists(
            st.builds(
                Fixture,
                st.builds(
                    PolicyInput,
                    st.text(),
                    st.builds(User, st.text(st.characters(codec=None), max_size=3)),
                    st.none()
                    | st.builds(Resource, st.text(), st.none() | st.text(), st.dictionaries(st.text(), st.text())),
                    timestamp=st.integers(0, 2**63),
                ),
                st.builds(Allow) | st.builds(Deny, st.text()),
                st.text(),
                register=st.lists(st.sampled_from(["invoice.send", "refund.pay"])).map(tuple),
                name=st.text(),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def test_what_is_written_is_read(self, fixtures: list[Fixture]) -> None:
        try:
            data = format_fixtures(fixtures)
        except ManifestError:
            assert "\\u" in ascii(fixtures)  # two lone surrogates that only together are a character of JSON's
            return
        assert parse_fixtures(data) == tuple(fixtures)
        assert format_fixtures(parse_fixtures(data)) == data

    @given(st.lists(INPUTS, min_size=1, max_size=3))
    def test_facts_are_read_as_they_were_written(self, inputs: list[PolicyInput]) -> None:
        """A number with a fraction is none without, and a truth is no number."""
        fixtures = [Fixture(input, Allow()) for input in inputs]
        data = format_fixtures(fixtures)
        assert [canonical(fixture.input) for fixture in parse_fixtures(data)] == [*map(canonical, inputs)]
        assert format_fixtures(parse_fixtures(data)) == data

    def test_the_form_of_facts(self) -> None:
        args: dict[str, Any] = {"z": 1.0, "a": 1, "t": True, "m": -0.0, "b": 2**70, "l": ["x", ""]}
        data = format_fixtures([Fixture(PolicyInput("a.b", args=args), Allow())])
        assert b'"args": {\n        "a": 1,\n        "b": 1180591620717411303424,' in data
        assert b'"m": -0.0,\n        "t": true,\n        "z": 1.0\n' in data
        (fixture,) = parse_fixtures(data)
        assert {name: (type(value), value) for name, value in fixture.input.args.items()} == {
            name: (type(value), value) for name, value in args.items()
        }

    def test_a_question_that_is_no_unicode(self) -> None:
        """Such questions are asked, and are denied; so there are fixtures of them."""
        odd = Fixture(PolicyInput("db.read", User("\ud800")), Deny("malformed_input"), "Zeichen: \u00e4\U0001f600")
        data = format_fixtures([odd])
        assert b"\\ud800" in data
        assert "\u00e4\U0001f600".encode() in data
        assert parse_fixtures(data) == (odd,)

    # A2
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"null",
            b"{}",
            b"[]\n",
            b"[[]]\n",
            b"\xff",
            b"\xef\xbb\xbf" + FILE,
            FILE + b"\n",
            FILE + b"\0",
            FILE.replace(b"\n", b"\r\n"),
            FILE.replace(b'"name": "queries/1"', b'"name": "queries/1",\n    "name": "queries/1"'),  # a key twice
            FILE.replace(b'"name": "queries/1"', b'"name": "queries/1",\n    "path": ""'),
            FILE.replace(b'"input": ', b'"line": 1,\n    "input": ', 1),
            FILE.replace(b'"name": "queries/1"', b'"name": "\\u0071ueries/1"'),
            FILE.replace(b'"timestamp": 0', b'"timestamp": 0.0', 1),
            FILE.replace(b'"timestamp": 0', b'"timestamp": NaN', 1),
            FILE.replace(b'"timestamp": 0', b'"timestamp": ' + b"1" * 5_000, 1),
            FILE.replace(b'"action": "db.read"', b'"action": 7', 1),
            FILE.replace(b'"name": "queries/1"', b'"name": "queries/1",\n    "policy": {}'),
            FILE.replace(b'"name": "queries/1"', b'"name": "queries/1",\n    "register": []'),
            FILE.replace(b'"name": "queries/1"', b'"name": "queries/1",\n    "register": [\n      "db.read"\n    ]'),
            FILE.replace(b'"reason": "not_in_allowlist"', b'"reason": "\\ud800"', 1),
            json.dumps(json.loads(FILE), sort_keys=True).encode(),
            b"[" * 100_000,
            b'[{"input":' * 5_000,
        ],
        ids=range(25),
    )
    def test_another_form_is_refused(self, data: bytes) -> None:
        assert data != FILE
        assert not_fixtures(data) == "fixtures"

    def test_truncated_at_every_length_is_refused(self) -> None:  # A2
        for length in range(len(FILE)):
            assert not_fixtures(FILE[:length]) == "fixtures"

    @given(st.binary(max_size=400))
    def test_any_bytes_are_fixtures_or_a_manifest_error(self, data: bytes) -> None:
        for candidate in (data, FILE[: len(data)] + data, FILE + data):
            try:
                found = parse_fixtures(candidate)
            except ManifestError:
                continue
            assert format_fixtures(found) == candidate

    @pytest.mark.parametrize(
        "fixtures",
        [
            [],
            [Fixture(PolicyInput("db.read"), Allow(), policy={})],
            [Fixture(PolicyInput("db.read"), Deny("\ud800"))],
            [Fixture(PolicyInput("db.read"), Allow(), register=("db.read",))],
            [Fixture(PolicyInput("db.read"), Allow(), "x" * FIXTURES_BYTES)],
            [Fixture(PolicyInput("db.read", args={"a": float("inf")}), Deny("malformed_input"))],
        ],
        ids=["none", "with a policy", "no reason", "no own action", "too large", "an infinity"],
    )
    def test_what_is_not_written(self, fixtures: list[Fixture]) -> None:
        with pytest.raises(ManifestError) as caught:
            format_fixtures(fixtures)
        assert caught.value.field == "fixtures"

    # A1: the digest that is signed decides.
    def test_every_flipped_bit_is_seen(self) -> None:
        for position in range(len(FILE)):
            for bit in range(8):
                flipped = bytearray(FILE)
                flipped[position] ^= 1 << bit
                with pytest.raises(DigestMismatch) as caught:
                    fixtures_of(MADE.parsed, bytes(flipped))
                assert caught.value.expected == MADE.parsed.fixtures
        assert fixtures_of(MADE.parsed, FILE) == GOLDEN


class TestPublish:
    def test_they_are_there(self, store: PolicyStore, path: Path) -> None:
        assert store.publish(*MADE.release).digest == MADE.digest
        assert in_store(path).read_bytes() == FILE
        assert store.load_release("orders", 2, fixtures=True).fixtures == GOLDEN
        assert store.load_release("orders", 2).fixtures == ()
        before = snapshot(path)
        store.publish(*MADE.release)
        assert snapshot(path) == before

    def refusal(self, made: Made, fixtures: bytes | None, path: Path) -> ArtifactError:
        with pytest.raises(ArtifactError) as caught:
            store_at(path).publish(*made.files, fixtures)
        assert not path.exists()
        return caught.value

    def test_absent(self, path: Path) -> None:  # A2
        error = self.refusal(MADE, None, path)
        assert isinstance(error, ManifestError)
        assert error.field == "fixtures"

    def test_of_another_digest(self, path: Path) -> None:  # A6, A13
        other = format_fixtures([released(3)])
        error = self.refusal(MADE, other, path)
        assert isinstance(error, DigestMismatch)
        assert (error.expected, error.actual) == (MADE.parsed.fixtures, hashlib.sha256(other).hexdigest())

    def test_too_large(self, path: Path) -> None:  # A18
        large = b" " * (FIXTURES_BYTES + 1)
        error = self.refusal(Made(fixtures=large), large, path)
        assert isinstance(error, ManifestError)
        assert error.field == "fixtures"

    def test_signed_and_yet_no_fixtures(self, path: Path) -> None:  # A2
        for data in (b"", b"[]\n", b"{}\n", FILE[:-1]):
            error = self.refusal(Made(fixtures=data), data, path)
            assert isinstance(error, ManifestError)
            assert error.field == "fixtures"

    def test_that_the_manifest_does_not_name(self, path: Path) -> None:  # A13
        error = self.refusal(Made(), FILE, path)
        assert isinstance(error, ManifestError)
        assert error.field == "fixtures"

    # A13: manifest, signature, module and fixtures of two releases; only those of one go together.
    def test_mix_and_match(self, path: Path) -> None:
        one, two = Made(1, fixtures=[released(1)]), Made(2, fixtures=[released(2)])
        store = store_at(path)
        for number in range(16):
            parts = [(two if number >> bit & 1 else one).release[bit] for bit in range(4)]
            if number in (0, 15):
                continue
            with pytest.raises(ArtifactError):
                store.publish(*parts)  # type: ignore[arg-type]
            assert not path.exists()
        store.publish(*two.release)
        store.publish(*one.release)

    def test_a_version_has_one_set_of_fixtures(self, store: PolicyStore) -> None:  # A6
        store.publish(*MADE.release)
        refused("conflict", store.publish, *Made(2, fixtures=[released(3)]).release)
        refused("conflict", store.publish, *Made(2).files)

    @pytest.mark.parametrize("damage", ["gone", "empty", "other", "large", "link", "folder"])
    def test_again_it_mends_what_is_damaged(self, damage: str, store: PolicyStore, path: Path) -> None:
        store.publish(*MADE.release)
        spoil(in_store(path), damage)
        with pytest.raises(ArtifactError):
            store.load_release("orders", 2, fixtures=True)
        store.publish(*MADE.release)
        assert store.load_release("orders", 2, fixtures=True).fixtures == GOLDEN
        assert store.activate("orders", 2).version == 2

    def test_they_stay_where_a_signature_is_added(self, path: Path) -> None:
        store_at(path).publish(*MADE.release)
        both = PolicyStore(path, verifier(KEYS[0], KEYS[1]))
        both.publish(*Made(2, keys=[KEYS[1]], fixtures=GOLDEN).release)
        policy = PolicyStore(path, verifier(KEYS[0], KEYS[1], threshold=2)).load_release("orders", 2, fixtures=True)
        assert (len(policy.signers), policy.fixtures) == (2, GOLDEN)


def spoil(victim: Path, damage: str) -> None:
    victim.unlink()
    if damage == "link":
        (victim.parents[2] / "elsewhere.json").write_bytes(FILE)
        victim.symlink_to(victim.parents[2] / "elsewhere.json")
    elif damage == "folder":
        victim.mkdir()
    elif damage == "large":
        with victim.open("wb") as file:
            file.truncate(10 << 30)
    elif damage != "gone":
        victim.write_bytes({"empty": b"", "other": format_fixtures([released(3)])}[damage])


class TestActivate:
    def test_the_check_gets_them(self, store: PolicyStore) -> None:
        store.publish(*MADE.release)
        seen: list[VerifiedPolicy] = []

        def check(policy: VerifiedPolicy) -> None:
            seen.append(policy)
            raise FixturesFailed("one", failures=(), total=2)

        with pytest.raises(FixturesFailed):
            store.activate("orders", 2, check=check)
        with pytest.raises(FixturesFailed):
            store.reset("orders", 2, check=check)
        assert [policy.fixtures for policy in seen] == [GOLDEN, GOLDEN]
        assert store.load_active("orders").manifest.version == 1

    # A1: the release is not activated, and the running policy stays.
    @pytest.mark.slow
    def test_every_flipped_byte_is_refused(self, store: PolicyStore, path: Path) -> None:
        store.publish(*MADE.release)
        before = snapshot(path / "policies")
        for position in range(len(FILE)):
            flipped = bytearray(FILE)
            flipped[position] ^= 1 << position % 8
            in_store(path).write_bytes(flipped)
            with pytest.raises(DigestMismatch):
                store.activate("orders", 2)
        assert snapshot(path / "policies") == before
        in_store(path).write_bytes(FILE)
        assert store.activate("orders", 2).version == 2

    # A2, A13, A14, A18
    @pytest.mark.parametrize("damage", ["gone", "empty", "other", "large", "link", "folder"])
    def test_without_its_fixtures_it_is_not_activated(self, damage: str, store: PolicyStore, path: Path) -> None:
        store.publish(*MADE.release)
        spoil(in_store(path), damage)
        with pytest.raises((ManifestError, DigestMismatch, StoreError)):
            store.activate("orders", 2)
        assert store.load_active("orders").manifest.version == 1
        assert store.status("orders").problem is None

    # Those who run it already need no fixtures; whoever looks after the store hears of it.
    @pytest.mark.parametrize("damage", ["gone", "empty", "other", "large", "link", "folder"])
    def test_what_is_active_goes_on_without(self, damage: str, store: PolicyStore, path: Path) -> None:
        store.publish(*MADE.release)
        active = store.activate("orders", 2)
        assert store.status("orders").problem is None
        spoil(in_store(path), damage)
        reader = StoreReader(path, verifier())
        assert reader.load_active("orders").manifest == reader.load(active).manifest == MADE.parsed
        status = store.status("orders")
        assert status.problem is not None
        assert status.active == active

    @pytest.mark.parametrize("damage", ["gone", "other"])
    def test_a_rollback_needs_none(self, damage: str, store: PolicyStore, path: Path) -> None:
        store.publish(*MADE.release)
        store.activate("orders", 2)
        store.publish(*Made(3).files)
        store.activate("orders", 3)
        spoil(in_store(path), damage)
        seen: list[VerifiedPolicy] = []
        assert store.rollback("orders", check=seen.append).version == 2
        assert [policy.fixtures for policy in seen] == [()]

    def test_they_go_with_their_release(self, store: PolicyStore, path: Path) -> None:
        for version in (2, 3, 4):
            store.publish(*Made(version, fixtures=[released(version)]).release)
            store.activate("orders", version)
        removed = store.prune(0)
        assert Made(2, fixtures=[released(2)]).digest in removed
        assert len(list(path.rglob("fixtures.json"))) == 2
        assert not [folder for folder in (path / "sha256").iterdir() if not os.listdir(folder)]


# A manifest without the key, as they all were, and so its signature, hold as before.
def test_a_release_from_before_there_were_any(path: Path) -> None:
    made = Made(1)
    old = json.loads(made.manifest)
    assert "fixtures" not in old
    data = json.dumps(old, indent=2, sort_keys=True).encode() + b"\n"
    store = store_at(path, Clock(NOW))
    store.publish(made.module, data, format_signatures([KEYS[0].sign(data)]))
    store.activate("orders", 1)
    policy: Any = store.load_active("orders")
    assert policy.manifest.fixtures is None
    assert store.load_release("orders", 1, fixtures=True).fixtures == ()
