//! A policy behind the ABI of the modules that OPA compiles from Rego: the evaluator of capgate's own guest, which
//! `evaluator.zig` is, asked with JSON. Written against https://www.openpolicyagent.org/docs/wasm, section "ABI".
//!
//! Beside the policy it has rules that show what the ABI passes on:
//!
//!     capgate/decision   {"allow": true}, or {"allow": false, "reason": the policy's}
//!     capgate/allow      true or false
//!     capgate/denials    [], or the policy's reason in an array
//!     capgate/data       {"allow": false, "reason": data.reason}, undefined without one
//!     capgate/input      {"allow": false, "reason": the input as JSON}
//!     capgate/builtin    {"allow": false, "reason": hex.encode(input.resource.id)}
//!     capgate/time       {"allow": false, "reason": time.now_ns() as JSON}
//!     capgate/facts      {"allow": true} where "support" in input.actor.roles, resource and actor have the same tenant, and
//!                        input.args.amount is 1,000 at most; undefined without an amount
//!
//! The memory is the host's. The two globals with the version are not here, because the compiler exports none: whoever
//! makes a module of this adds them, and the image of a policy.

comptime {
    _ = @import("evaluator.zig");
}

extern "env" fn opa_abort(message: [*:0]const u8) void;
extern "env" fn opa_builtin0(number: u32, context: u32) ?*const Value;
extern "env" fn opa_builtin1(number: u32, context: u32, first: *const Value) ?*const Value;

const Result = extern struct { case: u32, text: [*]const u8, len: u32 };
extern fn @"capgate:policy/policy@0.1.0#policy-check"(input: u32) *const Result;

const hex_encode: u32 = 7;
const now_ns: u32 = 1000;
const page_size: u32 = 65536;
const image_base: u32 = 65536;
const nesting_limit: u32 = 64;

fn abort(message: [*:0]const u8) noreturn {
    opa_abort(message);
    @trap();
}

// The heap: from the end of the image, upwards. Nothing is ever freed but by setting its end back.

var heap: u32 = 0;

fn heapEnd() u32 {
    if (heap == 0) {
        const size = @as(*align(1) const u32, @ptrFromInt(image_base + 4)).*;
        heap = (image_base + size + 15) & ~@as(u32, 15);
    }
    return heap;
}

export fn opa_malloc(size: u32) u32 {
    const at = (heapEnd() + 7) & ~@as(u32, 7);
    const end = @as(u64, at) + size;
    const have = @as(u64, @wasmMemorySize(0)) * page_size;
    if (end > have) {
        const pages = (end - have + page_size - 1) / page_size;
        if (pages > 65535 or @wasmMemoryGrow(0, @intCast(pages)) < 0) abort("opa_malloc: failed");
    }
    heap = @intCast(end);
    return at;
}

export fn opa_free(_: u32) void {}

export fn opa_heap_ptr_get() u32 {
    return heapEnd();
}

export fn opa_heap_ptr_set(at: u32) void {
    heap = at;
}

export fn opa_value_free(_: u32) void {}
export fn opa_heap_blocks_stash() void {}
export fn opa_heap_blocks_restore() void {}
export fn opa_heap_stash_clear() void {}

export fn opa_value_add_path(_: u32, _: u32, _: u32) u32 {
    return 1;
}

export fn opa_value_remove_path(_: u32, _: u32) u32 {
    return 1;
}

fn make(comptime T: type) *T {
    return @ptrFromInt(opa_malloc(@sizeOf(T)));
}

// Values. A number is kept as its text.

const Kind = enum(u32) { nothing, no, yes, number, string, array, object };
const Item = struct { key: []const u8, value: *const Value, next: ?*Item };
const Value = struct { kind: Kind, text: []const u8 = "", first: ?*Item = null };

fn new(value: Value) *const Value {
    const made = make(Value);
    made.* = value;
    return made;
}

fn string(text: []const u8) *const Value {
    return new(.{ .kind = .string, .text = text });
}

fn boolean(value: bool) *const Value {
    return new(.{ .kind = if (value) .yes else .no });
}

