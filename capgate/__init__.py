"""Capability gating for ASGI applications: ask a sandboxed policy before a sensitive effect.

The way of a request, to be read in this order::

    middleware.py    the policy enforcement point: 403, or on to the application
    checker.py       the policy decision point: Allow or Deny, whatever happens
    pool.py          live policy instances, made at start-up
    interpreter.py   one instance behind the policy ABI (abi/, engine/)

At start-up ``store/loader.py`` reads and pins the artifact, and ``wasm/`` decodes, restricts and meters it. Policies as
documents: ``policy/``, ``build.py``.
"""

from .artifact.build import build_policy
from .artifact.load import WasmArtifact, load_wasm_artifact
from .checker.local import LocalPolicyChecker, PolicyChecker, WasmPolicyChecker
from .enforcement.capabilities import Capabilities
from .errors import CapabilityDenied
from .limits import Limits
from .middleware.middleware import CapabilityMiddleware
from .model import (
    Allow,
    Anonymous,
    CompilerTool,
    Deny,
    Entrypoint,
    Environment,
    PolicyInput,
    PolicyResult,
    Resource,
    Service,
    User,
)
from .policy import RuntimePolicy
from .routes.contract import HandlerContract
from .routes.declare import requires
from .runtime.interpreter import WasmInterpreter
from .runtime.pool import WasmPool
from .settings.select import select_checker
from .settings.settings import Settings

__all__ = [
    "Allow",
    "Anonymous",
    "Capabilities",
    "CapabilityDenied",
    "CapabilityMiddleware",
    "CompilerTool",
    "Deny",
    "Entrypoint",
    "Environment",
    "HandlerContract",
    "Limits",
    "LocalPolicyChecker",
    "PolicyChecker",
    "PolicyInput",
    "PolicyResult",
    "Resource",
    "RuntimePolicy",
    "Service",
    "Settings",
    "User",
    "WasmArtifact",
    "WasmInterpreter",
    "WasmPolicyChecker",
    "WasmPool",
    "build_policy",
    "load_wasm_artifact",
    "requires",
    "select_checker",
]
