"""Plans where charges stand: one pass over a function body that finds its metered blocks.

A metered block is a set of instructions that are all executed whenever its first one is, unless something traps; it
pays for all of them there, before any runs. A new one starts with the function, with each iteration of a loop, with
each arm of an ``if``, and behind a ``br_if``. Behind the ``end`` of a construct the block that the construct stands in
goes on, because control that enters the construct comes out there. Where a branch inside leaves it for somewhere
further out, a new one starts. Calls do not end a block: a call returns, or traps.

Code that cannot be reached is not charged. Nothing is written here; the plan says what goes where.
"""

from __future__ import annotations

from typing import Final

from ...errors import RestrictedModule
from ..leb128 import read_signed, read_unsigned
from ..module import Body
from ..opcodes import OPCODES
from ..references import Shape, check_index
from .effects import BYTES4, CLASSES, DELTAS, GLOBAL, LEB, LOCAL, MEMARG, METHOD, NONE, PREFIXED_DELTAS
from .plan import BULK, BULK_OPERATIONS, CALL, CHARGE, HEAD, RETURN, SAVE, Plan, Site
from .prices import Prices

_BLOCK, _LOOP, _IF, _ELSE, _END = 0x02, 0x03, 0x04, 0x05, 0x0B
_NO_FRAME: Final = 1 << 62


class _Frame:
    """An open construct: how it started, the operands below it, the metered block that it stands in."""

    __slots__ = ("base", "block", "fell", "is_live", "opcode", "parameters", "reach", "results", "targeted")

    def __init__(self, opcode: int, base: int, effect: tuple[int, int], block: int, is_live: bool) -> None:
        self.opcode = opcode
        self.base = base
        self.parameters, self.results = effect
        self.block = block
        self.is_live = is_live
        self.fell = False
        self.targeted = False
        self.reach = _NO_FRAME