fn list(kind: Kind, items: []const Item) *const Value {
    var first: ?*Item = null;
    var index = items.len;
    while (index > 0) {
        index -= 1;
        const item = make(Item);
        item.* = .{ .key = items[index].key, .value = items[index].value, .next = first };
        first = item;
    }
    return new(.{ .kind = kind, .first = first });
}

fn entry(key: []const u8, value: *const Value) Item {
    return .{ .key = key, .value = value, .next = null };
}

fn get(value: *const Value, key: []const u8) ?*const Value {
    if (value.kind != .object) return null;
    var item = value.first;
    while (item) |present| : (item = present.next) {
        if (same(present.key, key)) return present.value;
    }
    return null;
}

fn textOf(value: ?*const Value) ?[]const u8 {
    const present = value orelse return null;
    return if (present.kind == .string) present.text else null;
}

fn isNothing(value: ?*const Value) bool {
    return if (value) |present| present.kind == .nothing else true;
}

fn same(a: []const u8, b: []const u8) bool {
    if (a.len != b.len) return false;
    for (a, b) |x, y| if (x != y) return false;
    return true;
}

// JSON.

const Parser = struct {
    text: []const u8,
    at: usize = 0,

    fn whole(text: []const u8) ?*const Value {
        var parser = Parser{ .text = text };
        const found = parser.value(0) orelse return null;
        parser.space();
        return if (parser.at == text.len) found else null;
    }

    fn space(p: *Parser) void {
        while (p.at < p.text.len) : (p.at += 1) switch (p.text[p.at]) {
            ' ', '\t', '\n', '\r' => {},
            else => return,
        };
    }

    fn peek(p: *Parser) u8 {
        return if (p.at < p.text.len) p.text[p.at] else 0;
    }

    fn take(p: *Parser, char: u8) bool {
        if (p.peek() != char or p.at >= p.text.len) return false;
        p.at += 1;
        return true;
    }

    fn word(p: *Parser, text: []const u8) bool {
        if (p.text.len - p.at < text.len or !same(p.text[p.at..][0..text.len], text)) return false;
        p.at += text.len;
        return true;
    }

    fn value(p: *Parser, depth: u32) ?*const Value {
        if (depth > nesting_limit) return null;
        p.space();
        switch (p.peek()) {
            '"' => return string(p.quoted() orelse return null),
            '{' => return p.items(.object, '}', depth),
            '[' => return p.items(.array, ']', depth),
            'n' => return if (p.word("null")) new(.{ .kind = .nothing }) else null,
            't' => return if (p.word("true")) boolean(true) else null,
            'f' => return if (p.word("false")) boolean(false) else null,
            else => return p.number(),
        }
    }

    fn items(p: *Parser, kind: Kind, end: u8, depth: u32) ?*const Value {
        p.at += 1;
        var first: ?*Item = null;
        var last: ?*Item = null;
        p.space();
        if (p.take(end)) return new(.{ .kind = kind });
        while (true) {
            var key: []const u8 = "";
            if (kind == .object) {
                p.space();
                if (p.peek() != '"') return null;
                key = p.quoted() orelse return null;
                p.space();
                if (!p.take(':')) return null;
            }
            const item = make(Item);
            item.* = .{ .key = key, .value = p.value(depth + 1) orelse return null, .next = null };
            if (last) |before| before.next = item else first = item;
            last = item;
            p.space();
            if (p.take(end)) return new(.{ .kind = kind, .first = first });
            if (!p.take(',')) return null;
        }
    }

    fn digits(p: *Parser) bool {
        const start = p.at;
        while (p.peek() >= '0' and p.peek() <= '9') p.at += 1;
        return p.at > start;
    }

    fn number(p: *Parser) ?*const Value {
        const start = p.at;
        _ = p.take('-');
        if (!p.take('0') and !p.digits()) return null;
        if (p.take('.') and !p.digits()) return null;
        if (p.take('e') or p.take('E')) {
            if (!p.take('-')) _ = p.take('+');
            if (!p.digits()) return null;
        }
        return new(.{ .kind = .number, .text = p.text[start..p.at] });
    }

    /// The text between two quotes. Written to the heap without escapes, of which it takes no more room.
    fn quoted(p: *Parser) ?[]const u8 {
        p.at += 1;
        var end = p.at;
        while (end < p.text.len and p.text[end] != '"') end += if (p.text[end] == '\\') 2 else 1;
        if (end >= p.text.len) return null;
        const out: [*]u8 = @ptrFromInt(opa_malloc(@intCast(end - p.at + 1)));
        var size: usize = 0;
        while (p.at < end) {
            const char = p.text[p.at];
            p.at += 1;
            if (char < 0x20) return null;
            if (char == '\\') {
                size += write(out + size, p.escaped(end) orelse return null);
            } else {
                out[size] = char;
                size += 1;
            }
        }
        p.at = end + 1;
        return out[0..size];
    }

    fn escaped(p: *Parser, end: usize) ?u32 {
        const char = p.text[p.at];
        p.at += 1;
        switch (char) {
            '"', '\\', '/' => return char,
            'b' => return 8,
            'f' => return 12,
            'n' => return 10,
            'r' => return 13,
            't' => return 9,
            'u' => {
                const code = p.hex(end) orelse return null;
                if (code < 0xd800 or code > 0xdfff) return code;
                if (code > 0xdbff or p.at + 2 > end or p.text[p.at] != '\\' or p.text[p.at + 1] != 'u') return null;
                p.at += 2;
                const low = p.hex(end) orelse return null;
                if (low < 0xdc00 or low > 0xdfff) return null;
                return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            },
            else => return null,
        }
    }

    fn hex(p: *Parser, end: usize) ?u32 {
        if (p.at + 4 > end) return null;
        var code: u32 = 0;
        for (p.text[p.at..][0..4]) |char| code = code << 4 | @as(u32, switch (char) {
            '0'...'9' => char - '0',
            'a'...'f' => char - 'a' + 10,
            'A'...'F' => char - 'A' + 10,
            else => return null,
        });
        p.at += 4;
        return code;
    }
};

