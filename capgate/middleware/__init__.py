"""Gates an ASGI application: passes a request on only after a policy allowed it.

Uses ``enforcement``, ``routes``, ``settings`` and the words. Read ``middleware.py`` first.
"""

from __future__ import annotations

from .middleware import CapabilityMiddleware

__all__ = ["CapabilityMiddleware"]
