"""Guests that do as the question's timestamp says, so that one module serves many cases, and pools of them."""

from __future__ import annotations

import struct
from typing import Any, Final

import anyio

from capgate.artifact.load import WasmArtifact
from capgate.limits import Limits
from capgate.model import ANONYMOUS, Actor, Deny, PolicyInput, Resource
from capgate.runtime.event_loop import call_soon, current_loop
from capgate.runtime.pool import PoolStatistics, WasmPool

from .guests import HEAP, REASON, RESULT, artifact, data, guest

#: What the guest of :data:`OBEDIENT` does at which timestamp; at any other, it allows.
TRAP: Final = 1
DENY: Final = 2
BAD_DISCRIMINANT: Final = 3
OUT_OF_BOUNDS: Final = 4
REASON_NOT_UTF8: Final = 5
COMPUTE: Final = 6  # ten million steps, then allow
ENDLESS: Final = 7
TRAP_IF_USED: Final = 8  # on every call of an instance but its first
COUNT: Final = 9  # deny on every call of an instance but its tenth
RECURSE: Final = 10
COMPUTE_AND_TRAP_IF_USED: Final = 11  # as 6, and then as 8

TOLD: Final = Deny("as told")

_DENIED, _ODD, _BROKEN = RESULT + 16, RESULT + 32, RESULT + 48
_RECORDS: Final = (
    struct.pack("<III4x", 0, 0, 0)
    + struct.pack("<III4x", 1, REASON, len(TOLD.reason))
    + struct.pack("<III4x", 7, 0, 0)
    + struct.pack("<III4x", 1, REASON + 64, 2)
)
_CASES: Final = {
    TRAP: "unreachable",
    DENY: f"(return (i32.const {_DENIED}))",
    BAD_DISCRIMINANT: f"(return (i32.const {_ODD}))",
    OUT_OF_BOUNDS: "(return (i32.const 0x7ffffff0))",
    REASON_NOT_UTF8: f"(return (i32.const {_BROKEN}))",
    COMPUTE: """(loop $more (br_if $more (i32.lt_u (local.tee $steps (i32.add (local.get $steps) (i32.const 1)))
        (i32.const 10000000))))""",
    ENDLESS: "(loop $forever (br $forever))",
    TRAP_IF_USED: "(if (i32.gt_u (global.get $calls) (i32.const 1)) (then unreachable))",
    COUNT: f"(if (i32.ne (global.get $calls) (i32.const 10)) (then (return (i32.const {_DENIED}))))",
    RECURSE: "(drop (call $deeper (i32.const 0)))",
    COMPUTE_AND_TRAP_IF_USED: """(loop $most (br_if $most (i32.lt_u
        (local.tee $steps (i32.add (local.get $steps) (i32.const 1))) (i32.const 10000000))))
        (if (i32.gt_u (global.get $calls) (i32.const 1)) (then unreachable))""",
}
_SWITCH: Final = "".join(
    f"(if (i64.eq (local.get $order) (i64.const {order})) (then {do}))" for order, do in _CASES.items()
)
#: Code that would change a table: a module that has it cannot be set back, so that it is used once unless somebody says
#: that it may be reused.
TABLE: Final = "(table $t 1 funcref) (func (table.set $t (i32.const 0) (ref.null func)))"
#: The allocator starts anew with every call, so that an instance can be used for ever. ``$calls`` is the state that
#: nobody may see: how often this instance was asked.
OBEDIENT: Final = guest(
    f"""(local $order i64) (local $steps i32)
    (local.set $order (i64.load offset=72 (local.get $input)))
    (global.set $next (i32.const {HEAP}))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    {_SWITCH}
    (i32.const {RESULT})""",
    extra=f"""(global $calls (mut i32) (i32.const 0)) {TABLE}
    (func $deeper (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))
    {data(RESULT, _RECORDS)} {data(REASON, TOLD.reason.encode())} {data(REASON + 64, bytes((0xC3, 0x28)))}""",
)
#: Allows; its start function traps, so that there is never an instance.
TRAPS_AT_START: Final = guest(extra="(func $start unreachable) (start $start)")

#: The longest deadline that there is, and what is long before it, however busy the machine is.
PATIENT: Final = Limits(deadline=60.0)
SOON: Final = 40
FUEL: Final = 1_000_000_000


def obedient() -> WasmArtifact:
    return artifact(OBEDIENT)


def make_pool(engine: str, size: int = 2, limits: Limits = PATIENT, **options: Any) -> WasmPool:
    return WasmPool(obedient(), size, engine, limits, **options)


def order(what: int = 0, id: str = "q", actor: Actor = ANONYMOUS) -> PolicyInput:
    """A question that has the obedient guest do ``what``, which is no part of what questions are told apart by."""
    return PolicyInput("db.write", actor, Resource("sql_query", id), timestamp=what)


def check_balance(statistics: PoolStatistics) -> PoolStatistics:
    """Nothing was lost, and nothing is there twice."""
    s = statistics
    assert s.made == s.idle + s.in_use + s.retired + s.spent + s.closed, s
    assert min(s.idle, s.in_use, s.waiting, s.retired, s.spent, s.closed, s.denied_fast, s.calls) >= 0, s
    return s


async def loop_turn() -> None:
    """Wait until the event loop has done what was due before this."""
    done, loop = anyio.Event(), current_loop()
    assert loop is not None
    call_soon(loop, done.set)
    await done.wait()
