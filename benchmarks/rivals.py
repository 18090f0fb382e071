"""What capgate is compared with, each in the form that suits it best; and the least that asking a guest can cost.

Every rival is given the same rules as the document: anybody may ``db.write`` any of its entries, nothing else is
allowed. Whatever can be parsed or built before a question is.
"""

from __future__ import annotations

import ctypes
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from capgate.runtime.engine import available_engines, load_engine

from .questions import ACTION, KIND, Question, denied, entry


@dataclass(frozen=True)
class Asked:
    """Something that answers questions: ``call(form(question))``, of whose result ``admits`` says whether it is a yes.
    With ``awaits``, the call gives a coroutine."""

    name: str
    form: Callable[[Any], Any]
    call: Callable[[Any], Any]
    admits: Callable[[Any], bool]
    awaits: bool = False

    async def require_right_answers(self, size: int) -> None:
        """Ask what has to be allowed, and what has to be denied; a rival that answers wrongly is worth no figure."""
        for question, expected in ((Question("user_000001", entry(size - 1), 0), True), (denied(size), False)):
            result = self.call(self.form(question))
            if inspect.isawaitable(result):
                result = await result
            if self.admits(result) is not expected:
                raise RuntimeError(f"{self.name} answers {result!r} to {question!r} about {size} entries")


# -- a frozenset lookup behind dataclasses: what a check costs where nothing is isolated


@dataclass(frozen=True)
class _Input:
    action: str
    actor: str
    kind: str
    id: str
    timestamp: int


@dataclass(frozen=True)
class _Result:
    allowed: bool
    reason: str | None = None


class _FrozensetChecker:
    def __init__(self, size: int) -> None:
        self._allowed = frozenset((ACTION, KIND, entry(number)) for number in range(size))

    async def check(self, input: _Input) -> _Result:
        if (input.action, input.kind, input.id) in self._allowed:
            return _Result(True)
        return _Result(False, "not_in_allowlist")


def frozenset_lookup(size: int) -> Iterator[Asked]:
    def form(question: Question) -> _Input:
        return _Input(ACTION, question.who, KIND, question.name, question.at)

    yield Asked("frozenset", form, _FrozensetChecker(size).check, lambda result: result.allowed is True, awaits=True)


# -- pycasbin

_MODEL = """
[request_definition]
r = sub, act, obj
[policy_definition]
p = sub, act, obj
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.obj == p.obj && r.act == p.act && (p.sub == "*" || r.sub == p.sub)
"""


def pycasbin(size: int) -> Iterator[Asked]:
    """The usual enforcer, and the one that first selects the rules of the same action and object."""
    import casbin
    from casbin.model import FastModel
    from casbin.persist.adapters.string_adapter import StringAdapter

    rules = StringAdapter("\n".join(f"p, *, {ACTION}, {entry(number)}" for number in range(size)))
    model, fast_model = casbin.Model(), FastModel([1, 2])
    model.load_model_from_text(_MODEL)
    fast_model.load_model_from_text(_MODEL)
    enforcers = {
        "pycasbin": casbin.Enforcer(model, rules),
        "pycasbin FastEnforcer": casbin.FastEnforcer(fast_model, rules, cache_key_order=[1, 2]),
    }
    for name, enforcer in enforcers.items():
        yield Asked(name, _to_tuple, _spread(enforcer.enforce), lambda result: result is True)


def _to_tuple(question: Question) -> tuple[str, str, str]:
    return question.who, ACTION, question.name


def _spread(enforce: Callable[..., Any]) -> Callable[[tuple[str, str, str]], Any]:
    return lambda asked: enforce(*asked)


# -- cedarpy


