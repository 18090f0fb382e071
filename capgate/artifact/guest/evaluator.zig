//! The policy guest: answers `capgate:policy/policy@0.1.0#policy-check` from a searchable image of a policy document.
//!
//! The image lies at a fixed address and is written by `image.py`, where its layout is described; `build_policy` appends
//! it as a data segment. What the image says is never trusted: every offset is checked, every loop has a bound that the
//! image cannot raise, and nonsense traps. `policy-check` writes to no memory at all, so the answer to an input cannot
//! depend on what was asked before; the only state is the bump pointer of `cabi_realloc`, which it does not read.
//!
//! For policies that look at facts there is a guest of its own, `facts_evaluator.zig`, since few do, and what answers
//! conditions takes as long to compile as all of this. It writes to the stack, and nowhere else; what it takes to answer
//! is bounded by the conditions that concern the question.

const conditions = @import("conditions.zig");
/// Whether this is the guest of policies that look at facts.
const has_conditions = @hasDecl(@import("root"), "has_conditions");

const image_base: u32 = 65536;
const header_size: u32 = 44;
const magic: u32 = 0x33504743; // "CGP3"
/// Records that one bucket may hold. The builder picks a seed that keeps to it; more than this traps.
const bucket_limit: u32 = 16;
/// Bytes of a record before its text.
const record_size: u32 = 16;
const action_size: u32 = 24;
const denial_size: u32 = 12;
/// Parts of a beginning (offset and length of its text, parent, value), and how many may begin with one another.
const beginning_size: u32 = 16;
const nesting_limit: u32 = 64;
const network_size: u32 = 20;
/// Bytes of the longest host and of the longest address, and labels of the longest ending.
const host_limit: u32 = 253;
const address_limit: u32 = 39;
const label_limit: u32 = 16;
const page_size: u64 = 65536;

/// Every byte of these is one that UTF-8 never has, so that no text can zero a factor of the product in `mix`.
const salt_a: u64 = 0xf5fbf9c1f7fdc0ff;
const salt_b: u64 = 0xfec1f6fcf8c0fafd;
const salt_set: u64 = 0x9e3779b97f4a7c15;

const Flags = struct {
    const required: u32 = 1;
    const wild: u32 = 2;
    const any: u32 = 4;
    const kind: u32 = 8;
    const rules: u32 = 16;
    const all: u32 = 31;
};

/// What rules may look at. The header says so, and what it does not say is not looked at.
const Looks = struct {
    const actor: u32 = 1;
    const mode: u32 = 2;
    const facts: u32 = 4;
    const all: u32 = if (has_conditions) 7 else 3;
};

/// What rules say of a question: bit 0 that one allows, bit 1 that it is not known whether the first denial holds, the
/// others the number, from 1, of that. With the highest bit it is the place of a record with conditions.
const Match = struct {
    const allow: u32 = 1;
    const unknown: u32 = 2;
    const number: u5 = 2;
    const conditional: u32 = 0x80000000;
};

/// A `result` record of the canonical ABI: case 0 is allow, case 1 is deny with its text.
pub const Result = extern struct { case: u32, text: ?[*]const u8 = null, len: u32 = 0 };

const allow = Result{ .case = 0 };
const unknown_action = deny("unknown_action");
const missing_resource = deny("missing_resource");
const not_in_allowlist = deny("not_in_allowlist");
const missing_fact = deny("missing_fact");

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
    inline fn find(image: Image, set: u32, text: Text) ?u32 {
        if (text.len > field(28)) return null;
        const hash = hashOf(load(u64, image_base + 8) ^ (set *% salt_set), text);
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
                equal(address + record_size, text)) return load(u32, address + 12);
            const step = record_size + ((len + 3) & ~@as(u32, 3));
            require(step <= room);
            record += step;
        }
        return null;
    }
};

// Text, of which eight bytes are looked at at once.

inline fn word(address: u32) u64 {
    return load(u64, address);
}

inline fn half(address: u32) u64 {
    return load(u32, address);
}

inline fn byte(address: u32) u64 {
    return load(u8, address);
}

/// A product of 64 by 64 bits folded to 64: nearly the 128-bit one, for a third of what that costs in WebAssembly.
inline fn mix(a: u64, b: u64) u64 {
    return (a *% b) ^ rotate((a >> 32) *% (b >> 32));
}

