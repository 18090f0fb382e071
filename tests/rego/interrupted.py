"""Run by itself: signals whose handler raises interrupt questions everywhere. Prints what came of each, one a line."""

from __future__ import annotations

import random
import signal
import sys
import time
from types import FrameType

from capgate.errors import PolicyError
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy

from .deep import BODIES, CALL, INPUT, prepared, warm

#: Allows where any of three builtins gives nothing.
THREE = f"(if (i32.eqz {CALL}) (then (global.set $found (i32.const 0))))"
INTERRUPTED = {**BODIES, "eval": f"(global.set $found {CALL}) {THREE} {THREE} (i32.const 0)"}


class Interrupt(BaseException):
    """What the handler raises."""


class Alarm:
    """Rings once a round. A signal that comes with the end of the round, and is seen after it, raises nothing."""

    set = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.set:
            self.set = False
            raise Interrupt


def main(engine: str, rounds: int, public: bool) -> None:
    if public:
        load_engine("wasmtime").unchecked = False  # type: ignore[attr-defined]
    compiled = CompiledPolicy(prepared(INTERRUPTED), load_engine(engine))
    draw, interpreter = random.Random(1), warm(compiled)
    alarm = Alarm()
    signal.signal(signal.SIGALRM, alarm)
    started = time.perf_counter()
    for _ in range(100):
        interpreter.call_policy_check(INPUT)
    usual = (time.perf_counter() - started) / 100
    for _ in range(rounds):
        if interpreter.broken:
            interpreter = warm(compiled)
        found = "interrupted outside"
        try:
            alarm.set = True
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(usual / 20, usual))
            try:
                found = type(interpreter.call_policy_check(INPUT)).__name__
            except PolicyError as error:
                found = type(error).__name__
            alarm.set = False
        except Interrupt:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["public"])
