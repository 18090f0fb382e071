"""What capgate's conditions are compared with, each given the same rules in the form that suits it best.

What does not change between questions is parsed or compiled before one is asked. Facts come with a question, as objects
of Python: turning these into what a rival reads is part of asking it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import msgspec

from .fact_questions import ROLE, UNTIL, FactQuestion, highest, holds
from .questions import ACTION, KIND, entry
from .rivals import Asked, uid

Document = dict[str, Any]

_encode = msgspec.json.Encoder().encode


def by_hand(size: int) -> Iterator[Asked]:
    """A function of Python, which isolates nothing and has no rules as data."""
    yield Asked("written by hand", lambda question: question, lambda question: holds(question, size), _is_true)


def _is_true(result: Any) -> bool:
    return result is True


# -- pycasbin

_MODEL = """
[request_definition]
r = sub, act, name, obj, args, now
[policy_definition]
p = sub, act, name, role, amount, until
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.name == p.name && r.act == p.act && p.role in r.sub["roles"] && r.obj["owner"] == r.sub["id"] \
&& r.obj["tenant"] == r.sub["tenant"] && r.args["amount"] <= number(p.amount) && r.now < number(p.until)
"""


def pycasbin(size: int) -> Iterator[Asked]:
    """The usual enforcer, and the one that first selects the rules of the same action and name. What differs between
    rules is data; ``eval`` of a condition of their own would be slower."""
    import casbin
    from casbin.model import FastModel
    from casbin.persist.adapters.string_adapter import StringAdapter

    lines = (f"p, *, {ACTION}, {entry(number)}, {ROLE}, {highest(number)}, {UNTIL}" for number in range(size))
    rules = StringAdapter("\n".join(lines))
    model, fast_model = casbin.Model(), FastModel([1, 2])
    model.load_model_from_text(_MODEL)
    fast_model.load_model_from_text(_MODEL)
    enforcers = {
        "pycasbin": casbin.Enforcer(model, rules),
        "pycasbin FastEnforcer": casbin.FastEnforcer(fast_model, rules, cache_key_order=[1, 2]),
    }
    for name, enforcer in enforcers.items():
        enforcer.add_function("number", int)
        yield Asked(name, _to_casbin, _spread(enforcer.enforce), _is_true)


def _to_casbin(question: FactQuestion) -> tuple[Any, ...]:
    subject = {"id": question.who, "roles": question.roles, "tenant": question.tenant}
    of = {"owner": question.owner, "tenant": question.of}
    return subject, ACTION, question.name, of, {"amount": question.amount}, question.at


def _spread(enforce: Callable[..., Any]) -> Callable[[tuple[Any, ...]], Any]:
    return lambda asked: enforce(*asked)


# -- cedarpy

_WHEN = (
    f'principal.roles.contains("{ROLE}") && resource.owner == principal.id && resource.tenant == principal.tenant'
    f" && context.amount <= %s && context.now < {UNTIL}"
)
GROUP_FORM, EACH_FORM, PARSED_FORM = "cedarpy, a group", "cedarpy, a policy each", "cedarpy, entities parsed before"


def cedarpy(size: int) -> Iterator[Asked]:
    """One policy over a group, where what is known of an entry says its group and its highest amount, and one policy
    for each entry. Entities are made of the question's facts. The third form has them parsed before it is asked, which
    no application can where facts come with the question; it shows what evaluating costs alone."""
    from cedarpy import Entities, PolicySet, is_authorized

    scope = f'permit(principal, action == Action::"{ACTION}", resource'
    group = PolicySet.from_str(f'{scope} in group::"admitted") when {{ {_WHEN % "resource.highest"} }};')
    each = PolicySet.from_str(
        "\n".join(
            f'{scope} == {KIND}::"{entry(number)}") when {{ {_WHEN % highest(number)} }};' for number in range(size)
        )
    )

    def form(question: FactQuestion) -> tuple[Document, list[Document]]:
        return _to_cedar(question, grouped=False, size=size)

    def grouped(question: FactQuestion) -> tuple[Document, list[Document]]:
        return _to_cedar(question, grouped=True, size=size)

    def parsed(question: FactQuestion) -> tuple[Document, Entities]:
        request, entities = grouped(question)
        return request, Entities.from_json_str(json.dumps(entities))

    def ask(policies: PolicySet) -> Callable[[tuple[Document, list[Document]]], bool]:
        def asked(question: tuple[Document, list[Document]]) -> bool:
            request, entities = question
            # as text, which is quicker than to pass objects
            request = {**request, "context": _encode(request["context"]).decode()}
            return is_authorized(request, policies, _encode(entities).decode()).allowed

        return asked

    yield Asked(GROUP_FORM, grouped, ask(group), _is_true)
    yield Asked(EACH_FORM, form, ask(each), _is_true)
    yield Asked(PARSED_FORM, parsed, lambda asked: is_authorized(asked[0], group, asked[1]).allowed, _is_true)


def _to_cedar(question: FactQuestion, *, grouped: bool, size: int) -> tuple[Document, list[Document]]:
    principal, resource = uid("User", question.who), uid(KIND, question.name)
    request = {
        "principal": principal,
        "action": uid("Action", ACTION),
        "resource": resource,
        "context": {"amount": question.amount, "now": question.at},
    }
    who = {"id": question.who, "roles": list(question.roles), "tenant": question.tenant}
    what: Document = {"owner": question.owner, "tenant": question.of}
    parents = []
    if grouped and question.number < size:
        what["highest"] = highest(question.number)
        parents.append(uid("group", "admitted"))
    return request, [
        {"uid": principal, "attrs": who, "parents": []},
        {"uid": resource, "attrs": what, "parents": parents},
    ]


# -- regorus

REGO = f"""
package bench

