"""Gated tools: what is asked, that the function runs with what was asked about, and that a denied one does not run."""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Annotated, Any

import anyio
import anyio.to_thread
import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from capgate import CapabilityMiddleware, requires
from capgate.capabilities import CapabilityDenied, capabilities_for, current, using
from capgate.capabilities.tools import canonical_hash, gated_tool
from capgate.errors import ConfigError, MalformedInput
from capgate.model import ALLOW, CompilerTool, PolicyInput, PolicyResult, Reason, User

from ..support.gates import SETTINGS, Answering, Recording, events, make_checker
from ..support.tools import examples
from .kinds import KINDS

POLICY: dict[str, Any] = {"tools": ["good", "listed"], "sql": ["good"]}
AGENT = CompilerTool("agent-7")


@pytest.fixture
def asked() -> Iterator[Recording]:
    """A policy that allows the tools ``good`` and ``listed``, in force, and what it was asked."""
    recording = Recording(make_checker("local", POLICY))
    with using(capabilities_for(recording, AGENT)):
        yield recording


def reason_of(denied: pytest.ExceptionInfo[CapabilityDenied]) -> str:
    return str(denied.value.decision.result.reason)


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def hash_of(recording: Recording) -> str | None:
    return recording.asked[-1][0].args_hash


# -- the hash


def test_the_hash_is_that_of_rfc_8785() -> None:
    # The example of RFC 8785, section 3.2.2 to 3.2.4, with its result in UTF-8.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    canonical = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_hash(value) == hashlib.sha256(canonical.encode()).hexdigest()


def test_order_and_spelling_of_numbers_do_not_count() -> None:
    assert canonical_hash({"a": 1, "b": [2.0]}) == canonical_hash({"b": [2], "a": 1.0})
    assert canonical_hash({}) == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        2**53,
        "\ud800",
        {"\ud800": 1},
        {1: 2},
        {b"a": 1},
        b"bytes",
        {1, 2},
        object(),
        1j,
        nested(100_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_canonical_form_is_an_error(value: Any) -> None:
    with pytest.raises(MalformedInput):
        canonical_hash(value)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inside),
    max_leaves=20,
)


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(_JSON)
def test_a_tool_gets_equal_arguments_that_are_not_the_same_objects(value: Any) -> None:
    found: list[Any] = []

    @gated_tool(name="listed")
    def keep(argument: Any) -> None:
        found.append(argument)

    with using(capabilities_for(make_checker("local", POLICY), AGENT)):
        keep(value)
    assert found == [value]
    assert not isinstance(value, (list, dict)) or found[0] is not value


# -- what is asked


async def test_a_coroutine_function_is_asked_about_and_runs(asked: Recording) -> None:
    @gated_tool("tool.modify")
    async def good(module: str, *rest: int, depth: int = 2, **more: Any) -> list[Any]:
        return [module, rest, depth, more]

    assert await good("m", 1, 2, color="red") == ["m", (1, 2), 2, {"color": "red"}]
    input, _ = asked.asked[0]
    assert (input.action, input.actor, input.env.mode) == ("tool.modify", AGENT, "prod")
    assert input.resource is not None
    assert (input.resource.kind, input.resource.id) == ("tool", "good")
    assert input.args_hash == canonical_hash({"module": "m", "rest": [1, 2], "depth": 2, "more": {"color": "red"}})


async def test_how_arguments_are_passed_does_not_change_the_hash(asked: Recording) -> None:
    @gated_tool(name="listed")
    async def tool(a: int, b: int = 2) -> None: ...

    await tool(1)
    await tool(1, 2)
    await tool(b=2, a=1)
    assert len({input.args_hash for input, _ in asked.asked}) == 1
    await tool(2, 1)
    assert len({input.args_hash for input, _ in asked.asked}) == 2


async def test_positions_names_and_extra_names_hash_differently(asked: Recording) -> None:
    @gated_tool(name="listed")
    async def tool(a: Any = None, /, *args: Any, **kwargs: Any) -> None: ...

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((1,), {}), ((None, 1), {}), ((), {"args": 1}), (([1],), {})]
    for args, kwargs in calls:
        await tool(*args, **kwargs)
    assert len({input.args_hash for input, _ in asked.asked}) == len(calls)


# -- denied is not run


