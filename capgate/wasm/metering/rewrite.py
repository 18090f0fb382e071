"""Writes the metered module. What is added goes to the end of its index space, so that nothing moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ...errors import RestrictedModule
from ...limits import Limits
from ..edit import appended, extended, replaced
from ..encode import (
    encode,
    export_entry,
    func_type,
    i32_const,
    i64_const,
    import_entry,
    memory_type,
    table_type,
    vector,
)
from ..interruption import check_interrupted
from ..leb128 import signed, unsigned
from ..module import I32, I64, Body, Export, FuncType, Global, Import, MemoryType, Module, TableType
from ..references import Shape, check_index, check_references
from ..restrict import RESERVED_PREFIX
from .blocks import Planner
from .charges import (
    Counters,
    Writer,
    begin_body,
    entry_body,
    memory_room,
    move_body,
    read_body,
    reset_body,
    start_body,
    stop_body,
    table_room,
)
from .plan import BULK, CALL, CHARGE, HEAD, RETURN, SAVE, Loading, Plan, Site
from .prices import Prices, frame_weight, prices_for

FUEL: Final = RESERVED_PREFIX + "fuel"
STATUS: Final = RESERVED_PREFIX + "status"
RESET: Final = RESERVED_PREFIX + "reset"
#: Of a module whose state is kept: note all globals; begin a call, and set them back to what was noted.
SAVE_STATE: Final = RESERVED_PREFIX + "save"
RESTORE_STATE: Final = RESERVED_PREFIX + "restore"
ENTRY: Final = RESERVED_PREFIX + "call:"

#: How many times longer the code may get, and by how much for each function besides: real code grows by half.
GROWTH: Final = 4
GROWTH_PER_FUNCTION: Final = 128

#: How many metered blocks a function may have, and the sum of their squares: the time that an engine takes to compile a
#: function grows with the square of its branches.
MAX_BLOCKS: Final = 5_000
MAX_BLOCKS_SQUARED: Final = 50_000_000

_MAX_BLOCK_COST: Final = 2**31
_MEMORY_GROW: Final = 0x40
_TABLE_GROW: Final = 0xFC0F
_BR: Final = b"\x0c"
_TYPES, _IMPORTS, _FUNCTIONS, _TABLES, _MEMORIES, _GLOBALS, _EXPORTS, _START, _CODE = 1, 2, 3, 4, 5, 6, 7, 8, 10


def clamped(maximum: int | None, limit: int) -> int:
    """Return a maximum that is always present and never above the limit."""
    return limit if maximum is None else min(maximum, limit)


def memory_maximum(module: Module, limits: Limits) -> int:
    """Return how many pages the memory of ``module`` may have, 0 where it has none."""
    return max((clamped(item.maximum, limits.most_pages) for item in module.all_memories()), default=0)


def prices_of(module: Module, limits: Limits) -> Prices:
    """Return the cost table for ``module``. The size of a memory that the host makes is only known to be within its
    maximum."""
    most = memory_maximum(module, limits)
    if module.memories:
        return prices_for(module.memories[0].minimum, most)
    return prices_for(most)


class Rewriter:
    """The rewriting of one module. Raises ``RestrictedModule`` where it cannot be metered."""

    def __init__(
        self,
        module: Module,
        limits: Limits,
        prices: Prices,
        loading: Loading | None = None,
        *,
        keeps_state: bool = False,
    ) -> None:
        self.module = module
        self.limits = limits
        self.prices = prices
        self.loading = loading or Loading(limits.call_fuel)
        self.shape = Shape.of(module)
        check_references(module, self.shape)
        first = self.shape.globals
        self.counters = Counters(first, first + 1, first + 2, len(self.shape.functions))
        #: By the number of a function's locals.
        self.writers: dict[int, Writer] = {}
        self.keeps_state = keeps_state
        #: Of the function that is being written: whether a charge is left to a later one, and what its frame weighs.
        self.defers, self.weight = False, 0
        #: Global of the guest -> its copy.
        self.copies: dict[int, int] = {}
        if keeps_state:
            imported = len(module.imported("global"))
            changed = [imported + number for number, item in enumerate(module.globals) if item.type.mutable]
            self.copies = {index: first + 3 + place for place, index in enumerate(changed)}
        self.type_indices = module.function_types()
        self.types: dict[FuncType, int] = {}
        self.functions: list[int] = []
        self.bodies: list[bytes] = []
        self.exports: list[Export] = []

    def run(self, entries: Iterable[str] | None) -> tuple[bytes, dict[str, str]]:
        """Meter the module. Returns its bytes, and the names of the exports that begin calls, by the names of what
        those call."""
        metered = self.guest_bodies()
        self.add_interface()
        names = self.add_entries(entries)
        start = self.add_start()
        return encode(self.assembled(metered, start)), names

    # The functions of the guest

    def guest_bodies(self) -> list[bytes]:
        module = self.module
        planner = Planner(module.source, self.shape, self.prices)
        squared = 0
        out = []
        for body, type_index in zip(module.code, module.functions, strict=True):
            check_interrupted()
            signature = module.types[type_index]
            plan = planner.plan(body, (len(signature.params), len(signature.results)))
            squared += self.checked_blocks(plan) ** 2
            out.append(self.guest_body(body, plan, signature))
        if squared > MAX_BLOCKS_SQUARED:
            raise RestrictedModule(
                "blocks", "module", f"{squared} as sum of squares, the limit is {MAX_BLOCKS_SQUARED}"
            )
        size = sum(body.end - body.entry for body in module.code)
        most = GROWTH * size + GROWTH_PER_FUNCTION * len(out)
        if sum(map(len, out)) > most:
            raise RestrictedModule("growth", "module", f"{size} bytes of code would become more than {most}")
        return out

    def checked_blocks(self, plan: Plan) -> int:
        if len(plan.costs) > MAX_BLOCKS:
            raise RestrictedModule("blocks", "function body", f"{len(plan.costs)}, the limit is {MAX_BLOCKS}")
        return len(plan.costs)

    def guest_body(self, body: Body, plan: Plan, signature: FuncType) -> bytes:
        locals_ = body.local_count
        count = len(signature.params) + locals_
        weight = self.weight = frame_weight(count + plan.height, body.end - body.start)
        writer = self.writers.get(count)
        if writer is None:
            writer = self.writers[count] = Writer(self.counters, count)
        declared = self.module.source[body.entry : body.start]
        cost = self.prices.of_entry(locals_) + self.cost(plan, 0)
        self.defers = False
        parts = [
            appended(declared, len(body.locals), writer.locals(bulk=plan.bulk, calls=plan.calls)),
            writer.prologue(cost, weight, self.block_type(signature.results), calls=plan.calls),
            *self.guest_code(body, plan, writer),
            writer.epilogue(weight, calls=plan.calls, deferred=self.defers),
        ]
        return b"".join(parts)

    def guest_code(self, body: Body, plan: Plan, writer: Writer) -> list[bytes]:
        """Return the code as it was, with what the plan wants in between."""
        source, done = self.module.source, body.start
        parts = []
        for site in plan.sites:
            at, purpose = site.position, site.purpose
            parts.append(source[done:at])
            done = at
            if purpose <= HEAD:  # or CHARGE
                if plan.costs[site.argument]:
                    parts.append(self.charge(plan, site, writer))
            elif purpose == CALL:
                done = site.argument
                parts += (writer.save, source[at:done], writer.load)
            elif purpose == SAVE:
                parts.append(writer.save)
            elif purpose == BULK:
                parts.append(self.bulk_charge(writer, site.argument, site.table, site.depth + 1))
                if site.argument == _MEMORY_GROW:
                    done = at + 2
                    growth, depth = self.prices.growth, self.limits.call_depth
                    parts += (source[at:done], writer.grown(growth, depth, self.weight, site.depth + 1))
            elif purpose == RETURN:
                done = at + 1
                parts.append(_BR + unsigned(site.depth))
        return [*parts, source[done : body.end]]

    def charge(self, plan: Plan, site: Site, writer: Writer) -> bytes:
        key = site.purpose, plan.costs[site.argument], site.depth
        known = writer.charges.get(key)
        if known is None:
            cost, is_deferred = self.cost(plan, site.argument), self.is_deferred(plan, site)
            known = writer.defer(cost) if is_deferred else writer.charge(cost, site.depth + 1), is_deferred
            writer.charges[key] = known
        text, is_deferred = known
        if is_deferred:
            self.defers = True
        return text

    def is_deferred(self, plan: Plan, site: Site) -> bool:
        return site.purpose == CHARGE and self.prices.may_defer(self.cost(plan, site.argument))

    def cost(self, plan: Plan, block: int) -> int:
        cost = plan.costs[block] + self.prices.charge
        if cost >= _MAX_BLOCK_COST:
            raise RestrictedModule("block_cost", "function body", f"{cost}, the limit is {_MAX_BLOCK_COST}")
        return cost

    def bulk_charge(self, writer: Writer, opcode: int, table: int, label: int) -> bytes:
        unit = self.prices.units.get(opcode)
        if unit is None:
            return b""
        room = memory_room(memory_maximum(self.module, self.limits))
        if opcode == _TABLE_GROW:
            tables = self.module.all_tables()
            check_index(table, len(tables), "table", "table.grow")
            room = table_room(clamped(tables[table].maximum, self.limits.table_elements), table)
        return writer.bulk(unit, room, label)

    def block_type(self, results: tuple[int, ...]) -> bytes:
        """Return the type of the block that takes the place of a function's own."""
        if len(results) < 2:
            return bytes(results) or b"\x40"
        return signed(self.type_index(FuncType((), results)))

    # What is added

    def type_index(self, signature: FuncType) -> int:
        """Return the index of a type among those added."""
        return self.types.setdefault(signature, len(self.module.types) + len(self.types))

    def add_function(self, type_index: int, code: bytes, export: str | None = None) -> int:
        index = len(self.shape.functions) + len(self.functions)
        self.functions.append(type_index)
        self.bodies.append(b"\0" + code)
        if export is not None:
            self.exports.append(Export(export, "function", index))
        return index

    def add_interface(self) -> None:
        counters = self.counters
        self.add_function(self.type_index(FuncType((I32,), ())), stop_body(counters))
        self.add_function(self.type_index(FuncType((), (I64,))), read_body(counters.fuel), FUEL)
        self.add_function(self.type_index(FuncType((), (I32,))), read_body(counters.status), STATUS)
        self.add_function(self.type_index(FuncType((I64, I32), ())), reset_body(counters, self.prices.growth), RESET)
        if self.keeps_state:
            limits, back = self.limits, {copy: index for index, copy in self.copies.items()}
            begin = begin_body(counters, back, limits.call_fuel, limits.call_depth, self.prices.growth)
            self.add_function(self.type_index(FuncType((), ())), move_body(self.copies), SAVE_STATE)
            self.add_function(self.type_index(FuncType((), ())), begin, RESTORE_STATE)

    def add_entries(self, wanted: Iterable[str] | None) -> dict[str, str]:
        exported = {item.name: item.index for item in self.module.exports if item.kind == "function"}
        names = list(exported if wanted is None else wanted)
        for name in names:
            if name not in exported:
                raise RestrictedModule("entry", f"export {name!r}", "there is no such function")
            target = exported[name]
            parameters, _ = self.shape.functions[target]
            fuel = self.loading.fuel if name in self.loading.exports else self.limits.call_fuel
            depth, growth = self.limits.call_depth, self.prices.growth
            code = entry_body(self.counters, target, parameters, fuel, depth, growth)
            self.add_function(self.type_indices[target], code, ENTRY + name)
        return {name: ENTRY + name for name in names}

    def add_start(self) -> int | None:
        """Have the start function run with the fuel of loading; behind it nothing is left."""
        start = self.module.start
        if start is None:
            return None
        code = start_body(self.counters, start, self.loading.fuel, self.limits.call_depth)
        return self.add_function(self.type_indices[start], code)

    # The sections

    def assembled(self, metered: list[bytes], start: int | None) -> Module:
        module = self.module
        counters = [b"\x7e\1" + i64_const(0) + b"\x0b", *[b"\x7f\1" + i32_const(0) + b"\x0b"] * 2]
        imported = len(module.imported("global"))
        copies = [_copy(module.globals[index - imported]) for index in self.copies]
        out = Module(b"", module.sections)
        for section, count, items in (
            (_TYPES, len(module.types), [func_type(signature) for signature in self.types]),
            (_FUNCTIONS, len(module.functions), [unsigned(index) for index in self.functions]),
            (_GLOBALS, len(module.globals), counters + copies),
            (_EXPORTS, len(module.exports), [export_entry(item) for item in self.exports]),
        ):
            out.sections = extended(out, section, count, items)
        code = vector(unsigned(len(body)) + body for body in (*metered, *self.bodies))
        out.sections = replaced(out.sections, _CODE, code)
        if start is not None:
            out.sections = replaced(out.sections, _START, unsigned(start))
        self.clamp(out)
        return out

    def clamp(self, out: Module) -> None:
        """Give memory and tables maxima within the limits, imported ones too: then no larger one can be supplied."""
        module = self.module
        if len(module.function_types()) - len(module.functions) < len(module.imports):
            imports = [import_entry(self.clamped_import(item)) for item in module.imports]
            out.sections = replaced(out.sections, _IMPORTS, vector(imports))
        if module.tables:
            tables = [table_type(self.clamped_table(table)) for table in module.tables]
            out.sections = replaced(out.sections, _TABLES, vector(tables))
        if module.memories:
            memories = [memory_type(self.clamped_memory(memory)) for memory in module.memories]
            out.sections = replaced(out.sections, _MEMORIES, vector(memories))

    def clamped_import(self, item: Import) -> Import:
        declared = item.type
        if isinstance(declared, MemoryType):
            declared = self.clamped_memory(declared)
        elif isinstance(declared, TableType):
            declared = self.clamped_table(declared)
        return Import(item.module, item.name, item.kind, declared)

    def clamped_memory(self, declared: MemoryType) -> MemoryType:
        return MemoryType(declared.minimum, clamped(declared.maximum, self.limits.most_pages))

    def clamped_table(self, declared: TableType) -> TableType:
        return TableType(declared.type, declared.minimum, clamped(declared.maximum, self.limits.table_elements))


def _copy(item: Global) -> bytes:
    """Return a private global that starts with what ``item`` starts with."""
    return bytes([item.type.type, 1]) + item.init
