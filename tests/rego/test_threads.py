"""Many threads, each with its own instance, interrupted in the middle of builtins: no answer is another's."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator

import pytest

from capgate.errors import PolicyTrap
from capgate.limits import Limits
from capgate.model import Deny, Entrypoint, PolicyInput, Resource
from capgate.runtime.pool import WasmPool

from ..support.rego_guests import opa_artifact
from ..support.tools import FULL

THREADS, ROUNDS = 6, 400 if FULL else 60


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads change as often as they can, also inside of functions of the host."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("entrypoint", ["capgate/builtin", "capgate/input"])
def test_each_answer_is_to_the_question_that_was_asked(engine_name: str, entrypoint: str) -> None:
    """P4, P6: the answer tells the question, once by a builtin and once by the guest."""
    limits = Limits(deadline=30.0, output_bytes=65_536, fuel=10_000_000)  # for the longest
    pool = WasmPool(opa_artifact({}, spare=4), 1, engine_name, limits, entrypoint=Entrypoint(entrypoint))
    wrong: list[object] = []

    def ask(number: int) -> None:
        draw = random.Random(number)
        for turn in range(ROUNDS):
            id = f"{number}-{turn}-" + "x" * draw.choice((0, 1, 300, 2_000))
            result = pool.call(PolicyInput("db.write", resource=Resource("sql_query", id)))
            expected = id.encode().hex() if entrypoint == "capgate/builtin" else f'"id":"{id}"'
            if not (isinstance(result, Deny) and expected in result.reason):
                wrong.append(result)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pool.statistics().calls == THREADS * ROUNDS
    assert pool.statistics().retired == 0


@pytest.mark.slow
@pytest.mark.usefixtures("switching")
def test_what_ends_one_thread_s_question_ends_no_other(engine_name: str) -> None:
    """One thread's builtins are called with what has no id, which is undefined, and one's guest is asked too much."""
    entry = Entrypoint("capgate/builtin")
    pool = WasmPool(opa_artifact({}, spare=4), 1, engine_name, Limits(deadline=30.0), entrypoint=entry)
    little = Limits(memory_pages=3, fuel=10_000_000, deadline=30.0)  # of memory, and enough fuel to ask for more
    short = WasmPool(opa_artifact({}), 1, engine_name, little, entrypoint=entry)
    found: dict[int, set[str]] = {}

    def ask(number: int) -> None:
        seen = found.setdefault(number, set())
        for turn in range(ROUNDS):
            id = None if number % 3 == 1 else f"{number}-{turn}"
            attributes = {"x": "y" * 65_000} if number % 3 == 2 else {}
            try:
                which = short if number % 3 == 2 else pool
                result = which.call(PolicyInput("db.write", resource=Resource("sql_query", id, attributes)))
            except PolicyTrap as error:
                seen.add(error.kind)
            else:
                right = isinstance(result, Deny) and result.reason == (id or "").encode().hex()
                seen.add("right" if right else str(result))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, seen in found.items():
        expected = ("right", "Deny(reason='malformed_result')", "abort")[number % 3]
        assert seen == {expected}
