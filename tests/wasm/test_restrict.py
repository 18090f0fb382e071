"""What may not become a policy, and by which rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from capgate.errors import DecodeError, RestrictedModule
from capgate.limits import Limits
from capgate.wasm import decode, meter, restrict
from capgate.wasm.encode import name, vector
from capgate.wasm.leb128 import unsigned
from capgate.wasm.restrict import BOUNDS, RESERVED_PREFIX, admit

from .binary import CHECK_TYPE, EMPTY_TYPE, body, module, one_function
from .engines import Trapped, make_host
from .wat import compile_wat

LIMITS = Limits()
ANSWER = b"\x41\0"


def rule_of(data: bytes, limits: Limits = LIMITS) -> tuple[str, str]:
    with pytest.raises(RestrictedModule) as caught:
        meter(data, limits)
    return caught.value.rule, caught.value.where


def functions(count: int) -> bytes:
    return module((1, vector([EMPTY_TYPE])), (3, vector([b"\0"] * count)), (10, vector([body(b"")] * count)))


def exports(names: list[str]) -> bytes:
    return module(
        (1, vector([EMPTY_TYPE])),
        (3, vector([b"\0"])),
        (7, vector(name(item) + b"\0\0" for item in names)),
        (10, vector([body(b"")])),
    )


def nested(depth: int) -> bytes:
    return one_function(b"\x02\x40" * depth + b"\x0b" * depth + ANSWER)


def branch_table(targets: int) -> bytes:
    return one_function(b"\x02\x40\x20\0\x0e" + unsigned(targets) + bytes(targets + 1) + b"\x0b" + ANSWER)


# For each bound: a module that has exactly so many, whose one too many is refused.
SIZED: dict[str, Callable[[int], bytes]] = {
    "types": lambda n: module((1, vector([EMPTY_TYPE] * n))),
    "parameters": lambda n: module((1, vector([b"\x60" + unsigned(n) + b"\x7f" * n + b"\0"]))),
    "results": lambda n: module((1, vector([b"\x60\0" + unsigned(n) + b"\x7f" * n]))),
    "functions": functions,
    "locals": lambda n: one_function(ANSWER, [unsigned(n) + b"\x7e"]),
    "nesting": nested,
    "branch_targets": branch_table,
    "tables": lambda n: module((4, vector([b"\x70\0\0"] * n))),
    "memories": lambda n: module((5, vector([b"\0\0"] * n))),
    "globals": lambda n: module((6, vector([b"\x7f\0\x41\0\x0b"] * n))),
    "exports": lambda n: exports([f"e{i}" for i in range(n)]),
    "element_segments": lambda n: module((4, vector([b"\x70\0\0"])), (9, vector([b"\0\x41\0\x0b\0"] * n))),
    "data_segments": lambda n: module((5, vector([b"\0\0"])), (11, vector([b"\0\x41\0\x0b\0"] * n))),
    "custom_sections": lambda n: module(*[(0, name("x"))] * n),
    "name_bytes": lambda n: exports(["é" * (n // 2) + "x" * (n % 2)]),
    "body_bytes": lambda n: one_function(b"\1" * (n - 2 - len(ANSWER)) + ANSWER),
}


@pytest.mark.parametrize("rule", sorted(SIZED))
def test_bounds(rule: str) -> None:
    """Exactly as many as the bound are admitted, one more is refused by its rule.  # G5 G7 G16 G17"""
    make = SIZED[rule]
    admit(make(BOUNDS[rule]), LIMITS)
    assert rule_of(make(BOUNDS[rule] + 1))[0] == rule


def test_the_other_bounds() -> None:
    """# G16 G17"""
    one = body(b"\1" * (BOUNDS["body_bytes"] - 2))
    count = BOUNDS["code_bytes"] // BOUNDS["body_bytes"] + 1
    code = module((1, vector([EMPTY_TYPE])), (3, vector([b"\0"] * count)), (10, vector([one] * count)))
    assert rule_of(code)[0] == "code_bytes"
    items = unsigned(BOUNDS["element_items"] + 1) + bytes(BOUNDS["element_items"] + 1)
    assert rule_of(module((4, vector([b"\x70\0\0"])), (9, vector([b"\0\x41\0\x0b" + items]))))[0] == "element_items"
    entry = name("env") + name("f") + b"\0\0"
    imports = module((1, vector([EMPTY_TYPE])), (2, vector([entry] * (BOUNDS["imports"] + 1))))
    with pytest.raises(RestrictedModule) as caught:
        restrict(decode(imports), LIMITS, {("env", "f")})
    assert caught.value.rule == "imports"
    assert rule_of(bytes(LIMITS.module_bytes + 1))[0] == "module_bytes"


def signatures(count: int, parameters: int) -> bytes:
    return module((1, vector([b"\x60" + unsigned(parameters) + b"\x7f" * parameters + b"\0"] * count)))


def with_locals(count: int) -> bytes:
    """So many functions with a thousand locals each."""
    bodies = vector([body(b"", [unsigned(1_000) + b"\x7e"])] * count)
    return module((1, vector([EMPTY_TYPE])), (3, vector([b"\0"] * count)), (10, bodies))


def branching(functions_: int, branches: int) -> bytes:
    code = body(b"\x20\0\x04\x40\x20\0\x41\1\x6a\x21\0\x0b" * branches + ANSWER)
    return module((1, vector([CHECK_TYPE])), (3, vector([b"\0"] * functions_)), (10, vector([code] * functions_)))


