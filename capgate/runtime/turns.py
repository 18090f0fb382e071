"""Shares the turns of an event loop among questions, so that at most one costly call runs between two of them.

A call into a guest holds the loop for as long as its fuel lasts. One that was costly closes the turn: whoever asks next
waits until the loop has served everybody else. Those who wait are asked at its next turn, first come first served, and
no further than the next one that is costly.

Questions that ran out of fuel lately wait behind all others. Before them go those which may be like them: the same
actor's about the same action. After a call that ran out of fuel both pause, so that they take no more than a share of
the loop. Nobody is refused for what was asked before: who waits behind is asked while there is capacity.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final

from ..errors import Overloaded, PoolExhausted
from ..model import PolicyInput, PolicyResult
from .event_loop import Signal, call_later, call_soon, current_loop

#: A call that spends more than this fraction of its fuel is costly,
COSTLY_SHARE: Final = 0.1
#: unless it takes less than this, in seconds: then it holds nobody up, whatever it spends.
QUICK: Final = 0.000_1
#: Ranks of questions: one of which nothing is known, one that may be like those which ran out of fuel, and one that did
#: lately.
USUAL, DOUBTFUL, SUSPECT = 0, 1, 2
#: By rank, how many times as long as a call that ran out of fuel they pause after it.
PAUSES: Final = (0.0, 1.0, 3.0)
#: Of those who wait, so many are asked in one turn at most.
MOST_IN_A_TURN: Final = 16
#: Seconds until it is looked for an instance again, where there was none for who waits.
AGAIN: Final = 0.001
#: So many questions that ran out of fuel are known at most, and so many that did not.
MOST_KNOWN: Final = 1_024
#: From so many different questions on that ran out of fuel, what else the same actor asks about the same action is
#: doubtful, unless it is known to be cheap.
FAMILY: Final = 8
#: Seconds after the last costly call until all is forgotten.
MEMORY: Final = 10.0


class Suspects:
    """The questions that ran out of fuel lately, by hashes of theirs: a bounded number of bounded size.

    Shared by threads. No lock is taken: a lost entry is a question that is told apart a little later.
    """

    __slots__ = ("_burnt", "_cheap", "_families", "_last")

    def __init__(self) -> None:
        self._last = 0.0
        self.forget()

    def forget(self) -> None:
        """Forget everything."""
        self._burnt: dict[int, int] = {}  # a question -> its family
        self._families: dict[int, int] = {}
        self._cheap: dict[int, None] = {}

    @property
    def are_old(self) -> bool:
        """Whether no call was costly for a while."""
        return monotonic() - self._last > MEMORY

    def note_costly(self) -> None:
        """Note the time of a costly call."""
        self._last = monotonic()

    def add(self, input: PolicyInput) -> None:
        """Take ``input``, which ran out of fuel."""
        self.note_costly()
        question, family = _hashes(input)
        self._cheap.pop(question, None)
        if question in self._burnt:
            return
        self._burnt[question] = family
        self._families[family] = self._families.get(family, 0) + 1
        if len(self._burnt) > MOST_KNOWN:
            self._drop(next(iter(self._burnt), question))

    def clear(self, input: PolicyInput) -> None:
        """Take ``input`` out, which was answered and cost little."""
        if self._burnt:
            question, _ = _hashes(input)
            self._drop(question)
            self._cheap[question] = None
            if len(self._cheap) > MOST_KNOWN:
                self._cheap.pop(next(iter(self._cheap), question), None)

    def rank(self, input: PolicyInput) -> int:
        """Return the rank of ``input``."""
        if not self._burnt:
            return USUAL
        question, family = _hashes(input)
        if question in self._burnt:
            return SUSPECT
        return DOUBTFUL if self._families.get(family, 0) >= FAMILY and question not in self._cheap else USUAL

    def __len__(self) -> int:
        return len(self._burnt)

    def _drop(self, question: int) -> None:
        family = self._burnt.pop(question, None)
        if family is not None:
            left = self._families.get(family, 0) - 1
            if left > 0:
                self._families[family] = left
            else:
                self._families.pop(family, None)


def _hashes(input: PolicyInput) -> tuple[int, int]:
    """Return a hash of what was asked, the time left out, and one of who asked about which action.

    What cannot be hashed is no question that a policy answers, so it may be taken for any other of its kind.
    """
    try:
        actor, resource = input.actor, input.resource
        family = hash((input.action, type(actor), getattr(actor, "id", None)))
        kind, id = (None, None) if resource is None else (resource.kind, resource.id)
        return hash((family, kind, id, input.args_hash)), family
    except Exception:
        return 0, 0


class Question:
    """One that waits for a turn, and what became of it."""

    __slots__ = ("answer", "call", "done", "error", "input")

    def __init__(self, input: PolicyInput, call: Callable[[PolicyInput], PolicyResult]) -> None:
        self.input = input
        self.call = call
        self.done = Signal()
        self.answer: PolicyResult | None = None
        self.error: BaseException | None = None

    def ask(self) -> None:
        """Get the answer, or the error, and wake who waits for it. Raises :class:`PoolExhausted` where there is nobody
        to ask yet, and what ends the program, since whoever waited may be gone."""
        try:
            self.answer = self.call(self.input)
        except BaseException as error:
            if type(error) is PoolExhausted:
                raise
            self.error = error
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                self.done.set()
                raise
        self.done.set()

    def give_up(self) -> None:
        """Have it refused, unless it was asked."""
        if not self.done.is_set():
            self.error = PoolExhausted("other questions took the turns that there were")
            self.done.set()

    def outcome(self) -> PolicyResult | None:
        """Return the answer, which is ``None`` where nobody asked; or raise the error."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
            return self.answer
        finally:
            del error  # whose traceback has this frame


