"""The ways in which others got metering wrong, re-introduced here one at a time. Nothing of this is in the library.

Each mutation replaces attributes of the metering's modules, so that the tests can show that they would have seen it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from capgate.wasm import reader, references
from capgate.wasm.encode import i32_const, i64_const
from capgate.wasm.leb128 import read_unsigned, unsigned
from capgate.wasm.metering import blocks, charges, rewrite
from capgate.wasm.metering import meter as metering
from capgate.wasm.metering import plan as plans
from capgate.wasm.metering.blocks import Planner
from capgate.wasm.metering.charges import Writer
from capgate.wasm.metering.rewrite import Rewriter
from capgate.wasm.module import Export, Module

#: Owner, name of the attribute or key of the item, what stands there instead.
Replacement = tuple[Any, "str | int", Any]


class Mutation(NamedTuple):
    """``pitfall`` is what it re-introduces; ``replace`` says what stands where instead."""

    pitfall: str
    replace: list[Replacement]

    def apply(self) -> None:
        """For good, in a process that ends after it. The proof is off: it is to be seen what else notices."""
        for owner, name, value in (*self.replace, *UNPROVED):
            put(owner, name, value)

    @contextlib.contextmanager
    def applied(self, *, proved: bool) -> Iterator[None]:
        """For a while, with the proof or without."""
        changes = self.replace if proved else [*self.replace, *UNPROVED]
        before = [(owner, name, get(owner, name)) for owner, name, _ in changes]
        try:
            for owner, name, value in changes:
                put(owner, name, value)
            yield
        finally:
            for owner, name, value in before:
                put(owner, name, value)


def get(owner: Any, name: str | int) -> Any:
    return owner[name] if isinstance(owner, dict) else getattr(owner, str(name))


def put(owner: Any, name: str | int, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    else:
        setattr(owner, str(name), value)


UNPROVED: list[Replacement] = [(metering, "verify", lambda *_, **__: None)]
METHODS = blocks._METHODS
#: The package has a function of that name too.
restrict = importlib.import_module("capgate.wasm.restrict")


def unchecked(*_: object) -> None:
    """Any index will do."""


def same_block(method: Callable[..., None]) -> Callable[..., None]:
    """A method of the planner that starts no metered block."""

    def changed(planner: Planner, at: int) -> None:
        original = planner.new_block
        planner.new_block = unchecked  # type: ignore[assignment,method-assign]
        try:
            method(planner, at)
        finally:
            planner.new_block = original  # type: ignore[method-assign]

    return changed


def only(opcode: int, method: Callable[..., None]) -> list[Replacement]:
    return [(METHODS, opcode, method)]


def target_without_reach(planner: Planner, depth: int, at: int) -> None:
    references.check_index(depth, len(planner.frames), "label", at)
    planner.frames[len(planner.frames) - 1 - depth].targeted = True


def without(name: str) -> list[Replacement]:
    """The writer with one of its snippets left out."""
    init = Writer.__init__

    def changed(writer: Writer, *arguments: Any) -> None:
        init(writer, *arguments)
        setattr(writer, name, b"")

    return [(Writer, "__init__", changed)]


def on_first_guest_local(writer: Writer, counters: charges.Counters, first: int) -> None:
    _INIT(writer, counters, max(first - 1, 0))


_INIT = Writer.__init__
_CHARGE = Writer.charge
_EPILOGUE = Writer.epilogue
_PROLOGUE = Writer.prologue
_STOP = charges.stop_body
_ENTRY = charges.entry_body
_INTERFACE = Rewriter.add_interface
_ASSEMBLED = Rewriter.assembled
_CODE = Rewriter.guest_code
_I64 = i64_const


def stop_that_leaves_fuel(counters: charges.Counters) -> bytes:
    zero = _I64(0) + b"\x24" + unsigned(counters.fuel)
    return _STOP(counters).replace(zero + b"\0\x0b", b"\0\x0b")


def stop_that_says_nothing(counters: charges.Counters) -> bytes:
    status = b"\x24" + unsigned(counters.status)
    return _STOP(counters).replace(status, b"\x1a")


def entry_that_sets_nothing(
    counters: charges.Counters, target: int, parameters: int, fuel: int, depth: int, growth: tuple[int, ...]
) -> bytes:
    full = _ENTRY(counters, target, parameters, fuel, depth, growth)
    return full[len(charges._set(counters, _I64(fuel) + charges.scale(growth), i32_const(depth))) :]


def exported_counter(rewriter: Rewriter) -> None:
    _INTERFACE(rewriter)
    rewriter.exports.append(Export("capgate-meter:counter", "global", rewriter.counters.fuel))


def without_data_count(rewriter: Rewriter, metered: list[bytes], start: int | None) -> Module:
    out = _ASSEMBLED(rewriter, metered, start)
    out.sections = [item for item in out.sections if item.id != 12]
    return out


def first_result_only(_: Rewriter, results: tuple[int, ...]) -> bytes:
    return bytes(results[:1]) or b"\x40"


def any_limits_flag(source: reader.Reader) -> tuple[int, int | None]:
    flag, source.pos = read_unsigned(source.data, source.pos)
    minimum, source.pos = read_unsigned(source.data, source.pos, 64)
    return minimum, source.u32() if flag & 1 else None


def shifted(rewriter: Rewriter, body: Any, plan: Any, writer: Writer) -> list[bytes]:
    """Returns that leave the block around the one they should."""
    moved = [
        site if site.purpose != plans.RETURN else plans.Site(site.purpose, site.position, site.depth + 1)
        for site in plan.sites
    ]
    plan.sites = moved
    return _CODE(rewriter, body, plan, writer)


MUTATIONS: dict[str, Mutation] = {
    "loops pay nothing": Mutation("1, 4", only(0x03, same_block(Planner.open))),
    "an else pays with its then": Mutation("3", only(0x05, same_block(Planner.else_))),
    "a then pays before the if": Mutation("3", only(0x04, same_block(Planner.open))),
    "a br_if ends no block": Mutation("5", only(0x0D, same_block(Planner.br_if))),
    "an end ends no block": Mutation("3, 6", only(0x0B, same_block(Planner.end))),
    "blocks merged over escapes": Mutation("1", [(Planner, "target", target_without_reach)]),
    "straight code is free": Mutation(
        "2", [(Writer, "prologue", lambda self, cost, *rest, **kind: _PROLOGUE(self, 5, *rest, **kind))]
    ),
    "charges lead to the return": Mutation(
        "2, 12", [(Writer, "charge", lambda self, cost, label: _CHARGE(self, cost, label - 1))]
    ),
    "bulk operations are flat": Mutation("8", [(Planner, "bulk", lambda *_: None)]),
    "lengths are signed": Mutation("10", [(charges, "_I64_EXTEND_I32_U", b"\xac")]),
    "the counter is unsigned": Mutation(
        "12", [(charges, "_NEGATIVE", _I64(0) + b"\x54"), (charges, "_I64_LT_S", b"\x54")]
    ),
    "what was deferred is not settled": Mutation(
        "2, 12",
        [
            (
                Writer,
                "epilogue",
                lambda self, weight, *, calls, deferred: _EPILOGUE(self, weight, calls=calls, deferred=False),
            )
        ],
    ),
    "large charges are deferred": Mutation(
        "2", [(Rewriter, "is_deferred", lambda self, plan, site: site.purpose == plans.CHARGE)]
    ),
    "loops defer": Mutation("1, 2", [(Rewriter, "is_deferred", lambda self, plan, site: True)]),
    "an exhausted call leaves fuel": Mutation("12", [(rewrite, "stop_body", stop_that_leaves_fuel)]),
    "exhaustion is not recorded": Mutation("12", [(rewrite, "stop_body", stop_that_says_nothing)]),
    "the counter is exported": Mutation("13", [(Rewriter, "add_interface", exported_counter)]),
    "reserved names are admitted": Mutation("14", [(restrict, "_check_names", lambda _: None)]),
    "added indices can be used": Mutation(
        "15, 16", [(module, "check_index", unchecked) for module in (blocks, references, rewrite)]
    ),
    "the data count is dropped": Mutation("17", [(Rewriter, "assembled", without_data_count)]),
    "charges cost nothing": Mutation("18", [(Rewriter, "cost", lambda self, plan, block: max(plan.costs[block], 1))]),
    "start is not metered": Mutation("20", [(Rewriter, "add_start", lambda _: None)]),
    "instances are born with fuel": Mutation(
        "21", [(rewrite, "i64_const", lambda _: _I64(2**40)), (rewrite, "i32_const", lambda _: i32_const(10**6))]
    ),
    "frames weigh nothing": Mutation("23", [(rewrite, "frame_weight", lambda *_: 0)]),
    "frames weigh the same": Mutation("5, 23", [(rewrite, "frame_weight", lambda *_: 1)]),
    "depth is not given back": Mutation(
        "24",
        [
            (
                Writer,
                "epilogue",
                lambda self, weight, *, calls, deferred: _EPILOGUE(self, weight, calls=False, deferred=deferred),
            )
        ],
    ),
    "returns bypass the way out": Mutation("25", [(rewrite, "RETURN", 99)]),
    "returns leave too much": Mutation("25", [(Rewriter, "guest_code", shifted)]),
    "one of several results": Mutation("25", [(Rewriter, "block_type", first_result_only)]),
    "a callee's spending is lost": Mutation("2, 27", without("load")),
    "callees do not see what was spent": Mutation("2, 27", without("save")),
    "a local of the guest is used": Mutation("27", [(Writer, "__init__", on_first_guest_local)]),
    "maxima are not lowered": Mutation("30", [(Rewriter, "clamp", lambda *_: None)]),
    "flags of limits are ignored": Mutation("31", [(reader.Reader, "limits", any_limits_flag)]),
    "entries set nothing": Mutation("21", [(rewrite, "entry_body", entry_that_sets_nothing)]),
}