@pytest.mark.slow
def test_sums() -> None:
    """What is admitted singly, and would be too much many times over.  # G16 G17"""
    admit(signatures(100, 200), LIMITS)
    assert rule_of(signatures(101, 200))[0] == "signature_values"
    admit(with_locals(500), LIMITS)
    assert rule_of(with_locals(501))[0] == "all_locals"
    meter(branching(1, 4_000))
    assert rule_of(branching(1, 5_000))[0] == "blocks"
    meter(branching(40, 1_000))
    assert rule_of(branching(60, 1_000))[0] == "blocks"


def test_fifty_thousand_locals() -> None:
    """# G5"""
    assert rule_of(one_function(ANSWER, [unsigned(50_000) + b"\x7e"]))[0] == "locals"
    many = module((1, vector([b"\x60" + unsigned(1000) + b"\x7f" * 1000 + b"\0"])))
    assert rule_of(many)[0] == "parameters"


@pytest.mark.slow
def test_a_long_function_without_branches(engine_name: str) -> None:
    """240 kB of straight code are paid before any of it runs; a megabyte is refused.  # G6, pitfall 2"""
    steps = 60_000
    data = one_function(b"\x20\0\x21\0" * steps + ANSWER, kind=CHECK_TYPE)
    assert rule_of(one_function(b"\x20\0\x21\0" * 250_000 + ANSWER))[0] == "body_bytes"
    cost = 2 * steps
    host = make_host(engine_name)
    for fuel, ends in ((cost, False), (cost + 1_000, True)):
        metered = meter(data, Limits(fuel=fuel))
        exports_ = host.instantiate(metered.data, {})
        if ends:
            assert host.call(exports_[metered.entries["f"]], 1) == [0]
        else:
            with pytest.raises(Trapped):
                host.call(exports_[metered.entries["f"]], 1)
            assert host.call(exports_[metered.status]) == [1]


def test_memory_and_tables_within_the_limits() -> None:
    """# G13 G14"""
    small = Limits(memory_pages=2, table_elements=5)
    admit(compile_wat("(module (memory 2) (table 5 funcref))"), small)
    assert rule_of(compile_wat("(module (memory 3))"), small) == ("memory_pages", "memory 0")
    assert rule_of(compile_wat("(module (table 1 funcref) (table 6 funcref))"), small) == ("table_elements", "table 1")


@pytest.mark.parametrize("kind", ["(func)", "(memory 1)", "(table 1 funcref)", "(global i32)"])
def test_imports_are_refused_by_name(kind: str) -> None:
    """# G22"""
    data = compile_wat(f'(module (import "env" "thing" {kind}))')
    rule, where = rule_of(data)
    assert rule == "import"
    assert "env" in where
    assert "thing" in where
    meter(data, LIMITS, imports={("env", "thing")})
    with pytest.raises(RestrictedModule):
        meter(data, LIMITS, imports={("env", "other"), ("thing", "env")})


@pytest.mark.parametrize(
    "text",
    [
        f'(module (func (export "{RESERVED_PREFIX}fuel")))',
        f'(module (memory (export "{RESERVED_PREFIX}") 1))',
        f'(module (import "{RESERVED_PREFIX}x" "y" (func)))',
        f'(module (import "y" "{RESERVED_PREFIX}x" (func)))',
        f'(module (@custom "{RESERVED_PREFIX}x" ""))',
    ],
)
def test_reserved_names(text: str) -> None:
    """# G23, pitfall 14"""
    assert rule_of(compile_wat(text))[0] == "reserved_name"


@pytest.mark.parametrize(
    ("code", "feature"),
    [
        (b"\xfd\x0c" + bytes(16), "simd"),
        (b"\xfe\x10\2\0", "threads"),
        (b"\x12\0", "tail-call"),
        (b"\x06\x40", "exceptions"),
        (b"\xfb\x1c", "gc"),
        (b"\xfc\x13", "wide-arithmetic"),
        (b"\xd4", "function-references"),
    ],
)
def test_other_features_are_refused_by_name(code: bytes, feature: str) -> None:
    """# G25, pitfall 26"""
    data = one_function(code)
    with pytest.raises(RestrictedModule) as caught:
        meter(data)
    assert caught.value.rule == "opcode"
    assert caught.value.where == f"byte {data.index(code)}"
    assert feature in caught.value.detail
    assert caught.value.features == (feature,)


@pytest.mark.parametrize("code", [b"\x27", b"\xff", b"\xfc\x12", b"\xfc\xff\x7f"])
def test_what_is_no_opcode_is_malformed(code: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        meter(one_function(code))
    assert caught.value.reason == "illegal opcode"


@pytest.mark.parametrize(
    "text",
    [
        "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))",
        '(module (memory 1) (data (i32.mul (i32.const 1) (i32.const 2)) "x"))',
        "(module (table 9 funcref) (elem (i32.sub (i32.const 3) (i32.const 2)) func))",
    ],
)
def test_constant_expressions_are_one_constant(text: str) -> None:
    """# G16, pitfall 22"""
    assert rule_of(compile_wat(text))[0] == "constant_expression"


def test_a_module_that_metering_would_blow_up() -> None:
    """Code of nothing but branch points may become four times as long, not more.  # pitfall 34"""
    assert rule_of(one_function(b"\x03\x40\x0b" * 4_000 + ANSWER))[0] == "growth"


def test_a_block_that_costs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """# pitfall 11"""
    monkeypatch.setattr("capgate.wasm.metering.rewrite._MAX_BLOCK_COST", 1_000)
    meter(one_function(b"\x41\0\x1a" * 900 + ANSWER))
    assert rule_of(one_function(b"\x41\0\x1a" * 1_100 + ANSWER))[0] == "block_cost"
