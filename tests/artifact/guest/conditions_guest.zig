//! A guest of its own for `conditions.zig`, for tests: whoever calls it writes table and facts into its memory.

const conditions = @import("conditions.zig");

export fn answer(table: u32, table_end: u32, number: u32, block: u32, block_end: u32) u32 {
    var machine: conditions.Machine = undefined;
    machine.open(table, table_end, block, block_end);
    return machine.answer(number);
}