class Planner:
    """Plans the bodies of one module, one at a time. The bodies must have been checked by
    :func:`capgate.wasm.decode`."""

    def __init__(self, source: bytes, shape: Shape, prices: Prices) -> None:
        self.source = source
        self.shape = shape
        self.prices = prices
        self.by_byte = [prices.instructions.get(code, 0) for code in range(256)]

    def plan(self, body: Body, signature: tuple[int, int]) -> Plan:
        """Return the plan of one body. Raises ``RestrictedModule`` for an index or a branch that leads nowhere."""
        self.pos = body.start
        self.locals = signature[0] + body.local_count
        self.out = Plan([0], [])
        self.frames = [_Frame(_BLOCK, 0, (0, signature[1]), 0, True)]
        self.block = 0
        self.cost = 0
        self.height = 0
        self.live = True
        while self.frames:
            self.straight_line()
            self.special()
        return self.out

    def straight_line(self) -> None:
        """Take everything up to an opcode that has a method of its own."""
        source, classes, deltas, prices, locals_ = self.source, CLASSES, DELTAS, self.by_byte, self.locals
        pos, height, cost, peak = self.pos, self.height, 0, self.out.height
        while True:
            opcode = source[pos]
            opcode_class = classes[opcode]
            pos += 1
            if opcode_class == LOCAL:
                # Most instructions are of the classes up to here, with numbers of one byte; `skip` knows the rest.
                pos = pos + 1 if source[pos] < 0x80 and source[pos] < locals_ else self.skip(pos, opcode_class)
            elif opcode_class == NONE:
                pass
            elif opcode_class == METHOD:
                pos -= 1
                break
            elif opcode_class == LEB and source[pos] < 0x80:
                pos += 1
            elif opcode_class == MEMARG and source[pos] < 0x80 and source[pos + 1] < 0x80:
                pos += 2
            else:
                pos = self.skip(pos, opcode_class)
            cost += prices[opcode]
            height += deltas[opcode]
            if height > peak:
                peak = height
        self.pos = pos
        if self.live:
            self.cost += cost
            self.height = height
            self.out.height = peak

    def skip(self, pos: int, opcode_class: int) -> int:
        """Return the position after the immediates of an opcode without a method; local and global indices are
        checked."""
        source = self.source
        value = source[pos]
        if opcode_class <= GLOBAL:
            after = pos + 1
            if value >= 0x80:
                if opcode_class == LEB:
                    while source[after - 1] >= 0x80:
                        after += 1
                    return after
                value, after = read_unsigned(source, pos)
            if opcode_class == LOCAL and value >= self.locals:
                check_index(value, self.locals, "local", pos)
            if opcode_class == GLOBAL and value >= self.shape.globals:
                check_index(value, self.shape.globals, "global", pos)
            return after
        if opcode_class == MEMARG:
            pos = pos + 1 if value < 0x80 else read_unsigned(source, pos)[1]
            return pos + 1 if source[pos] < 0x80 else read_unsigned(source, pos)[1]
        return pos + (4 if opcode_class == BYTES4 else 8)

    def special(self) -> None:
        """Take one opcode that has a method."""
        at, opcode = self.pos, self.source[self.pos]
        self.pos += 1
        method = _METHODS.get(opcode)
        if method is None:
            raise RestrictedModule("opcode", f"byte {at}", f"{opcode:#04x} has no plan")
        if self.live and opcode != _LOOP:  # and a prefix has no price by itself
            self.cost += self.by_byte[opcode]
        method(self, at)

    def u32(self) -> int:
        value = self.source[self.pos]
        if value < 0x80:
            self.pos += 1
            return value
        value, self.pos = read_unsigned(self.source, self.pos)
        return value

    def pop_push(self, operands: int, results: int) -> None:
        if self.live:
            height = self.height = self.height + results - operands
            if height > self.out.height:
                self.out.height = height

    def site(self, purpose: int, position: int, argument: int = 0, table: int = 0) -> None:
        self.out.sites.append(Site(purpose, position, len(self.frames) - 1, argument, table))

    def flush(self) -> None:
        """Add to the current block what has been seen since the last switch."""
        self.out.costs[self.block] += self.cost
        self.cost = 0

    def new_block(self, purpose: int = CHARGE) -> None:
        """Start a metered block here."""
        costs = self.out.costs
        costs[self.block] += self.cost
        self.cost = 0
        self.block = len(costs)
        costs.append(0)
        self.out.sites.append(Site(purpose, self.pos, len(self.frames) - 1, self.block))

    def block_type(self) -> tuple[int, int]:
        """Read the block type here: its (parameters, results)."""
        byte = self.source[self.pos]
        if byte == 0x40 or 0x6F <= byte < 0x80:
            self.pos += 1
            return 0, int(byte != 0x40)
        at = self.pos
        index, self.pos = read_signed(self.source, at, 33)
        check_index(index, len(self.shape.types), "type", at)
        return self.shape.types[index]

    def open(self, at: int) -> None:
        opcode = self.source[at]
        effect = self.block_type()
        if opcode == _IF:
            self.pop_push(1, 0)
        self.flush()
        self.frames.append(_Frame(opcode, self.height - effect[0], effect, self.block, self.live))
        if self.live and opcode != _BLOCK:
            self.new_block(HEAD if opcode == _LOOP else CHARGE)
            if opcode == _LOOP:  # each iteration pays for the loop
                self.cost += self.by_byte[_LOOP]

    def else_(self, _: int) -> None:
        frame = self.frames[-1]
        self.flush()
        frame.opcode = _ELSE
        frame.fell = self.live
        self.live = frame.is_live
        if self.live:
            self.height = frame.base + frame.parameters
            self.new_block()

    def end(self, _: int) -> None:
        frame = self.frames.pop()
        self.flush()
        if not self.frames:
            return
        outer = self.frames[-1]
        if frame.reach < outer.reach:
            outer.reach = frame.reach
        fell, self.live = self.live, False
        if not frame.is_live:
            return
        joins = frame.opcode == _IF or frame.fell or (frame.targeted and frame.opcode != _LOOP)
        if not (fell or joins):
            return
        self.live = True
        self.height = frame.base + frame.results
        self.pop_push(0, 0)
        if frame.reach >= len(self.frames):  # no branch leaves the construct: what is behind it runs as often as it
            self.block = frame.block
        elif joins:
            self.new_block()

    def target(self, depth: int, at: int) -> None:
        """Note a branch to the construct ``depth`` levels out."""
        check_index(depth, len(self.frames), "label", at)
        index = len(self.frames) - 1 - depth
        self.frames[index].targeted = True
        inner = self.frames[-1]
        if index < inner.reach:
            inner.reach = index

    def leave(self) -> None:
        """Note that what follows cannot be reached, up to the next ``else`` or ``end``."""
        self.flush()
        self.live = False

    def br(self, at: int) -> None:
        depth = self.u32()
        if self.live:
            self.target(depth, at)
        else:
            check_index(depth, len(self.frames), "label", at)
        self.leave()

    def br_if(self, at: int) -> None:
        depth = self.u32()
        check_index(depth, len(self.frames), "label", at)
        if self.live:
            self.target(depth, at)
            self.pop_push(1, 0)
            self.new_block()

    def br_table(self, at: int) -> None:
        source, pos, count = self.source, *reversed(read_unsigned(self.source, self.pos))
        depths = set()
        for _ in range(count + 1):
            depth = source[pos]
            if depth < 0x80:
                pos += 1
            else:
                depth, pos = read_unsigned(source, pos)
            depths.add(depth)
        self.pos = pos
        for depth in depths:
            if self.live:
                self.target(depth, at)
            else:
                check_index(depth, len(self.frames), "label", at)
        self.leave()

    def return_(self, at: int) -> None:
        self.site(RETURN, at)
        if self.live:
            self.target(len(self.frames) - 1, at)
        self.leave()

    def unreachable(self, at: int) -> None:
        if self.live:
            self.site(SAVE, at)
        self.leave()

    def call(self, at: int) -> None:
        index = self.u32()
        check_index(index, len(self.shape.functions), "function", at)
        self.called(at, self.shape.functions[index], 0)

    def call_indirect(self, at: int) -> None:
        index, _ = self.u32(), self.u32()
        check_index(index, len(self.shape.types), "type", at)
        self.called(at, self.shape.types[index], 1)

    def called(self, at: int, effect: tuple[int, int], extra: int) -> None:
        if self.live:
            self.out.calls = True
            self.site(CALL, at, self.pos)
            self.pop_push(effect[0] + extra, effect[1])

    def ref_func(self, at: int) -> None:
        check_index(self.u32(), len(self.shape.functions), "function", at)
        self.pop_push(0, 1)

    def select_t(self, _: int) -> None:
        count = self.u32()
        self.pos += count
        self.pop_push(3, 1)

    def memory_grow(self, at: int) -> None:
        self.pos += 1
        self.bulk(at, 0x40, 0)

    def bulk(self, at: int, code: int, table: int) -> None:
        if self.live:
            self.out.bulk = True
            self.site(BULK, at, code, table)

    def prefixed(self, at: int) -> None:
        code = 0xFC00 | self.u32()
        immediates = OPCODES[code].immediates
        first = (
            self.u32() if immediates in ("table", "tables", "eleminit", "init", "data", "elem", "zero", "zeros") else 0
        )
        if immediates in ("tables", "eleminit", "init", "zeros"):
            self.u32()
        if self.live:
            self.cost += self.prices.of(code)
        if code in BULK_OPERATIONS:
            self.bulk(at, code, first)
        delta = PREFIXED_DELTAS[code]
        self.pop_push(max(-delta, 0), max(delta, 0))


#: Immediates of the opcodes behind the prefix 0xFC.
_ONE_OR_TWO_NUMBERS: Final = frozenset({"table", "tables", "eleminit", "init", "data", "elem", "zero", "zeros"})
_METHODS: Final = {
    0x00: Planner.unreachable,
    _BLOCK: Planner.open,
    _LOOP: Planner.open,
    _IF: Planner.open,
    _ELSE: Planner.else_,
    _END: Planner.end,
    0x0C: Planner.br,
    0x0D: Planner.br_if,
    0x0E: Planner.br_table,
    0x0F: Planner.return_,
    0x10: Planner.call,
    0x11: Planner.call_indirect,
    0x1C: Planner.select_t,
    0x40: Planner.memory_grow,
    0xD2: Planner.ref_func,
    0xFC: Planner.prefixed,
}
