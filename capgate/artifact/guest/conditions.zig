//! Answers conditions from the table that `capgate/conditions/condition_table.py` writes, where it is described.
//!
//! What a table says is never trusted: every offset is checked, jumps go forward but for the next element of a loop, and
//! nonsense traps. Nothing outside the stack of the call is written. What an answer costs is bounded by the length of the
//! code, and by the steps that `answers.py` counts: here they are the same, counted at the same places.
//!
//! Facts are one array of MessagePack, the *block*: the value of each fact in the order of their numbers. `nil` says that
//! a fact is absent, and an empty map that its value is none of the types. A timestamp is an int, of nanoseconds since
//! 1970. All of the block is looked at once, before the first fact is read, and whatever else is in it traps.

const header_size: u32 = 20;
const magic: u32 = 0x31574743; // "CGW1"
const fact_size: u32 = 12;
const value_size: u32 = 16;
const condition_size: u32 = 8;
/// Most facts that conditions speak of: `FACTS_LIMIT` of `condition_table.py`.
const facts_limit: u32 = 5_100;
/// Values that wait for another, and loops in one another: `DEPTH_LIMIT` and `LOOP_LIMIT` of `nodes.py`.
const stack_limit: u32 = 66;
const loop_limit: u32 = 2;

const Type = struct {
    const boolean: u32 = 1;
    const int: u32 = 2;
    const float: u32 = 3;
    const string: u32 = 4;
    const list: u32 = 5;
    const timestamp: u32 = 6;
    const duration: u32 = 7;
    const booleans: u32 = 8;
    const ints: u32 = 9;
    const floats: u32 = 10;
    const nothing: u32 = 11;
    /// Not a value but what is wrong, which `n` says; `a` is how many steps were left then.
    const failure: u32 = 12;
    /// On a list: its elements and their texts are in the table, at offsets.
    const tabled: u32 = 0x100;
};

/// What an answer is. A failure has the number of its fact above the lowest eight bits.
pub const Answer = struct {
    pub const no: u32 = 0;
    pub const yes: u32 = 1;
    pub const missing_fact: u32 = 2;
    pub const wrong_type: u32 = 3;
    pub const overflow: u32 = 4;
    pub const out_of_range: u32 = 5;
    pub const too_long: u32 = 6;
};

/// Steps of one answer, and bytes that are one, as powers of two: as in `answers.py`.
const steps_limit: i64 = 2_500;
const step_bytes: u6 = 5;
const search_bytes: u6 = 3;

const second: i64 = 1_000_000_000;
const earliest: i64 = -62_135_596_800;
const latest: i64 = 253_402_300_799;

const Value = extern struct { tag: u32, n: u32, a: u64 };

/// A loop: `at` is the address of its element, of which there are `left`, this one included.
const Frame = extern struct { list: Value, failure: Value, at: u32, left: u32, body: u32, decisive: u32 };

inline fn require(condition: bool) void {
    if (!condition) @trap();
}

inline fn load(comptime T: type, address: u32) T {
    return @as(*align(1) const T, @ptrFromInt(address)).*;
}

inline fn bool_of(value: bool) Value {
    return .{ .tag = Type.boolean, .n = 0, .a = @intFromBool(value) };
}

inline fn int_of(value: i64) Value {
    return .{ .tag = Type.int, .n = 0, .a = @bitCast(value) };
}

inline fn fail(reason: u32) Value {
    return .{ .tag = Type.failure, .n = reason, .a = 0 };
}

inline fn type_of(value: Value) u32 {
    return value.tag & 0xff;
}

inline fn is_failure(value: Value) bool {
    return value.tag == Type.failure;
}

inline fn is_bool(value: Value, wanted: bool) bool {
    return value.tag == Type.boolean and value.a == @intFromBool(wanted);
}

inline fn signed(value: Value) i64 {
    return @bitCast(value.a);
}

inline fn is_list(kind: u32) bool {
    return kind == Type.list or (kind >= Type.booleans and kind <= Type.nothing);
}

/// The first byte of a value in a block, and how many first bytes are like it.
const Packed = struct {
    const map: u8 = 0x80;
    const short_list: u8 = 0x90;
    const short_text: u8 = 0xa0;
    const nil: u8 = 0xc0;
    const no: u8 = 0xc2;
    const yes: u8 = 0xc3;
    const double: u8 = 0xcb;
    const text8: u8 = 0xd9;
    const text16: u8 = 0xda;
    const text32: u8 = 0xdb;
    const list16: u8 = 0xdc;
    const list32: u8 = 0xdd;
    const negative: u8 = 0xe0;
};

