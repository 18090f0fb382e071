"""One spelling for one thing: no way of writing it passes a denial of it, or misses what admits it."""

from __future__ import annotations

import os
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS, Vocabulary
from capgate.checker.local import LocalPolicyChecker
from capgate.errors import ConfigError
from capgate.model import ALLOW, Allow, Deny, PolicyInput, Reason, Resource, User
from capgate.policy import RuntimePolicy
from capgate.routes.declare import Requirement
from capgate.spelling import SPELLINGS, normal_host, normal_id

from ..support.tools import ROOT, examples

ACTIONS = {action.kind: action for action in BUILTIN_ACTIONS if action.kind is not None}
CASES = {True: str.upper, False: str.lower}


def policies(kind: str, id: str) -> tuple[RuntimePolicy, RuntimePolicy]:
    """A policy that admits one thing, and one that admits all but that: written as ``id``."""
    action = ACTIONS[kind]
    deny = {"effect": "deny", "actions": [action.name], "resources": [f"{kind}:{id}"]}
    return (
        RuntimePolicy.from_document({action.section: [id]}),
        RuntimePolicy.from_document({action.section: "any", "rules": [deny]}),
    )


def check_same(kind: str, one: str, other: str) -> None:
    """Whichever of two spellings a policy has, and whichever is asked about, they are the same."""
    for written, asked in ((one, other), (other, one), (other, other)):
        admitting, denying = policies(kind, written)
        question = PolicyInput(ACTIONS[kind].name, resource=Resource(kind, asked))
        assert admitting.evaluate(question) is ALLOW, (written, asked)
        assert type(denying.evaluate(question)) is Deny, (written, asked)


# -- hosts


def resolved(text: str) -> str:
    """The address that a resolver takes ``text`` for, without asking anybody. Raises ``OSError``."""
    found = socket.getaddrinfo(text, 80, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    return str(found[0][4][0]).partition("%")[0]


@st.composite
def number_texts(draw: st.DrawFn, number: int) -> str:
    base = draw(st.sampled_from(["d", "x", "o"]))
    zeros = "0" * draw(st.integers(0, 3))
    if base == "x":
        text = f"{number:x}"
        return draw(st.sampled_from(["0x", "0X"])) + zeros + CASES[draw(st.booleans())](text)
    return str(number) if base == "d" else f"0{zeros}{number:o}"


@st.composite
def addresses(draw: st.DrawFn) -> tuple[IPv4Address, str]:
    """An address, and a text that ``inet_aton`` takes for it."""
    octets = draw(st.lists(st.integers(0, 255) | st.sampled_from([0, 1, 10, 127, 255]), min_size=4, max_size=4))
    parts = draw(st.integers(1, 4))
    last = int.from_bytes(bytes(octets[parts - 1 :]), "big")
    texts = [draw(number_texts(number)) for number in (*octets[: parts - 1], last)]
    return IPv4Address(bytes(octets)), ".".join(texts)


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(addresses(), st.sampled_from(["", "."]))
def test_each_text_that_a_resolver_takes_for_an_address_is_that_address(
    address: tuple[IPv4Address, str], dot: str
) -> None:
    canonical, text = str(address[0]), address[1]
    assert resolved(text) == canonical
    assert normal_host(text + dot) == canonical
    check_same("host", canonical, text + dot)


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(st.text(st.sampled_from("0123456789abcdefxX.-_:%[]٣１。 "), min_size=1, max_size=12))
def test_no_text_is_an_address_to_a_resolver_and_another_thing_to_a_policy(text: str) -> None:
    try:
        address = ip_address(resolved(text))
    except (OSError, UnicodeError):
        return
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    assert normal_host(text) in (str(mapped or address), None)


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(st.ip_addresses(v=6) | st.ip_addresses(v=4).map(lambda v4: IPv6Address(f"::ffff:{v4}")), st.data())
def test_each_text_of_an_ipv6_address(address: IPv6Address, data: st.DataObject) -> None:
    mapped = address.ipv4_mapped
    texts = [address.exploded, address.compressed, address.compressed.upper(), f"[{address.compressed}]"]
    if mapped is not None:
        texts.append(f"::FFFF:{mapped}")
    canonical = address.compressed if mapped is None else str(mapped)
    check_same("host", canonical, data.draw(st.sampled_from(texts)))


LABELS = ["api", "a-b", "_sip", "xn--bcher-kva", "bücher", "straße", "日本", "K", "x" * 63, "0xg", "a1"]


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=3),
    st.sampled_from(["example", "internal", "bücher"]),
    st.data(),
)
def test_each_text_that_a_client_takes_for_a_name_is_that_name(
    labels: list[str], last: str, data: st.DataObject
) -> None:
    name = ".".join([*labels, last])
    written = "".join(
        data.draw(st.sampled_from([letter, letter.upper() if letter.isascii() else letter])) for letter in name
    )
    written += data.draw(st.sampled_from(["", "."]))
    try:
        sent = httpx.URL(f"http://{written}/").raw_host.decode()
    except httpx.InvalidURL:  # such as an underscore beside what is not ASCII
        assert normal_host(written) is None or not written.isascii()
        return
    assert normal_host(sent) == normal_host(written) is not None
    check_same("host", sent, written)


