"""Contracts made by hypothesis: every action, every kind of resource, any text that a policy takes for an id."""

from __future__ import annotations

from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS
from capgate.policy.spelled import is_writable
from capgate.routes.contract import (
    ContractAction,
    ContractArgument,
    ContractRequirement,
    ContractRoute,
    HandlerContract,
    requirement_key,
    route_key,
)
from capgate.routes.declare import escape
from capgate.spelling import normal_id

OWN = (
    ContractAction("invoice.send", "actions", "invoice", True, ()),
    ContractAction("report.print", "actions", None, False, ()),
)
ACTIONS = {
    **{
        one.name: ContractAction(one.name, one.section, one.kind, one.resource_required, tuple(sorted(one.operations)))
        for one in BUILTIN_ACTIONS
    },
    **{one.name: one for one in OWN},
}

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
#: Ids as policies take them, with what means something in a template among the likely ones.
ids = st.one_of(
    st.sampled_from(["a", "b", "A", "{", "}", "{a}", "{{", ":", "x:y", "a b", "\x1b[31m", "\u212a", "\u202e", "\0"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)
sources = st.sampled_from(
    ["json:/amount", "json:", "json:/a~1b/0", "query:page", "query:gr\u00f6\u00dfe", "header:x-tenant"]
)
parameters = st.sampled_from(["name", "number", "größe"])


@st.composite
def requirements(draw: st.DrawFn, static: bool = False) -> ContractRequirement:
    action = ACTIONS[draw(st.sampled_from(sorted(ACTIONS)))]
    kind = action.kind or draw(st.sampled_from(["page", "order"]))
    shape = draw(st.sampled_from(["static", "static", "none", "kind", *([] if static else ["dynamic"])]))
    id = escape(draw(ids.filter(lambda id: normal_id(kind, id) == id and is_writable(kind, id))))
    resource = {
        "static": f"{kind}:{id}",
        "none": None,
        "kind": kind,
        "dynamic": f"{kind}:{draw(st.sampled_from(['', id]))}{{{draw(parameters)}}}",
    }[shape]
    facts = resource is not None and draw(st.booleans())
    names = draw(st.sets(st.sampled_from(["amount", "b_1", "a"]), max_size=2))
    args = tuple(ContractArgument(name, draw(sources)) for name in sorted(names))
    hashed = draw(st.sampled_from([None, "body"]))
    return ContractRequirement(action.name, resource, shape == "dynamic", hashed, facts, args)


@st.composite
def routes(draw: st.DrawFn, static: bool = False) -> ContractRoute:
    methods = draw(st.sets(st.sampled_from(["GET", "HEAD", "POST", "QUERY"])))
    needed = {*draw(st.lists(requirements(static), max_size=3))}
    status = draw(st.sampled_from(["undeclared", "unresolvable", "public", "deferred"])) if not needed else "declared"
    path = draw(st.sampled_from(["/a", "/b/{name}", "api.example.com/c", "/\u202e"]))
    return ContractRoute(path, tuple(sorted(methods)), status, tuple(sorted(needed, key=requirement_key)))


@st.composite
def contracts(draw: st.DrawFn, static: bool = False) -> HandlerContract:
    made = sorted(draw(st.lists(routes(static), max_size=5)), key=route_key)
    used = sorted({one.action for route in made for one in route.requirements})
    return HandlerContract(
        policy_hash=draw(digests),
        wasm_policy_hash=draw(digests | st.just("0" * 64)),
        artifact_sha256=draw(digests),
        service=draw(st.none() | st.sampled_from(["orders", "Größe", "x y"])),
        routes=tuple(made),
        actions=tuple(ACTIONS[name] for name in used),
    )
