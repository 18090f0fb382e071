"""Gates an ASGI application: passes a request on only after a policy allowed it.

Uses ``enforcement``, ``routes``, ``settings`` and the words. Read ``middleware.py`` first.
"""

from __future__ import annotations

from .actors import actor_from_user, on_behalf_of_header
from .claims import actor_from_claims
from .middleware import CapabilityMiddleware

__all__ = ["CapabilityMiddleware", "actor_from_claims", "actor_from_user", "on_behalf_of_header"]
