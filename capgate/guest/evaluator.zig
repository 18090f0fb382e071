//! The policy guest: answers `capgate:policy/policy@0.1.0#policy-check` from a searchable image of a policy document.
//!
//! The image lies at a fixed address and is written by `image.py`, where its layout is described; `build_policy` appends
//! it as a data segment. What the image says is never trusted: every offset is checked, every loop has a bound that the
//! image cannot raise, and nonsense traps. `policy-check` writes to no memory at all, so the answer to an input cannot
//! depend on what was asked before; the only state is the bump pointer of `cabi_realloc`, which it does not read.

const image_base: u32 = 65536;
const header_size: u32 = 32;
const magic: u32 = 0x31504743; // "CGP1"
/// Records that one bucket may hold. The builder picks a seed that keeps to it; more than this traps.
const bucket_limit: u32 = 16;
/// Bytes of a record before its text.
const record_size: u32 = 16;
const rule_size: u32 = 20;
const page_size: u64 = 65536;

/// Every byte of these is one that UTF-8 never has, so that no text can zero a factor of the product in `mix`.
const salt_a: u64 = 0xf5fbf9c1f7fdc0ff;
const salt_b: u64 = 0xfec1f6fcf8c0fafd;
const salt_set: u64 = 0x9e3779b97f4a7c15;

const Flags = struct {
    const required: u32 = 1;
    const host: u32 = 2;
    const any: u32 = 4;
    const kind: u32 = 8;
    const all: u32 = 15;
};

/// A `result` record of the canonical ABI: case 0 is allow, case 1 is deny with its text.
const Result = extern struct { case: u32, text: ?[*]const u8 = null, len: u32 = 0 };

const allow = Result{ .case = 0 };
const unknown_action = deny("unknown_action");
const missing_resource = deny("missing_resource");
const not_in_allowlist = deny("not_in_allowlist");

fn deny(comptime reason: []const u8) Result {
    return .{ .case = 1, .text = reason.ptr, .len = reason.len };
}

const Text = struct { address: u32, len: u32 };

inline fn require(condition: bool) void {
    if (!condition) @trap();
}

inline fn load(comptime T: type, address: u32) T {
    return @as(*align(1) const T, @ptrFromInt(address)).*;
}

// The image.

const Image = struct {
    size: u32,
    arena: u32,
    limit: u32,

    /// The image's extent and the arena's, which begins at the next multiple of 16 and goes on to the end of memory.
    inline fn open() Image {
        const limit = @as(u64, @wasmMemorySize(0)) * page_size;
        require(limit >= image_base + header_size and limit <= 0xffff0000);
        require(field(0) == magic);
        const size = field(4);
        const end: u64 = @as(u64, image_base) + size;
        require(size >= header_size);
        const arena = (end + 15) & ~@as(u64, 15);
        require(arena <= limit);
        return .{ .size = size, .arena = @intCast(arena), .limit = @intCast(limit) };
    }

    inline fn field(offset: u32) u32 {
        return load(u32, image_base + offset);
    }

    /// The address of `len` bytes at `offset` of the image.
    inline fn at(image: Image, offset: u64, len: u64) u32 {
        require(offset + len <= image.size);
        return @intCast(image_base + offset);
    }

    /// The value stored under (`set`, `text`), or null.
    inline fn find(image: Image, set: u32, text: Text, comptime fold: bool) ?u32 {
        if (text.len > field(28)) return null;
        const hash = hashOf(load(u64, image_base + 8) ^ (set *% salt_set), text, fold);
        const bucket: u64 = @as(u32, @truncate(hash)) & field(24);
        const slot = image.at(field(20) + bucket * 4, 8);
        var record = load(u32, slot);
        const end = load(u32, slot + 4);
        require(record <= end and end <= image.size);
        const tag: u32 = @truncate(hash >> 32);
        var seen: u32 = 0;
        while (record != end) {
            require(seen < bucket_limit);
            seen += 1;
            const room = end - record;
            require(room >= record_size);
            const address = image_base + record;
            const len = load(u32, address + 8);
            require(len <= room - record_size);
            if (load(u32, address) == tag and load(u32, address + 4) == set and len == text.len and
                equal(address + record_size, text, fold)) return load(u32, address + 12);
            const step = record_size + ((len + 3) & ~@as(u32, 3));
            require(step <= room);
            record += step;
        }
        return null;
    }
};

// Text. `fold` makes A to Z compare as a to z, and nothing else: for host names.

inline fn word(address: u32, comptime fold: bool) u64 {
    const w = load(u64, address);
    return if (fold) lower(w) else w;
}

inline fn half(address: u32, comptime fold: bool) u64 {
    const w: u64 = load(u32, address);
    return if (fold) lower(w) else w;
}

inline fn byte(address: u32, comptime fold: bool) u64 {
    const w: u64 = load(u8, address);
    return if (fold) lower(w) else w;
}

/// Eight bytes at once: 0x20 is added to each byte from A to Z.
inline fn lower(w: u64) u64 {
    const low = w & 0x7f7f7f7f7f7f7f7f;
    const from_a = low + 0x3f3f3f3f3f3f3f3f;
    const after_z = low + 0x2525252525252525;
    return w | ((from_a & ~after_z & ~w & 0x8080808080808080) >> 2);
}

/// A product of 64 by 64 bits folded to 64: nearly the 128-bit one, for a third of what that costs in WebAssembly.
inline fn mix(a: u64, b: u64) u64 {
    return (a *% b) ^ rotate((a >> 32) *% (b >> 32));
}

