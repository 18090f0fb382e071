"""Documents as modules: deterministic, labelled, sized to fit, and told apart from every other module."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

import msgspec
import pytest

from capgate.artifact import build, guest
from capgate.artifact.build import POLICY_SECTION, Label, build_policy, is_built_by_capgate, read_label
from capgate.artifact.guest import IMAGE_BASE, image, make_image
from capgate.errors import ConfigError
from capgate.limits import Limits
from capgate.policy import RuntimePolicy
from capgate.wasm import decode, encode, with_custom, with_data, with_memory

pytestmark = pytest.mark.slow

DOCUMENT: dict[str, Any] = {
    "name": "shop",
    "version": "3",
    "sql": ["upsert_user", {"name": "list_users", "operation": "select"}],
    "egress": ["api.example.com"],
    "actions": {"invoice.send": ["inv-1"], "x.y": "by_rule"},
    "rules": [
        {"effect": "deny", "actions": ["db.*", "x.y"], "modes": ["test", "dev"], "reason": "not while testing"},
        {"effect": "allow", "actions": ["db.read"], "resources": ["sql_query:report/*", "sql_query:audit"]},
    ],
}
INPUTS = ("action", "mode", "resource")
MODULE = build_policy(DOCUMENT)
IMAGE = make_image(RuntimePolicy.from_document(DOCUMENT))


def test_the_same_document_gives_the_same_bytes() -> None:
    shuffled = dict(reversed(DOCUMENT.items()))
    shuffled["sql"] = DOCUMENT["sql"][::-1]
    lists = ("actions", "modes", "resources")
    shuffled["rules"] = [
        {key: value[::-1] if key in lists else value for key, value in reversed(rule.items())}
        for rule in DOCUMENT["rules"]
    ]
    assert build_policy(DOCUMENT) == MODULE
    assert build_policy(shuffled) == MODULE
    assert build_policy(RuntimePolicy.from_document(DOCUMENT)) == MODULE
    assert build_policy(msgspec.json.encode(DOCUMENT)) == MODULE
    assert build_policy({**DOCUMENT, "egress": ["API.example.com"]}) == MODULE


def test_what_the_module_consists_of() -> None:
    module = decode(MODULE)
    assert module.imports == []
    assert module.start is None
    assert {export.name: export.kind for export in module.exports} == {
        "memory": "memory",
        "cabi_realloc": "function",
        "capgate:policy/policy@0.1.0#policy-check": "function",
        "cabi_post_capgate:policy/policy@0.1.0#policy-check": "function",
        "capgate_one_block": "function",
    }
    assert module.memories[0].minimum == module.memories[0].maximum
    assert module.data[-1].data == IMAGE
    content = module.custom(POLICY_SECTION)
    assert content is not None
    label = {"name": "shop", "version": "3", "format": 2, "inputs": ["action", "mode", "resource"]}
    assert msgspec.json.decode(content) == label
    assert read_label(module) == Label("shop", "3", 2, ("action", "mode", "resource"))


@pytest.mark.parametrize("entries", [0, 3, 10_000])
@pytest.mark.parametrize("input_bytes", [1_024, 65_536, 1_000_000])
def test_memory_has_room_for_image_and_input(entries: int, input_bytes: int) -> None:
    document = {"env": [f"entry_{index}" for index in range(entries)]}
    module = decode(build_policy(document, input_bytes=input_bytes))
    room = module.memories[0].minimum * 65_536 - IMAGE_BASE - len(module.data[-1].data)
    assert input_bytes + 80 < room < input_bytes + 3 * 65_536


@pytest.mark.parametrize("value", [0, -1, 1_023, 2**40, True, 65_536.0, "65536", None])
def test_input_bytes_has_a_range(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        build_policy({}, input_bytes=value)
    assert caught.value.setting == "input_bytes"
    assert caught.value.seen is value


def test_a_document_over_the_memory_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_MAX_PAGES", 3)
    assert build_policy({})
    with pytest.raises(ConfigError) as caught:
        build_policy({"env": ["x" * 65_536]})
    assert caught.value.setting == "document"


def test_a_bad_document_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        build_policy({"sqll": []})
    assert caught.value.setting == "sqll"


def test_entries_that_collide_under_every_seed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "text_hash", lambda seed, text: 7)
    with pytest.raises(ConfigError) as caught:
        build_policy({})
    assert caught.value.setting == "document"


def test_another_seed_is_tried_when_one_collides(monkeypatch: pytest.MonkeyPatch) -> None:
    original = image.text_hash
    first = 0x9E3779B97F4A7C15
    monkeypatch.setattr(image, "text_hash", lambda seed, text: 7 if seed == first else original(seed, text))
    (seed,) = struct.unpack_from("<Q", make_image(RuntimePolicy.from_document({})), 8)
    assert seed == 2 * first % 2**64


@pytest.mark.parametrize(
    "shape", ["query_{0}", "{0}", "{0:08}" * 6, "api{0}.example.com", "é{0}日本", "\0" * 40 + "{0}"]
)
def test_buckets_stay_small(shape: str) -> None:
    entries = [shape.format(index) for index in range(20_000)]  # of an own action, which may have any
    data = make_image(RuntimePolicy.from_document({"actions": {"x.y": entries}}))
    offset, mask = struct.unpack_from("<II", data, 20)
    starts = struct.unpack_from(f"<{mask + 2}I", data, offset)
    longest = max(after - before for before, after in itertools.pairwise(starts))
    assert mask + 1 == 32_768
    assert longest <= 10 * (16 + len(shape.format(20_000).encode()) + 3)


def test_a_large_document_builds() -> None:
    module = build_policy({"sql": [f"query_number_{index}" for index in range(100_000)]})
    assert len(module) < Limits().module_bytes
    assert decode(module, bodies=False).memories[0].minimum <= Limits().most_pages
    assert is_built_by_capgate(module)


# What is_built_by_capgate says, the pool relies on: such a module is used again without being made anew. G21


def test_its_own_modules_are_recognised() -> None:
    assert is_built_by_capgate(MODULE)
    assert is_built_by_capgate(build_policy({}))
    assert is_built_by_capgate(build_policy(DOCUMENT, input_bytes=1_000_000))


@pytest.mark.parametrize(
    "data", [b"", b"\0asm", b"\0asm\1\0\0\0", b"(module)", guest.evaluator(), MODULE[:-1], MODULE + b"\0"]
)
def test_other_bytes_are_not(data: bytes) -> None:
    assert not is_built_by_capgate(data)


def test_no_truncated_module_is() -> None:
    assert not any(is_built_by_capgate(MODULE[:length]) for length in range(len(MODULE)))


def test_one_changed_byte_outside_the_image_is_seen() -> None:
    start = MODULE.index(IMAGE)
    label = MODULE.index(b'{"name":')
    accepted = set()
    for index in range(len(MODULE)):
        changed = bytearray(MODULE)
        changed[index] ^= (1, 0x80, 0xFF)[index % 3]
        if is_built_by_capgate(bytes(changed)):
            accepted.add(index)
    # The contents of the image are free but for its magic number, its size, where conditions are, and what it looks at,
    # which is in the label, too; and so are the characters of name and version.
    free = set(range(start + 8, start + len(IMAGE))) - set(range(start + 36, start + 44))
    values = {label + MODULE[label:].index(text) + at for text in (b"shop", b"3") for at in range(len(text))}
    assert free <= accepted <= free | values


def frame(pages: int = 4, content: bytes = IMAGE, at: int = IMAGE_BASE, label: bytes = b"") -> bytes:
    """The shipped guest with other things around it than the build would put there."""
    module = with_data(with_memory(decode(guest.evaluator()), pages, pages), at, content)
    return encode(with_custom(module, POLICY_SECTION, label or msgspec.json.encode(Label("shop", "3", inputs=INPUTS))))


LABEL = b'{"name":"shop","version":"3","format":2,"inputs":["action","mode","resource"]}'


def test_frames_that_differ_are_seen() -> None:
    pages = decode(MODULE).memories[0].minimum
    assert frame(pages) == frame(pages, label=LABEL) == MODULE
    assert is_built_by_capgate(frame(pages + 1))
    noise = random.Random(1).randbytes(500)
    refused = [
        frame(pages, at=IMAGE_BASE - 16),
        frame(pages, at=0),
        frame(1),
        frame(20_000),
        frame(pages, b""),
        frame(pages, IMAGE[:-1]),
        frame(pages, IMAGE + b"\0"),
        frame(pages, noise),
        frame(pages, label=b"{}"),
        frame(pages, label=b'{"name":"shop","version":"3","format":2}'),
        frame(pages, label=LABEL.replace(b":2,", b":1,")),
        frame(pages, label=LABEL.replace(b":2,", b":3,")),
        frame(pages, label=LABEL.replace(b"shop", b"../shop")),
        frame(pages, label=LABEL + b" "),
        frame(pages, label=LABEL.replace(b'"format"', b'"version":"3","format"')),
        frame(pages, label=b"\xff"),
        encode(with_memory(decode(MODULE), pages, pages + 1)),
        encode(with_memory(decode(MODULE), pages, None)),
        encode(with_data(decode(MODULE), IMAGE_BASE, IMAGE)),
        encode(with_custom(decode(MODULE), "producers", b"")),
    ]
    assert not any(map(is_built_by_capgate, refused))


def test_a_changed_guest_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    other = encode(with_custom(decode(guest.evaluator()), "note", b"another version"))
    monkeypatch.setattr(build, "evaluator", lambda *, facts: other)
    assert not is_built_by_capgate(MODULE)
    assert is_built_by_capgate(build_policy(DOCUMENT))


SETS = [b"", *(b",".join(b'"%s"' % name for name in names) for names in (
    (b"action",),
    (b"action", b"resource"),
    (b"action", b"actor", b"resource"),
    (b"action", b"actor", b"mode", b"resource"),
    (b"action", b"resource", b"mode"),
    (b"action", b"mode", b"mode", b"resource"),
    (b"action", b"mode", b"resource", b"timestamp"),
))]  # fmt: skip


@pytest.mark.parametrize("inputs", SETS)
def test_a_label_cannot_lie_about_what_the_policy_looks_at(inputs: bytes) -> None:
    """What an answer may depend on is what a cache of answers goes by."""
    pages = decode(MODULE).memories[0].minimum
    label = b'{"name":"shop","version":"3","format":2,"inputs":[%s]}' % inputs
    assert label != LABEL
    assert not is_built_by_capgate(frame(pages, label=label))
    looks = {b"": 0, SETS[2]: 0, SETS[3]: 1, SETS[4]: 3}.get(inputs)
    if looks is not None:  # an image that says the same: the guest heeds it
        content = IMAGE[:36] + struct.pack("<I", looks) + IMAGE[40:]
        assert is_built_by_capgate(frame(pages, content, label=label)) == (inputs != b"")


@pytest.mark.parametrize("looks", [4, 7, 0x80000000, 0xFFFFFFFF])
def test_an_image_that_looks_at_something_else_is_seen(looks: int) -> None:
    pages = decode(MODULE).memories[0].minimum
    assert not is_built_by_capgate(frame(pages, IMAGE[:36] + struct.pack("<I", looks) + IMAGE[40:]))


def test_a_malformed_label_is_none() -> None:
    assert read_label(decode(guest.evaluator())) is None
    assert read_label(decode(frame(label=b"\xff\xfe"))) is None
    assert read_label(decode(frame(label=b'{"name":3,"version":"3"}'))) is None
    assert read_label(decode(frame(label=b'{"name":"a","version":"3","inputs":["action"]}'))) is None
    assert read_label(decode(frame(label=b'{"name":"a","version":"3","inputs":["resource","action"]}'))) is None
    assert read_label(decode(frame(label=b'{"name":"a","version":"3","format":1}'))) == Label("a", "3", 1)