def _tools(ran: list[str], name: str) -> dict[str, Callable[[], Any]]:
    """One tool of each kind with that name, each to be run to its end by calling what is here."""

    @gated_tool(name=name)
    def function() -> str:
        ran.append("function")
        return "made"

    @gated_tool(name=name)
    async def coroutine() -> str:
        ran.append("coroutine")
        return "made"

    @gated_tool(name=name)
    def generator() -> Iterator[str]:
        ran.append("generator")
        yield "made"

    @gated_tool(name=name)
    async def async_generator() -> AsyncIterator[str]:
        ran.append("async_generator")
        yield "made"

    async def drain() -> str:
        (item,) = [item async for item in async_generator()]
        return item

    return {
        "function": function,
        "coroutine": coroutine,
        "generator": lambda: next(generator()),
        "async_generator": drain,
    }


async def _run(tool: Callable[[], Any]) -> Any:
    result = tool()
    return await result if inspect.isawaitable(result) else result


@pytest.mark.parametrize("kind", ["function", "coroutine", "generator", "async_generator"])
@pytest.mark.parametrize("engine", KINDS)
async def test_a_denied_tool_does_not_run(engine: str, kind: str) -> None:
    ran: list[str] = []
    async with make_checker(engine, POLICY) as checker:
        with using(capabilities_for(checker, AGENT)), events() as denials:
            for name, expected in (("good", "made"), ("bad", Reason.NOT_IN_ALLOWLIST)):
                try:
                    made = await _run(_tools(ran, name)[kind])
                except CapabilityDenied as denied:
                    made = denied.decision.result.reason
                assert made == expected
    assert ran == [kind]
    assert [(event["resource_id"], event["actor_id"]) for event in denials] == [("bad", "agent-7")]


async def test_without_capabilities_in_force_nothing_runs() -> None:
    ran: list[str] = []
    for tool in _tools(ran, "good").values():
        with pytest.raises(CapabilityDenied) as denied:
            await _run(tool)
        assert reason_of(denied) == Reason.POLICY_UNAVAILABLE
    assert ran == []


async def test_a_generator_asks_when_it_is_first_advanced(asked: Recording) -> None:
    @gated_tool(name="listed")
    def count(to: int) -> Generator[int, str, str]:
        said = yield to
        return said

    tool = count(3)
    assert asked.asked == []
    assert await anyio.to_thread.run_sync(next, tool) == 3
    with pytest.raises(StopIteration) as end:
        tool.send("bye")
    assert end.value.value == "bye"
    assert len(asked.asked) == 1


async def test_an_async_generator_is_sent_values_and_errors_and_closed(asked: Recording) -> None:
    seen: list[Any] = []

    @gated_tool(name="listed")
    async def talk() -> Any:
        try:
            seen.append((yield 1))
            try:
                yield 2
            except KeyError:
                yield "caught"
            yield "left"
        finally:
            seen.append("closed")

    tool = talk()
    assert await tool.asend(None) == 1
    assert await tool.asend("hello") == 2
    assert await tool.athrow(KeyError("x")) == "caught"
    await tool.aclose()
    assert seen == ["hello", "closed"]
    assert [item async for item in talk()] == [1, 2, "left"]


# -- the arguments that run are those that were hashed


