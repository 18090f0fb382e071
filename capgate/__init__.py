"""Capability gating for ASGI applications: asks a sandboxed policy before a sensitive effect.

The way of a request, through the rooms::

    request ─► middleware ─► routes            what does this route need?
                  │     └──► enforcement ─► checker ─► runtime ─► (abi, engine) ─► Allow | Deny ─► events
    effect ──► capabilities ──┘                │
    policy:  document (policy) ─► artifact ─► store ─┘         bytes: wasm       words: model, actions, limits, errors

To be read in this order:

- ``middleware/middleware.py``: lets a request in, under a seal
- ``routes/dispatch.py``: finds its route, has it asked about, and runs it
- ``middleware/request.py``: one request
- ``checker/base.py``, ``checker/wasm.py``: ``Allow`` or ``Deny``, whatever happens
- ``runtime/pool.py``: live policy instances

The docstring of each room says what lives there, what it may use, and which file to read first.
"""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

from .actions import BuiltinAction
from .artifact.build import build_policy
from .artifact.load import WasmArtifact, load_wasm_artifact
from .checker.base import PolicyChecker
from .checker.local import LocalPolicyChecker
from .checker.wasm import WasmPolicyChecker
from .enforcement.capabilities import Capabilities
from .errors import CapabilityDenied
from .limits import Limits
from .middleware.claims import actor_from_claims
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
from .routes.typed import TypedRequires
from .runtime.interpreter import WasmInterpreter
from .runtime.pool import WasmPool
from .settings.select import select_checker
from .settings.settings import Settings

__all__ = [
    "Allow",
    "Anonymous",
    "BuiltinAction",
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
    "TypedRequires",
    "User",
    "WasmArtifact",
    "WasmInterpreter",
    "WasmPolicyChecker",
    "WasmPool",
    "actor_from_claims",
    "build_policy",
    "load_wasm_artifact",
    "requires",
    "select_checker",
]

try:
    #: The version of the distribution that is installed; ``"0+unknown"`` of sources that never were.
    __version__ = _version("capgate")
except _NotInstalled:
    __version__ = "0+unknown"