class Turns:
    """The turns of one event loop, for one pool. Touched by the loop's thread only, but for statistics.

    Who waits has a rank: :data:`USUAL`, :data:`DOUBTFUL` or :data:`SUSPECT`, of which the first go first. A callback of
    the loop asks them: some that cost little, and one that does not. The flag ``suspended`` says that a costly call
    ran, and that the loop has not had its turn since.
    """

    __slots__ = ("_free_at", "_is_due", "_is_due_later", "_misses", "_queues", "suspended")

    def __init__(self) -> None:
        self.suspended = False
        #: By rank, who waits, in their order. Who gives up leaves without anybody looking for them.
        self._queues: tuple[OrderedDict[Question, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        #: By rank, the time from which on somebody is asked.
        self._free_at = [0.0, 0.0, 0.0]
        #: Whether the loop will call :meth:`_go_on`, soon or after a pause.
        self._is_due = self._is_due_later = False
        #: Whether there was no instance for who was to be asked last.
        self._misses = False

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return sum(map(len, self._queues))

    @property
    def are_quiet(self) -> bool:
        """Whether nothing is left of a costly call, and nobody waits."""
        return not (self.suspended or self.waiting) and monotonic() >= self._free_at[SUSPECT]

    def is_free(self, rank: int) -> bool:
        """Say whether somebody may ask at once, without pushing in before anybody who waits."""
        if self.suspended or any(self._queues[: rank + 1]):
            return False
        return not rank or monotonic() >= self._free_at[rank]

    def is_full(self, rank: int, most: int) -> bool:
        """Say whether ``most`` wait already. No rank takes a place away from another."""
        return len(self._queues[rank]) >= most

    async def ask(
        self, input: PolicyInput, rank: int, call: Callable[[PolicyInput], PolicyResult], most: int, patience: float
    ) -> PolicyResult | None:
        """Wait for a turn, and return what ``call`` gives for ``input`` then. ``None`` says to look again.

        Raises what ``call`` does, and :class:`Overloaded` if ``most`` wait already. A suspect
        waits for half of ``patience`` or more, in seconds, and no longer than that: then it raises
        :class:`PoolExhausted`.
        """
        if self.is_full(rank, most):
            raise Overloaded(f"{most} callers wait for a turn already")
        question = Question(input, call)
        queue = self._queues[rank]
        queue[question] = None
        if rank == SUSPECT and (loop := current_loop()) is not None:
            # At different moments, so that what comes in together is not refused together, in one turn of the loop.
            call_later(loop, random.uniform(0.5, 1.0) * patience, question.give_up)  # noqa: S311  # no secret
        self._go_on_soon()
        try:
            await question.done.wait()
        finally:
            queue.pop(question, None)
        return question.outcome()

    def suspend(self, seconds: float, burnt: int | None) -> None:
        """Note a costly call that took so many ``seconds``. Nobody is asked before the loop has had its turn.

        ``burnt`` is the rank of what ran out of fuel, if anything did. After that the same rank pauses, and those
        behind it, but for the usual one.
        """
        loop = current_loop()
        if loop is None:
            return
        if burnt is not None:
            for rank in range(max(burnt, DOUBTFUL), len(PAUSES)):
                self._free_at[rank] = max(self._free_at[rank], monotonic() + PAUSES[rank] * seconds)
        if not self.suspended:
            self.suspended = True
            call_soon(loop, self._resume)

    def _resume(self) -> None:
        self.suspended = False
        self._go_on()

    def _come_back(self) -> None:
        self._is_due = False
        self._go_on()

    def _end_pause(self) -> None:
        self._is_due_later = False
        self._go_on()

    def _go_on(self) -> None:
        """Ask those who wait, up to one that costs much, and see to it that this is called again for the others."""
        for _ in range(MOST_IN_A_TURN):
            rank = self._next_rank()
            if self.suspended or rank is None or self._pause(rank) > 0:
                break
            question, _ = self._queues[rank].popitem(last=False)
            if question.done.is_set():
                continue  # it gave up
            try:
                question.ask()
            except PoolExhausted:
                self._queues[rank][question] = None
                self._queues[rank].move_to_end(question, last=False)
                if self._misses:  # it is not only being replaced: somebody holds them all
                    self._go_on_later(AGAIN)
                    return
                self._misses = True
                break
            self._misses = False
        self._go_on_soon()

    def _next_rank(self) -> int | None:
        return next((rank for rank, queue in enumerate(self._queues) if queue), None)

    def _pause(self, rank: int) -> float:
        """Return for how many seconds nobody of ``rank`` is asked."""
        return self._free_at[rank] - monotonic() if rank else 0.0

    def _go_on_soon(self) -> None:
        """See to it that who waits is asked at the next turn of the loop, or after the pause."""
        rank = self._next_rank()
        if rank is None or self.suspended:  # then it goes on anyway
            return
        pause = self._pause(rank)
        if pause > 0:
            self._go_on_later(pause)
        elif not self._is_due and (loop := current_loop()) is not None:
            self._is_due = True
            call_soon(loop, self._come_back)

    def _go_on_later(self, seconds: float) -> None:
        if not self._is_due_later and (loop := current_loop()) is not None:
            self._is_due_later = True
            call_later(loop, seconds, self._end_pause)

    def dismiss(self) -> None:
        """Wake all who wait, to see that the pool is closed."""
        for queue in self._queues:
            while queue:
                queue.popitem(last=False)[0].done.set()
