"""Decides: turns a question into an allow or a denial, whatever happens.

Uses ``runtime``, ``store``, ``policy`` and the words. Read ``base.py`` first.
"""

from __future__ import annotations

from .base import DENIED, Checker, PolicyChecker
from .cached import CachedChecker
from .following import FollowingChecker
from .local import LocalPolicyChecker
from .wasm import WasmPolicyChecker

__all__ = [
    "DENIED",
    "CachedChecker",
    "Checker",
    "FollowingChecker",
    "LocalPolicyChecker",
    "PolicyChecker",
    "WasmPolicyChecker",
]
