"""Rules, and questions about them, made up so that they often match and often only just do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS
from capgate.model import Actor, Anonymous, CompilerTool, Environment, PolicyInput, Resource, Service, User
from capgate.spelling import normal_id

KINDS = {action.name: action.kind or "thing" for action in BUILTIN_ACTIONS}
OWN = ("invoice.send", "invoice.send.now", "report.print")
ACTORS: dict[str, type[User] | type[Service] | type[CompilerTool]] = {
    "user": User,
    "service": Service,
    "compiler_tool": CompilerTool,
}
MODES = ("prod", "dev", "compiler_author")
#: Few, so that questions hit; those that end with a separator are also the beginnings of patterns.
STEMS = ("", "a/", "a/b/", "a/b/c/", "a.", "a:", "a:b/", "é/", "A.", "team/", "team/x.", "long/" * 9)
IDS = (
    "a",
    "a/b",
    "a/b/",
    "a/b/c",
    "a/b/c/d",
    "a.b",
    "a:b",
    "A.B",
    "é/x",
    "team",
    "team/x",
    "long/" * 9 + "x",
    "k",
    "\u212a",
)
REASONS = ("no", "not_in_allowlist", "nicht während der Inventur", "x" * 256)

modes = st.sampled_from(MODES)
ids = st.sampled_from(IDS) | st.sampled_from(STEMS) | st.text(st.sampled_from("aA/.:\u212ak\0é"), max_size=5)
exact = st.sampled_from([id for id in (*IDS, *STEMS) if id])
starred = st.sampled_from(STEMS).map(lambda stem: stem + "*")
#: What hosts have in place of beginnings, and questions about them.
NAMES = ("a", "b.a", "c.b.a", "x.c.b.a", "ba", "long." * 15 + "a", "xn--bcher-kva.a", "a.b")
NETWORKS = (
    *("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/31", "10.0.0.1/32", "10.128.0.0/9", "127.0.0.0/8", "255.255.255.255/32"),
    *("::/0", "::/64", "fd00::/8", "fd00::/127", "fd00::1/128", "ff00::/8", "::1/128", "::fffe:0:0/95", "1:2:3::/48"),
)
ADDRESSES = (
    *("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.127.255.255", "10.128.0.0", "11.0.0.0", "127.0.0.1", "0.0.0.0"),
    *("255.255.255.255", "::", "::1", "fd00::", "fd00::1", "fd00::2", "fe00::", "ff02::1", "::fffe:1:2", "1:2:3::4"),
    *("1:2:3:4:5:6:7:8", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1:0:0:0", "1::8", "fcff:ffff::", "::1:0:0"),
)
#: Other texts of some of them.
SPELLED = ("0x7f.1", "127.1", "[::1]", "::ffff:10.0.0.1", "::FFFF:7f00:1", "012.0.0.1", "B.A.", "FD00::1", "2130706433")
host_ids = st.sampled_from([*NAMES, *ADDRESSES, *SPELLED])
host_entries = host_ids | st.sampled_from(NETWORKS) | st.sampled_from(NAMES).map("*.{}".format) | st.just("*")


def _pattern(kinds: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    of_host = st.tuples(st.just("host"), host_entries).map(":".join)
    others = st.tuples(kinds, exact | starred).filter(lambda pair: is_spelled(*pair)).map(":".join)
    return kinds | kinds.flatmap(lambda kind: of_host if kind == "host" else others)


def is_spelled(kind: str, id: str) -> bool:
    """Whether this is how an id, or the beginning of ids, is spelled: the judgement again compares characters."""
    if "*" in id and ((kind == "path" and id[-2:] not in ("*", "/*")) or (kind == "host" and id != "*")):
        return False
    return normal_id(kind, id.replace("*", "x")) == id.replace("*", "x")


def spelled(kind: str) -> Callable[[str], str]:
    """What two entries are the same by."""
    return lambda text: text if "*" in text or "/" in text else str(normal_id(kind, text))


def _spelled_pattern(pattern: str) -> str:
    kind, _, id = pattern.partition(":")
    return f"{kind}:{spelled(kind)(id)}" if id else kind


@st.composite
def rules(draw: st.DrawFn, declared: tuple[str, ...] = ()) -> dict[str, Any]:
    """One rule of a document whose section ``actions`` has ``declared``."""
    beginnings = ["*", "db.*", "tool.*", "cache.*", "fs.*", *(f"{name.split('.')[0]}.*" for name in declared)]
    names = st.sampled_from([*KINDS, *OWN]) | st.sampled_from(["db.read", "http.outbound", "fs.read", "compute.long"])
    rule: dict[str, Any] = {
        "effect": draw(st.sampled_from(["allow", "allow", "deny"])),
        "actions": draw(st.lists(st.sampled_from(beginnings) | names, min_size=1, max_size=3, unique=True)),
    }
    if draw(st.booleans()):
        kinds = st.sampled_from(list(ACTORS))
        who = st.just("anonymous") | _pattern(kinds)
        rule["actors"] = draw(st.lists(who, min_size=1, max_size=4, unique=True))
    if draw(st.integers(0, 3)) == 0:
        rule["modes"] = draw(st.lists(modes, min_size=1, max_size=2, unique=True))
    if draw(st.booleans()):
        acted_on = _kinds_of(rule["actions"])
        what = _pattern(st.sampled_from(acted_on))
        rule["resources"] = draw(st.lists(what, min_size=1, max_size=5, unique_by=_spelled_pattern))
    if rule["effect"] == "deny" and draw(st.booleans()):
        rule["reason"] = draw(st.sampled_from(REASONS))
    if rule["effect"] == "deny" and draw(st.integers(0, 2)) == 0:
        rule["monitor"] = draw(st.booleans())
        if any(name in OWN and name not in declared for name in rule["actions"]):
            rule["monitor"] = False  # it makes no action known
    return rule


def _kinds_of(actions: list[str]) -> list[str]:
    found = {
        kind for name, kind in KINDS.items() for a in actions if a == name or (a[-1] == "*" and name.startswith(a[:-1]))
    }
    return sorted(found or {"thing", "host"})


def rule_lists(declared: tuple[str, ...] = ()) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(rules(declared), max_size=8)


def own_actions(rules: list[dict[str, Any]]) -> list[str]:
    """The actions that rules name and that are not built in: a document has to declare them."""
    return sorted({name for rule in rules for name in rule["actions"] if "*" not in name and name not in KINDS})


@st.composite
def questions(draw: st.DrawFn, document: dict[str, Any]) -> PolicyInput:
    """A question about one of the document's rules: what it matches, but for what is drawn to differ."""
    found = document.get("rules") or [{"actions": ["*"]}]
    rule = draw(st.sampled_from(found))
    action = _extended(draw, draw(st.sampled_from(rule["actions"])))
    who = draw(st.sampled_from(rule.get("actors") or ["anonymous", *ACTORS]))
    what = draw(st.sampled_from(rule.get("resources") or [KINDS.get(action, "thing")]))
    kind = draw(st.sampled_from([what.partition(":")[0]] * 3 + [KINDS.get(action, "thing")]))
    resource: Resource | None = Resource(kind, draw(st.none() | ids) if draw(_rarely) else _id(draw, what))
    if draw(_rarely):
        resource = None
    mode = draw(st.sampled_from([*(rule.get("modes") or MODES), *MODES, "Prod"]))
    return PolicyInput(action, _who(draw, who), resource, env=Environment("s", mode))


