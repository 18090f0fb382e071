"""Says what a policy file is: ``capgate inspect``. Whatever fails is told, and the rest is shown all the same."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from ...artifact.bundle import Bundle, BundleKeys, is_archive
from ...artifact.load import OPA, WasmArtifact, document_format, is_module, read_bytes
from ...errors import BundleError, CapgateError, PolicyError, PolicyTimeout, RestrictedModule, SignatureInvalid
from ...limits import Limits
from ...model import PolicyInput
from ...policy import MonitoredRules, RuntimePolicy
from ...routes.contract import quoted
from ...runtime.engine import load_engine
from ...runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from ...wasm import Module
from ...wasm.module import GlobalType, MemoryType, TableType
from ..configuration import bundle_keys_from, production_limits
from ..options import EngineName, Json, ModuleEngine
from ..terminal import path_text, print_facts

#: How many names of a list people are shown.
SHOWN: Final = 8

BundleKeysFile = Annotated[
    str | None,
    typer.Option(
        "--bundle-keys",
        envvar="CAPGATE_BUNDLE_KEYS",
        help="JSON or TOML file of keys that verify bundles. With keys, an OPA signature is required.",
    ),
]
BundleScope = Annotated[
    str | None, typer.Option(envvar="CAPGATE_BUNDLE_SCOPE", help="The scope that bundles have to be signed for.")
]


class Findings(msgspec.Struct):
    """What is known of a file so far.

    ``rejected`` says why an application would not take the file, ``unknown`` why something could not be found out.
    """

    facts: dict[str, Any] = {}
    rejected: list[str] = []
    unknown: list[str] = []

    def reject(self, error: CapgateError) -> None:
        """Take note of a reason, once; and of all that a module needs and may not."""
        if str(error) not in self.rejected:
            self.rejected.append(str(error))
        if isinstance(error, RestrictedModule) and (error.features or error.imports):
            self.facts["not_admitted"] = {"features": list(error.features), "imports": list(error.imports)}


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy document, module, component, or OPA bundle.")],
    engine: ModuleEngine = EngineName.auto,
    bundle_keys: BundleKeysFile = None,
    bundle_scope: BundleScope = None,
    as_json: Json = False,
) -> None:
    """Say what a policy file is: its digest, how it is asked, and what it needs; of a bundle, who signed it.

    A module is restricted and metered under the limits of the environment (`CAPGATE_FUEL` and the others), and one
    instance of it is made, as for an application. It is asked one question, to see what fuel and time that takes (for
    those of fixtures: `capgate test`). Modules that OPA compiled are asked for their
    entry points and builtins. What would be refused is told, and the rest is shown all the same.

    Exit codes: 0 an application would take it; 1 it would be refused; 2 usage, or a file that cannot be read.

    Try:

    - `capgate inspect bundle.tar.gz`
    - `capgate inspect bundle.tar.gz --bundle-keys keys.json --json | jq .bundle.signature`
    - `capgate inspect policy.wasm --json | jq -r '.entrypoints[]'`
    """
    keys, limits = bundle_keys_from(bundle_keys, bundle_scope), production_limits()
    data = read_bytes(file, _at_least_default(limits).module_bytes)
    digest = hashlib.sha256(data).hexdigest()
    findings = Findings({"path": path_text(file), "kind": "", "size": len(data), "sha256": digest})
    if len(data) > limits.module_bytes:
        findings.rejected.append(f"{len(data)} bytes, the limit module_bytes is {limits.module_bytes}")
    if is_module(data, file):
        _inspect_module(findings, data, os.fsdecode(file), engine.value, limits, keys)
    else:
        _inspect_document(findings, data, file)
    facts = {**findings.facts, "refused": findings.rejected, "unknown": findings.unknown}
    print_facts(facts if as_json else _rows(facts), as_json=as_json)
    raise typer.Exit(1 if findings.rejected else 0)


def _at_least_default(limits: Limits) -> Limits:
    return Limits(module_bytes=max(limits.module_bytes, Limits().module_bytes))


def _inspect_document(findings: Findings, data: bytes, path: Path) -> None:
    findings.facts["kind"] = "document"
    try:
        policy = RuntimePolicy.from_document(data, format=document_format(path), path=path_text(path))
    except CapgateError as error:
        findings.reject(error)
        return
    # Of a document the digest is that of what it says.
    findings.facts |= {"name": policy.name, "version": policy.version, "policy_sha256": policy.sha256}
    findings.facts["inputs"] = sorted(policy.inputs)
    findings.facts |= _about_monitored(policy.monitored)


def _inspect_module(
    findings: Findings, data: bytes, path: str, engine: str, limits: Limits, keys: BundleKeys | None
) -> None:
    findings.facts["kind"] = "bundle" if is_archive(data) else "module"
    try:
        # Without keys, that there is something to show where a signature is wrong; and with room.
        artifact = WasmArtifact(data, path, limits=_at_least_default(limits))
    except CapgateError as error:
        findings.reject(error)
        if isinstance(error, BundleError):
            findings.facts["bundle"] = {"reason": error.reason, "member": error.member}
        return
    if artifact.is_component:
        findings.facts["kind"] = "component"
    findings.facts |= {"name": artifact.name, "version": artifact.version, "abi": artifact.abi}
    _read_as_application(findings, artifact, path, limits, keys)
    if artifact.bundle is not None:
        findings.facts["bundle"] |= _about_bundle(artifact.bundle, len(artifact.rego_data))
    if artifact.inputs is not None:
        findings.facts["inputs"] = sorted(artifact.inputs)
    findings.facts |= _about_monitored(artifact.monitored)
    findings.facts["module"] = _about_module(artifact.decoded, len(artifact.module))
    _prepare(findings, artifact, engine, limits)


def _read_as_application(
    findings: Findings, artifact: WasmArtifact, path: str, limits: Limits, keys: BundleKeys | None
) -> None:
    """Read the file as an application does: under its limits, with its keys, unless that is how it was read."""
    bundle = artifact.bundle
    signature: dict[str, object] = {"state": "none" if bundle is None or not bundle.is_signed else "not verified"}
    if keys is None and signature["state"] == "not verified":
        signature["why"] = "no keys are given; --bundle-keys"
    try:
        is_read = keys is None and limits.module_bytes >= Limits().module_bytes
        again = bundle if is_read else WasmArtifact(artifact.data, path, limits=limits, bundle_keys=keys).bundle
        if again is not None and again.signature is not None:
            signature = {"state": "verified", **msgspec.to_builtins(again.signature)}
    except SignatureInvalid as error:
        findings.reject(error)
        signature |= {"state": "wrong" if bundle is not None and bundle.is_signed else "none", "why": error.reason}
    except CapgateError as error:
        findings.reject(error)
    if bundle is not None:
        findings.facts["bundle"] = {"signature": signature}


def _about_bundle(bundle: Bundle, data_bytes: int) -> dict[str, object]:
    return {
        "revision": bundle.revision,
        "roots": list(bundle.roots),
        "entrypoints": list(bundle.entrypoints),
        "module": bundle.module,
        "data_bytes": data_bytes,
        "files": bundle.files,
    }


def _about_monitored(monitored: MonitoredRules | None) -> dict[str, object]:
    """Return which rules only monitor, where there are some."""
    if monitored is None:
        return {}
    return {"monitored": [f"rules[{each.number}] {each.rule.reason}" for each in monitored.rules]}


def _about_module(module: Module, size: int) -> dict[str, object]:
    return {
        "size": size,
        "functions": len(module.functions),
        "memory": [_pages(memory) for memory in module.all_memories()],
        "imports": [
            {"module": item.module, "name": item.name, "kind": item.kind, **_type(item.type)} for item in module.imports
        ],
        "exports": [{"name": item.name, "kind": item.kind} for item in module.exports],
    }


def _type(imported: int | TableType | MemoryType | GlobalType) -> dict[str, int | None]:
    return _pages(imported) if isinstance(imported, MemoryType) else {}


def _pages(memory: MemoryType) -> dict[str, int | None]:
    return {"minimum": memory.minimum, "maximum": memory.maximum}


def _prepare(findings: Findings, artifact: WasmArtifact, engine: str, limits: Limits) -> None:
    """Restrict and meter the module, then make an instance: its start code runs under fuel, as always."""
    try:
        prepared = PreparedPolicy(artifact, limits)
    except CapgateError as error:
        findings.reject(error)
        findings.unknown.append("entry points and builtins: no instance can be made of what is refused")
        return
    findings.facts["module"]["metered_size"] = len(prepared.metered.data)
    findings.facts["reused"] = prepared.pure
    findings.facts["abi_version"] = artifact.interface if prepared.facts is None else f"1.{prepared.facts.minor}"
    try:
        loaded = load_engine(engine)
    except CapgateError as error:
        findings.unknown.append(f"whether an instance can be made: {error}")
        return
    findings.facts["engine"] = loaded.name
    try:
        compiled = CompiledPolicy(prepared, loaded)
        if artifact.abi != OPA:
            findings.facts["question"] = _asked(compiled.instantiate())
            return
        findings.facts["question"] = {"fuel_limit": prepared.limits.call_fuel}
        listed = compiled.listing()
    except CapgateError as error:
        findings.reject(error)
        return
    findings.facts["entrypoints"] = list(listed.entrypoints)
    findings.facts["builtins"] = [_about_builtin(name) for name in listed.builtins]
    absent = [builtin["name"] for builtin in findings.facts["builtins"] if builtin["state"] != "provided"]
    if absent:
        findings.rejected.append(f"needs builtins that are not provided: {', '.join(absent)}")
    missing = [] if artifact.bundle is None else sorted(set(artifact.bundle.entrypoints) - set(listed.entrypoints))
    if missing:
        findings.unknown.append(f"why the bundle's manifest lists entry points that the module has not: {missing}")


def _asked(interpreter: WasmInterpreter) -> dict[str, object]:
    """Ask the shortest question that there is, to see what it spends, whatever the answer."""
    started, limit = time.thread_time(), interpreter.prepared.limits.call_fuel
    try:
        interpreter.call_policy_check(PolicyInput("env.read"))
        fuel: int | None = interpreter.fuel_spent
    except PolicyTimeout:
        fuel = limit
    except PolicyError:
        fuel = None
    return {"fuel": fuel, "fuel_limit": limit, "milliseconds": round((time.thread_time() - started) * 1e3, 3)}


def _about_builtin(name: str) -> dict[str, str]:
    from ...rego import BUILTINS, NOT_PROVIDED  # imports slowly, and no other command needs it before it runs a module

    if name in BUILTINS:
        return {"name": name, "state": "provided"}
    return (
        {"name": name, "state": "refused", "why": NOT_PROVIDED[name]}
        if name in NOT_PROVIDED
        else {"name": name, "state": "unknown"}
    )


# -- for people


def _rows(facts: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return one line for each fact, in printable ASCII: the names in a file are anybody's."""
    rows: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict) and name != "files":
            rows |= _rows(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = _cell(list(value) if isinstance(value, dict) else value)
    return rows


def _cell(value: object) -> str:
    if isinstance(value, list):
        told = [_cell(item) for item in value[:SHOWN]]
        return ", ".join(told + ([f"and {len(value) - SHOWN} more"] if len(value) > SHOWN else [])) or "-"
    if isinstance(value, dict):
        return quoted(_text(value))
    return "-" if value is None or value == "" else quoted(str(value))


def _text(value: Mapping[str, object]) -> str:
    if "name" not in value:
        return f"{value['minimum']} to {value['maximum'] or 'any number of'} pages"
    name = f"{value['module']}.{value['name']}" if "module" in value else str(value["name"])
    state = value.get("state", "provided")
    why = f": {value['why']}" if value.get("why") else ""
    return name if state == "provided" else f"{name} {state}{why}"