default allow := false

allow if {{
    limits := data.limits[input.action][input.resource.kind][input.resource.id]
    "{ROLE}" in input.actor.roles
    input.resource.attributes.owner == input.actor.id
    input.resource.attributes.tenant == input.actor.attributes.tenant
    input.args.amount <= limits.amount
    input.timestamp < limits.until
}}
"""


#: An interpreter may be let go of by no other thread than its own, and a collection of garbage runs in any.
_kept: list[object] = []


def regorus(size: int) -> Iterator[Asked]:
    """An interpreter of Rego in the process, and its virtual machine, for which the policy is compiled. What differs
    between rules is data that is looked up, since neither has an index of rules. Nothing is isolated."""
    import regorus

    table = {entry(number): {"amount": highest(number), "until": UNTIL} for number in range(size)}
    data = {"limits": {ACTION: {KIND: table}}}
    engine = regorus.Engine()
    _kept.append(engine)
    engine.add_policy("bench.rego", REGO)
    engine.add_data(data)
    program = regorus.Program.compile_from_modules(json.dumps(data), [("bench.rego", REGO)], ["data.bench.allow"])
    machine = regorus.Rvm()
    _kept.append(machine)
    machine.load_program(program)
    machine.set_data_json(json.dumps(data))

    def interpreted(question: Document) -> bool:
        engine.set_input(question)
        return engine.eval_rule("data.bench.allow") is True

    def executed(question: Document) -> bool:
        machine.set_input_json(_encode(question).decode())
        return bool(machine.execute() == "true")

    yield Asked("regorus", _to_rego, interpreted, _is_true)
    yield Asked("regorus, virtual machine", _to_rego, executed, _is_true)


def _to_rego(question: FactQuestion) -> Document:
    attributes = {"owner": question.owner, "tenant": question.of}
    return {
        "action": ACTION,
        "actor": {"id": question.who, "roles": list(question.roles), "attributes": {"tenant": question.tenant}},
        "resource": {"kind": KIND, "id": question.name, "attributes": attributes},
        "args": {"amount": question.amount},
        "timestamp": question.at,
    }


#: By the module that they need: functions of the number of rules.
CONDITIONAL: dict[str, Callable[[int], Iterator[Asked]]] = {
    "casbin": pycasbin,
    "cedarpy": cedarpy,
    "regorus": regorus,
}


def missing() -> list[str]:
    """The modules of rivals that are not installed; all are in the extra ``bench``."""
    return [module for module in CONDITIONAL if find_spec(module) is None]


def conditional_rivals(size: int) -> Iterator[Asked]:
    """Every rival that is installed, over ``size`` rules."""
    yield from by_hand(size)
    absent = missing()
    for module, make in CONDITIONAL.items():
        if module not in absent:
            yield from make(size)