inline fn rotate(w: u64) u64 {
    return w << 32 | w >> 32;
}

inline fn hashOf(seed: u64, text: Text) u64 {
    var state = seed;
    var address = text.address;
    var left = text.len;
    while (left > 16) {
        state = mix(word(address) ^ salt_a, word(address + 8) ^ state);
        address += 16;
        left -= 16;
    }
    var a: u64 = 0;
    var b: u64 = 0;
    if (left >= 8) {
        a = word(address);
        b = word(address + left - 8);
    } else if (left >= 4) {
        a = half(address);
        b = half(address + left - 4);
    } else if (left > 0) {
        a = byte(address) | byte(address + left / 2) << 8 | byte(address + left - 1) << 16;
    }
    return mix(mix(a ^ salt_a, b ^ state) ^ salt_b, text.len ^ salt_a);
}

/// Whether the `text.len` bytes at `stored` are those of `text`.
inline fn equal(stored: u32, text: Text) bool {
    const len = text.len;
    if (len >= 8) {
        var i: u32 = 0;
        while (i < len - 8) : (i += 8) {
            if (word(stored + i) != word(text.address + i)) return false;
        }
        return word(stored + len - 8) == word(text.address + len - 8);
    }
    if (len >= 4) {
        return half(stored) == half(text.address) and
            half(stored + len - 4) == half(text.address + len - 4);
    }
    var i: u32 = 0;
    while (i < len) : (i += 1) {
        if (byte(stored + i) != byte(text.address + i)) return false;
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

/// The answer to a record of `size` bytes: 80, or 88 where it names a block of facts.
pub fn check(input: u32, size: u32) *const Result {
    const image = Image.open();
    require(input >= image.arena and @as(u64, input) + size <= image.limit and input % 8 == 0);

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
    const block = if (size == 88) textAt(image, input + 80) else Text{ .address = 0, .len = 0 };

    const index = image.find(0, action) orelse return &unknown_action;
    const entry = image.at(Image.field(16) + @as(u64, index) * action_size, action_size);
    const flags = load(u32, entry);
    require(flags <= Flags.all);
    if (!has_id and flags & Flags.required != 0) return &missing_resource;
    if (has_resource and flags & Flags.kind != 0) {
        const len = load(u32, entry + 16);
        const expected = image.at(load(u32, entry + 12), len);
        if (kind.len != len or !equal(expected, kind)) return &not_in_allowlist;
    }
    if (has_resource and (if (has_id) id.len == 0 else isUncertain(kind))) return &missing_resource;
    if (flags & Flags.rules != 0) {
        if (byRules(input, load(u32, entry + 20), block.address, block.len)) |result| return result;
    }
    if (flags & Flags.any != 0) return &allow;
    const set = load(u32, entry + 4);
    if (!has_id or set == 0) return &not_in_allowlist;
    const operations = if (flags & Flags.wild != 0) byId(input, set) else image.find(set, id) orelse 0;
    return if (operations & load(u32, entry + 8) != 0) &allow else &not_in_allowlist;
}

/// Whether `kind` has things whose spelling is not certain, as `spelling.py` lists them: of such a kind what has no id may
/// be any of them, also one that is denied.
noinline fn isUncertain(kind: Text) bool {
    inline for (.{ "env_var", "host", "namespace", "path", "sql_query" }) |name| {
        if (kind.len == name.len and equal(@intFromPtr(name), kind)) return true;
    }
    return false;
}

// Rules. The input has been checked by now. These are functions of their own, so that a check without rules stays small;
// they take and give plain numbers, because a record would go through memory, to which nothing here writes.

/// The answer of the first denial that matches, or else of an allow, or else null. The block of facts may be empty, where
/// none is there; it is in the arena.
noinline fn byRules(input: u32, by_mode: u32, block: u32, block_len: u32) ?*const Result {
    const image = Image.open();
    const looks = Image.field(36);
    require(looks <= Looks.all);
    const match = if (!has_conditions or looks & Looks.facts == 0)
        byMode(input, by_mode, looks, 0)
    else
        byFacts(input, by_mode, looks, block, block_len);
    if (match <= Match.allow) return if (match == Match.allow) &allow else null;
    if (match & Match.unknown != 0) return &missing_fact;
    const number: u64 = (match >> Match.number) - 1;
    const denial = image.at(Image.field(32) + number * denial_size, denial_size);
    const text = load(u32, denial + 4);
    require(denial % 4 == 0 and load(u32, denial) == 1);
    _ = image.at(text -% image_base, load(u32, denial + 8)); // below the image it wraps to more than any image has
    return @ptrFromInt(denial);
}

/// The match of every part for this question, under a policy that looks at facts. What answers conditions is on the
/// stack: only here is anything written.
noinline fn byFacts(input: u32, by_mode: u32, looks: u32, block: u32, block_len: u32) u32 {
    const image = Image.open();
    const table = image.at(Image.field(40), 4);
    var machine: conditions.Machine = undefined;
    const start = if (block_len == 0) 0 else block;
    machine.open(table, image_base + image.size, start, start + block_len);
    return byMode(input, by_mode, looks, @intFromPtr(&machine));
}

/// The match of every part for this question. `machine` is the address of what answers conditions, or 0.
noinline fn byMode(input: u32, by_mode: u32, looks: u32, machine: u32) u32 {
    const image = Image.open();
    const modes = image.at(by_mode, 8);
    const match = byActor(input, load(u32, modes), looks, machine);
    const set = load(u32, modes + 4);
    if (set == 0 or looks & Looks.mode == 0) return match;
    const of_mode = find(set, load(u32, input + 64), load(u32, input + 68));
    return first(match, byActor(input, of_mode, looks, machine));
}

/// Of two matches the first denial (0 is none, and wraps to the highest number), and whether either allows.
inline fn first(a: u32, b: u32) u32 {
    return (@min((a >> 1) -% 2, (b >> 1) -% 2) +% 2) << 1 | ((a | b) & Match.allow);
}

/// The match of every part for this actor: whoever asks, all of the kind, the id itself, each beginning of the id.
noinline fn byActor(input: u32, offset: u32, looks: u32, machine: u32) u32 {
    if (offset == 0) return 0;
    const image = Image.open();
    const actors = image.at(offset, 52);
    var match = byResource(input, load(u32, actors), machine);
    if (looks & Looks.actor == 0) return match;
    const actor: u32 = load(u8, input);
    const kind = actors + 4 + actor * 12;
    match = first(match, byResource(input, load(u32, kind), machine));
    if (actor == 0) return match;
    const id = load(u32, input + 4);
    const len = load(u32, input + 8);
    match = first(match, byResource(input, find(load(u32, kind + 4), id, len), machine));
    const beginnings = load(u32, kind + 8);
    var number = longest(beginnings, id, len);
    var seen: u32 = 0;
    while (number != 0) {
        require(seen < nesting_limit);
        seen += 1;
        const beginning = image.at(beginnings + 4 + @as(u64, number - 1) * beginning_size, beginning_size);
        match = first(match, byResource(input, load(u32, beginning + 12), machine));
        number = load(u32, beginning + 8);
    }
    return match;
}

/// The match of the most specific part for this resource, where its conditions are answered.
noinline fn byResource(input: u32, offset: u32, machine: u32) u32 {
    if (offset == 0) return 0;
    const image = Image.open();
    const resources = image.at(offset, 8);
    var match = load(u32, resources);
    if (isSome(input + 20)) {
        const found = find(load(u32, resources + 4), load(u32, input + 24), load(u32, input + 28));
        if (found != 0) match = if (isSome(input + 32)) byId(input, found) else load(u32, image.at(found, 20));
    }
    return if (!has_conditions or match & Match.conditional == 0) match else byConditions(match, machine);
}

/// What a match with conditions says of the facts: no more than the first denial that holds, or is not known not to.
noinline fn byConditions(match: u32, machine: u32) u32 {
    require(machine != 0);
    const facts: *conditions.Machine = @ptrFromInt(machine);
    const image = Image.open();
    const offset = @as(u64, match & ~Match.conditional) * 4;
    const record = image.at(offset, 12);
    const plain = load(u32, record);
    const denials = load(u32, record + 4);
    const allows = load(u32, record + 8);
    require(plain & (Match.conditional | Match.unknown) == 0);
    var entry = image.at(offset + 12, @as(u64, denials) * 8 + @as(u64, allows) * 4);
    const allowing = entry + denials * 8;
    const end = allowing + allows * 4;
    while (entry != allowing) : (entry += 8) {
        const answer = facts.answer(load(u32, entry));
        if (answer == conditions.Answer.no) continue;
        const number = load(u32, entry + 4);
        require(number -% 1 < Match.conditional >> Match.number);
        return first(plain, number << Match.number | if (answer == conditions.Answer.yes) 0 else Match.unknown);
    }
    if (plain != 0) return plain;
    while (entry != end) : (entry += 4) {
        if (facts.answer(load(u32, entry)) == conditions.Answer.yes) return Match.allow;
    }
    return plain;
}

/// The value of the most specific part for the resource's id: itself, a network or an ending that it has, or a
/// beginning.
noinline fn byId(input: u32, offset: u32) u32 {
    const image = Image.open();
    const ids = image.at(offset, 20);
    const id = load(u32, input + 36);
    const len = load(u32, input + 40);
    const exact = find(load(u32, ids + 4), id, len);
    if (exact != 0) return exact;
    const networks = load(u32, ids + 16);
    if (networks != 0) {
        const value = byAddress(networks, id, len);
        if (value != no_address) return value;
    }
    const endings = load(u32, ids + 12);
    if (endings != 0) {
        const value = byEnding(endings, id, len);
        if (value != 0) return value;
    }
    const beginnings = load(u32, ids + 8);
    const number = longest(beginnings, id, len);
    if (number == 0) return load(u32, ids);
    return load(u32, image.at(beginnings + 4 + @as(u64, number - 1) * beginning_size, beginning_size) + 12);
}

/// What `set` has for the longest ending after a dot; 0 where that is nothing.
noinline fn byEnding(set: u32, address: u32, len: u32) u32 {
    if (len > host_limit) return 0;
    var value: u32 = 0;
    var labels: u32 = 0;
    var at = len;
    while (at > 1 and labels < label_limit) {
        at -= 1;
        if (load(u8, address + at) != '.') continue;
        labels += 1;
        const longer = find(set, address + at + 1, len - at - 1);
        if (longer != 0) value = longer;
    }
    return value;
}

const no_address: u32 = 0xffffffff;

/// What the networks have for an address; `no_address` where the text is none in its canonical form. IPv4 addresses lie
/// among those of IPv6.
noinline fn byAddress(networks: u32, address: u32, len: u32) u32 {
    if (len < 2 or len > address_limit) return no_address;
    var upper: u64 = 0;
    var lower: u64 = 0;
    if (isGroups(address, len)) {
        var zeros = 8 -% groupsOf(address, len);
        var number: u64 = 0;
        var digits: u32 = 0;
        var count: u32 = 0;
        var i: u32 = 0;
        while (i <= len) : (i += 1) { // the end closes a group as a colon does
            const sign: u32 = if (i < len) load(u8, address + i) else ':';
            if (sign != ':') {
                const digit = digitOf(sign);
                digits += 1;
                if (digit > 15 or digits > 4) return no_address;
                number = number << 4 | digit;
                continue;
            }
            var groups: u32 = 1;
            if (digits == 0) { // two colons, which stand for what is missing, or one of them at an end
                if (i == 0 or i == len) continue;
                groups = zeros;
                zeros = 0;
            }
            while (groups != 0) : (groups -= 1) {
                if (count == 8) return no_address;
                count += 1;
                upper = upper << 16 | lower >> 48;
                lower = lower << 16 | number;
                number = 0;
            }
            digits = 0;
        }
        if (count != 8) return no_address;
    } else {
        var number: u64 = 0;
        var digits: u32 = 0;
        var count: u32 = 0;
        var i: u32 = 0;
        while (i <= len) : (i += 1) {
            const sign: u32 = if (i < len) load(u8, address + i) else '.';
            if (sign == '.') {
                if (digits == 0 or number > 255) return no_address;
                lower = lower << 8 | number;
                count += 1;
                number = 0;
                digits = 0;
                continue;
            }
            const digit = sign -% '0';
            if (digit > 9 or digits == 3 or (digits != 0 and number == 0)) return no_address;
            digits += 1;
            number = number * 10 + digit;
        }
        if (count != 4) return no_address;
        lower |= 0xffff00000000;
    }
    const image = Image.open();
    const count = load(u32, image.at(networks, 4));
    const entries = image.at(@as(u64, networks) + 4, @as(u64, count) * network_size);
    var low: u32 = 0;
    var high = count;
    while (low < high) { // halved each time, so at most 32 times
        const middle = low + (high - low) / 2;
        const start = entries + middle * network_size;
        const starts = load(u64, start);
        if (starts < upper or (starts == upper and load(u64, start + 8) <= lower)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return if (low == 0) 0 else load(u32, entries + (low - 1) * network_size + 16);
}

/// Whether this is an IPv6 address, if it is any: of a colon there is one among the first five signs.
inline fn isGroups(address: u32, len: u32) bool {
    var i: u32 = 0;
    while (i < len and i < 5) : (i += 1) {
        if (load(u8, address + i) == ':') return true;
    }
    return false;
}

/// How many groups of an IPv6 address are written.
inline fn groupsOf(address: u32, len: u32) u32 {
    var count: u32 = 0;
    var was_colon = true;
    var i: u32 = 0;
    while (i < len) : (i += 1) {
        const is_colon = load(u8, address + i) == ':';
        if (was_colon and !is_colon) count += 1;
        was_colon = is_colon;
    }
    return count;
}

inline fn digitOf(sign: u32) u32 {
    const digit = sign -% '0';
    if (digit <= 9) return digit;
    const letter = sign -% 'a';
    return if (letter <= 5) letter + 10 else 16;
}

/// What `set` has for a text; 0 where that is nothing, or there is no set.
noinline fn find(set: u32, address: u32, len: u32) u32 {
    if (set == 0) return 0;
    return Image.open().find(set, .{ .address = address, .len = len }) orelse 0;
}

/// The number, from 1, of the longest beginning after which the text goes on; 0 where there is none. The beginnings are
/// in the order of their bytes, so the last one that is not above the text, or begins with it, is what is looked for or
/// begins with it.
noinline fn longest(offset: u32, address: u32, len: u32) u32 {
    if (offset == 0) return 0;
    const image = Image.open();
    const count = load(u32, image.at(offset, 4));
    const entries = image.at(@as(u64, offset) + 4, @as(u64, count) * beginning_size);
    var low: u32 = 0;
    var high = count;
    var common: u32 = 0;
    while (low < high) { // halved each time, so at most 32 times
        const middle = low + (high - low) / 2;
        const size = load(u32, entries + middle * beginning_size + 4);
        const text = image.at(load(u32, entries + middle * beginning_size), size);
        const most = @min(size, len);
        const same = shared(text, address, most);
        if (same < most and byte(text + same) > byte(address + same)) {
            high = middle;
        } else {
            low = middle + 1;
            common = same;
        }
    }
    var seen: u32 = 0;
    while (low != 0) {
        const beginning = entries + (low - 1) * beginning_size;
        const size = load(u32, beginning + 4);
        if (size <= common and size < len) break;
        require(seen < nesting_limit);
        seen += 1;
        const parent = load(u32, beginning + 8);
        require(parent <= count);
        low = parent;
    }
    return low;
}

/// How many of `len` bytes at `stored` and at `address` are the same, up to the first
/// difference.
inline fn shared(stored: u32, address: u32, len: u32) u32 {
    if (len >= 8) {
        var i: u32 = 0;
        while (true) : (i = @min(i + 8, len - 8)) { // the last word overlaps the one before
            const difference = word(stored + i) ^ word(address + i);
            if (difference != 0) return i + @as(u32, @ctz(difference)) / 8;
            if (i == len - 8) return len;
        }
    }
    var i: u32 = 0;
    if (len >= 4) {
        const difference = half(stored) ^ half(address);
        if (difference != 0) return @as(u32, @ctz(difference)) / 8;
        i = 4;
    }
    while (i < len and byte(stored + i) == byte(address + i)) i += 1;
    return i;
}

// What the host calls.

export fn @"capgate:policy/policy@0.1.0#policy-check"(input: u32) *const Result {
    return @call(if (has_conditions) .never_inline else .always_inline, check, .{ input, 80 });
}

/// Everything that the call allocated is free again. Results are constants and need no care.
export fn @"cabi_post_capgate:policy/policy@0.1.0#policy-check"(_: u32) void {
    next = 0;
}

/// Says that nothing is freed or moved singly, so that a question may be one allocation (see `policy.wit`).
export fn capgate_one_block() void {}

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
