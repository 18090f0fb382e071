"""Components around a policy, and an independent host for them: ``wasmtime.component``, with its own canonical ABI."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import wasmtime
from wasmtime import component

from capgate.model import Actor, Allow, Anonymous, CompilerTool, Deny, PolicyInput, PolicyResult, Service, User
from capgate.runtime.abi.canonical_abi import PLAIN, WITH_FACTS, Interface
from capgate.wasm import core_module

from ...support.guests import wat
from ...support.tools import missing, require_path, require_tool

#: Of each interface, its text.
WITS: Final = {
    interface: Path(str(files("capgate.runtime.abi").joinpath(name)))
    for interface, name in ((PLAIN, "policy.wit"), (WITH_FACTS, "policy-0.2.0.wit"))
}
_CASES: Final = {Anonymous: "anonymous", User: "user", Service: "service", CompilerTool: "compiler-tool"}

#: What differs between the components below: the types of the texts of the two interfaces, by name.
_TYPES: Final = {
    PLAIN: {
        "actor": """(variant
    (case "anonymous") (case "user" string) (case "service" string) (case "compiler-tool" string))""",
        "policy-resource": '(record (field "kind" string) (field "id" (option string)))',
        "environment": '(record (field "service" string) (field "mode" string))',
        "input": """(record
    (field "actor" $actor) (field "action" string) (field "resource" (option $policy-resource))
    (field "args-hash" (option string)) (field "env" $environment) (field "timestamp" u64))""",
        "policy-result": '(variant (case "allow") (case "deny" string))',
    },
    WITH_FACTS: {
        "value": """(variant (case "boolean" bool) (case "int" s64) (case "float" f64) (case "text" string)
    (case "texts" (list string)))""",
        "attribute": '(record (field "name" string) (field "value" $value))',
        "identity": """(record (field "id" string) (field "roles" (list string)) (field "scopes" (list string))
    (field "attributes" (list $attribute)))""",
        "actor": """(variant
    (case "anonymous") (case "user" $identity) (case "service" $identity) (case "compiler-tool" $identity))""",
        "policy-resource": """(record (field "kind" string) (field "id" (option string))
    (field "attributes" (list $attribute)))""",
        "environment": '(record (field "service" string) (field "mode" string))',
        "input": """(record
    (field "actor" $actor) (field "on-behalf-of" (list $actor)) (field "action" string)
    (field "resource" (option $policy-resource)) (field "args-hash" (option string)) (field "env" $environment)
    (field "timestamp" u64) (field "args" (list $attribute)) (field "context" (list $attribute)))""",
        "policy-result": '(variant (case "allow") (case "deny" string))',
    },
}
#: A component that exports the function itself, with the types of the interface, around a module that does nothing.
_TEXT: Final = """(component
  (core module $main
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "{interface.check}") (param i32) (result i32) (i32.const 0))
    (func (export "{interface.post}") (param i32)))
  (core instance $main (instantiate $main))
  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (alias core export $main "{interface.check}" (core func $check))
  (alias core export $main "{interface.post}" (core func $post))
  {types}
  (func $policy-check (param "input" $input) (result $policy-result) (canon lift (core func $check)
    (memory $memory) (realloc $realloc) string-encoding={encoding} (post-return $post)))
  (export "policy-check" (func $policy-check)))"""


def component_text(encoding: str = "utf8", interface: Interface = PLAIN) -> bytes:
    """The component around a module that does nothing."""
    types = " ".join(
        f"(type ${name}' {text}) (export ${name} \"{name}\" (type ${name}'))"
        for name, text in _TYPES[interface].items()
    )
    return wat(_TEXT.format(interface=interface, types=types, encoding=encoding))


def wrapped(core: bytes, interface: Interface = PLAIN) -> bytes:
    """``core`` in the place of the module that does nothing. Needs no tool but wasmtime's text parser."""
    outer = component_text(interface=interface)
    inner = core_module(outer)
    before, after = outer.split(inner)
    assert before == outer[:9] + _leb128(len(inner))
    return outer[:9] + _leb128(len(core)) + core + after


def _leb128(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def wrapped_by_jco(cores: list[bytes], folder: Path, interface: Interface = PLAIN) -> list[bytes]:
    """Each of ``cores`` as jco makes a component of it, in world ``guest`` of the package's own text.

    Needs Node, and ``TEST_NODE_MODULES``: a ``node_modules`` folder with ``@bytecodealliance/jco-transpile``.
    """
    node, modules = require_tool("node"), os.environ.get("TEST_NODE_MODULES")
    if not modules:
        missing("TEST_NODE_MODULES, a node_modules with @bytecodealliance/jco-transpile,")
    require_path(Path(modules) / "@bytecodealliance" / "jco-transpile")
    for number, core in enumerate(cores):
        (folder / f"{number}.core.wasm").write_bytes(core)
    script = Path(__file__).with_name("components.mjs")
    subprocess.run([node, script, folder, WITS[interface], Path(modules).resolve()], check=True, timeout=120)
    return [(folder / f"{number}.component.wasm").read_bytes() for number in range(len(cores))]


class Host:
    """A component instantiated by ``wasmtime.component``."""

    def __init__(self, binary: bytes, interface: Interface = PLAIN) -> None:
        engine = _engine()
        self._store = wasmtime.Store(engine)
        instance = component.Linker(engine).instantiate(self._store, component.Component(engine, binary))
        exported = instance.get_export_index(self._store, interface.name)
        index = instance.get_export_index(self._store, "policy-check", exported)
        assert index is not None
        check = instance.get_func(self._store, index)
        assert check is not None
        self._check = check
        self._value_of = _with_facts if interface is WITH_FACTS else _as_value

    def ask(self, input: PolicyInput) -> PolicyResult:
        answer = self._check(self._store, self._value_of(input))
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


def _with_facts(input: PolicyInput) -> component.Record:
    somebody, resource = input.actor, input.resource
    acting_for: list[component.Variant] = []
    while not isinstance(somebody, Anonymous) and somebody.on_behalf_of is not None:
        somebody = somebody.on_behalf_of
        acting_for.append(_actor(somebody))
    what = None
    if resource is not None:
        what = _record(kind=resource.kind, id=resource.id, attributes=_attributes(resource.attributes))
    return _record(
        actor=_actor(input.actor),
        on_behalf_of=acting_for,
        action=input.action,
        resource=what,
        args_hash=input.args_hash,
        env=_record(service=input.env.service, mode=input.env.mode),
        timestamp=input.timestamp,
        args=_attributes(input.args),
        context=_attributes(input.context),
    )


def _actor(actor: Actor) -> component.Variant:
    if isinstance(actor, Anonymous):
        return component.Variant(_CASES[Anonymous], None)
    identity = _record(
        id=actor.id, roles=list(actor.roles), scopes=list(actor.scopes), attributes=_attributes(actor.attributes)
    )
    return component.Variant(_CASES[type(actor)], identity)


def _attributes(attributes: Mapping[str, Any]) -> list[component.Record]:
    """Its variant of values goes by their types in Python, a truth's before a number's."""
    return [
        _record(name=name, value=list(value) if type(value) is tuple else value) for name, value in attributes.items()
    ]