@pytest.mark.parametrize(
    "text",
    [
        *("https://x.example", "x.example:8080", "a/b", "user@x", "fe80::1%eth0", "a..b", ".a", "", "1.2.3.4.5"),
        *("256.1.1.1", "08.1", "0x", "0x100000000", "a b", "ex%61mple.com", "*", "[::1", "[a]", "x" * 64, "\u2044"),
        "a." * 127 + "a",
    ],
)
def test_what_is_no_host_for_certain_is_denied(text: str) -> None:
    assert Resource("host", text).id is None
    policy = RuntimePolicy.from_document({"egress": "any"})
    assert policy.evaluate(PolicyInput("http.outbound", resource=Resource("host", text))) == Deny("missing_resource")


# -- the others


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(st.lists(st.sampled_from(["a", "B", "é", "..a", "a b", "%2e", "\\"]), min_size=1, max_size=4), st.data())
def test_each_text_of_a_path(segments: list[str], data: st.DataObject) -> None:
    gaps = st.sampled_from(["/", "//", "/./", "/.//"])
    written = data.draw(st.sampled_from(["", "./", ".//"])) + segments[0]
    for segment in segments[1:]:
        written += data.draw(gaps) + segment
    written += data.draw(st.sampled_from(["", "/", "/."]))
    assert normal_id("path", written) == os.path.normpath(written)
    check_same("path", "/".join(segments), written)


@pytest.mark.parametrize(
    ("one", "other"), [("file:///a/b", "FILE:///a//./b/"), ("note://open", "Note://open/"), ("x://a%2Bb", "x://a%2bb")]
)
def test_each_text_of_a_uri(one: str, other: str) -> None:
    check_same("path", one, other)
    assert normal_id("path", "note:///open") != normal_id("path", "note://open")


@pytest.mark.parametrize("text", ["file:///a/../b", "file:////a", "file:///%61", "file:///a%2Fb", "file:///%2e%2e/a"])
def test_what_is_no_uri_for_certain_is_denied(text: str) -> None:
    assert Resource("path", text).id is None


@pytest.mark.parametrize("text", ["/etc/passwd", "a/../b", "..", "//etc", "a\0"])
def test_what_is_no_path_for_certain_is_denied(text: str) -> None:
    assert Resource("path", text).id is None


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(st.text(st.sampled_from('aAbZ._-é"ß \u212a'), min_size=1, max_size=8), st.data())
def test_each_text_of_a_query(name: str, data: st.DataObject) -> None:
    normal = normal_id("sql_query", name)
    if normal is None:
        return
    if '"' not in name:
        assert (
            normal_id(
                "sql_query", "".join(data.draw(st.sampled_from([c, c.swapcase()])) if c.isascii() else c for c in name)
            )
            == normal
        )
    check_same("sql_query", normal, name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("users", "Public.Users"),
        ("users", 'main."users"'),
        ('"Users"', 'public."Users"'),
        ("sqlite_schema", "MAIN.sqlite_master"),
        ("temp.sqlite_master", "sqlite_temp_schema"),
        ("app.users", "APP.Users"),
    ],
)
def test_two_names_of_a_table(one: str, other: str) -> None:
    check_same("sql_query", one, other)


