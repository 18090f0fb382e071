//! The policy guest of policies that look at facts: `evaluator.zig`, which answers conditions, too.
//!
//! `capgate_check_with_facts` answers as `policy-check` does, from a record that goes on behind its 80 bytes with the
//! address and the length of a block of facts, which `conditions.zig` describes. Without such a block no fact is there:
//! of rules with conditions denials match, then, and allows do not.

const evaluator = @import("evaluator.zig");

pub const has_conditions = true;

comptime {
    _ = evaluator;
}

export fn capgate_check_with_facts(input: u32) *const evaluator.Result {
    return @call(.never_inline, evaluator.check, .{ input, 88 });
}