/// A count that a value begins with, and the address behind it.
const Counted = struct { count: u32, at: u32 };

/// The facts of a question.
const Block = struct {
    start: u32,
    end: u32,
    /// Where each value is, once that was noted.
    places: [facts_limit]u32,
    is_noted: bool,

    /// Note where each of `count` values is. Whatever is no block traps, so that nothing has to be checked again.
    noinline fn note(self: *Block, count: u32) void {
        require(count <= facts_limit);
        const all = self.listAt(self.start) orelse @trap();
        require(all.count == count);
        var at = all.at;
        var number: u32 = 0;
        while (number < count) : (number += 1) {
            self.places[number] = at;
            at = self.after(at);
        }
        require(at == self.end);
        self.is_noted = true;
    }

    /// The address behind the value at `at`.
    noinline fn after(self: *const Block, at: u32) u32 {
        require(at < self.end);
        switch (load(u8, at)) {
            0x00...Packed.map, Packed.nil, Packed.no, Packed.yes, Packed.negative...0xff => return at + 1,
            0xcc, 0xd0 => return self.room(at, 2),
            0xcd, 0xd1 => return self.room(at, 3),
            0xce, 0xd2 => return self.room(at, 5),
            0xcf, 0xd3, Packed.double => return self.room(at, 9),
            else => {},
        }
        var next = self.afterText(at);
        if (next != 0) return next;
        const list = self.listAt(at) orelse @trap();
        next = list.at;
        var left = list.count;
        while (left != 0) : (left -= 1) { // each takes a byte, so this ends
            next = self.afterText(next);
            require(next != 0);
        }
        return next;
    }

    /// The address behind the text at `at`; 0 where there is none.
    noinline fn afterText(self: *const Block, at: u32) u32 {
        const text = self.textAt(at) orelse return 0;
        return self.room(text.at, text.count);
    }

    inline fn room(self: *const Block, at: u32, len: u32) u32 {
        require(len <= self.end - at);
        return at + len;
    }

    inline fn textAt(self: *const Block, at: u32) ?Counted {
        require(at < self.end);
        const head = load(u8, at);
        if (head & 0xe0 == Packed.short_text) return .{ .count = head & 0x1f, .at = at + 1 };
        if (head < Packed.text8 or head > Packed.text32) return null;
        return self.counted(at, @as(u32, 1) << @intCast(head - Packed.text8));
    }

    inline fn listAt(self: *const Block, at: u32) ?Counted {
        require(at < self.end);
        const head = load(u8, at);
        if (head & 0xf0 == Packed.short_list) return .{ .count = head & 0x0f, .at = at + 1 };
        if (head != Packed.list16 and head != Packed.list32) return null;
        return self.counted(at, if (head == Packed.list16) 2 else 4);
    }

    inline fn counted(self: *const Block, at: u32, width: u32) Counted {
        const behind = self.room(at, 1 + width);
        return .{ .count = big(at + 1, width), .at = behind };
    }
};

inline fn big(at: u32, width: u32) u32 {
    return switch (width) {
        1 => load(u8, at),
        2 => @byteSwap(load(u16, at)),
        else => @byteSwap(load(u32, at)),
    };
}

/// The text at `at` of a block that was noted.
inline fn packedText(at: u32) Value {
    const head = load(u8, at);
    if (head < Packed.nil) return .{ .tag = Type.string, .n = head & 0x1f, .a = at + 1 };
    const width = @as(u32, 1) << @intCast(head - Packed.text8);
    return .{ .tag = Type.string, .n = big(at + 1, width), .a = at + 1 + width };
}

/// The number at `at` of a block that was noted; null where it is none of 64 bits, one of them for the sign.
inline fn packedInt(at: u32) ?i64 {
    const head = load(u8, at);
    return switch (head) {
        0x00...0x7f => head,
        0xcc => load(u8, at + 1),
        0xcd => @byteSwap(load(u16, at + 1)),
        0xce => @byteSwap(load(u32, at + 1)),
        0xcf => {
            const number = @byteSwap(load(u64, at + 1));
            return if (number > 0x7fffffffffffffff) null else @intCast(number);
        },
        0xd0 => load(i8, at + 1),
        0xd1 => @byteSwap(load(i16, at + 1)),
        0xd2 => @byteSwap(load(i32, at + 1)),
        0xd3 => @byteSwap(load(i64, at + 1)),
        Packed.negative...0xff => @as(i8, @bitCast(head)),
        else => null,
    };
}