/// Write a code point in UTF-8: how many bytes.
fn write(out: [*]u8, code: u32) usize {
    if (code < 0x80) {
        out[0] = @intCast(code);
        return 1;
    }
    const size: u5 = if (code < 0x800) 2 else if (code < 0x10000) 3 else 4;
    var index: u5 = size;
    while (index > 1) {
        index -= 1;
        out[index] = @intCast(0x80 | (code >> (6 * (size - 1 - index)) & 0x3f));
    }
    const marks = [_]u8{ 0, 0, 0xc0, 0xe0, 0xf0 };
    out[0] = @intCast(marks[size] | code >> (6 * (size - 1)));
    return size;
}

/// JSON, written behind the end of the heap, which grows with it.
const Writer = struct {
    start: u32,

    fn open() Writer {
        return .{ .start = opa_malloc(0) };
    }

    fn byte(_: Writer, char: u8) void {
        const at = heap;
        if (at == @wasmMemorySize(0) * page_size) {
            if (@wasmMemoryGrow(0, 1) < 0) abort("opa_malloc: failed");
        }
        heap = at + 1;
        @as(*u8, @ptrFromInt(at)).* = char;
    }

    fn all(w: Writer, text: []const u8) void {
        for (text) |char| w.byte(char);
    }

    fn quoted(w: Writer, text: []const u8) void {
        const digits = "0123456789abcdef";
        w.byte('"');
        for (text) |char| {
            if (char == '"' or char == '\\') w.byte('\\');
            if (char >= 0x20) {
                w.byte(char);
            } else {
                w.all("\\u00");
                w.byte(digits[char >> 4]);
                w.byte(digits[char & 15]);
            }
        }
        w.byte('"');
    }

    fn value(w: Writer, what: *const Value) void {
        switch (what.kind) {
            .nothing => w.all("null"),
            .yes => w.all("true"),
            .no => w.all("false"),
            .number => w.all(what.text),
            .string => w.quoted(what.text),
            .array, .object => {
                w.byte(if (what.kind == .array) '[' else '{');
                var item = what.first;
                while (item) |present| : (item = present.next) {
                    if (present != what.first) w.byte(',');
                    if (what.kind == .object) {
                        w.quoted(present.key);
                        w.byte(':');
                    }
                    w.value(present.value);
                }
                w.byte(if (what.kind == .array) ']' else '}');
            },
        }
    }

    fn close(w: Writer) u32 {
        w.byte(0);
        return w.start;
    }
};

