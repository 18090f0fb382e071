"""Components around a policy, and an independent host for them: ``wasmtime.component``, with its own canonical ABI."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import wasmtime
from wasmtime import component

from capgate.model import Allow, Anonymous, CompilerTool, Deny, PolicyInput, PolicyResult, Service, User
from capgate.runtime.abi.canonical_abi import CHECK, INTERFACE, POST
from capgate.wasm import core_module

from ...support.guests import wat
from ...support.tools import missing, require_path, require_tool

WIT: Final = Path(str(files("capgate.runtime.abi").joinpath("policy.wit")))
_CASES: Final = {Anonymous: "anonymous", User: "user", Service: "service", CompilerTool: "compiler-tool"}

#: A component that exports the function itself, with the types of ``policy.wit``, around a module that does nothing.
_TEXT: Final = f"""(component
  (core module $main
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "{CHECK}") (param i32) (result i32) (i32.const 0))
    (func (export "{POST}") (param i32)))
  (core instance $main (instantiate $main))
  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (alias core export $main "{CHECK}" (core func $check))
  (alias core export $main "{POST}" (core func $post))
  (type $actor' (variant
    (case "anonymous") (case "user" string) (case "service" string) (case "compiler-tool" string)))
  (export $actor "actor" (type $actor'))
  (type $resource' (record (field "kind" string) (field "id" (option string))))
  (export $resource "policy-resource" (type $resource'))
  (type $environment' (record (field "service" string) (field "mode" string)))
  (export $environment "environment" (type $environment'))
  (type $input' (record
    (field "actor" $actor) (field "action" string) (field "resource" (option $resource))
    (field "args-hash" (option string)) (field "env" $environment) (field "timestamp" u64)))
  (export $input "input" (type $input'))
  (type $result' (variant (case "allow") (case "deny" string)))
  (export $result "policy-result" (type $result'))
  (func $policy-check (param "input" $input) (result $result) (canon lift (core func $check)
    (memory $memory) (realloc $realloc) string-encoding={{encoding}} (post-return $post)))
  (export "policy-check" (func $policy-check)))"""


def component_text(encoding: str = "utf8") -> bytes:
    """The component around a module that does nothing."""
    return wat(_TEXT.format(encoding=encoding))


def wrapped(core: bytes) -> bytes:
    """``core`` in the place of the module that does nothing. Needs no tool but wasmtime's text parser."""
    outer = component_text()
    inner = core_module(outer)
    before, after = outer.split(inner)
    assert before == outer[:9] + _leb128(len(inner))
    return outer[:9] + _leb128(len(core)) + core + after


def _leb128(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def wrapped_by_jco(cores: list[bytes], folder: Path) -> list[bytes]:
    """Each of ``cores`` as jco makes a component of it, in world ``guest`` of the package's own ``policy.wit``.

    Needs Node, and ``TEST_NODE_MODULES``: a ``node_modules`` folder with ``@bytecodealliance/jco-transpile``.
    """
    node, modules = require_tool("node"), os.environ.get("TEST_NODE_MODULES")
    if not modules:
        missing("TEST_NODE_MODULES, a node_modules with @bytecodealliance/jco-transpile,")
    require_path(Path(modules) / "@bytecodealliance" / "jco-transpile")
    for number, core in enumerate(cores):
        (folder / f"{number}.core.wasm").write_bytes(core)
    script = Path(__file__).with_name("components.mjs")
    subprocess.run([node, script, folder, WIT, Path(modules).resolve()], check=True, timeout=120)
    return [(folder / f"{number}.component.wasm").read_bytes() for number in range(len(cores))]


class Host:
    """A component instantiated by ``wasmtime.component``."""

    def __init__(self, binary: bytes) -> None:
        engine = _engine()
        self._store = wasmtime.Store(engine)
        instance = component.Linker(engine).instantiate(self._store, component.Component(engine, binary))
        exported = instance.get_export_index(self._store, INTERFACE)
        index = instance.get_export_index(self._store, "policy-check", exported)
        assert index is not None
        check = instance.get_func(self._store, index)
        assert check is not None
        self._check = check

    def ask(self, input: PolicyInput) -> PolicyResult:
        answer = self._check(self._store, _as_value(input))
        self._check.post_return(self._store)
        return Allow() if answer is None else Deny(answer)


@lru_cache(maxsize=1)
def _engine() -> wasmtime.Engine:
    return wasmtime.Engine()


def _record(**fields: Any) -> component.Record:
    found = component.Record()
    for name, value in fields.items():
        setattr(found, name.replace("_", "-"), value)
    return found


def _as_value(input: PolicyInput) -> component.Record:
    actor, resource = input.actor, input.resource
    payload = None if isinstance(actor, Anonymous) else actor.id
    return _record(
        actor=component.Variant(_CASES[type(actor)], payload),
        action=input.action,
        resource=None if resource is None else _record(kind=resource.kind, id=resource.id),
        args_hash=input.args_hash,
        env=_record(service=input.env.service, mode=input.env.mode),
        timestamp=input.timestamp,
    )
