"""What stands for more than one id: what it covers, in sections as in rules, and what is said of other stars."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS
from capgate.artifact.build import build_policy
from capgate.errors import ConfigError
from capgate.model import ALLOW, Deny, PolicyInput, Resource
from capgate.policy import Pattern, RuntimePolicy
from capgate.policy.document import read_document
from capgate.policy.mistakes import find_mistakes
from capgate.policy.wildcards import MAX_LABELS, address_number, address_text, is_within

from ..support.documents import ADDRESSES, NAMES, NETWORKS, SPELLED
from ..support.judgement import entry_fits
from ..support.tools import ROOT, examples
from .test_spelling import LABELS, addresses, resolved

ACTIONS = {action.kind: action for action in BUILTIN_ACTIONS if action.kind is not None}


def documents(kind: str, entry: str) -> list[dict[str, Any]]:
    """Three that allow what an entry covers, and two that deny it."""
    action = ACTIONS[kind]
    rule = {"actions": [action.name], "resources": [f"{kind}:{entry}"]}
    return [
        {action.section: [entry]},
        {"rules": [{"effect": "allow", **rule}]},
        {"actions": {"x.y": "by_rule"}, "rules": [{"effect": "allow", **rule, "actions": [action.name, "x.y"]}]},
        {action.section: "any", "rules": [{"effect": "deny", **rule}]},
        {"rules": [{"effect": "deny", **rule}, {"effect": "allow", "actions": ["*"]}]},
    ]


def check(kind: str, entry: str, id: str, is_covered: bool) -> None:
    question = PolicyInput(ACTIONS[kind].name, resource=Resource(kind, id))
    for number, document in enumerate(documents(kind, entry)):
        answer = RuntimePolicy.from_document(document).evaluate(question)
        assert (answer is ALLOW) == (is_covered == (number < 3)), (document, id)


COVERED = [
    ("host", "*.example.com", ["a.example.com", "A.B.Example.com.", "x-1.example.com", "_sip.example.com"]),
    ("host", "*.Bücher.example.", ["a.xn--bcher-kva.example", "b.BÜCHER.example"]),
    (
        "host",
        "10.0.0.0/8",
        ["10.0.0.0", "10.255.255.255", "10.1", "0xa.1", "012.0.0.1", "167772161", "::ffff:10.9.8.7"],
    ),
    ("host", "fd00::/8", ["fd00::", "FD12:0:0::1", "[fdff:ffff::]", "fd00:0:0:0:0:0:1.2.3.4"]),
    ("host", "0.0.0.0/0", ["1.2.3.4", "255.255.255.255", "::ffff:0:1", "0"]),
    ("host", "::/0", ["::", "::1", "ffff::", "::fffe:1:2", "64:ff9b::1.2.3.4"]),
    ("host", "127.0.0.1/32", ["127.0.0.1", "127.1", "2130706433"]),
    ("host", "*", ["a", "a.b", "1.2.3.4", "::1"]),
    ("path", "reports/*", ["reports/a", "reports/a/b", "./reports//a/", "reports/.x"]),
    ("path", "./a//b/*", ["a/b/c"]),
    ("path", "file:///srv/*", ["file:///srv/a", "FILE:///srv//a"]),
    ("path", "*", ["a", "a/b", "."]),
    ("sql_query", "App.*", ["app.users", 'APP."Users"']),
    ("sql_query", "reports/*", ["reports/a", "Reports/A/b"]),
    ("namespace", "shop.*", ["shop.orders"]),
    ("env_var", "APP.*", ["APP.x"]),
    ("tool", "author/*", ["author/x"]),
]
UNCOVERED = [
    ("host", "*.example.com", ["example.com", "evilexample.com", "example.com.evil", "a.example.comx", "1.2.3.4"]),
    ("host", "10.0.0.0/8", ["11.0.0.0", "9.255.255.255", "10.example", "a.10.example", "::a00:1", "10::"]),
    ("host", "fd00::/8", ["fe00::", "fcff:ffff::", "fd00.example", "253.0.0.1"]),
    ("host", "0.0.0.0/0", ["::", "::1", "a", "1.example", "::fffe:ffff:ffff", "0:0:0:0:1::"]),
    ("host", "::/0", ["1.2.3.4", "::ffff:1.2.3.4", "a", "beef", "dead.beef"]),
    ("host", "127.0.0.1/32", ["127.0.0.2", "128.0.0.1"]),
    ("path", "reports/*", ["reports", "reports/", "reports-x/a", "reports.d/a", "Reports/a", "x/reports/a"]),
    ("path", "file:///srv/*", ["file:///srv", "file:///srv-x/a", "srv/a", "file://srv/a"]),
    ("sql_query", "app.*", ["app", "apps.x", '"App".x']),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "entry", "ids"), COVERED)
def test_what_a_wildcard_covers(kind: str, entry: str, ids: list[str]) -> None:  # P-6
    for id in ids:
        check(kind, entry, id, True)


@pytest.mark.parametrize(("kind", "entry", "ids"), UNCOVERED)
def test_what_a_wildcard_does_not_cover(kind: str, entry: str, ids: list[str]) -> None:  # P-6
    for id in ids:
        check(kind, entry, id, False)


MISTAKEN = [
    ("host:10.*", "host:10.0.0.0/8"),
    ("host:10.1.*", "host:10.1.0.0/16"),
    ("host:192.168.1.*", "host:192.168.1.0/24"),
    ("host:10.*.*.*", "host:10.0.0.0/8"),
    ("host:300.*", None),
    ("host:10.1.0.0/8", "host:10.0.0.0/8"),
    ("host:10/8", "host:10.0.0.0/8"),
    ("host:10.1/16", "host:10.1.0.0/16"),
    ("host:0xa.0.0.0/8", "host:10.0.0.0/8"),
    ("host:10.0.0.0/08", "host:10.0.0.0/8"),
    ("host:10.0.0.0/255.0.0.0", "host:10.0.0.0/8"),
    ("host:10.0.0.0/33", "host:10.0.0.0"),
    ("host:fd00::1/8", "host:fd00::/8"),
    ("host:FD00::/8", "host:fd00::/8"),
    ("host:fd00:0::/32", "host:fd00::/32"),
    ("host:[fd00::]/8", "host:fd00::/8"),
    ("host:fe80:*", "host:fe80::/16"),
    ("host:fd00:1::*", "host:fd00:1::/32"),
    ("host:::ffff:10.0.0.0/104", "host:10.0.0.0/8"),
    ("host:::ffff:0:0/96", "host:0.0.0.0/0"),
    ("host:*example.com", "host:*.example.com"),
    ("host:api*.example.com", "host:*.example.com"),
    ("host:api.*.example.com", "host:*.example.com"),
    ("host:*.*.example.com", "host:*.example.com"),
    ("host:**.example.com", "host:*.example.com"),
    ("host:https://*.example.com/a", "host:*.example.com"),
    ("host:*.example.com:443", "host:*.example.com"),
    ("host:eu.*", None),
    ("host:*.1", None),
    ("host:*.0.0.1", None),
    ("host:*.", None),
    ("host:*." + "a." * MAX_LABELS + "a", None),
    ("path:reports*", "path:reports/*"),
    ("path:reports/*.pdf", "path:reports/*"),
    ("path:reports/*/x", "path:reports/*"),
    ("path:reports/**", "path:reports/*"),
    ("path:a/b.*", "path:a/*"),
    ("path:/etc/*", "path:etc/*"),
    ("path:*.pdf", None),
    ("path:file:*", None),
    ("path:a/../b/*", None),
    ("sql_query:app.u*", None),
    ("sql_query:app.*.x", "sql_query:app.*"),
    ("namespace:orders:*", "namespace:orders"),
    ("env_var:APP_*", None),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "nearest"), MISTAKEN)
def test_another_star_is_an_error_with_the_right_spelling(entry: str, nearest: str | None) -> None:  # P-6
    """The same in a section and in a rule, with the place, and what is offered is taken."""
    kind, _, id = entry.partition(":")
    action, offered = ACTIONS[kind], None if nearest is None else nearest.partition(":")[2]
    rule = {"effect": "deny", "actions": [action.name], "resources": ["x", entry]}
    rule["resources"] = [f"{kind}:x", entry]
    for document, setting, near in (
        ({"rules": [rule]}, "rules[0].resources[1]", nearest),
        ({action.section: ["x", id]}, f"{action.section}[1]", offered),
    ):
        with pytest.raises(ConfigError) as caught:
            read_document(document)
        assert (caught.value.setting, caught.value.nearest) == (setting, near)
    toml = f'{action.section} = [\n  "x",\n  {id!r},\n]\n'
    (finding,) = find_mistakes(toml, "toml")
    assert (finding.setting, finding.line, finding.column, finding.nearest) == (f"{action.section}[1]", 3, 3, offered)
    if nearest is not None:
        read_document({"rules": [{**rule, "resources": [nearest]}], action.section: [offered]})


def test_the_entries_of_an_application_s_own_action_have_no_star() -> None:
    for entry in ("*", "inv-*", "inv/*", "a*b", "*.example"):
        with pytest.raises(ConfigError) as caught:
            read_document({"actions": {"x.y": ["a", entry]}})
        assert caught.value.setting == "actions.x.y[1]"
    policy = RuntimePolicy.from_document({"actions": {"x.y": ["10.0.0.0/8"]}})  # an id of a kind of its own
    assert policy.evaluate(PolicyInput("x.y", resource=Resource("net", "10.0.0.0/8"))) is ALLOW
    assert policy.evaluate(PolicyInput("x.y", resource=Resource("host", "10.0.0.1"))) == Deny("not_in_allowlist")


def test_the_documentation_has_wildcards_of_each_kind() -> None:
    text = (ROOT / "docs/resource_kinds.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    assert sorted(kind for kind, _ in rows) == sorted(ACTIONS)
    for kind, cell in rows:
        for entry in [each for each in re.findall(r"`([^`]+)`", cell) if len(each) > 1 or each == "*"]:
            read_document({ACTIONS[kind].section: [entry]})


# -- no spelling of one thing passes a denial of what it is in, or misses an allow


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(addresses(), st.integers(0, 32), st.sampled_from(["", "."]), st.data())
def test_each_text_of_an_ipv4_address_is_in_its_networks(
    spelled: tuple[Any, str], length: int, dot: str, data: st.DataObject
) -> None:
    address, text = spelled
    assert resolved(text) == str(address)
    mapped = IPv6Address(f"::ffff:{address}")
    spellings = [text + dot, f"[{mapped.exploded}]", mapped.exploded.upper(), f"::FFFF:{address}"]
    network = ip_network(f"{address}/{length}", strict=False)
    check("host", str(network), data.draw(st.sampled_from(spellings)), True)
    if length:
        beside = ip_address(int(network.network_address) ^ (1 << (32 - length)))
        check("host", f"{beside}/{length}", data.draw(st.sampled_from(spellings)), False)


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(st.ip_addresses(v=6), st.integers(0, 128), st.data())
def test_each_text_of_an_ipv6_address_is_in_its_networks(
    address: IPv6Address, length: int, data: st.DataObject
) -> None:
    network = ip_network(f"{address}/{length}", strict=False)
    if int(address) >> 32 == 0xFFFF or int(network.network_address) >> 32 == 0xFFFF:
        return
    texts = [address.exploded, address.compressed.upper(), f"[{address.compressed}]", resolved(address.exploded)]
    check("host", network.compressed, data.draw(st.sampled_from(texts)), True)


@pytest.mark.sampled
@settings(max_examples=examples(150))
@given(
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=4),
    st.lists(st.sampled_from(["internal", "bücher", "example", "a1"]), min_size=1, max_size=3),
    st.data(),
)
def test_each_text_of_a_name_is_below_its_endings(labels: list[str], ending: list[str], data: st.DataObject) -> None:
    name = ".".join([*labels, *ending])
    cased = "".join(
        data.draw(st.sampled_from([letter, letter.upper() if letter.isascii() else letter])) for letter in name
    )
    if Resource("host", cased).id is None:
        return
    asked = cased + data.draw(st.sampled_from(["", "."]))
    written = "*." + data.draw(st.sampled_from([".".join(ending), ".".join(ending).upper() + "."]))
    if Resource("host", written[2:]).id is None:
        return
    check("host", written, asked, True)
    check("host", f"*.{name}", asked, False)
    check("host", written, "evil" + ".".join(ending), False)


@pytest.mark.sampled
@settings(max_examples=examples(150))
@given(st.lists(st.sampled_from(["a", "B", "é", "..a", "a b", "%2e"]), min_size=2, max_size=5), st.data())
def test_each_text_of_a_path_is_below_its_folders(segments: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(segments) - 1))
    asked = data.draw(st.sampled_from(["", "./", ".//"]))
    for segment in segments:
        asked += segment + data.draw(st.sampled_from(["/", "//", "/./"]))
    folder = "/".join(segments[:at])
    check("path", f"{folder}/*", asked, True)
    check("path", f".//{folder}//*", asked, True)
    check("path", f"{folder}/*", folder + "/", False)
    check("path", f"{folder}/*", folder + "x/" + segments[at], False)


def test_every_pair_is_told_as_ipaddress_tells_it() -> None:
    entries = [*NETWORKS, *(f"*.{name}" for name in NAMES)]
    for entry in entries:
        policy = RuntimePolicy.from_document({"egress": [entry]})
        for text in (*ADDRESSES, *NAMES, *SPELLED):
            resource = Resource("host", text)
            expected = resource.id is not None and entry_fits(entry, "host", resource.id)
            assert (policy.evaluate(PolicyInput("http.outbound", resource=resource)) is ALLOW) == expected


@given(st.integers(0, 2**128 - 1) | st.integers(0xFFFF << 32, (0xFFFF << 32) + 2**32 - 1))
def test_an_address_is_a_number_and_back(number: int) -> None:
    text = address_text(number)
    assert Resource("host", text).id == text
    assert address_number(text) == number
    assert is_within(number, "0.0.0.0/0" if "." in text else "::/0")
    assert not is_within(number, "::/0" if "." in text else "0.0.0.0/0")


INCLUDED = [
    *(("host", "host:*.a"), ("host", "host:10.0.0.0/8"), ("host:*", "host:*.a"), ("host:*", "host:10.0.0.0/8")),
    *(("host:*.a", "host:x.a"), ("host:*.a", "host:*.b.a"), ("host:*.a", "host:*.a"), ("host:::/0", "host:fd00::/8")),
    *(("host:10.0.0.0/8", "host:10.1.0.0/16"), ("host:10.0.0.0/8", "host:0xa.1"), ("path:a/*", "path:a/b/*")),
]
NOT_INCLUDED = [
    *(("host:*.a", "host:a"), ("host:*.a", "host:*.ba"), ("host:*.a", "host"), ("host:*.a", "host:*")),
    *(("host:::/0", "host:10.0.0.0/8"), ("host:10.1.0.0/16", "host:10.0.0.0/8"), ("host:a", "host:*.a")),
    *(("path:a/*", "path:a"), ("path:a/b/*", "path:a/*"), ("host:*.b.a", "host:*.a"), ("host:*.a", "host:10.0.0.1")),
]


def _pattern(text: str) -> Pattern:
    rule = {"effect": "deny", "actions": ["*"], "resources": [text]}
    (pattern,) = read_document({"rules": [rule]}).rules[0].resources or ()
    return pattern


@pytest.mark.parametrize(("outer", "inner"), INCLUDED)
def test_a_wildcard_includes_what_it_covers(outer: str, inner: str) -> None:
    assert _pattern(outer).includes(_pattern(inner))


@pytest.mark.parametrize(("outer", "inner"), NOT_INCLUDED)
def test_a_wildcard_includes_nothing_else(outer: str, inner: str) -> None:
    assert not _pattern(outer).includes(_pattern(inner))


def test_the_order_of_entries_changes_no_byte() -> None:
    entries = ["*.a", "*.b.a", "10.0.0.0/8", "10.0.0.0/9", "::/0", "x"]
    rules = [{"effect": "deny", "actions": ["fs.*"], "resources": ["path:a/*", "path:a/b/*"]}]
    one, other = ({"egress": order, "rules": rules} for order in (entries, entries[::-1]))
    assert RuntimePolicy.from_document(one).sha256 != RuntimePolicy.from_document(other).sha256
    images = [build_policy(document) for document in (one, other)]
    assert len(images[0]) == len(images[1])