fn packedTime(at: u32) ?Value {
    if (load(u8, at) == 0xcf) { // nanoseconds go on to the year 2554
        const number = @byteSwap(load(u64, at + 1));
        return .{ .tag = Type.timestamp, .n = @intCast(number % @as(u64, second)), .a = number / @as(u64, second) };
    }
    const number = packedInt(at) orelse return null;
    const seconds = @divFloor(number, second);
    return .{ .tag = Type.timestamp, .n = @intCast(number - seconds * second), .a = @bitCast(seconds) };
}

/// Conditions and the facts of a question. What is noted of these serves all conditions that are answered.
pub const Machine = struct {
    table: u32,
    size: u32,
    /// How many steps are left.
    steps: i64,
    block: Block,

    /// Make this the machine of the table at `table`, which has room until `table_end`, and of the block from `start` to
    /// `end`, all of which can be read. Without a block, where both are 0, no fact is there.
    pub fn open(self: *Machine, table: u32, table_end: u32, start: u32, end: u32) void {
        require(table <= table_end and table_end - table >= header_size and start <= end);
        self.table = table;
        self.size = load(u32, table + 4);
        require(load(u32, table) == magic and self.size <= table_end - table and self.size >= header_size);
        const records = @as(u64, load(u32, table + 8)) * fact_size + @as(u64, load(u32, table + 12)) * value_size;
        const codes = @as(u64, load(u32, table + 16)) * condition_size;
        require(header_size + records + codes <= self.size);
        self.block.start = start;
        self.block.end = end;
        self.block.is_noted = false;
    }

    /// Answer condition `number`: one of `Answer`.
    pub noinline fn answer(self: *Machine, number: u32) u32 {
        const first = header_size + load(u32, self.table + 8) * fact_size + load(u32, self.table + 12) * value_size;
        require(number < load(u32, self.table + 16));
        const condition = self.table + first + number * condition_size;
        const len = load(u32, condition + 4);
        self.steps = steps_limit;
        const value = self.run(self.at(load(u32, condition), len), len);
        if (is_failure(value)) return value.n;
        require(value.tag == Type.boolean);
        return @intCast(value.a);
    }

    /// The address of `len` bytes at `offset` of the table.
    inline fn at(self: *const Machine, offset: u64, len: u64) u32 {
        require(offset <= self.size and len <= self.size - offset);
        return self.table + @as(u32, @intCast(offset));
    }

    noinline fn constant(self: *const Machine, number: u32) Value {
        require(number < load(u32, self.table + 12));
        const first = self.table + header_size + load(u32, self.table + 8) * fact_size;
        return self.tabled(load(Value, first + number * value_size));
    }

    /// A value of the table, its offset made an address.
    fn tabled(self: *const Machine, value: Value) Value {
        require(value.tag >= Type.boolean and value.tag <= Type.nothing);
        if (value.tag == Type.string) {
            return .{ .tag = value.tag, .n = value.n, .a = self.at(value.a, value.n) };
        }
        if (is_list(value.tag)) {
            const address = self.at(value.a, @as(u64, value.n) * value_size);
            return .{ .tag = value.tag | Type.tabled, .n = value.n, .a = address };
        }
        return value;
    }

    /// Where the value of a fact is; 0 where it is absent.
    inline fn find(self: *Machine, number: u32) u32 {
        const count = load(u32, self.table + 8);
        require(number < count);
        if (self.block.start == 0) return 0;
        if (!self.block.is_noted) self.block.note(count);
        const place = self.block.places[number];
        return if (load(u8, place) == Packed.nil) 0 else place;
    }

    noinline fn fact(self: *Machine, number: u32) Value {
        const place = self.find(number);
        if (place == 0) return .{ .tag = Type.failure, .n = Answer.missing_fact | number << 8, .a = 0 };
        const wrong = Value{ .tag = Type.failure, .n = Answer.wrong_type | number << 8, .a = 0 };
        const head = load(u8, place);
        switch (load(u32, self.table + header_size + number * fact_size + 8)) {
            Type.boolean => return if (head == Packed.no or head == Packed.yes) bool_of(head == Packed.yes) else wrong,
            Type.int => return if (packedInt(place)) |value| int_of(value) else wrong,
            Type.float => {
                if (head != Packed.double) return wrong;
                return .{ .tag = Type.float, .n = 0, .a = @byteSwap(load(u64, place + 1)) };
            },
            Type.string => {
                const text = self.block.textAt(place) orelse return wrong;
                return .{ .tag = Type.string, .n = text.count, .a = text.at };
            },
            Type.list => {
                const list = self.block.listAt(place) orelse return wrong;
                return .{ .tag = Type.list, .n = list.count, .a = list.at };
            },
            Type.timestamp => return packedTime(place) orelse wrong,
            else => @trap(),
        }
    }

    /// The element of `list` at `place`, which is where `list` begins, or what `next` gave.
    inline fn element(self: *const Machine, list: Value, place: u32) Value {
        if (list.tag & Type.tabled == 0) return packedText(place);
        const value = load(Value, place);
        require(!is_list(value.tag));
        return self.tabled(value);
    }

    /// The address behind the element at `place`.
    inline fn next(list: Value, place: u32) u32 {
        if (list.tag & Type.tabled != 0) return place + value_size;
        const text = packedText(place);
        return @as(u32, @intCast(text.a)) + text.n;
    }

    /// Count steps that are about to be taken, and say whether there are so many.
    inline fn spend(self: *Machine, steps: u64) bool {
        self.steps -= @intCast(steps);
        return self.steps >= 0;
    }

    /// Count a step for so many bytes, where that is one at least.
    inline fn spendBytes(self: *Machine, bytes: u64, comptime shift: u6) bool {
        return bytes >> shift == 0 or self.spend(bytes >> shift);
    }

    /// The value, and where it is none the steps that are left.
    inline fn known(self: *const Machine, value: Value) Value {
        if (!is_failure(value)) return value;
        return .{ .tag = value.tag, .n = value.n, .a = @bitCast(self.steps) };
    }

    noinline fn equal(self: *const Machine, left: Value, right: Value) bool {
        if (!is_list(type_of(left))) return order(left, right) == .equal;
        require(is_list(type_of(right)));
        if (left.n != right.n) return false;
        var ours: u32 = @intCast(left.a);
        var theirs: u32 = @intCast(right.a);
        var count = left.n;
        while (count != 0) : (count -= 1) {
            if (order(self.element(left, ours), self.element(right, theirs)) != .equal) return false;
            ours = next(left, ours);
            theirs = next(right, theirs);
        }
        return true;
    }

    noinline fn contains(self: *const Machine, value: Value, list: Value) bool {
        require(is_list(type_of(list)));
        var place: u32 = @intCast(list.a);
        var count = list.n;
        while (count != 0) : (count -= 1) {
            if (order(value, self.element(list, place)) == .equal) return true;
            place = next(list, place);
        }
        return false;
    }

    noinline fn run(self: *Machine, start: u32, len: u32) Value {
        var stack: [stack_limit]Value = undefined;
        var frames: [loop_limit]Frame = undefined;
        var top: u32 = 0;
        var depth: u32 = 0;
        const end = start + len;
        var pc = start;
        while (pc != end) {
            const op = load(u8, pc);
            pc += 1;
            const room = end - pc;
            switch (op) {
                0x01, 0x02, 0x03 => {
                    require(room >= 4 and top < stack_limit);
                    const number = load(u32, pc);
                    pc += 4;
                    stack[top] = switch (op) {
                        0x01 => self.constant(number),
                        0x02 => self.known(self.fact(number)),
                        else => bool_of(self.find(number) != 0),
                    };
                    top += 1;
                },
                0x04 => {
                    require(room >= 1 and top < stack_limit);
                    const loop = load(u8, pc);
                    pc += 1;
                    require(loop < depth);
                    stack[top] = self.element(frames[loop].list, frames[loop].at);
                    top += 1;
                },
                0x10...0x13 => {
                    require(top >= 1);
                    const value = stack[top - 1];
                    if (!is_failure(value)) stack[top - 1] = self.known(self.unary(op, value));
                },
                0x14...0x20 => {
                    require(top >= 2);
                    top -= 1;
                    const left = stack[top - 1];
                    const right = stack[top];
                    if (is_failure(left)) { // what is on its right is not looked at in Python
                        self.steps = signed(left);
                        continue;
                    }
                    stack[top - 1] = if (is_failure(right)) right else self.known(self.binary(op, left, right));
                },
                0x30, 0x32 => {
                    require(room >= 2 and top >= 1);
                    const target = self.jump(start, pc, end);
                    pc = if (is_bool(stack[top - 1], op == 0x32)) target else pc + 2;
                },
                0x31, 0x33 => {
                    require(top >= 2);
                    top -= 1;
                    const decisive = op == 0x33;
                    const left = stack[top - 1];
                    const right = stack[top];
                    require(left.tag == Type.boolean or is_failure(left));
                    require(right.tag == Type.boolean or is_failure(right));
                    const joined = if (is_bool(right, decisive) or !is_failure(left)) right else left;
                    stack[top - 1] = self.known(joined);
                },
                0x34 => {
                    require(room >= 4 and top >= 1);
                    const otherwise = self.jump(start, pc, end);
                    const after = self.jump(start, pc + 2, end);
                    const value = stack[top - 1];
                    if (is_failure(value)) {
                        pc = after;
                    } else {
                        require(value.tag == Type.boolean);
                        top -= 1;
                        pc = if (value.a == 1) pc + 4 else otherwise;
                    }
                },
                0x35 => {
                    require(room >= 2);
                    pc = self.jump(start, pc, end);
                },
                0x36, 0x37 => {
                    require(room >= 2 and top >= 1);
                    const after = self.jump(start, pc, end);
                    const list = stack[top - 1];
                    if (is_failure(list)) {
                        pc = after;
                        continue;
                    }
                    require(is_list(type_of(list)));
                    if (!self.spend(@as(u64, list.n) * @max(1, (after - pc + 6) >> 4))) { // of the body, and 8
                        stack[top - 1] = self.known(fail(Answer.too_long));
                        pc = after;
                        continue;
                    }
                    top -= 1;
                    if (list.n == 0) {
                        stack[top] = bool_of(op == 0x37);
                        top += 1;
                        pc = after;
                        continue;
                    }
                    require(depth < loop_limit);
                    pc += 2;
                    frames[depth] = .{
                        .list = list,
                        .failure = bool_of(false),
                        .at = @intCast(list.a),
                        .left = list.n,
                        .body = pc,
                        .decisive = @intFromBool(op == 0x36),
                    };
                    depth += 1;
                },
                0x38 => {
                    require(top >= 1 and depth >= 1);
                    const frame = &frames[depth - 1];
                    const value = stack[top - 1];
                    const decisive = frame.decisive == 1;
                    if (is_failure(value)) {
                        if (!is_failure(frame.failure)) frame.failure = value;
                    } else require(value.tag == Type.boolean);
                    frame.left -= 1;
                    if (is_bool(value, decisive)) {
                        depth -= 1;
                    } else if (frame.left != 0) {
                        frame.at = next(frame.list, frame.at);
                        top -= 1;
                        pc = frame.body;
                    } else {
                        stack[top - 1] = self.known(if (is_failure(frame.failure)) frame.failure else bool_of(!decisive));
                        depth -= 1;
                    }
                },
                else => @trap(),
            }
        }
        require(top == 1 and depth == 0);
        return stack[0];
    }

    /// Where the jump at `pc` goes: forward, and no further than the end.
    inline fn jump(self: *const Machine, start: u32, pc: u32, end: u32) u32 {
        _ = self;
        const target = start + load(u16, pc);
        require(target > pc and target <= end);
        return target;
    }

    noinline fn unary(self: *Machine, op: u8, value: Value) Value {
        switch (op) {
            0x10 => {
                require(value.tag == Type.boolean);
                return bool_of(value.a == 0);
            },
            0x11 => {
                require(value.tag == Type.int);
                const negated = @subWithOverflow(@as(i64, 0), signed(value));
                return if (negated[1] != 0) fail(Answer.overflow) else int_of(negated[0]);
            },
            0x12 => {
                if (is_list(type_of(value))) return int_of(value.n);
                require(value.tag == Type.string);
                if (!self.spendBytes(value.n, step_bytes)) return fail(Answer.too_long);
                return int_of(characters(@intCast(value.a), value.n));
            },
            0x13 => {
                if (value.tag == Type.int) return moment(signed(value), 0);
                require(value.tag == Type.string);
                return parse(@intCast(value.a), value.n);
            },
            else => @trap(),
        }
    }

    /// Count the steps of an operation on two operands, and say whether there are so many.
    noinline fn canCompute(self: *Machine, op: u8, left: Value, right: Value) bool {
        if (op == 0x1d) {
            const bytes = if (left.tag == Type.string) left.n else 0;
            return self.spend(@as(u64, right.n) * (1 + (bytes >> step_bytes)));
        }
        if (is_list(type_of(left))) {
            const bytes = if (left.n == right.n) self.textsOf(left) else 0;
            return self.spend(left.n + (bytes >> step_bytes));
        }
        if (left.tag != Type.string) return true;
        return switch (op) {
            0x1e, 0x1f => self.spendBytes(right.n, step_bytes),
            0x20 => self.spendBytes(@as(u64, left.n) + right.n, search_bytes),
            else => self.spendBytes(@min(left.n, right.n), step_bytes),
        };
    }

    /// Bytes of the texts of a list together.
    fn textsOf(self: *const Machine, list: Value) u64 {
        var bytes: u64 = 0;
        var place: u32 = @intCast(list.a);
        var count = list.n;
        while (count != 0) : (count -= 1) {
            const each = self.element(list, place);
            if (each.tag == Type.string) bytes += each.n;
            place = next(list, place);
        }
        return bytes;
    }

    noinline fn binary(self: *Machine, op: u8, left: Value, right: Value) Value {
        if (!self.canCompute(op, left, right)) return fail(Answer.too_long);
        switch (op) {
            0x14, 0x15, 0x16 => return arithmetic(op, left, right),
            0x17 => return bool_of(self.equal(left, right)),
            0x18 => return bool_of(!self.equal(left, right)),
            0x1d => return bool_of(self.contains(left, right)),
            0x1e, 0x1f, 0x20 => {
                require(left.tag == Type.string and right.tag == Type.string);
                return bool_of(search(op, @intCast(left.a), left.n, @intCast(right.a), right.n));
            },
            else => {
                const ordered = order(left, right);
                return bool_of(switch (op) {
                    0x19 => ordered == .less,
                    0x1a => ordered == .less or ordered == .equal,
                    0x1b => ordered == .greater,
                    0x1c => ordered == .greater or ordered == .equal,
                    else => @trap(),
                });
            },
        }
    }
};

