"""Which modules are a guest of the interface: every export there, of the right kind and type, before anything runs."""

from __future__ import annotations

import pytest

from capgate.errors import RestrictedModule, WasmError
from capgate.limits import Limits
from capgate.model import Allow, PolicyInput
from capgate.runtime.abi.canonical_abi import CHECK, POST, WITH_FACTS
from capgate.runtime.interpreter import PreparedPolicy, WasmInterpreter

from ...support.guests import ALLOW, BUMP, REALLOC, artifact, guest, wat

MEMORY = '(memory (export "memory") 1)'
GOOD_CHECK = f'(func (export "{CHECK}") (param i32) (result i32) {ALLOW})'


def module(*, memory: str = MEMORY, realloc: str = REALLOC, check: str = GOOD_CHECK, extra: str = "") -> bytes:
    return wat(f"(module {memory} {BUMP} {realloc} {check} {extra})")


def refused(data: bytes) -> tuple[str, str]:
    """Rule and place of the refusal, which needs no engine."""
    with pytest.raises(RestrictedModule) as caught:
        PreparedPolicy(artifact(data), Limits())
    return caught.value.rule, caught.value.where


def test_a_guest_with_what_it_needs_is_accepted(engine_name: str) -> None:
    assert isinstance(
        WasmInterpreter(artifact(module()), engine=engine_name).call_policy_check(PolicyInput("a.b")), Allow
    )


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (wat("(module)"), CHECK),
        (module(check=""), CHECK),
        (module(realloc=""), "cabi_realloc"),
        (module(memory="(memory 1)"), "memory"),
        # Another version of the interface is another interface.
        (module(check=f'(func (export "{CHECK.replace("0.1.0", "0.3.0")}") (param i32) (result i32) {ALLOW})'), CHECK),
        (module(check=f'(func (export "{CHECK.replace("@0.1.0", "")}") (param i32) (result i32) {ALLOW})'), CHECK),
        (module(check=f'(func (export "{CHECK.replace("#", "/")}") (param i32) (result i32) {ALLOW})'), CHECK),
        (module(check=f'(func (export "{CHECK.upper()}") (param i32) (result i32) {ALLOW})'), CHECK),
        (module(check=f'(func (export "{CHECK}\\00") (param i32) (result i32) {ALLOW})'), CHECK),
        (module(check=f'(func (export " {CHECK}") (param i32) (result i32) {ALLOW})'), CHECK),
        (module(memory='(memory (export "memory ") 1)'), "memory"),
    ],
)
def test_an_absent_export_is_named(data: bytes, name: str) -> None:
    assert refused(data) == ("missing_export", name)  # M1, M10


@pytest.mark.parametrize("name", [CHECK, "cabi_realloc", POST])
@pytest.mark.parametrize(
    "other",
    [
        '(global (export "{}") i32 (i32.const 0))',
        '(table (export "{}") 1 funcref)',
        '(export "{}" (memory 0))',
    ],
)
def test_a_function_is_no_global_table_or_memory(name: str, other: str) -> None:
    field = other.format(name)
    good = {CHECK: {"check": ""}, "cabi_realloc": {"realloc": ""}, POST: {}}[name]
    assert refused(module(extra=field, **good)) == ("export_kind", name)  # M1


@pytest.mark.parametrize(
    "other",
    ['(global (export "memory") i32 (i32.const 0))', '(table (export "memory") 1 funcref)', '(func (export "memory"))'],
)
def test_the_memory_is_a_memory(other: str) -> None:
    assert refused(module(memory="(memory 1)", extra=other)) == ("missing_export", "memory")  # M1


TYPES = {
    CHECK: "(param i32) (result i32)",
    "cabi_realloc": "(param i32 i32 i32 i32) (result i32)",
    POST: "(param i32)",
}
OTHER_TYPES = [
    "",
    "(param i32)",
    "(result i32)",
    "(param i32) (result i32)",
    "(param i64) (result i32)",
    "(param f32) (result i32)",
    "(param i32) (result i64)",
    "(param i32) (result f64)",
    "(param i32) (result i32 i32)",
    "(param i32 i32) (result i32)",
    "(param i32 i32 i32) (result i32)",
    "(param i32 i32 i32 i32) (result i32)",
    "(param i32 i32 i32 i32)",
    "(param i32 i32 i32 i64) (result i32)",
    "(param i32 i32 i32 i32 i32) (result i32)",
    "(param i32) (result funcref)",
    "(param externref) (result i32)",
]