def cedarpy(size: int) -> Iterator[Asked]:
    """One policy over a group that holds all entries, and one policy per entry. Policies and entities are parsed
    before, and principal, action and resource are structured, which is the form that cedarpy reads quickest."""
    from cedarpy import Entities, PolicySet, is_authorized

    scope = f'permit(principal, action == Action::"{ACTION}", resource'
    group = {"type": "group", "id": "admitted"}
    members = [{"uid": uid(KIND, entry(number)), "attrs": {}, "parents": [group]} for number in range(size)]
    forms = {
        "cedarpy, a group": (
            PolicySet.from_str(f'{scope} in group::"admitted");'),
            Entities.from_json_str(json.dumps(members)),
        ),
        "cedarpy, a policy each": (
            PolicySet.from_str("\n".join(f'{scope} == {KIND}::"{entry(number)}");' for number in range(size))),
            Entities.from_json_str("[]"),
        ),
    }
    for name, (policies, entities) in forms.items():

        def ask(request: dict[str, Any], policies: PolicySet = policies, entities: Entities = entities) -> bool:
            return is_authorized(request, policies, entities).allowed

        yield Asked(name, _to_request, ask, lambda result: result is True)


def _to_request(question: Question) -> dict[str, dict[str, str]]:
    return {
        "principal": uid("User", question.who),
        "action": uid("Action", ACTION),
        "resource": uid(KIND, question.name),
    }


def uid(kind: str, id: str) -> dict[str, str]:
    return {"type": kind, "id": id}


#: By the module that they need: functions of the document's size.
OPTIONAL = {"casbin": pycasbin, "cedarpy": cedarpy}


def missing() -> list[str]:
    """The modules of optional rivals that are not installed; all are in the extra ``bench``."""
    return [module for module in OPTIONAL if find_spec(module) is None]


def all_rivals(size: int) -> Iterator[Asked]:
    """Every rival that is installed, over the document of ``size`` entries."""
    yield from frozenset_lookup(size)
    absent = missing()
    for module, make in OPTIONAL.items():
        if module not in absent:
            yield from make(size)


# -- the raw call: Python to guest and back with one i32, nothing asked

#: (module (func (export "id") (param i32) (result i32) local.get 0))
IDENTITY = bytes.fromhex("0061736d010000000106 01 6001 7f01 7f0302 01000706 01 02 6964 00 000a06 01 04 00 2000 0b")


@dataclass(frozen=True)
class RawCall:
    """A guest's identity function, called in the way that ``name`` says. ``keep`` is what it needs to stay alive."""

    engine: str
    name: str
    call: Callable[[int], int]
    keep: Any


def raw_calls() -> Iterator[RawCall]:
    """The raw calls of each engine that imports here: for wasmer the export itself, for wasmtime the unchecked call,
    both as capgate makes it and as the wasmtime package binds it."""
    engines = available_engines()
    if "wasmer" in engines:
        yield _wasmer_export()
    if "wasmtime" in engines:
        instance = load_engine("wasmtime").compile(IDENTITY).instantiate()
        yield RawCall("wasmtime", "raw call, wasmtime", instance.function("id", 1, 1), instance)
        yield _wasmtime_binding()


def _wasmer_export() -> RawCall:
    import wasmer
    from wasmer import engine
    from wasmer_compiler_cranelift import Compiler

    instance = wasmer.Instance(wasmer.Module(wasmer.Store(engine.Universal(Compiler)), IDENTITY))
    return RawCall("wasmer", "raw call, wasmer", instance.exports.id, instance)


def _wasmtime_binding() -> RawCall:
    import wasmtime
    from wasmtime import _bindings as bindings
    from wasmtime import _ffi as ffi

    store = wasmtime.Store()
    function: Any = wasmtime.Instance(store, wasmtime.Module(store.engine, IDENTITY), []).exports(store)["id"]
    context: Any = store._context()
    values = (bindings.wasmtime_val_raw_t * 1)()
    trap = ctypes.POINTER(ffi.wasm_trap_t)()
    call, byref = bindings.wasmtime_func_call_unchecked, ctypes.byref

    def identity(argument: int) -> int:
        values[0].i32 = argument
        if call(context, byref(function._func), values, 1, byref(trap)) or trap:
            raise RuntimeError("the identity function trapped")
        result: int = values[0].i32
        return result

    return RawCall("wasmtime", "raw call, wasmtime's own binding", identity, (store, function))