// Comparing.

const Order = enum { less, equal, greater, neither };

noinline fn order(left: Value, right: Value) Order {
    if (left.tag == Type.int and right.tag == Type.float) return mixed(signed(left), @bitCast(right.a));
    if (left.tag == Type.float and right.tag == Type.int) {
        return switch (mixed(signed(right), @bitCast(left.a))) {
            .less => .greater,
            .greater => .less,
            else => |either| either,
        };
    }
    require(left.tag == right.tag);
    switch (left.tag) {
        Type.boolean, Type.int, Type.duration => return numbers(i64, signed(left), signed(right)),
        Type.float => return numbers(f64, @bitCast(left.a), @bitCast(right.a)),
        Type.timestamp => {
            const seconds = numbers(i64, signed(left), signed(right));
            return if (seconds == .equal) numbers(u32, left.n, right.n) else seconds;
        },
        Type.string => return texts(@intCast(left.a), left.n, @intCast(right.a), right.n),
        else => @trap(),
    }
}

inline fn numbers(comptime T: type, left: T, right: T) Order {
    if (left < right) return .less;
    if (left > right) return .greater;
    return if (left == right) .equal else .neither;
}

/// Compare as numbers are, not as one is rounded to the other.
noinline fn mixed(int: i64, float: f64) Order {
    if (float != float) return .neither;
    if (float >= 9223372036854775808.0) return .less;
    if (float < -9223372036854775808.0) return .greater;
    const whole = @trunc(float);
    const as_int: i64 = @intFromFloat(whole);
    if (int != as_int) return if (int < as_int) .less else .greater;
    return numbers(f64, whole, float);
}