_rarely = st.integers(0, 9).map(lambda n: n == 0)


def _extended(draw: st.DrawFn, action: str) -> str:
    if not action.endswith("*"):
        return action
    return draw(st.sampled_from([n for n in (*KINDS, *OWN) if n.startswith(action[:-1])] or [action[:-1] + "x"]))


def _id(draw: st.DrawFn, pattern: str) -> str:
    """An id that the pattern covers, or nearly."""
    kind, colon, text = pattern.partition(":")
    if not colon or draw(_rarely):
        return draw(host_ids if kind == "host" else ids)
    if kind == "host" and (text == "*" or "/" in text):
        return draw(host_ids)
    if kind == "host":
        near = [text, text, f"x.{text}", f"y.x.{text}", f"x{text}", f"{text}.x", text[1:]]
        return draw(st.sampled_from([each.replace("*.", "") for each in near]))
    if text.endswith("*"):
        text = text[:-1] + draw(st.sampled_from(["x", "b/c", "A", "", "\0", "é", "b/"]))
    return draw(st.sampled_from([text, text, text, text.swapcase(), text + "x", text[:-1]]))


def _who(draw: st.DrawFn, pattern: str) -> Actor:
    kind = draw(st.sampled_from([pattern.partition(":")[0]] * 4 + list(ACTORS)))
    return Anonymous() if kind == "anonymous" else ACTORS[kind](_id(draw, pattern))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    declared = draw(st.sampled_from([(), OWN[:1], OWN]))
    document: dict[str, Any] = {"rules": draw(rule_lists(declared))}
    own = st.lists(exact, unique=True, max_size=4)
    for section in draw(st.sets(st.sampled_from(["sql", "egress", "fs", "compute", "tools"]))):
        kind = next(action.kind or "" for action in BUILTIN_ACTIONS if action.section == section)
        entries = st.sampled_from([id for id in (*IDS, *STEMS) if id and is_spelled(kind, id)])
        wild = st.sampled_from([f"{stem}*" for stem in STEMS if is_spelled(kind, f"{stem}*")])
        listed = st.lists(host_entries if kind == "host" else entries | wild, unique_by=spelled(kind), max_size=4)
        document[section] = draw(st.just("any") | listed)
    document["actions"] = {name: draw(st.just("any") | st.just("by_rule") | own) for name in declared}
    document["modes"] = ["compiler_author"]
    for name in own_actions(document["rules"]):
        document["actions"].setdefault(name, "by_rule")
    return document