inline fn rotate(w: u64) u64 {
    return w << 32 | w >> 32;
}

inline fn hashOf(seed: u64, text: Text, comptime fold: bool) u64 {
    var state = seed;
    var address = text.address;
    var left = text.len;
    while (left > 16) {
        state = mix(word(address, fold) ^ salt_a, word(address + 8, fold) ^ state);
        address += 16;
        left -= 16;
    }
    var a: u64 = 0;
    var b: u64 = 0;
    if (left >= 8) {
        a = word(address, fold);
        b = word(address + left - 8, fold);
    } else if (left >= 4) {
        a = half(address, fold);
        b = half(address + left - 4, fold);
    } else if (left > 0) {
        a = byte(address, fold) | byte(address + left / 2, fold) << 8 | byte(address + left - 1, fold) << 16;
    }
    return mix(mix(a ^ salt_a, b ^ state) ^ salt_b, text.len ^ salt_a);
}

/// Whether the `text.len` bytes at `stored` (folded already, when `fold`) are those of `text`.
inline fn equal(stored: u32, text: Text, comptime fold: bool) bool {
    const len = text.len;
    if (len >= 8) {
        var i: u32 = 0;
        while (i < len - 8) : (i += 8) {
            if (word(stored + i, false) != word(text.address + i, fold)) return false;
        }
        return word(stored + len - 8, false) == word(text.address + len - 8, fold);
    }
    if (len >= 4) {
        return half(stored, false) == half(text.address, fold) and
            half(stored + len - 4, false) == half(text.address + len - 4, fold);
    }
    var i: u32 = 0;
    while (i < len) : (i += 1) {
        if (byte(stored + i, false) != byte(text.address + i, fold)) return false;
    }
    return true;
}

// The input record, as the canonical ABI lays it out. All of it is checked, also what no section looks at.

/// The string at `address` of the record. Text lives in the arena; an empty one may say any address.
inline fn textAt(image: Image, address: u32) Text {
    const text = Text{ .address = load(u32, address), .len = load(u32, address + 4) };
    if (text.len != 0) {
        require(text.address >= image.arena and @as(u64, text.address) + text.len <= image.limit);
    }
    return text;
}

/// Whether the option at `address` holds a value.
inline fn isSome(address: u32) bool {
    const case = load(u8, address);
    require(case <= 1);
    return case == 1;
}

inline fn check(input: u32) *const Result {
    const image = Image.open();
    require(input >= image.arena and @as(u64, input) + 80 <= image.limit and input % 8 == 0);

    const actor = load(u8, input);
    require(actor <= 3);
    if (actor != 0) _ = textAt(image, input + 4);
    const action = textAt(image, input + 12);
    const has_resource = isSome(input + 20);
    var kind: Text = undefined;
    var has_id = false;
    var id: Text = undefined;
    if (has_resource) {
        kind = textAt(image, input + 24);
        has_id = isSome(input + 32);
        if (has_id) id = textAt(image, input + 36);
    }
    if (isSome(input + 44)) _ = textAt(image, input + 48);
    _ = textAt(image, input + 56);
    _ = textAt(image, input + 64);

    const index = image.find(0, action, false) orelse return &unknown_action;
    const rule = image.at(Image.field(16) + @as(u64, index) * rule_size, rule_size);
    const flags = load(u32, rule);
    require(flags <= Flags.all);
    if (!has_id and flags & Flags.required != 0) return &missing_resource;
    if (has_resource and flags & Flags.kind != 0) {
        const len = load(u32, rule + 16);
        const expected = image.at(load(u32, rule + 12), len);
        if (kind.len != len or !equal(expected, kind, false)) return &not_in_allowlist;
    }
    if (flags & Flags.any != 0) return &allow;
    const set = load(u32, rule + 4);
    if (!has_id or set == 0) return &not_in_allowlist;
    const found = if (flags & Flags.host != 0) image.find(set, id, true) else image.find(set, id, false);
    const operations = found orelse return &not_in_allowlist;
    return if (operations & load(u32, rule + 8) != 0) &allow else &not_in_allowlist;
}

// What the host calls.

export fn @"capgate:policy/policy@0.1.0#policy-check"(input: u32) *const Result {
    return check(input);
}

/// Everything that the call allocated is free again. Results are constants and need no care.
export fn @"cabi_post_capgate:policy/policy@0.1.0#policy-check"(_: u32) void {
    next = 0;
}

/// The first free byte of the arena; 0 where nothing is allocated.
var next: u32 = 0;

export fn cabi_realloc(old: u32, old_size: u32, alignment: u32, size: u32) u32 {
    require(alignment != 0 and alignment & (alignment - 1) == 0);
    const image = Image.open();
    const free = if (next == 0) image.arena else next;
    if (old_size != 0) {
        require(old >= image.arena and @as(u64, old) + old_size <= free);
        if (size <= old_size and old & (alignment - 1) == 0) return old;
    }
    const start = (@as(u64, free) + alignment - 1) & ~(@as(u64, alignment) - 1);
    require(start + size <= image.limit);
    const new: u32 = @intCast(start);
    if (old_size != 0) {
        const kept = @min(old_size, size);
        @memcpy(@as([*]u8, @ptrFromInt(new))[0..kept], @as([*]const u8, @ptrFromInt(old))[0..kept]);
    }
    next = @intCast(start + size);
    return new;
}