/// In the order of code points, which is that of the bytes.
noinline fn texts(left: u32, left_len: u32, right: u32, right_len: u32) Order {
    const most = @min(left_len, right_len);
    var i: u32 = 0;
    while (i + 8 <= most and load(u64, left + i) == load(u64, right + i)) i += 8;
    while (i < most and load(u8, left + i) == load(u8, right + i)) i += 1;
    if (i == most) return numbers(u32, left_len, right_len);
    return numbers(u8, load(u8, left + i), load(u8, right + i));
}

inline fn same(left: u32, right: u32, len: u32) bool {
    return texts(left, len, right, len) == .equal;
}

// Text.

noinline fn characters(address: u32, len: u32) i64 {
    var count: i64 = len; // but for the bytes that go on with one: 10xxxxxx
    var i: u32 = 0;
    while (i + 8 <= len) : (i += 8) {
        const word = load(u64, address + i);
        count -= @popCount((word >> 7) & ~(word >> 6) & 0x0101010101010101);
    }
    while (i < len) : (i += 1) {
        if (load(u8, address + i) & 0xc0 == 0x80) count -= 1;
    }
    return count;
}

fn search(op: u8, text: u32, len: u32, part: u32, part_len: u32) bool {
    if (part_len > len) return false;
    return switch (op) {
        0x1e => same(text, part, part_len),
        0x1f => same(text + (len - part_len), part, part_len),
        else => within(text, len, part, part_len),
    };
}