def test_a_name_in_quotes_is_another_table() -> None:
    admitting, denying = policies("sql_query", '"Users"')
    question = PolicyInput("db.read", resource=Resource("sql_query", "users"))
    assert type(admitting.evaluate(question)) is Deny
    assert denying.evaluate(question) is ALLOW


@pytest.mark.parametrize(
    ("kind", "text"), [("namespace", "orders:17"), ("env_var", "A=B"), ("env_var", ""), ("namespace", ""), ("host", "")]
)
def test_what_names_nothing_is_denied(kind: str, text: str) -> None:
    assert Resource(kind, text).id is None


# -- of every kind


@pytest.mark.sampled
@settings(max_examples=examples(250))
@given(
    st.sampled_from(sorted(SPELLINGS)),
    st.text(st.sampled_from('aA1x0.:/"*é%@[]=_ \0\u3002'), max_size=9) | st.text(max_size=9),
)
def test_the_normal_form_is_its_own(kind: str, text: str) -> None:
    normal = normal_id(kind, text)
    if normal is not None:
        assert normal_id(kind, normal) == normal
        resource = Resource(kind, text)
        assert resource.id == normal
        assert msgspec.json.decode(msgspec.json.encode(resource), type=Resource) == resource
    meant = SPELLINGS[kind].meant(text)
    assert meant is None or normal_id(kind, meant) == meant


@pytest.mark.parametrize("kind", sorted(SPELLINGS))
def test_the_documentation_has_each_kind(kind: str) -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", Path(ROOT / "docs/resource_kinds.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(SPELLINGS) == sorted(filter(None, ACTIONS))


def test_an_application_may_have_kinds_of_its_own() -> None:
    assert Resource("order", "A:1/../B.").id == "A:1/../B."


@pytest.mark.parametrize("value", [None, 3, ["a"], b"a"])
def test_what_is_malformed_stays_so(value: Any) -> None:
    policy = RuntimePolicy.from_document({"egress": "any"})
    for resource in (Resource("host", value), Resource(value, "a")):
        answer = policy.evaluate(PolicyInput("http.outbound", resource=resource))
        assert type(answer) is not Allow


async def test_what_is_not_certain_is_denied_whatever_the_action_needs() -> None:
    known = Vocabulary()
    known.register("page.ping", resource_required=False)
    checker = LocalPolicyChecker(RuntimePolicy.from_document({"actions": {"page.ping": "any"}}), vocabulary=known)
    assert await checker.check(PolicyInput("page.ping")) is ALLOW
    assert await checker.check(PolicyInput("page.ping", resource=Resource("host", "a.example"))) is ALLOW
    denied = await checker.check(PolicyInput("page.ping", resource=Resource("host", "a.example:80")))
    assert denied == Deny(Reason.MISSING_RESOURCE)


@pytest.mark.parametrize(
    ("entry", "nearest"),
    [
        ("host:https://x.example", "host:x.example"),
        ("host:x.example:8080", "host:x.example"),
        ("host:http://ada@X.example:80/a?b", "host:x.example"),
        ("path:/etc/*", "path:etc/*"),
        ("path:../secrets", None),
        ("namespace:orders:*", "namespace:orders"),
        ("env_var:$HOME", "env_var:HOME"),
        ("env_var:${HOME}", "env_var:HOME"),
        ("env_var:%HOME%", "env_var:HOME"),
        ("env_var:HOME ", "env_var:HOME"),
        ("sql_query: users", "sql_query:users"),
        ("path: etc", "path:etc"),
        ("job:night\n", "job:night"),
        ("sql_query:'Users'", "sql_query:users"),
        ("sql_query:`users`", "sql_query:users"),
        ("sql_query:[users]", "sql_query:users"),
        ("sql_query:users;", "sql_query:users"),
        ("sql_query:'users';", "sql_query:users"),
        ("sql_query:app.users ;", "sql_query:app.users"),
        ("sql_query:;", None),
        ("env_var:TZ=UTC", "env_var:TZ"),
    ],
)
def test_a_rule_that_could_never_match_says_how_it_is_spelled(entry: str, nearest: str | None) -> None:  # P-5
    kind = entry.partition(":")[0]
    rule = {"effect": "deny", "actions": [ACTIONS[kind].name], "resources": [entry]}
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document({"rules": [rule]})
    assert caught.value.setting == "rules[0].resources[0]"
    assert caught.value.nearest == nearest


