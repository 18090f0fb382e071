"""Conditions, answered by ``conditions.zig`` in a guest of its own."""

from __future__ import annotations

from typing import Final

from capgate.conditions import MISSING_FACT, OUT_OF_RANGE, OVERFLOW, TOO_LONG, WRONG_TYPE, Answer, Facts, Unknown
from capgate.conditions.fact_table import pack_facts

from .guest import GuestTrap, open_in, opened
from .rebuild_conditions import COMMITTED

#: Where the tests put the table, the facts, and where memory ends. Odd addresses: nothing has to be aligned.
TABLE: Final = 131_073
FACTS: Final = 1_048_579
END: Final = 8_388_608
_REASONS: Final = {2: MISSING_FACT, 3: WRONG_TYPE, 4: OVERFLOW, 5: OUT_OF_RANGE, 6: TOO_LONG}


class ConditionsGuest:
    """An instance on ``engine``. It answers from what was written last."""

    def __init__(self, engine: str) -> None:
        self.call, self.read, self.write, _ = opened(engine, COMMITTED.read_bytes())

    def answer(self, table: bytes, spoken: tuple[tuple[str, str], ...], number: int, facts: Facts) -> Answer:
        """The answer of condition ``number``, with the reason and the fact of an unknown one."""
        code = self.answer_packed(table, number, pack_facts(spoken, facts))
        if code <= 1:
            return code == 1
        reason = _REASONS[code & 0xFF]
        return Unknown(reason, spoken[code >> 8][0] if reason in (MISSING_FACT, WRONG_TYPE) else None)

    def answer_packed(self, table: bytes, number: int, packed: bytes) -> int:
        """What the guest returns for facts that are laid out already."""
        self.write(FACTS, packed)
        return self.call("answer", *self.placed(table), number, FACTS, FACTS + len(packed)) & 0xFFFFFFFF

    def placed(self, table: bytes) -> tuple[int, int]:
        """Where the table is, now that it is in memory."""
        self.write(TABLE, table)
        return TABLE, TABLE + len(table)


class CountedConditionsGuest(ConditionsGuest):
    """On wasmtime, which counts instructions: ``spent`` is what the last answer took, whether it came or not.

    A trap leaves the stack where it was, so that the next answer is a new instance's.
    """

    LIMIT: Final = 10_000_000

    def __init__(self) -> None:
        import wasmtime

        config = wasmtime.Config()
        config.consume_fuel = True
        self._engine = wasmtime.Engine(config)
        self._module = wasmtime.Module(self._engine, COMMITTED.read_bytes())
        self._open()

    def _open(self) -> None:
        import wasmtime

        store = wasmtime.Store(self._engine)
        store.set_fuel(self.LIMIT)
        call, self.read, self.write, _ = open_in(store, self._module)
        self.spent = 0

        def counted(name: str, *arguments: int) -> int:
            store.set_fuel(self.LIMIT)
            try:
                return call(name, *arguments)
            except GuestTrap:
                self._open()
                raise
            finally:
                self.spent = self.LIMIT - store.get_fuel()

        self.call = counted