/// Crochemore and Perrin's two-way search: linear in both lengths, and without memory of its own.
noinline fn within(text: u32, len: u32, part: u32, part_len: u32) bool {
    if (part_len == 0) return true;
    const forward = suffix(part, part_len, false);
    const backward = suffix(part, part_len, true);
    const chosen = if (backward.start > forward.start) backward else forward;
    const start = chosen.start; // the right half begins here
    var period = chosen.period;
    var kept: u32 = 0;
    if (start + period <= part_len and same(part, part + period, start)) {
        kept = part_len - period;
    } else {
        period = @max(start, part_len - start + 1);
    }
    var memory: u32 = 0;
    var at: u32 = 0;
    while (at <= len - part_len) {
        var k = @max(start, memory);
        while (k < part_len and load(u8, part + k) == load(u8, text + at + k)) k += 1;
        if (k < part_len) {
            at += k - start + 1;
            memory = 0;
            continue;
        }
        k = start;
        while (k > memory and load(u8, part + k - 1) == load(u8, text + at + k - 1)) k -= 1;
        if (k <= memory) return true;
        at += period;
        memory = kept;
    }
    return false;
}

const Suffix = struct { start: u32, period: u32 };

/// The greatest suffix, in the order of bytes or the reverse of it, and its period.
noinline fn suffix(part: u32, len: u32, reversed: bool) Suffix {
    var start: u32 = 0;
    var candidate: u32 = 1;
    var k: u32 = 0;
    var period: u32 = 1;
    while (candidate + k < len) {
        const here = load(u8, part + candidate + k);
        const there = load(u8, part + start + k);
        if (here == there) {
            if (k + 1 == period) {
                candidate += period;
                k = 0;
            } else k += 1;
        } else if ((here < there) != reversed) {
            candidate += k + 1;
            k = 0;
            period = candidate - start;
        } else {
            start = candidate;
            candidate += 1;
            k = 0;
            period = 1;
        }
    }
    return .{ .start = start, .period = period };
}

