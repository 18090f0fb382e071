"""``capgate inspect``: what a policy file is. Whatever fails is told, and the rest is shown all the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from ...artifact.bundle import Bundle, BundleKeys, is_archive
from ...artifact.load import OPA, WasmArtifact, document_format, is_module, read_bytes
from ...errors import BundleError, CapgateError, SignatureInvalid
from ...limits import Limits
from ...policy import RuntimePolicy
from ...rego import BUILTINS, NOT_PROVIDED
from ...routes.contract import quoted
from ...runtime.engine import load_engine
from ...runtime.interpreter import CompiledPolicy, PreparedPolicy
from ...store.manifest import ABI
from ...wasm import Module, decode
from ...wasm.module import GlobalType, MemoryType, TableType
from ..show import Shown, show, shown
from ..trust import production_limits

#: How many names of a list people are shown.
SOME: Final = 8


class Seen(msgspec.Struct):
    """What was found out so far. ``refused`` says why an application would not take the file, ``unknown`` why something
    could not be found out."""

    facts: dict[str, Any] = {}
    refused: list[str] = []
    unknown: list[str] = []

    def refuse(self, error: CapgateError) -> None:
        """Take note of a reason, once."""
        if str(error) not in self.refused:
            self.refused.append(str(error))


def run(path: Path, engine: str, keys: BundleKeys | None, *, as_json: bool) -> int:
    """Show what the file is; 1 where an application with these limits and keys would refuse it, else 0.

    Raises :class:`CapgateError` only where there is nothing to look at.
    """
    limits = production_limits()
    data = read_bytes(path, _roomy(limits).module_bytes)
    seen = Seen({"path": shown(path), "kind": "", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    if len(data) > limits.module_bytes:
        seen.refused.append(f"{len(data)} bytes, the limit module_bytes is {limits.module_bytes}")
    if is_module(data, path):
        _inspect_module(seen, data, os.fsdecode(path), engine, limits, keys)
    else:
        _inspect_document(seen, data, path)
    facts = {**seen.facts, "refused": seen.refused, "unknown": seen.unknown}
    show(Shown(facts) if as_json else Shown(_rows(facts)), as_json=as_json)
    return 1 if seen.refused else 0


def _roomy(limits: Limits) -> Limits:
    return Limits(module_bytes=max(limits.module_bytes, Limits().module_bytes))


def _inspect_document(seen: Seen, data: bytes, path: Path) -> None:
    seen.facts["kind"] = "document"
    try:
        policy = RuntimePolicy.from_document(data, format=document_format(path), path=shown(path))
    except CapgateError as error:
        seen.refuse(error)
        return
    # Of a document the digest is that of what it says.
    seen.facts |= {"name": policy.name, "version": policy.version, "policy_sha256": policy.sha256}
    seen.facts["inputs"] = sorted(policy.inputs)


def _inspect_module(seen: Seen, data: bytes, path: str, engine: str, limits: Limits, keys: BundleKeys | None) -> None:
    seen.facts["kind"] = "bundle" if is_archive(data) else "module"
    try:
        # Without keys, that there is something to show where a signature is wrong; and with room.
        artifact = WasmArtifact(data, path, limits=_roomy(limits))
    except CapgateError as error:
        seen.refuse(error)
        if isinstance(error, BundleError):
            seen.facts["bundle"] = {"reason": error.reason, "member": error.member}
        return
    if artifact.is_component:
        seen.facts["kind"] = "component"
    seen.facts |= {"name": artifact.name, "version": artifact.version, "abi": artifact.abi}
    _try_again(seen, data, path, limits, keys, artifact.bundle)
    if artifact.bundle is not None:
        seen.facts["bundle"] |= _about_bundle(artifact.bundle, len(artifact.rego_data))
    if artifact.inputs is not None:
        seen.facts["inputs"] = sorted(artifact.inputs)
    seen.facts["module"] = _about_module(decode(artifact.module), len(artifact.module))
    _prepare(seen, artifact, engine, limits)


def _try_again(
    seen: Seen, data: bytes, path: str, limits: Limits, keys: BundleKeys | None, bundle: Bundle | None
) -> None:
    """As an application reads it: under its limits, with its keys."""
    signature: dict[str, Any] = {"state": "none" if bundle is None or not bundle.is_signed else "not verified"}
    if keys is None and signature["state"] == "not verified":
        signature["why"] = "no keys are given; --bundle-keys"
    try:
        again = WasmArtifact(data, path, limits=limits, bundle_keys=keys).bundle
        if again is not None and again.signature is not None:
            signature = {"state": "verified", **msgspec.to_builtins(again.signature)}
    except SignatureInvalid as error:
        seen.refuse(error)
        signature |= {"state": "wrong" if bundle is not None and bundle.is_signed else "none", "why": error.reason}
    except CapgateError as error:
        seen.refuse(error)
    if bundle is not None:
        seen.facts["bundle"] = {"signature": signature}


def _about_bundle(bundle: Bundle, data_bytes: int) -> dict[str, Any]:
    return {
        "revision": bundle.revision,
        "roots": list(bundle.roots),
        "entrypoints": list(bundle.entrypoints),
        "module": bundle.module,
        "data_bytes": data_bytes,
        "files": bundle.files,
    }


def _about_module(module: Module, size: int) -> dict[str, Any]:
    return {
        "size": size,
        "functions": len(module.functions),
        "memory": [_pages(memory) for memory in module.all_memories()],
        "imports": [
            {"module": one.module, "name": one.name, "kind": one.kind, **_type(one.type)} for one in module.imports
        ],
        "exports": [{"name": one.name, "kind": one.kind} for one in module.exports],
    }


def _type(found: int | TableType | MemoryType | GlobalType) -> dict[str, Any]:
    return _pages(found) if isinstance(found, MemoryType) else {}


def _pages(memory: MemoryType) -> dict[str, Any]:
    return {"minimum": memory.minimum, "maximum": memory.maximum}


def _prepare(seen: Seen, artifact: WasmArtifact, engine: str, limits: Limits) -> None:
    """What restricting and metering says, and then an instance: its start code runs under fuel, as always."""
    try:
        prepared = PreparedPolicy(artifact, limits)
    except CapgateError as error:
        seen.refuse(error)
        seen.unknown.append("entry points and builtins: no instance can be made of what is refused")
        return
    seen.facts["module"]["metered_size"] = len(prepared.metered.data)
    seen.facts["reused"] = prepared.pure
    seen.facts["abi_version"] = ABI if prepared.facts is None else f"1.{prepared.facts.minor}"
    try:
        loaded = load_engine(engine)
    except CapgateError as error:
        seen.unknown.append(f"whether an instance can be made: {error}")
        return
    seen.facts["engine"] = loaded.name
    try:
        compiled = CompiledPolicy(prepared, loaded)
        if artifact.abi != OPA:
            compiled.instantiate()
            return
        listed = compiled.listing()
    except CapgateError as error:
        seen.refuse(error)
        return
    seen.facts["entrypoints"] = list(listed.entrypoints)
    seen.facts["builtins"] = [_about_builtin(name) for name in listed.builtins]
    absent = [one["name"] for one in seen.facts["builtins"] if one["state"] != "provided"]
    if absent:
        seen.refused.append(f"needs builtins that are not provided: {', '.join(absent)}")
    missing = [] if artifact.bundle is None else sorted(set(artifact.bundle.entrypoints) - set(listed.entrypoints))
    if missing:
        seen.unknown.append(f"why the bundle's manifest lists entry points that the module has not: {missing}")


def _about_builtin(name: str) -> dict[str, Any]:
    if name in BUILTINS:
        return {"name": name, "state": "provided"}
    return {"name": name, "state": "refused" if name in NOT_PROVIDED else "unknown", **_why(name)}


def _why(name: str) -> dict[str, str]:
    return {"why": NOT_PROVIDED[name]} if name in NOT_PROVIDED else {}


# -- for people


def _rows(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One line for each fact, in printable ASCII: the names in a file are anybody's."""
    rows: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, dict) and name != "files":
            rows |= _rows(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = _cell(list(value) if isinstance(value, dict) else value)
    return rows


def _cell(value: Any) -> str:
    if isinstance(value, list):
        told = [_cell(one) for one in value[:SOME]]
        return ", ".join(told + ([f"and {len(value) - SOME} more"] if len(value) > SOME else [])) or "-"
    if isinstance(value, dict):
        return quoted(_words(value))
    return "-" if value is None or value == "" else quoted(str(value))


def _words(value: dict[str, Any]) -> str:
    if "name" not in value:
        return f"{value['minimum']} to {value['maximum'] or 'any number of'} pages"
    name = f"{value['module']}.{value['name']}" if "module" in value else str(value["name"])
    state = value.get("state", "provided")
    return name if state == "provided" else ": ".join(filter(None, (f"{name} {state}", value.get("why"))))