class Meddling:
    """A checker that allows everything, and changes something while it is asked."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        self._meddle = meddle
        self.inputs: list[PolicyInput] = []

    async def check(self, input: PolicyInput) -> PolicyResult:
        await anyio.lowlevel.checkpoint()
        self._meddle()
        self.inputs.append(input)
        return ALLOW


async def test_arguments_changed_meanwhile_are_not_what_runs() -> None:
    targets: list[Any] = ["harmless", {"deep": ["harmless"]}]
    found: list[Any] = []

    def meddle() -> None:
        targets[0] = "harmful"
        targets[1]["deep"][0] = "harmful"

    checker = Meddling(meddle)

    @gated_tool(name="listed")
    async def remove(targets: list[Any]) -> None:
        found.append(targets)

    with using(capabilities_for(checker, AGENT)):
        await remove(targets)
    assert found == [["harmless", {"deep": ["harmless"]}]]
    assert checker.inputs[0].args_hash == canonical_hash({"targets": found[0]})


async def test_an_object_changed_meanwhile_is_denied() -> None:
    class Target(BaseModel):
        name: str

    target, ran = Target(name="harmless"), []

    @gated_tool(name="listed", default=lambda model: model.model_dump(mode="json"))
    async def remove(targets: list[Target]) -> None:
        ran.append(targets[0].name)

    with using(capabilities_for(Meddling(lambda: None), AGENT)):
        await remove([target])
    checker = Meddling(lambda: setattr(target, "name", "harmful"))
    with using(capabilities_for(checker, AGENT)), pytest.raises(CapabilityDenied) as denied:
        await remove([target])
    assert ran == ["harmless"]
    assert reason_of(denied) == Reason.MALFORMED_INPUT
    assert checker.inputs[0].args_hash == canonical_hash({"targets": [{"name": "harmless"}]})


class Loud(str):
    """Text that is not what it compares as."""


@pytest.mark.parametrize(
    "value",
    [object(), b"x", {1: 2}, {1}, [[object()]], {"a": b""}, math.nan, 2**53, "\ud800", Loud("a"), 1j],
    ids=lambda value: type(value).__name__,
)
async def test_arguments_without_a_canonical_form_are_denied(asked: Recording, value: Any) -> None:
    ran = []

    @gated_tool(name="listed")
    async def tool(value: Any) -> None:
        ran.append(value)

    @gated_tool(name="listed")
    def sync_tool(value: Any) -> None:
        ran.append(value)

    with events() as denials:
        with pytest.raises(CapabilityDenied) as denied:
            await tool(value)
        with pytest.raises(CapabilityDenied):
            await anyio.to_thread.run_sync(sync_tool, value)
    assert ran == []
    assert reason_of(denied) == Reason.MALFORMED_INPUT
    assert isinstance(denied.value.__cause__, MalformedInput)
    assert [event["resource_id"] for event in denials] == ["listed", "listed"]


async def test_arguments_without_a_canonical_form_are_denied_whatever_a_checker_says() -> None:
    ran = []

    @gated_tool()
    async def tool(value: Any) -> None:
        ran.append(value)

    with using(capabilities_for(Answering(ALLOW), AGENT)), events() as denials:
        await tool(1)
        with pytest.raises(CapabilityDenied) as denied:
            await tool(object())
    assert ran == [1]
    assert reason_of(denied) == Reason.MALFORMED_INPUT
    assert len(denials) == 1


def _same(value: Any) -> Any:
    return value


def _fails(value: Any) -> Any:
    raise LookupError(value)


@pytest.mark.parametrize("default", [_same, _fails, lambda value: b"x", lambda value: {"again": value}])
async def test_a_default_that_gives_no_json_is_a_denial(asked: Recording, default: Callable[[Any], Any]) -> None:
    ran = []

    @gated_tool(name="listed", default=default)
    async def tool(value: Any) -> None:
        ran.append(value)

    with pytest.raises(CapabilityDenied) as denied:
        await tool(object())
    assert ran == []
    assert reason_of(denied) == Reason.MALFORMED_INPUT


async def test_a_dict_that_changes_while_it_is_copied_is_denied(asked: Recording) -> None:
    ran, value = [], {"a": object(), "b": 1}

    @gated_tool(name="listed", default=lambda one: value.update({str(len(value)): one}))
    async def tool(value: dict[str, Any]) -> None:
        ran.append(value)

    with pytest.raises(CapabilityDenied) as denied:
        await tool(value)
    assert ran == []
    assert reason_of(denied) == Reason.MALFORMED_INPUT


async def test_ignored_parameters_are_passed_and_not_hashed(asked: Recording) -> None:
    class Workshop:
        @gated_tool(name="listed", ignore=("self", "context"))
        async def make(self, text: str, context: object) -> tuple[Any, ...]:
            return self, text, context

        @staticmethod
        @gated_tool(name="listed")
        async def static(text: str) -> str:
            return text

        @classmethod
        @gated_tool(name="listed", ignore=("cls",))
        async def of(cls, text: str) -> type:
            return cls

    workshop, context = Workshop(), object()
    assert await workshop.make("x", context) == (workshop, "x", context)
    assert hash_of(asked) == canonical_hash({"text": "x"})
    assert await workshop.static("x") == "x"
    assert await Workshop.of("x") is Workshop
    assert hash_of(asked) == canonical_hash({"text": "x"})


async def test_a_call_that_does_not_fit_is_a_type_error_and_asks_nothing(asked: Recording) -> None:
    @gated_tool(name="listed")
    async def tool(a: int) -> None: ...

    with pytest.raises(TypeError):
        await tool(1, 2)  # type: ignore[call-arg]
    assert asked.asked == []


# -- who asks, and where


async def test_explicit_capabilities_are_asked_instead(asked: Recording) -> None:
    mine = Recording(make_checker("local", {"tools": ["mine"]}))

    @gated_tool(name="mine", capabilities=capabilities_for(mine, User("ada")))
    async def tool() -> None: ...

    await tool()
    assert mine.asked[0][0].actor == User("ada")
    assert asked.asked == []


async def test_each_call_asks_whoever_is_current_then(asked: Recording) -> None:
    @gated_tool(name="listed")
    async def tool() -> None: ...

    await tool()
    with using(current().for_actor(CompilerTool("agent-8"))):
        await tool()
    assert [input.actor for input, _ in asked.asked] == [AGENT, CompilerTool("agent-8")]


@pytest.mark.parametrize("engine", KINDS)
async def test_a_function_is_gated_in_a_worker_thread(engine: str) -> None:
    threads = []

    def tool() -> None:
        threads.append(threading.get_ident())

    async with make_checker(engine, POLICY) as checker:
        with using(capabilities_for(checker, AGENT)):
            await anyio.to_thread.run_sync(gated_tool(name="good")(tool))
            with pytest.raises(CapabilityDenied):
                await anyio.to_thread.run_sync(gated_tool(name="bad")(tool))
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


class Order(BaseModel):
    item: str


async def test_fastapi_sees_the_function_as_it_was_and_answers_403() -> None:
    app, made = FastAPI(), []

    @app.post("/tools/{name}")
    @requires("db.read", resource="sql_query:good")
    @gated_tool("tool.generate", "good", default=lambda model: model.model_dump(mode="json"))
    async def make(name: str, order: Order, count: Annotated[int, "how many"] = 1) -> dict[str, Any]:
        """Make it."""
        made.append((name, order.item, count))
        return {"made": name}

    @app.post("/denied")
    @requires("db.read", resource="sql_query:good")
    @gated_tool("tool.modify", "bad")
    def change(text: str) -> None:
        made.append(("changed", text, 0))

    checker = Recording(make_checker("local", POLICY))
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=checker)
    operation = app.openapi()["paths"]["/tools/{name}"]["post"]
    assert operation["description"] == "Make it."
    assert [parameter["name"] for parameter in operation["parameters"]] == ["name", "count"]
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://tools.test") as client:
        answer = await client.post("/tools/a?count=2", json={"item": "tea"})
        assert (answer.status_code, answer.json()) == (200, {"made": "a"})
        with events() as denials:
            answer = await client.post("/denied?text=x")
        assert (answer.status_code, answer.json()["decision_id"]) == (403, denials[0]["decision_id"])
    assert made == [("a", "tea", 2)]
    assert hash_of(checker) is not None
    hashes = [input.args_hash for input, _ in checker.asked if input.action == "tool.generate"]
    assert hashes == [canonical_hash({"name": "a", "order": {"item": "tea"}, "count": 2})]


# -- the decorator


def test_the_function_looks_as_it_was() -> None:
    async def make(text: str, *, times: int = 1) -> str:
        """Make text."""
        return text * times

    gated = gated_tool()(make)
    assert inspect.iscoroutinefunction(gated)
    assert inspect.signature(gated) == inspect.signature(make)
    assert (gated.__name__, gated.__doc__, gated.__annotations__) == ("make", "Make text.", make.__annotations__)

    def steps() -> Iterator[int]:
        yield 1

    async def async_steps() -> AsyncIterator[int]:
        yield 1

    assert inspect.isgeneratorfunction(gated_tool()(steps))
    assert inspect.isasyncgenfunction(gated_tool()(async_steps))
    assert inspect.iscoroutinefunction(gated_tool(name="partial")(functools.partial(make, "x")))


class Callable_:
    async def __call__(self) -> str:
        return "called"


async def test_objects_that_can_be_called_are_tools_too(asked: Recording) -> None:
    assert await gated_tool(name="listed")(Callable_())() == "called"
    with pytest.raises(CapabilityDenied):
        await gated_tool(name="unlisted")(Callable_())()


def _plain(a: int) -> None: ...


@pytest.mark.parametrize(
    ("setting", "apply"),
    [
        ("action", lambda: gated_tool("tool.destroy")),
        ("action", lambda: gated_tool("db.write")),
        ("action", lambda: gated_tool(_plain)),  # type: ignore[arg-type]  # without parentheses
        ("name", lambda: gated_tool(name="")(_plain)),
        ("name", lambda: gated_tool()(Callable_())),
        ("ignore", lambda: gated_tool(ignore=("b",))(_plain)),
        ("function", lambda: gated_tool()(Callable_)),
        ("function", lambda: gated_tool()(staticmethod(_plain))),
        ("function", lambda: gated_tool()("text")),  # type: ignore[arg-type]
        ("function", lambda: gated_tool()(dict.update)),
    ],
)
def test_a_decorator_that_cannot_gate_is_an_error_where_it_is_applied(setting: str, apply: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError) as error:
        apply()
    assert error.value.setting == setting
