//! Denies with all that it was asked by `capgate:policy/policy@0.2.0#policy-check`, so that a host can be compared with it.
//!
//! The records are structures of C, of which the compiler says where each field is: for these types that is what the canonical ABI
//! says, too. A text is written as its length, a colon and its bytes; a list between brackets; an option as `-`, or `+` and what it
//! is; a case as its number. It traps on whatever no honest host gives.

const Text = extern struct { at: u32, length: u32 };
const List = extern struct { at: u32, length: u32 };
const Value = extern struct {
    case: u8,
    as: extern union { boolean: u8, int: i64, float: f64, text: Text, texts: List },
};
const Attribute = extern struct { name: Text, value: Value };
const Identity = extern struct { id: Text, roles: List, scopes: List, attributes: List };
const Actor = extern struct { case: u8, identity: Identity };
const OptionalText = extern struct { some: u8, text: Text };
const Resource = extern struct { kind: Text, id: OptionalText, attributes: List };
const OptionalResource = extern struct { some: u8, resource: Resource };
const Environment = extern struct { service: Text, mode: Text };
const Input = extern struct {
    actor: Actor,
    on_behalf_of: List,
    action: Text,
    resource: OptionalResource,
    args_hash: OptionalText,
    env: Environment,
    timestamp: u64,
    args: List,
    context: List,
};
const Result = extern struct { case: u32, reason: u32, length: u32 };

var out: [1 << 18]u8 = undefined;
var end: u32 = 0;
var result: Result = undefined;

extern const __heap_base: u8;
var next: u32 = 0;

export fn cabi_realloc(old: u32, old_size: u32, alignment: u32, size: u32) u32 {
    if (old != 0 or old_size != 0) @trap();
    if (next == 0) next = @intCast(@intFromPtr(&__heap_base));
    const at = (next + alignment - 1) & ~(alignment - 1);
    next = at + size;
    const pages = (next + 65535) / 65536;
    const has: u32 = @wasmMemorySize(0);
    if (pages > has and @wasmMemoryGrow(0, pages - has) < 0) @trap();
    return at;
}

export fn @"capgate:policy/policy@0.2.0#policy-check"(at: u32) u32 {
    end = 0;
    const input = of(Input, at, 1)[0];
    actor(input.actor);
    list(Actor, input.on_behalf_of, actor);
    text(input.action);
    if (option(input.resource.some)) {
        text(input.resource.resource.kind);
        optional(input.resource.resource.id);
        list(Attribute, input.resource.resource.attributes, attribute);
    }
    optional(input.args_hash);
    text(input.env.service);
    text(input.env.mode);
    number(input.timestamp);
    list(Attribute, input.args, attribute);
    list(Attribute, input.context, attribute);
    result = .{ .case = 1, .reason = @intCast(@intFromPtr(&out)), .length = end };
    return @intCast(@intFromPtr(&result));
}

export fn @"cabi_post_capgate:policy/policy@0.2.0#policy-check"(_: u32) void {
    next = 0; // what the question took is free again
}

fn actor(who: Actor) void {
    if (who.case > 3) @trap();
    number(who.case);
    if (who.case == 0) return;
    text(who.identity.id);
    list(Text, who.identity.roles, text);
    list(Text, who.identity.scopes, text);
    list(Attribute, who.identity.attributes, attribute);
}

fn attribute(item: Attribute) void {
    text(item.name);
    number(item.value.case);
    switch (item.value.case) {
        0 => put(if (flag(item.value.as.boolean)) "T" else "F"),
        1 => {
            const int = item.value.as.int;
            if (int < 0) put("~");
            number(if (int < 0) @as(u64, @bitCast(~int)) else @as(u64, @bitCast(int)));
        },
        2 => number(@bitCast(item.value.as.float)),
        3 => text(item.value.as.text),
        4 => list(Text, item.value.as.texts, text),
        else => @trap(),
    }
}

fn optional(item: OptionalText) void {
    if (option(item.some)) text(item.text);
}

fn option(some: u8) bool {
    put(if (flag(some)) "+" else "-");
    return some == 1;
}

fn flag(byte: u8) bool {
    if (byte > 1) @trap();
    return byte == 1;
}

fn list(comptime T: type, items: List, write: fn (T) void) void {
    put("[");
    for (of(T, items.at, items.length)) |item| write(item);
    put("]");
}

fn text(item: Text) void {
    number(item.length);
    put(of(u8, item.at, item.length));
}

/// What lies there, which has to be in the memory, and aligned.
fn of(comptime T: type, at: u32, length: u32) []const T {
    if (at % @alignOf(T) != 0) @trap();
    if (@as(u64, at) + @as(u64, length) * @sizeOf(T) > @as(u64, @wasmMemorySize(0)) * 65536) @trap();
    return if (length == 0) &.{} else @as([*]const T, @ptrFromInt(at))[0..length];
}

/// In digits, and a colon.
fn number(value: u64) void {
    var digits: [20]u8 = undefined;
    var at: usize = digits.len;
    var left = value;
    while (true) {
        at -= 1;
        digits[at] = '0' + @as(u8, @intCast(left % 10));
        left /= 10;
        if (left == 0) break;
    }
    put(digits[at..]);
    put(":");
}

fn put(bytes: []const u8) void {
    if (bytes.len > out.len - end) @trap();
    @memcpy(out[end..][0..bytes.len], bytes);
    end += @intCast(bytes.len);
}