// Numbers and times.

noinline fn arithmetic(op: u8, left: Value, right: Value) Value {
    if (left.tag == Type.timestamp or right.tag == Type.timestamp) return times(op, left, right);
    require(left.tag == right.tag and (left.tag == Type.int or (left.tag == Type.duration and op != 0x16)));
    const computed = switch (op) {
        0x14 => @addWithOverflow(signed(left), signed(right)),
        0x15 => @subWithOverflow(signed(left), signed(right)),
        else => @mulWithOverflow(signed(left), signed(right)),
    };
    if (computed[1] != 0) return fail(Answer.overflow);
    return .{ .tag = left.tag, .n = 0, .a = @bitCast(computed[0]) };
}

fn times(op: u8, left: Value, right: Value) Value {
    if (op == 0x15 and right.tag == Type.timestamp) {
        require(left.tag == Type.timestamp);
        return between(left, right);
    }
    const forward = op == 0x14;
    require(forward or op == 0x15);
    const time = if (left.tag == Type.timestamp) left else right;
    const span = if (left.tag == Type.timestamp) right else left;
    require(span.tag == Type.duration);
    const seconds = @divFloor(signed(span), second);
    const rest = signed(span) - seconds * second;
    const whole = if (forward) signed(time) + seconds else signed(time) - seconds;
    const part = if (forward) @as(i64, time.n) + rest else @as(i64, time.n) - rest;
    const carried = @divFloor(part, second);
    return moment(whole + carried, @intCast(part - carried * second));
}