fn jsonOf(value: *const Value) []const u8 {
    const start = opa_json_dump(value);
    return @as([*]const u8, @ptrFromInt(start))[0 .. heap - start - 1];
}

export fn opa_json_parse(text: [*]const u8, size: u32) ?*const Value {
    return Parser.whole(text[0..size]);
}

export fn opa_value_parse(text: [*]const u8, size: u32) ?*const Value {
    return Parser.whole(text[0..size]);
}

export fn opa_json_dump(value: *const Value) u32 {
    const writer = Writer.open();
    writer.value(value);
    return writer.close();
}

export fn opa_value_dump(value: *const Value) u32 {
    return opa_json_dump(value);
}

// The policy.

const Text = extern struct { address: u32, len: u32 };
const Record = extern struct {
    actor: u32,
    actor_id: Text,
    action: Text,
    has_resource: u32,
    kind: Text,
    has_id: u32,
    id: Text,
    has_hash: u32,
    hash: Text,
    service: Text,
    mode: Text,
    timestamp: u64 align(8),
};
const actors = [_][]const u8{ "anonymous", "user", "service", "compiler_tool" };

fn lowered(text: []const u8) Text {
    return .{ .address = @intCast(@intFromPtr(text.ptr)), .len = @intCast(text.len) };
}

fn integer(value: ?*const Value) ?u64 {
    const present = value orelse return null;
    if (present.kind != .number) return null;
    var found: u64 = 0;
    for (present.text) |char| {
        if (char < '0' or char > '9') return null;
        found = found *% 10 +% (char - '0');
    }
    return found;
}

/// The record of `evaluator.zig` for an input, null where it is none.
fn recordOf(input: *const Value) ?*const Record {
    const record: *Record = make(Record);
    const empty = Text{ .address = 0, .len = 0 };
    const actor = get(input, "actor") orelse return null;
    const who = textOf(get(actor, "kind")) orelse return null;
    record.actor = for (actors, 0..) |name, index| {
        if (same(name, who)) break @intCast(index);
    } else return null;
    record.actor_id = if (record.actor == 0) empty else lowered(textOf(get(actor, "id")) orelse return null);
    record.action = lowered(textOf(get(input, "action")) orelse return null);
    const resource = get(input, "resource");
    record.has_resource = @intFromBool(!isNothing(resource));
    record.kind = empty;
    record.has_id = 0;
    record.id = empty;
    if (!isNothing(resource)) {
        record.kind = lowered(textOf(get(resource.?, "kind")) orelse return null);
        const id = get(resource.?, "id");
        record.has_id = @intFromBool(!isNothing(id));
        if (!isNothing(id)) record.id = lowered(textOf(id) orelse return null);
    }
    const hash = get(input, "args_hash");
    record.has_hash = @intFromBool(!isNothing(hash));
    record.hash = if (isNothing(hash)) empty else lowered(textOf(hash) orelse return null);
    const env = get(input, "env") orelse return null;
    record.service = lowered(textOf(get(env, "service")) orelse return null);
    record.mode = lowered(textOf(get(env, "mode")) orelse return null);
    record.timestamp = integer(get(input, "timestamp")) orelse return null;
    return record;
}

fn decision(reason: ?[]const u8) *const Value {
    const text = reason orelse return list(.object, &.{entry("allow", boolean(true))});
    return list(.object, &.{ entry("allow", boolean(false)), entry("reason", string(text)) });
}

