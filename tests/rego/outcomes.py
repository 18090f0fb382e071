"""Asking a module of OPA's ABI, and saying in a word what came of it."""

from __future__ import annotations

from capgate.artifact.load import WasmArtifact
from capgate.errors import AbiError, BuiltinError, PolicyError, PolicyTimeout, PolicyTrap
from capgate.limits import Limits
from capgate.model import ONLY_ENTRYPOINT, Allow, Deny, Entrypoint, PolicyInput, Resource, User
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter

INPUT = PolicyInput(
    "db.write", User("alice"), Resource("sql_query", "upsert_user"), timestamp=1_700_000_000_123_456_789
)
#: Enough for every guest here, and soon spent by one that loops.
LIMITS = Limits(fuel=100_000, memory_pages=16, deadline=10.0)


def opened(
    engine_name: str, module: bytes, entrypoint: Entrypoint = ONLY_ENTRYPOINT, limits: Limits = LIMITS
) -> WasmInterpreter:
    prepared = PreparedPolicy(WasmArtifact.from_bytes(module), limits, entrypoint)
    return CompiledPolicy(prepared, load_engine(engine_name)).instantiate()


def outcome(interpreter: WasmInterpreter, input: PolicyInput = INPUT) -> str:
    """``allow``, ``deny <reason>``, or what was raised: ``trap <kind>``, ``abi <rule>``, ``timeout``, ``builtin``."""
    try:
        result = interpreter.call_policy_check(input)
    except PolicyError as error:
        assert interpreter.broken
        return describe(error)
    assert not interpreter.broken
    assert type(result) in (Allow, Deny)
    return f"deny {result.reason}" if isinstance(result, Deny) else "allow"


def describe(error: PolicyError) -> str:
    if isinstance(error, PolicyTrap):
        return f"trap {error.kind}"
    if isinstance(error, AbiError):
        return f"abi {error.rule}"
    if isinstance(error, BuiltinError):
        return f"builtin {error.reason}"
    return "timeout" if isinstance(error, PolicyTimeout) else type(error).__name__


def outcome_of(engine_name: str, module: bytes, limits: Limits = LIMITS) -> str:
    """The same, where loading may fail already: that is ``load: …``."""
    try:
        interpreter = opened(engine_name, module, limits=limits)
    except PolicyError as error:
        return f"load: {describe(error)}"
    return outcome(interpreter)