@pytest.mark.parametrize("name", TYPES)
def test_each_function_has_its_type_and_no_other(name: str) -> None:
    for types in OTHER_TYPES:
        field = f'(func (export "{name}") {types} unreachable)'
        good = {CHECK: {"check": ""}, "cabi_realloc": {"realloc": ""}, POST: {}}[name]
        data = module(extra=field, **good)
        if types == TYPES[name]:
            PreparedPolicy(artifact(data), Limits())
        else:
            assert refused(data) == ("export_type", name), types  # M1


@pytest.mark.parametrize(
    ("name", "field", "rule"),
    [
        (WITH_FACTS.check, "(param i32 i32) (result i32)", "export_type"),
        (WITH_FACTS.post, "(param i64)", "export_type"),
        (WITH_FACTS.check, None, "export_kind"),
        (WITH_FACTS.post, None, "export_kind"),
    ],
)
def test_the_newer_version_is_held_to_its_types_whatever_the_older_has(name: str, field: str | None, rule: str) -> None:
    """What exports both is asked by the newer one, so there is no way back to the older."""
    extra = f'(global (export "{name}") i32 (i32.const 0))'
    if field is not None:
        extra = f'(func (export "{name}") {field} unreachable)'
    if name == WITH_FACTS.post:
        extra += f'(func (export "{WITH_FACTS.check}") (param i32) (result i32) {ALLOW})'
    assert refused(module(extra=extra)) == (rule, name)


def test_more_exports_do_no_harm(engine_name: str) -> None:
    extra = f"""(func (export "_initialize")) (table (export "table") 1 funcref)
        (global (export "global") (mut i32) (i32.const 0)) (export "memory2" (memory 0))
        (func (export "{CHECK}2") (param i64)) (func (export ""))"""
    interpreter = WasmInterpreter(artifact(guest(extra=extra)), engine=engine_name)
    assert isinstance(interpreter.call_policy_check(PolicyInput("a.b")), Allow)  # M1


def with_index(data: bytes, name: str, kind: int, index: int) -> bytes:
    """``data`` with the export ``name`` pointing elsewhere: what no text can say."""
    at = data.index(name.encode()) + len(name.encode())
    changed = bytearray(data)
    changed[at : at + 2] = bytes([kind, index])
    return bytes(changed)


@pytest.mark.parametrize("name", [CHECK, "cabi_realloc", "memory"])
@pytest.mark.parametrize("index", [1, 2, 3, 4, 100, 127])
@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_an_export_of_what_is_not_there_is_refused(engine_name: str, name: str, index: int, kind: int) -> None:
    data = with_index(module(), name, kind, index)
    right = {CHECK: (0, 2), "cabi_realloc": (0, 1), "memory": (2, 0)}[name]
    assert with_index(module(), name, *right) == module()
    if (kind, index) == right:
        return
    with pytest.raises(WasmError):
        WasmInterpreter(artifact(data), engine=engine_name)  # M1


@pytest.mark.parametrize("first", [GOOD_CHECK, f'(func (export "{CHECK}") (param i32 i32) (result i32) {ALLOW})'])
def test_two_exports_of_one_name_are_refused(engine_name: str, first: str) -> None:
    """Whichever of them is looked at, the other might be the one that runs."""
    other = f'(func (export "{CHECK.replace("0.1.0", "0.1.1")}") (param i32) (result i32) unreachable)'
    data = module(check=first, extra=other).replace(b"@0.1.1#", b"@0.1.0#")
    with pytest.raises(WasmError):
        WasmInterpreter(artifact(data), engine=engine_name)  # M1, G26


IMPORTS = {
    "memory": '(import "env" "memory" (memory 1))',
    "function": '(import "env" "f" (func (param i32) (result i32)))',
    "global": '(import "env" "g" (global i32))',
    "table": '(import "env" "t" (table 1 funcref))',
    "wasi": '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))',
}


@pytest.mark.parametrize("kind", IMPORTS)
def test_an_import_is_refused(kind: str) -> None:
    memory = '(export "memory" (memory 0))' if kind == "memory" else MEMORY
    rule, where = refused(module(memory=f"{IMPORTS[kind]} {memory}"))
    assert rule == "import"  # G22
    assert "env" in where or "wasi" in where
