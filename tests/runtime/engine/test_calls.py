"""What an engine's exports take and give: i32s, signatures, and memory as it grows."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import AbiError, PolicyTrap
from capgate.runtime.engine import Instance, load_engine

from ...support.guests import PAGE, wat

EDGES = (0, 1, 2**16, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1)
MASK = 0xFFFFFFFF

MODULE = """(module
  (memory (export "memory") 1 4)
  (func (export "same") (param i32) (result i32) (local.get 0))
  (func (export "unsigned") (param i32) (result i32) (i32.gt_u (local.get 0) (i32.const 0x7fffffff)))
  (func (export "third") (param i32 i32 i32 i32) (result i32) (local.get 2))
  (func (export "high") (result i32) (i32.const -1))
  (func (export "nothing") (param i32) (i32.store (i32.const 8) (local.get 0)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "wide") (param i64) (result i64) (local.get 0))
  (func (export "most") (result i64) (i64.const 0x4000000000000000))
  (func (export "least") (result i64) (i64.const -2))
  (func (export "trap") (result i64) unreachable)
  (func (export "pair") (param i32) (result i32 i32) (local.get 0) (local.get 0))
  (func (export "float") (param f32) (result i32) (i32.const 0))
  (global (export "global") i32 (i32.const 0))
  (table (export "table") 1 funcref))"""


def open_instance(engine_name: str, text: str = MODULE) -> Instance:
    return load_engine(engine_name).compile(wat(text)).instantiate()


@pytest.mark.parametrize("value", EDGES)
def test_every_i32_goes_in_and_comes_out_unchanged_under_the_mask(engine_name: str, value: int) -> None:
    instance = open_instance(engine_name)
    assert instance.function("same", 1, 1)(value) & MASK == value  # M16
    assert instance.function("unsigned", 1, 1)(value) & MASK == (value > 0x7FFFFFFF)
    assert instance.function("third", 4, 1)(7, 8, value, 9) & MASK == value


def test_without_parameters_and_without_results(engine_name: str) -> None:
    instance = open_instance(engine_name)
    assert instance.function("high", 0, 1)() & MASK == MASK
    instance.function("nothing", 1, 0)(0x89ABCDEF)
    assert bytes(instance.memory_view()[8:12]) == b"\xef\xcd\xab\x89"


def test_an_i64_comes_out_signed(engine_name: str) -> None:
    engine, instance = load_engine(engine_name), open_instance(engine_name)
    assert [instance.number(name)() for name in ("most", "least", "most")] == [2**62, -2, 2**62]
    wrong = {"high": "signature", "wide": "signature", "memory": "export_kind", "x": "missing_export"}
    for name, rule in wrong.items():
        with pytest.raises(AbiError) as caught:
            instance.number(name)
        assert caught.value.rule == rule
    try:
        instance.number("trap")()
    except Exception as error:
        explained = engine.explain(error)
    assert isinstance(explained, PolicyTrap)
    assert explained.kind == "unreachable"


@pytest.mark.parametrize("argument", [2**32, -(2**31) - 1, 2**70, 1.5, "1", None])
def test_what_is_no_i32_is_an_error_and_never_another_number(engine_name: str, argument: object) -> None:
    engine, instance = load_engine(engine_name), open_instance(engine_name)
    for name, parameters, before in (("same", 1, ()), ("third", 4, (1, 2))):
        function = instance.function(name, parameters, 1)
        with pytest.raises((ValueError, TypeError, OverflowError)) as caught:
            function(*before, argument, *((3,) if before else ()))
        assert engine.explain(caught.value).kind == "engine_fault"  # type: ignore[attr-defined]
        assert instance.function("same", 1, 1)(5) == 5


@pytest.mark.parametrize(
    ("name", "parameters", "results", "rule"),
    [
        ("absent", 1, 1, "missing_export"),
        ("", 1, 1, "missing_export"),
        ("same\0", 1, 1, "missing_export"),
        ("Same", 1, 1, "missing_export"),
        ("memory", 1, 1, "export_kind"),
        ("global", 0, 1, "export_kind"),
        ("table", 0, 1, "export_kind"),
        ("same", 2, 1, "signature"),
        ("same", 0, 1, "signature"),
        ("same", 1, 0, "signature"),
        ("nothing", 1, 1, "signature"),
        ("wide", 1, 1, "signature"),
        ("pair", 1, 1, "signature"),
        ("float", 1, 1, "signature"),
        ("third", 3, 1, "signature"),
    ],
)
def test_an_export_is_what_was_asked_for_or_an_error(
    engine_name: str, name: str, parameters: int, results: int, rule: str
) -> None:
    with pytest.raises(AbiError) as caught:
        open_instance(engine_name).function(name, parameters, results)  # M1
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ("", "missing_export"),
        ("(memory 1)", "missing_export"),
        ('(memory 1) (func (export "memory"))', "export_kind"),
        ('(memory 1) (global (export "memory") i32 (i32.const 0))', "export_kind"),
    ],
)
def test_memory_is_a_memory_of_that_name(engine_name: str, fields: str, rule: str) -> None:
    instance = open_instance(engine_name, f"(module {fields})")
    for look in (instance.memory_size, instance.memory_view):
        with pytest.raises(AbiError) as caught:
            look()
        assert caught.value.rule == rule


def test_memory_is_shared_with_the_guest_and_shows_its_growth(engine_name: str) -> None:
    instance = open_instance(engine_name)
    grow, load = instance.function("grow", 1, 1), instance.function("load", 1, 1)
    view = instance.memory_view()
    view[16:20] = b"\x01\x02\x03\x84"
    assert load(16) & MASK == 0x84030201
    assert (view.format, view.itemsize, view.readonly, view.ndim) == ("B", 1, False, 1)
    for pages in (1, 2, 3):
        assert (instance.memory_size(), len(instance.memory_view())) == (pages * PAGE, pages * PAGE)
        assert grow(1) == pages
        view = instance.memory_view()
        view[-4:] = bytes([pages, 0, 0, 0])
        assert load(len(view) - 4) == pages  # M3
        assert bytes(view[16:20]) == b"\x01\x02\x03\x84"
    assert grow(1) & MASK == MASK
    assert instance.memory_size() == 4 * PAGE


def test_memory_without_a_page_is_an_empty_view(engine_name: str) -> None:
    instance = open_instance(
        engine_name,
        '(module (memory (export "memory") 0 1) (func (export "grow") (result i32) (memory.grow (i32.const 1))))',
    )
    assert (instance.memory_size(), len(instance.memory_view())) == (0, 0)
    assert instance.function("grow", 0, 1)() == 0
    assert (instance.memory_size(), len(instance.memory_view())) == (PAGE, PAGE)


def test_instances_of_one_module_share_nothing(engine_name: str) -> None:
    module = load_engine(engine_name).compile(wat(MODULE))
    first, second = module.instantiate(), module.instantiate()
    first.memory_view()[:4] = b"abcd"
    first.function("grow", 1, 1)(1)
    assert bytes(second.memory_view()[:4]) == bytes(4)
    assert second.memory_size() == PAGE


def test_a_function_keeps_its_instance(engine_name: str) -> None:
    functions = [open_instance(engine_name).function("load", 1, 1) for _ in range(50)]
    gc.collect()
    others = [open_instance(engine_name) for _ in range(50)]
    assert [function(PAGE - 4) for function in functions] == [0] * 50
    assert len(others) == 50


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, MASK), min_size=1, max_size=8))
def test_arguments_do_not_leak_into_the_next_call(engine_name: str, values: list[int]) -> None:
    instance = open_instance(engine_name)
    same, third = instance.function("same", 1, 1), instance.function("third", 4, 1)
    for value in values:
        assert same(value) & MASK == value
        assert third(value ^ 1, value ^ 2, value, value ^ 4) & MASK == value
