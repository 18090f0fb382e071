"""Lists every opcode as data: its name, immediates, feature and stack effect.

Source: WebAssembly core specification 2.0, section 5.4 and appendix A.7; the opcodes of other proposals are listed so
that they can be rejected by name. A prefixed opcode is ``prefix << 8 | number``, such as ``0xFC0A``.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: What each immediates kind stands for, in order. ``u32``, ``s32``, ``s33``, ``s64`` are LEB128.
IMMEDIATES: Final[dict[str, str]] = {
    "-": "none",
    "block": "block type: 0x40, a value type, or a type index (s33)",
    "label": "relative depth (u32)",
    "labels": "vector of relative depths (u32), then the default one",
    "func": "function index (u32)",
    "indirect": "type index (u32), table index (u32)",
    "types": "vector of value types",
    "local": "local index (u32)",
    "global": "global index (u32)",
    "table": "table index (u32)",
    "memarg": "alignment as a power of two (u32), offset (u32)",
    "zero": "the byte 0",
    "i32": "s32",
    "i64": "s64",
    "f32": "four bytes",
    "f64": "eight bytes",
    "ref": "reference type",
    "data": "data segment index (u32)",
    "init": "data segment index (u32), the byte 0",
    "zeros": "two bytes 0",
    "elem": "element segment index (u32)",
    "eleminit": "element segment index (u32), table index (u32)",
    "tables": "two table indices (u32)",
    "?": "unknown here: the opcode is not decoded",
}

#: The features that capgate decodes, and that a policy may use.
FEATURES: Final = frozenset(
    {
        "mvp",
        "sign-extension",
        "nontrapping-float-to-int",
        "bulk-memory",
        "multi-value",
        "reference-types",
        "mutable-globals",
    }
)

# opcode, name, immediates, feature, stack effect. The effect is "operands:results" by value type (i I f F for i32 i64
# f32 f64, r for a reference); "*" where it depends on the immediates or the control stack.
_TABLE: Final = """
00 unreachable - mvp *
01 nop - mvp :
02 block block mvp *
03 loop block mvp *
04 if block mvp *
05 else - mvp *
06 try ? exceptions *
07 catch ? exceptions *
08 throw ? exceptions *
09 rethrow ? exceptions *
0a throw_ref ? exceptions *
0b end - mvp *
0c br label mvp *
0d br_if label mvp *
0e br_table labels mvp *
0f return - mvp *
10 call func mvp *
11 call_indirect indirect mvp *
12 return_call ? tail-call *
13 return_call_indirect ? tail-call *
14 call_ref ? function-references *
15 return_call_ref ? function-references *
18 delegate ? exceptions *
19 catch_all ? exceptions *
1a drop - mvp *
1b select - mvp *
1c select_t types reference-types *
1f try_table ? exceptions *
20 local.get local mvp *
21 local.set local mvp *
22 local.tee local mvp *
23 global.get global mvp *
24 global.set global mvp *
25 table.get table reference-types i:r
26 table.set table reference-types ir:
28 i32.load memarg mvp i:i
29 i64.load memarg mvp i:I
2a f32.load memarg mvp i:f
2b f64.load memarg mvp i:F
2c i32.load8_s memarg mvp i:i
2d i32.load8_u memarg mvp i:i
2e i32.load16_s memarg mvp i:i
2f i32.load16_u memarg mvp i:i
30 i64.load8_s memarg mvp i:I
31 i64.load8_u memarg mvp i:I
32 i64.load16_s memarg mvp i:I
33 i64.load16_u memarg mvp i:I
34 i64.load32_s memarg mvp i:I
35 i64.load32_u memarg mvp i:I
36 i32.store memarg mvp ii:
37 i64.store memarg mvp iI:
38 f32.store memarg mvp if:
39 f64.store memarg mvp iF:
3a i32.store8 memarg mvp ii:
3b i32.store16 memarg mvp ii:
3c i64.store8 memarg mvp iI:
3d i64.store16 memarg mvp iI:
3e i64.store32 memarg mvp iI:
3f memory.size zero mvp :i
40 memory.grow zero mvp i:i
41 i32.const i32 mvp :i
42 i64.const i64 mvp :I
43 f32.const f32 mvp :f
44 f64.const f64 mvp :F
45 i32.eqz - mvp i:i
46 i32.eq - mvp ii:i
47 i32.ne - mvp ii:i
48 i32.lt_s - mvp ii:i
49 i32.lt_u - mvp ii:i
4a i32.gt_s - mvp ii:i
4b i32.gt_u - mvp ii:i
4c i32.le_s - mvp ii:i
4d i32.le_u - mvp ii:i
4e i32.ge_s - mvp ii:i
4f i32.ge_u - mvp ii:i
50 i64.eqz - mvp I:i
51 i64.eq - mvp II:i
52 i64.ne - mvp II:i
53 i64.lt_s - mvp II:i
54 i64.lt_u - mvp II:i
55 i64.gt_s - mvp II:i
56 i64.gt_u - mvp II:i
57 i64.le_s - mvp II:i
58 i64.le_u - mvp II:i
59 i64.ge_s - mvp II:i
5a i64.ge_u - mvp II:i
5b f32.eq - mvp ff:i
5c f32.ne - mvp ff:i
5d f32.lt - mvp ff:i
5e f32.gt - mvp ff:i
5f f32.le - mvp ff:i
60 f32.ge - mvp ff:i
61 f64.eq - mvp FF:i
62 f64.ne - mvp FF:i
63 f64.lt - mvp FF:i
64 f64.gt - mvp FF:i
65 f64.le - mvp FF:i
66 f64.ge - mvp FF:i
67 i32.clz - mvp i:i
68 i32.ctz - mvp i:i
69 i32.popcnt - mvp i:i
6a i32.add - mvp ii:i
6b i32.sub - mvp ii:i
6c i32.mul - mvp ii:i
6d i32.div_s - mvp ii:i
6e i32.div_u - mvp ii:i
6f i32.rem_s - mvp ii:i
70 i32.rem_u - mvp ii:i
71 i32.and - mvp ii:i
72 i32.or - mvp ii:i
73 i32.xor - mvp ii:i
74 i32.shl - mvp ii:i
75 i32.shr_s - mvp ii:i
76 i32.shr_u - mvp ii:i
77 i32.rotl - mvp ii:i
78 i32.rotr - mvp ii:i
79 i64.clz - mvp I:I
7a i64.ctz - mvp I:I
7b i64.popcnt - mvp I:I
7c i64.add - mvp II:I
7d i64.sub - mvp II:I
7e i64.mul - mvp II:I
7f i64.div_s - mvp II:I
80 i64.div_u - mvp II:I
81 i64.rem_s - mvp II:I
82 i64.rem_u - mvp II:I
83 i64.and - mvp II:I
84 i64.or - mvp II:I
85 i64.xor - mvp II:I
86 i64.shl - mvp II:I
87 i64.shr_s - mvp II:I
88 i64.shr_u - mvp II:I
89 i64.rotl - mvp II:I
8a i64.rotr - mvp II:I
8b f32.abs - mvp f:f
8c f32.neg - mvp f:f
8d f32.ceil - mvp f:f
8e f32.floor - mvp f:f
8f f32.trunc - mvp f:f
90 f32.nearest - mvp f:f
91 f32.sqrt - mvp f:f
92 f32.add - mvp ff:f
93 f32.sub - mvp ff:f
94 f32.mul - mvp ff:f
95 f32.div - mvp ff:f
96 f32.min - mvp ff:f
97 f32.max - mvp ff:f
98 f32.copysign - mvp ff:f
99 f64.abs - mvp F:F
9a f64.neg - mvp F:F
9b f64.ceil - mvp F:F
9c f64.floor - mvp F:F
9d f64.trunc - mvp F:F
9e f64.nearest - mvp F:F
9f f64.sqrt - mvp F:F
a0 f64.add - mvp FF:F
a1 f64.sub - mvp FF:F
a2 f64.mul - mvp FF:F
a3 f64.div - mvp FF:F
a4 f64.min - mvp FF:F
a5 f64.max - mvp FF:F
a6 f64.copysign - mvp FF:F
a7 i32.wrap_i64 - mvp I:i
a8 i32.trunc_f32_s - mvp f:i
a9 i32.trunc_f32_u - mvp f:i
aa i32.trunc_f64_s - mvp F:i
ab i32.trunc_f64_u - mvp F:i
ac i64.extend_i32_s - mvp i:I
ad i64.extend_i32_u - mvp i:I
ae i64.trunc_f32_s - mvp f:I
af i64.trunc_f32_u - mvp f:I
b0 i64.trunc_f64_s - mvp F:I
b1 i64.trunc_f64_u - mvp F:I
b2 f32.convert_i32_s - mvp i:f
b3 f32.convert_i32_u - mvp i:f
b4 f32.convert_i64_s - mvp I:f
b5 f32.convert_i64_u - mvp I:f
b6 f32.demote_f64 - mvp F:f
b7 f64.convert_i32_s - mvp i:F
b8 f64.convert_i32_u - mvp i:F
b9 f64.convert_i64_s - mvp I:F
ba f64.convert_i64_u - mvp I:F
bb f64.promote_f32 - mvp f:F
bc i32.reinterpret_f32 - mvp f:i
bd i64.reinterpret_f64 - mvp F:I
be f32.reinterpret_i32 - mvp i:f
bf f64.reinterpret_i64 - mvp I:F
c0 i32.extend8_s - sign-extension i:i
c1 i32.extend16_s - sign-extension i:i
c2 i64.extend8_s - sign-extension I:I
c3 i64.extend16_s - sign-extension I:I
c4 i64.extend32_s - sign-extension I:I
d0 ref.null ref reference-types :r
d1 ref.is_null - reference-types r:i
d2 ref.func func reference-types :r
d3 ref.eq ? gc *
d4 ref.as_non_null ? function-references *
d5 br_on_null ? function-references *
d6 br_on_non_null ? function-references *
fb gc_prefix ? gc *
fd simd_prefix ? simd *
fe atomic_prefix ? threads *
fc00 i32.trunc_sat_f32_s - nontrapping-float-to-int f:i
fc01 i32.trunc_sat_f32_u - nontrapping-float-to-int f:i
fc02 i32.trunc_sat_f64_s - nontrapping-float-to-int F:i
fc03 i32.trunc_sat_f64_u - nontrapping-float-to-int F:i
fc04 i64.trunc_sat_f32_s - nontrapping-float-to-int f:I
fc05 i64.trunc_sat_f32_u - nontrapping-float-to-int f:I
fc06 i64.trunc_sat_f64_s - nontrapping-float-to-int F:I
fc07 i64.trunc_sat_f64_u - nontrapping-float-to-int F:I
fc08 memory.init init bulk-memory iii:
fc09 data.drop data bulk-memory :
fc0a memory.copy zeros bulk-memory iii:
fc0b memory.fill zero bulk-memory iii:
fc0c table.init eleminit bulk-memory iii:
fc0d elem.drop elem bulk-memory :
fc0e table.copy tables bulk-memory iii:
fc0f table.grow table reference-types ri:i
fc10 table.size table reference-types :i
fc11 table.fill table reference-types iri:
fc13 i64.add128 ? wide-arithmetic *
fc14 i64.sub128 ? wide-arithmetic *
fc15 i64.mul_wide_s ? wide-arithmetic *
fc16 i64.mul_wide_u ? wide-arithmetic *
"""


class Opcode(msgspec.Struct, frozen=True):
    """One row. ``operands`` and ``results`` have a letter per value; ``None`` where more than the opcode decides."""

    code: int
    name: str
    immediates: str
    feature: str
    operands: str | None
    results: str | None

    @property
    def allowed(self) -> bool:
        """Whether a policy may use it."""
        return self.feature in FEATURES


def _row(line: str) -> Opcode:
    code, name, immediates, feature, effect = line.split()
    if effect == "*":
        return Opcode(int(code, 16), name, immediates, feature, None, None)
    operands, results = effect.split(":")
    return Opcode(int(code, 16), name, immediates, feature, operands, results)


OPCODES: Final[dict[int, Opcode]] = {row.code: row for row in map(_row, _TABLE.split("\n")[1:-1])}


def lookup(code: int) -> Opcode | None:
    """Return the row of an opcode, or that of its prefix; ``None`` where nobody has proposed it."""
    return OPCODES.get(code) or (OPCODES.get(code >> 8) if code > 0xFF else None)


def describe(code: int) -> str:
    """Name an opcode for messages, with its number and feature; works for unknown ones."""
    row = lookup(code)
    if row is None:
        return f"opcode {code:#04x}"
    return f"{row.name} ({code:#04x}, {row.feature})"
