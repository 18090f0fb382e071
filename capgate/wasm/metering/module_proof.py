"""Proves of a metered module that it is the original and nothing but the metering was added.

The bodies are proved by :mod:`.body_proof`. Here it is shown that every index space is the original's, extended at its
end. The added functions are the known ones, and no guest can reach them. Memory and tables are bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn, Union

from ...errors import DecodeError, RestrictedModule
from ...limits import Limits
from ..decode import decode
from ..interruption import check_interrupted
from ..module import I32, I64, FuncType, Global, GlobalType, Import, MemoryType, Module, TableType
from . import patterns as p
from .body_proof import BodyProof, Premises
from .patterns import leb, number, signed_number
from .plan import Loading
from .prices import Prices

Bounded = Union[MemoryType, TableType]

_PREFIX: Final = "capgate-meter:"
#: Sections that metering has no reason to touch: custom, element, data, data count.
_VERBATIM: Final = (0, 9, 11, 12)


def verify(
    original: Module,
    metered: bytes,
    limits: Limits,
    prices: Prices,
    loading: Loading | None = None,
    *,
    keeps_state: bool = False,
) -> None:
    """Raise ``RestrictedModule`` with the rule ``unproven`` unless ``metered`` pays at these prices and is
    ``original``."""
    if not prices.prices_cycles():
        _fail("prices", "something that goes round is free")
    try:
        module = decode(metered, bodies=False)
    except DecodeError as error:
        _fail("module", f"does not decode: {error}")
    try:
        _ModuleProof(original, module, limits, prices, loading or Loading(limits.call_fuel), keeps_state).check()
    except (IndexError, ValueError) as error:  # lists of different lengths, or an index past the end of one
        _fail("module", f"is not put together like the original: {error}")


def _fail(where: str, what: str) -> NoReturn:
    raise RestrictedModule("unproven", where, what)


class _ModuleProof:
    def __init__(
        self, original: Module, module: Module, limits: Limits, prices: Prices, loading: Loading, keeps_state: bool
    ) -> None:
        self.original = original
        self.module = module
        self.limits = limits
        self.prices = prices
        self.loading = loading
        self.functions = len(original.function_types())
        self.globals = len(original.globals) + len(original.imported("global"))
        self.first_added = len(original.code)
        imported = len(original.imported("global"))
        #: The guest's mutable globals, each of which has a copy behind the counters, in their order.
        self.kept = [n for n, item in enumerate(original.globals, imported) if item.type.mutable and keeps_state]
        self.keeps_state = keeps_state

    def check(self) -> None:
        self.check_verbatim()
        self.check_extended("types", self.original.types, self.module.types)
        self.check_extended("functions", self.original.functions, self.module.functions)
        self.check_extended("globals", self.original.globals, self.module.globals)
        self.check_extended("exports", self.original.exports, self.module.exports)
        self.check_counters()
        self.check_bounds()
        self.check_bodies()
        self.check_added()
        self.check_exports()
        self.check_start()

    def check_verbatim(self) -> None:
        before, after = (
            [(s.id, s.header + s.payload) for s in module.sections if s.id in _VERBATIM]
            for module in (self.original, self.module)
        )
        if before != after:
            _fail("sections", "a section that metering does not touch was changed")

    def check_extended(self, what: str, before: Sequence[object], after: Sequence[object]) -> None:
        if list(after[: len(before)]) != list(before):
            _fail(what, "the original ones are not at the start")

    def check_counters(self) -> None:
        """Check that the counters are three private mutable globals, all zero: a call before any reset finds no
        fuel. Where state is kept, equals of the guest's own mutable globals follow."""
        added = self.module.globals[len(self.original.globals) :]
        fuel = Global(GlobalType(I64, True), b"\x42\0\x0b")
        other = Global(GlobalType(I32, True), b"\x41\0\x0b")
        imported = self.globals - len(self.original.globals)
        copies = [self.original.globals[index - imported] for index in self.kept]
        if added != [fuel, other, other, *copies]:
            _fail("globals", "the counters are others")

    def check_bounds(self) -> None:
        """Check that memory and tables have the original's types, but for a maximum within the limits."""
        if [self.unbounded(item) for item in self.module.imports] != [self.unbounded(i) for i in self.original.imports]:
            _fail("imports", "not the original's")
        memories, tables = self.module.all_memories(), self.module.all_tables()
        for before, after in zip(self.original.all_memories(), memories, strict=True):
            self.check_bound("memory", before, after, self.limits.most_pages)
        for table_before, table_after in zip(self.original.all_tables(), tables, strict=True):
            self.check_bound("table", table_before, table_after, self.limits.table_elements)
            if table_before.type != table_after.type:
                _fail("table", "of another type")

    def unbounded(self, item: Import) -> tuple[str, str, str, object]:
        kind = None if isinstance(item.type, (MemoryType, TableType)) else item.type
        return item.module, item.name, item.kind, kind

    def check_bound(self, what: str, before: Bounded, after: Bounded, limit: int) -> None:
        expected = limit if before.maximum is None else min(before.maximum, limit)
        if before.minimum != after.minimum or after.maximum != expected:
            _fail(what, f"from {after.minimum} to {after.maximum}, and not from {before.minimum} to {expected}")

    def check_bodies(self) -> None:
        premises = Premises(
            self.prices,
            len(self.original.types),
            self.functions,
            self.globals,
            self.limits.call_depth,
            max((item.maximum or 0 for item in self.module.all_memories()), default=0),
            tuple(item.maximum or 0 for item in self.module.all_tables()),
        )
        proof = BodyProof(premises)
        for index, body in enumerate(self.original.code):
            check_interrupted()
            parameters = len(self.original.types[self.original.functions[index]].params)
            proof.check(self.original, body, self.module, self.module.code[index], parameters, f"function body {index}")

    # What was added

    def check_added(self) -> None:
        """Check that the stop function is first, and then come functions of known code that call none of those
        added."""
        self.roles: dict[int, tuple[str, int]] = {}
        for index in range(self.first_added, len(self.module.code)):
            body = self.module.code[index]
            role = self.role(self.module.source[body.entry : body.end], self.module.functions[index])
            if (role[0] == "stop") != (index == self.first_added):
                _fail(f"added function {index}", f"is not where a {role[0]} function belongs")
            self.roles[self.functions + index - self.first_added] = role

    def role(self, code: bytes, type_index: int) -> tuple[str, int]:
        """Return what an added function does, and with which of the guest's functions.

        Those that begin a call while the memory may have grown have the amount of fuel scaled.
        """
        amount, scaled = p.BEGINS.match(code), p.scaled(self.prices.growth)
        is_scaled = bool(scaled) and amount is not None and code.startswith(scaled, amount.end())
        if amount is not None and is_scaled:
            code = code[: amount.end()] + code[amount.end() + len(scaled) :]
        role = self.role_of(code, type_index)
        if is_scaled != (bool(scaled) and role[0] in ("entry", "loading", "restore", "reset")):
            _fail("added function", "fuel that is worth more than the memory's size allows")
        return role

    def role_of(self, code: bytes, type_index: int) -> tuple[str, int]:
        """Return the same of one that scales nothing."""
        signature = self.module.types[type_index]
        fuel, depth, status = self.globals, self.globals + 1, self.globals + 2
        body = p.READ_BODY.fullmatch(code)
        if body and number(body[1]) in (fuel, status):
            return "read", number(body[1])
        if body := p.STOP_BODY.fullmatch(code):
            self.check_numbers(body.groups(), (status, fuel))
            return "stop", -1
        if body := p.RESET_BODY.fullmatch(code):
            self.check_numbers(body.groups(), (fuel, depth, status))
            return "reset", -1
        if self.keeps_state and (body := p.BEGIN_BODY.fullmatch(code)):
            self.check_numbers((body[2], body[4], body[5]), (fuel, depth, status))
            if (signed_number(body[1]), signed_number(body[3])) != (self.limits.call_fuel, self.limits.call_depth):
                _fail("added function", "sets other limits")
            self.check_moves(body[6], back=True)
            return "restore", -1
        if self.keeps_state and (body := p.MOVE_BODY.fullmatch(code)):
            self.check_moves(body[1], back=False)
            return "save", -1
        if body := p.START_BODY.fullmatch(code):
            self.check_numbers((body[2], body[4], body[5], body[7]), (fuel, depth, status, fuel))
            return "start", self.target(body[1], body[3], body[6], signature, self.loading.fuel)
        if body := p.ENTRY_BODY.fullmatch(code):
            self.check_numbers((body[2], body[4], body[5]), (fuel, depth, status))
            arguments = b"".join(b"\x20" + leb(index) for index in range(len(signature.params)))
            if body[6] != arguments:
                _fail("entry", "other arguments are passed on")
            fuel = self.loading.fuel if signed_number(body[1]) == self.loading.fuel else self.limits.call_fuel
            role = "entry" if fuel == self.limits.call_fuel else "loading"
            return role, self.target(body[1], body[3], body[7], signature, fuel)
        _fail("added function", code.hex())

    def check_moves(self, moves: bytes, *, back: bool) -> None:
        """Check that every kept global is moved to its copy, or all of them ``back``, and nothing else."""
        pairs = [(number(a), number(b)) for a, b in p.MOVE.findall(moves)]
        expected = [(index, self.globals + 3 + place) for place, index in enumerate(self.kept)]
        if pairs != [(b, a) if back else (a, b) for a, b in expected]:
            _fail("added function", "other globals are noted, or set back")

    def check_numbers(self, indices: tuple[bytes, ...], expected: tuple[int, ...]) -> None:
        if tuple(map(number, indices)) != expected:
            _fail("added function", "uses other counters")

    def target(self, fuel: bytes, depth: bytes, index: bytes, signature: FuncType, granted: int) -> int:
        """Return the function of the guest that is called, with the fuel ``granted`` and the depth of the limits."""
        if (signed_number(fuel), signed_number(depth)) != (granted, self.limits.call_depth):
            _fail("added function", "sets other limits")
        target = number(index)
        if target >= self.functions or self.original.function_type(target) != signature:
            _fail("added function", "calls something else")
        return target

    def check_exports(self) -> None:
        """Check that only readers, reset and entries are exported, an entry under the name of what it calls."""
        original = {item.name: item for item in self.original.exports}
        for item in self.module.exports[len(self.original.exports) :]:
            if item.kind != "function" or not item.name.startswith(_PREFIX):
                _fail("exports", f"{item.name!r}")
            role, target = self.roles.get(item.index, ("guest", -1))
            name = item.name[len(_PREFIX) :]
            if role in ("entry", "loading"):
                expected = original.get(name.removeprefix("call:"))
                if expected is None or expected.kind != "function" or expected.index != target:
                    _fail("exports", f"{item.name!r} calls another function")
                if role != self.entry_role(expected.name):
                    _fail("exports", f"{item.name!r} sets other limits")
            elif (role, name, target) not in self.services():
                _fail("exports", f"{item.name!r} is a {role} function")

    def entry_role(self, name: str) -> str:
        is_loading = name in self.loading.exports and self.loading.fuel != self.limits.call_fuel
        return "loading" if is_loading else "entry"

    def services(self) -> tuple[tuple[str, str, int], ...]:
        of_state = (("save", "save", -1), ("restore", "restore", -1)) if self.keeps_state else ()
        return (
            *(("read", "fuel", self.globals), ("read", "status", self.globals + 2), ("reset", "reset", -1)),
            *of_state,
        )

    def check_start(self) -> None:
        before, after = self.original.start, self.module.start
        if (before is None) != (after is None) or (after is not None and self.roles.get(after) != ("start", before)):
            _fail("start", f"function {after}")