fn between(left: Value, right: Value) Value {
    var seconds = signed(left) - signed(right);
    var rest = @as(i64, left.n) - @as(i64, right.n);
    if (seconds < 0 and rest > 0) { // of one sign, so that the sum overflows only where the difference does
        seconds += 1;
        rest -= second;
    } else if (seconds > 0 and rest < 0) {
        seconds -= 1;
        rest += second;
    }
    const whole = @mulWithOverflow(seconds, second);
    const sum = @addWithOverflow(whole[0], rest);
    if (whole[1] != 0 or sum[1] != 0) return fail(Answer.overflow);
    return .{ .tag = Type.duration, .n = 0, .a = @bitCast(sum[0]) };
}

fn moment(seconds: i64, nanoseconds: u32) Value {
    if (seconds < earliest or seconds > latest) return fail(Answer.out_of_range);
    return .{ .tag = Type.timestamp, .n = nanoseconds, .a = @bitCast(seconds) };
}

/// RFC 3339, `2027-01-01T00:00:00.123Z` or with `+02:00`, as `instants.py` reads it.
noinline fn parse(text: u32, len: u32) Value {
    const wrong = fail(Answer.out_of_range);
    if (len < 20 or len > 35) return wrong;
    for ([_]u32{ 4, 7, 10, 13, 16 }, "--T::") |place, mark| {
        if (load(u8, text + place) != mark) return wrong;
    }
    const year = digits(text, 4) orelse return wrong;
    const month = digits(text + 5, 2) orelse return wrong;
    const day = digits(text + 8, 2) orelse return wrong;
    const hour = digits(text + 11, 2) orelse return wrong;
    const minute = digits(text + 14, 2) orelse return wrong;
    const secs = digits(text + 17, 2) orelse return wrong;
    if (year < 1 or month < 1 or month > 12 or day < 1 or day > lengthOf(year, month)) return wrong;
    if (hour > 23 or minute > 59 or secs > 59) return wrong;
    var at: u32 = 19;
    var nanoseconds: i64 = 0;
    if (load(u8, text + at) == '.') {
        at += 1;
        var unit: i64 = 100_000_000;
        while (at < len and digits(text + at, 1) != null) : (at += 1) {
            if (unit == 0) return wrong;
            nanoseconds += unit * (digits(text + at, 1) orelse 0);
            unit = @divTrunc(unit, 10);
        }
        if (at == 20 or at == len) return wrong;
    }
    const zone = load(u8, text + at);
    var offset: i64 = 0;
    if (zone == 'Z') {
        if (len != at + 1) return wrong;
    } else {
        if ((zone != '+' and zone != '-') or len != at + 6 or load(u8, text + at + 3) != ':') return wrong;
        const hours = digits(text + at + 1, 2) orelse return wrong;
        const minutes = digits(text + at + 4, 2) orelse return wrong;
        if (hours > 23 or minutes > 59) return wrong;
        offset = (hours * 60 + minutes) * 60;
        if (zone == '-') offset = -offset;
    }
    const seconds = daysTo(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + secs - offset;
    return moment(seconds, @intCast(nanoseconds));
}

noinline fn digits(address: u32, count: u32) ?i64 {
    var number: i64 = 0;
    var i: u32 = 0;
    while (i < count) : (i += 1) {
        const digit = load(u8, address + i) -% '0';
        if (digit > 9) return null;
        number = number * 10 + digit;
    }
    return number;
}

fn lengthOf(year: i64, month: i64) i64 {
    if (month == 2) return if (@mod(year, 4) == 0 and (@mod(year, 100) != 0 or @mod(year, 400) == 0)) 29 else 28;
    return if (month == 4 or month == 6 or month == 9 or month == 11) 30 else 31;
}

/// Days from 1970-01-01, counted in years that begin with March.
fn daysTo(year: i64, month: i64, day: i64) i64 {
    const from_march = @mod(month + 9, 12);
    const y = if (month <= 2) year - 1 else year;
    const of_year = @divTrunc(153 * from_march + 2, 5) + day - 1;
    return 365 * y + @divFloor(y, 4) - @divFloor(y, 100) + @divFloor(y, 400) + of_year - 719_468;
}
