"""Decides: turns a question into an allow or a denial, whatever happens.

Uses ``runtime``, ``store``, ``policy`` and the words. Read ``base.py`` first.
"""

from __future__ import annotations

from .base import PolicyChecker
from .cached import QuickChecker
from .following import FollowingChecker
from .local import LocalPolicyChecker, WasmPolicyChecker

__all__ = ["FollowingChecker", "LocalPolicyChecker", "PolicyChecker", "QuickChecker", "WasmPolicyChecker"]