/// What the entry point is for this input and these data; null where it is undefined.
fn answer(entrypoint: u32, input: *const Value, data: *const Value) ?*const Value {
    switch (entrypoint) {
        0, 1, 2 => {},
        3 => return decision(textOf(get(data, "reason")) orelse return null),
        4 => return decision(jsonOf(input)),
        5 => {
            const resource = get(input, "resource") orelse return null;
            const given = opa_builtin1(hex_encode, 0, get(resource, "id") orelse return null) orelse return null;
            return decision(textOf(given) orelse return null);
        },
        6 => return decision(jsonOf(opa_builtin0(now_ns, 0) orelse return null)),
        7 => return overFacts(input),
        else => abort("internal: illegal entrypoint id"),
    }
    const record = recordOf(input) orelse return null;
    const result = @"capgate:policy/policy@0.1.0#policy-check"(@intCast(@intFromPtr(record)));
    const reason: ?[]const u8 = if (result.case == 0) null else result.text[0..result.len];
    if (entrypoint == 0) return decision(reason);
    if (entrypoint == 1) return boolean(reason == null);
    return if (reason) |text| list(.array, &.{entry("", string(text))}) else new(.{ .kind = .array });
}

/// An answer that takes facts: of the actor, of the resource, and of the arguments.
fn overFacts(input: *const Value) ?*const Value {
    const actor = get(input, "actor") orelse return null;
    if (!contains(get(actor, "roles"), "support")) return decision("not in support");
    const tenant = textOf(fact(get(input, "resource"), "tenant")) orelse return decision("of no tenant");
    const own = textOf(fact(actor, "tenant")) orelse return decision("of no tenant");
    if (!same(tenant, own)) return decision("of another tenant");
    const amount = integer(get(get(input, "args") orelse return null, "amount")) orelse return null;
    return decision(if (amount <= 1000) null else "too much");
}

fn fact(holder: ?*const Value, name: []const u8) ?*const Value {
    return get(get(holder orelse return null, "attributes") orelse return null, name);
}

fn contains(values: ?*const Value, text: []const u8) bool {
    var item = (values orelse return false).first;
    while (item) |present| : (item = present.next) {
        if (same(textOf(present.value) orelse continue, text)) return true;
    }
    return false;
}

// Evaluation.

const Context = struct { input: ?*const Value, data: ?*const Value, entrypoint: u32, result: ?*const Value };

export fn opa_eval_ctx_new() *Context {
    const context = make(Context);
    context.* = .{ .input = null, .data = null, .entrypoint = 0, .result = null };
    return context;
}

export fn opa_eval_ctx_set_input(context: *Context, value: *const Value) void {
    context.input = value;
}

export fn opa_eval_ctx_set_data(context: *Context, value: *const Value) void {
    context.data = value;
}

export fn opa_eval_ctx_set_entrypoint(context: *Context, entrypoint: u32) void {
    context.entrypoint = entrypoint;
}

export fn opa_eval_ctx_get_result(context: *Context) ?*const Value {
    return context.result;
}

export fn eval(context: *Context) u32 {
    const input = context.input orelse new(.{ .kind = .nothing });
    const data = context.data orelse list(.object, &.{});
    context.result = new(.{ .kind = .array });
    if (answer(context.entrypoint, input, data)) |value| {
        context.result = list(.array, &.{entry("", list(.object, &.{entry("result", value)}))});
    }
    return 0;
}

export fn opa_eval(_: u32, entrypoint: u32, data: *const Value, input: [*]const u8, size: u32, end: u32, _: u32) u32 {
    opa_heap_ptr_set(end);
    var context = Context{ .input = opa_json_parse(input, size), .data = data, .entrypoint = entrypoint, .result = null };
    _ = eval(&context);
    return opa_json_dump(context.result orelse abort("no result"));
}

export fn builtins() ?*const Value {
    const text = "{\"hex.encode\": 7, \"time.now_ns\": 1000}";
    return Parser.whole(text);
}

export fn entrypoints() ?*const Value {
    const text = "{\"capgate/decision\": 0, \"capgate/allow\": 1, \"capgate/denials\": 2, \"capgate/data\": 3," ++
        " \"capgate/input\": 4, \"capgate/builtin\": 5, \"capgate/time\": 6, \"capgate/facts\": 7}";
    return Parser.whole(text);
}