@pytest.mark.parametrize(
    ("entry", "nearest"),
    [("user:{id}", "user"), ("service:{name:path}", "service"), ("compiler_tool:{x}", "compiler_tool")],
)
def test_an_actor_is_no_template(entry: str, nearest: str) -> None:  # P-5
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document({"rules": [{"effect": "deny", "actions": ["*"], "actors": [entry]}]})
    assert (caught.value.setting, caught.value.nearest) == ("rules[0].actors[0]", nearest)


@pytest.mark.parametrize(
    ("action", "entry"),
    [
        *[("fs.read", entry) for entry in ("path:~/x", "path:a\\b", "path:{id}", "path:'x'", "path:x;", "path:[x]")],
        *[("cache.read", entry) for entry in ("namespace:{orders}", "namespace:'x'", "namespace:x;")],
        *[
            ("db.read", entry)
            for entry in ("sql_query:it's", "sql_query:a;b", "sql_query:x[1]", "sql_query:{x}", 'sql_query:"A;"')
        ],
        *[("compute.long", entry) for entry in ("job:{id}", "job:'x'", "job:~")],
    ],
)
def test_what_is_a_name_in_its_kind_may_be_denied(action: str, entry: str) -> None:  # P-5
    """Such a file, key, query or job there may be: the denial is of that one, and nothing else is meant."""
    kind, _, id = entry.partition(":")
    section = {"fs.read": "fs", "cache.read": "cache", "db.read": "sql", "compute.long": "compute"}[action]
    rule = {"effect": "deny", "actions": [action], "resources": [entry]}
    policy = RuntimePolicy.from_document({section: "any", "rules": [rule]})
    assert type(policy.evaluate(PolicyInput(action, resource=Resource(kind, id)))) is Deny
    assert type(policy.evaluate(PolicyInput(action, resource=Resource(kind, "other")))) is Allow


def test_an_actor_in_braces_may_be_denied() -> None:  # P-5
    """As some systems write their identifiers."""
    actor = "{8c1f0f7b-b3b4-4ab6-a1a3-f3c0f6a4b0de}"
    rule = {"effect": "deny", "actions": ["*"], "actors": [f"user:{actor}"]}
    policy = RuntimePolicy.from_document({"env": "any", "rules": [rule]})
    question = PolicyInput("env.read", User(actor), Resource("env_var", "TZ"))
    assert type(policy.evaluate(question)) is Deny


def test_a_rule_may_be_written_in_another_spelling() -> None:  # P-5
    rule = {"effect": "deny", "actions": ["*"], "resources": ["host:Bücher.example", "path:./secrets/*"]}
    policy = RuntimePolicy.from_document({"egress": "any", "fs": "any", "rules": [rule]})
    for action, resource in (
        ("http.outbound", Resource("host", "xn--bcher-kva.example")),
        ("fs.read", Resource("path", "secrets/a")),
        ("fs.read", Resource("path", "secrets//a")),
    ):
        assert type(policy.evaluate(PolicyInput(action, resource=resource))) is Deny


@pytest.mark.parametrize(
    ("action", "resource", "nearest"),
    [
        ("http.outbound", "host:x:80", "host:x"),
        ("http.outbound", "host:{name}:80", None),
        ("fs.read", "path:/srv/{name}", None),
        ("cache.read", "namespace:a:{name}", None),
    ],
)
def test_a_declaration_of_what_is_never_asked_about_is_an_error(
    action: str, resource: str, nearest: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        Requirement.parse(action, resource=resource)
    assert (caught.value.setting, caught.value.nearest) == ("resource", nearest)
    assert Requirement.parse("http.outbound", resource="host:API.example.").fixed == Resource("host", "api.example")
