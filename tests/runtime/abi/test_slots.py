"""The slots in which parts of an input are kept: at their edges, and when writing one fails half-way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

import pytest

from capgate.errors import MalformedInput
from capgate.limits import RANGES, Limits
from capgate.model import Environment, PolicyInput, Resource, Service, User
from capgate.runtime.abi import fixed
from capgate.runtime.abi.fixed import SLOTS

from .inputs import replace, sized
from .test_record import LEAST, Recorder

AT_EDGES: Final = [size + delta for size in sorted({*SLOTS.values(), sum(SLOTS.values())}) for delta in (-1, 0, 1)]


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u20ac", "\U0001d11e", "\0"])
def test_every_part_at_the_edge_of_its_slot_between_smaller_ones(engine_name: str, letter: str) -> None:
    recorder = Recorder(engine_name, "fixed", Limits())
    small = PolicyInput("a", User("u"), Resource("k", "i"), "h", Environment("s", "m"), 7)
    for size in AT_EDGES:
        text = sized(size, letter)
        for change in (
            {"action": text},
            {"actor": Service(text)},
            {"resource": Resource(text)},
            {"resource": Resource(text[: len(text) // 2], text[len(text) // 2 :])},
            {"resource": Resource("", text)},
            {"args_hash": text},
            {"env": Environment(text, "")},
            {"env": Environment(text[1:], text[:1])},
            {"action": text, "actor": User(text), "resource": Resource(text, text), "args_hash": text},
        ):
            for input in (small, replace(small, **change), replace(small, timestamp=size)):
                recorder.ask(input)
                assert recorder.read() == input  # M11


@pytest.mark.parametrize("size", [128, 129, 130])
def test_nothing_is_written_behind_the_room_that_was_allocated(engine_name: str, size: int) -> None:
    recorder = Recorder(engine_name, "fixed", LEAST)
    recorder.ask(PolicyInput("a", env=Environment("s" * (size - 1), "m")))
    end = recorder.at() + 80 + LEAST.input_bytes
    assert bytes(recorder.instance.memory_view()[end : end + 64]) == bytes(64)


class Faults:
    """Raises ``ValueError`` at the start of the line of ``fixed.py`` that is the ``at``-th to run."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: FrameType, event: str, argument: object) -> Faults | None:
        if frame.f_code.co_filename != fixed.__file__:
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                raise ValueError("a fault")
        return self

    def during(self, run: Callable[[], object]) -> bool:
        """Whether ``run`` ended without one."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            run()
        except (ValueError, MalformedInput):
            return False
        finally:
            sys.settrace(before)
        return True


@pytest.mark.slow
def test_an_error_at_any_line_leaves_nothing_of_the_question_behind(engine_name: str) -> None:
    """As a signal handler might raise it. It looks like malformed input then, and the instance stays in use."""
    first = PolicyInput("a", User("alice"), Resource("k", "one"), "h1", Environment("s", "m"), 1)
    other = PolicyInput("bb", Service("robert"), Resource("kk", "second"), "h2h2", Environment("ss", "mm"), 2)
    large = replace(other, resource=Resource("kk", "x" * 500))
    for asked in (other, large, replace(first, actor=Service("bob")), replace(other, resource=None, args_hash=None)):
        at = 1
        while True:
            recorder = Recorder(engine_name, "fixed", Limits())
            recorder.ask(first)
            ended = Faults(at).during(lambda: recorder.ask(asked))  # noqa: B023
            for input in (first, asked, first):
                recorder.ask(input)
                assert recorder.read() == input, (at, asked)  # M12, P3
            if ended:
                break
            at += 1
        assert at > 10


def test_what_fits_the_slots_is_within_every_limit() -> None:
    assert sum(SLOTS.values()) <= RANGES["input_bytes"][0]
