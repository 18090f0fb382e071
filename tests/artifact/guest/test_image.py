"""The guest and images that no document gives: a trap or an answer, in bounded work, and nothing written."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from functools import partial

import pytest

from capgate.artifact import guest
from capgate.artifact.build import build_policy
from capgate.artifact.guest import IMAGE_BASE, image, make_image
from capgate.model import ALLOW, Deny, PolicyInput, Reason, Resource
from capgate.policy import RuntimePolicy
from capgate.wasm import decode, encode, with_data, with_memory

from ...support.engines import EXPECTED_ENGINES
from .guest import ROOM, CountedGuest, Guest, GuestTrap, record

pytestmark = pytest.mark.slow

POLICY = RuntimePolicy.from_document({"sql": ["upsert_user", "drop_user"], "egress": ["api.example.com"], "fs": "any"})
IMAGE = make_image(POLICY)
REASONS = {Reason.UNKNOWN_ACTION, Reason.MISSING_RESOURCE, Reason.NOT_IN_ALLOWLIST}
QUESTIONS = [
    PolicyInput("db.write", resource=Resource("sql_query", "upsert_user")),
    PolicyInput("db.write", resource=Resource("sql_query", "other")),
    PolicyInput("http.outbound", resource=Resource("host", "API.example.com")),
    PolicyInput("fs.read", resource=Resource("path", "x" * 300)),
    PolicyInput("nothing.known"),
]
#: Instructions that any of these checks may take, whatever the image: at most 16 records of a bucket, compared in full.
WORK = 20_000

Open = Callable[[bytes], Guest]


@pytest.fixture(params=["counted", *EXPECTED_ENGINES])
def opened(request: pytest.FixtureRequest) -> Open:
    """Makes a guest on each engine; "counted" is wasmtime with a count of instructions."""
    if request.param == "counted":
        return CountedGuest
    return partial(Guest, request.param)


def outcomes(instance: Guest) -> list[object]:
    """The answers to :data:`QUESTIONS` under the image that now lies in memory; checks that each is one of ours."""
    found: list[object] = []
    for question in QUESTIONS:
        instance.write(instance.buffer, record(question, instance.buffer))
        try:
            answer = instance.ask_raw(instance.buffer)
        except GuestTrap:
            found.append("trap")
        else:
            assert answer is ALLOW or (isinstance(answer, Deny) and answer.reason in REASONS)
            found.append(answer)
        if isinstance(instance, CountedGuest):
            assert instance.spent <= WORK
    return found


def test_every_byte_changed(opened: Open) -> None:
    instance = opened(build_policy(POLICY))
    statics = instance.read(0, IMAGE_BASE)
    sound = outcomes(instance)
    seen: set[str] = set()
    for index in range(len(IMAGE)):
        for change in (1, 0x80, 0xFF):
            instance.write(IMAGE_BASE + index, bytes([IMAGE[index] ^ change]))
            seen.update(map(str, outcomes(instance)))
        instance.write(IMAGE_BASE + index, IMAGE[index : index + 1])
    assert instance.read(0, IMAGE_BASE) == statics
    assert instance.read(IMAGE_BASE, len(IMAGE)) == IMAGE
    assert outcomes(instance) == sound
    assert "trap" in seen


def test_every_number_replaced_by_an_edge(opened: Open) -> None:
    instance = opened(build_policy(POLICY))
    size = len(IMAGE)
    edges = [
        0,
        1,
        16,
        17,
        size - 1,
        size,
        size + 1,
        0xFFFF,
        2**31 - 1,
        2**31,
        2**32 - IMAGE_BASE,
        2**32 - 16,
        2**32 - 1,
    ]
    statics = instance.read(0, IMAGE_BASE)
    for at, edge in itertools.product(range(0, size, 4), edges):
        instance.write(IMAGE_BASE + at, struct.pack("<I", edge))
        outcomes(instance)
        instance.write(IMAGE_BASE + at, IMAGE[at : at + 4])
    assert instance.read(0, IMAGE_BASE) == statics


@pytest.mark.parametrize("honest", [True, False], ids=["size adjusted", "size kept"])
def test_truncated_at_every_length(opened: Open, honest: bool) -> None:
    instance = opened(build_policy(POLICY))
    for length in range(len(IMAGE)):
        part = bytearray(IMAGE[:length] + bytes(len(IMAGE) - length))
        if honest and length >= 8:
            part[4:8] = struct.pack("<I", length)
        instance.write(IMAGE_BASE, bytes(part))
        assert ALLOW not in outcomes(instance)[1:2] + outcomes(instance)[4:]


@pytest.mark.parametrize(
    "header", [b"", b"CGP1", b"\0" * 8, b"CGP2" + struct.pack("<I", 39), b"CGP2" + struct.pack("<I", 2**32 - 1)]
)
def test_without_a_sound_header_every_call_traps(opened: Open, header: bytes) -> None:
    instance = opened(build_policy(POLICY))
    instance.write(IMAGE_BASE, header or bytes(len(IMAGE)))
    assert outcomes(instance) == ["trap"] * len(QUESTIONS)
    with pytest.raises(GuestTrap):
        instance.call("cabi_realloc", 0, 0, 1, 1)


START = image.HEADER.size + image.ACTION.size + 8


def hostile(bucket: bytes, *, end: int | None = None, seed: int = 1) -> bytes:
    """An image with one action, which is allowed, whose every lookup goes to one bucket with these contents."""
    at = image.HEADER.size + image.ACTION.size
    header = image.HEADER.pack(image.MAGIC, START + len(bucket), seed, image.HEADER.size, at, 0, 0xFFFFFFFF, 0, 0, 0)
    entry = image.ACTION.pack(image.ANY, 0, 7, 0, 0, 0)
    return header + entry + struct.pack("<II", START, START + len(bucket) if end is None else end) + bucket


def module_of(data: bytes) -> bytes:
    pages = -(-(IMAGE_BASE + len(data) + ROOM + 4_096) // 65_536)
    return encode(with_data(with_memory(decode(guest.evaluator()), pages, pages), IMAGE_BASE, data))


QUESTION = PolicyInput("x" * 60_000)
_HASH = image.text_hash(1, b"x" * 60_000)


def near_miss(count: int) -> bytes:
    """Records that differ from the action asked for in their last byte only, so that each is compared in full."""
    return count * (image.RECORD.pack(_HASH >> 32, 0, 60_000, 0) + b"x" * 59_999 + b"y")


def test_a_bucket_has_a_limit(opened: Open) -> None:
    full = opened(module_of(hostile(near_miss(image.BUCKET_LIMIT))))
    assert full.ask(QUESTION) == Deny(Reason.UNKNOWN_ACTION)
    over = opened(module_of(hostile(near_miss(image.BUCKET_LIMIT + 1))))
    with pytest.raises(GuestTrap):
        over.ask(QUESTION)


def test_the_worst_image_costs_a_bounded_amount_of_work() -> None:
    instance = CountedGuest(module_of(hostile(near_miss(image.BUCKET_LIMIT))))
    assert instance.ask(QUESTION) == Deny(Reason.UNKNOWN_ACTION)
    assert instance.spent < 5_000_000


BUCKETS = {
    "a record cut short": image.RECORD.pack(0, 0, 0, 0)[:15],
    "a text longer than the bucket": image.RECORD.pack(0, 0, 5, 0) + b"abcd",
    "a text of 4 GiB": image.RECORD.pack(0, 0, 0xFFFFFFFF, 0),
    "a text that is not filled up": image.RECORD.pack(0, 0, 5, 0) + b"abcde",
    "one byte after the last record": image.RECORD.pack(0, 0, 4, 0) + b"abcde",
}


@pytest.mark.parametrize("bucket", BUCKETS.values(), ids=BUCKETS)
def test_nonsense_in_a_bucket_traps(opened: Open, bucket: bytes) -> None:
    instance = opened(module_of(hostile(bucket)))
    with pytest.raises(GuestTrap):
        instance.ask(PolicyInput("nothing.known"))


def record_of(action: bytes, value: int = 0) -> bytes:
    return image.RECORD.pack(image.text_hash(1, action) >> 32, 0, len(action), value) + action


@pytest.mark.parametrize("end", [0, 1, START - 1, START + 1, START + 19, START + 21, 65_536, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_bucket_that_ends_nowhere_traps(opened: Open, end: int) -> None:
    question = PolicyInput("abcd")
    assert opened(module_of(hostile(record_of(b"abcd")))).ask(question) is ALLOW
    assert opened(module_of(hostile(record_of(b"abcd"), end=START))).ask(question) == Deny(Reason.UNKNOWN_ACTION)
    instance = opened(module_of(hostile(record_of(b"abcd"), end=end)))
    with pytest.raises(GuestTrap):
        instance.ask(question)


def test_a_text_that_is_not_filled_up_hides_no_record(opened: Open) -> None:
    cut = image.RECORD.pack(0, 0, 5, 0) + b"abcde"
    instance = opened(module_of(hostile(cut + bytes(3) + record_of(b"abcd"), end=START + len(cut))))
    with pytest.raises(GuestTrap):
        instance.ask(PolicyInput("abcd"))


TAG = image.text_hash(1, b"abcd") >> 32
OTHERS = {
    "another hash": image.RECORD.pack(TAG ^ 1, 0, 4, 0) + b"abcd",
    "another set": image.RECORD.pack(TAG, 1, 4, 0) + b"abcd",
    "a shorter text": image.RECORD.pack(TAG, 0, 3, 0) + b"abcd",
    "a longer text": image.RECORD.pack(TAG, 0, 5, 0) + b"abcd\0\0\0\0",
    "another text": image.RECORD.pack(TAG, 0, 4, 0) + b"abce",
}


@pytest.mark.parametrize("bucket", OTHERS.values(), ids=OTHERS)
def test_a_record_has_to_agree_in_everything(opened: Open, bucket: bytes) -> None:
    assert opened(module_of(hostile(bucket))).ask(PolicyInput("abcd")) == Deny(Reason.UNKNOWN_ACTION)
    assert opened(module_of(hostile(bucket + record_of(b"abcd")))).ask(PolicyInput("abcd")) is ALLOW


def test_bytes_after_the_image_have_no_say(opened: Open) -> None:
    """What lies behind the image is the arena: text of this question and of earlier ones."""
    instance = opened(build_policy(POLICY))
    for length in range(image.HEADER.size, len(IMAGE)):
        found = []
        for behind in (IMAGE[length:], bytes(len(IMAGE) - length), b"\xff" * (len(IMAGE) - length)):
            instance.write(IMAGE_BASE, IMAGE[:4] + struct.pack("<I", length) + IMAGE[8:length] + behind)
            found.append(outcomes(instance))
        assert found[0] == found[1] == found[2]  # G21


@pytest.mark.parametrize("value", [1, 2, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_action_that_is_not_there_traps(opened: Open, value: int) -> None:
    instance = opened(module_of(hostile(record_of(b"abcd", value))))
    with pytest.raises(GuestTrap):
        instance.ask(PolicyInput("abcd"))


def test_work_does_not_grow_with_entries_and_no_id_makes_it() -> None:
    most = {}
    for count in (3, 100, 20_000):
        instance = CountedGuest(build_policy({"sql": [f"query_{index:06}" for index in range(count)]}))
        spent = []
        for index in range(2_000):
            id = f"query_{index * 17 % (2 * count):06}"
            instance.ask(PolicyInput("db.read", resource=Resource("sql_query", id)))
            spent.append(instance.spent)
        most[count] = max(spent)
    assert most[20_000] < most[3] + 400


def test_an_id_longer_than_every_entry_costs_nothing() -> None:
    instance = CountedGuest(build_policy({"sql": ["upsert_user"]}))
    spent = []
    for length in (30, 60_000):
        instance.ask(PolicyInput("db.read", resource=Resource("sql_query", "x" * length)))
        spent.append(instance.spent)
    assert spent[0] == spent[1]
