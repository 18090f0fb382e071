"""Gates clients of Redis: asks before each command is sent.

Uses ``enforcement``. Read ``gated_redis.py`` first.
"""

from __future__ import annotations

from .gated_redis import AsyncGatedConnection, GatedConnection, gate_redis, namespace_of

__all__ = ["AsyncGatedConnection", "GatedConnection", "gate_redis", "namespace_of"]
