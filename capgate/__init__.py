"""Capability gating for ASGI applications: ask a sandboxed policy before a sensitive effect.

The way of a request, to be read in this order::

    middleware.py    the policy enforcement point: 403, or on to the application
    checker.py       the policy decision point: Allow or Deny, whatever happens
    pool.py          live policy instances, made at start-up
    interpreter.py   one instance behind the policy ABI (abi/, engine/)

At start-up ``store/loader.py`` reads and pins the artifact, and ``wasm/`` decodes, restricts and meters it. Policies as
documents: ``policy/``, ``build.py``.
"""

from .build import build_policy
from .checker import LocalPolicyChecker, PolicyChecker, WasmPolicyChecker
from .contract import HandlerContract
from .declare import requires
from .errors import CapabilityDenied
from .handlers import Capabilities
from .interpreter import WasmInterpreter
from .limits import Limits
from .middleware import CapabilityMiddleware
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
from .pool import WasmPool
from .select import select_checker
from .settings import Settings
from .store.loader import WasmArtifact, load_wasm_artifact

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
