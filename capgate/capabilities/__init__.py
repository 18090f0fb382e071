"""Gates the clients that applications use anyway: each asks the policy before each effect.

Each asks the :class:`~capgate.enforcement.capabilities.Capabilities` of the request that is being served, so the code
that uses them holds no policy call. Outside of requests, wrap a job in :func:`using`. A denied effect raises
:class:`~capgate.errors.CapabilityDenied` and does not happen.

There is a module for each: ``http`` (httpx), ``sql`` (SQLAlchemy), ``cache`` (redis), ``environ``, ``files``,
``compute``, ``tools`` and ``mcp``. They import the library that they gate, and nothing here imports them. They use
``enforcement``. Read ``environ.py`` first, which is the shortest.
"""

from ..enforcement.capabilities import Capabilities
from ..enforcement.current import capabilities_for, current, using
from ..errors import CapabilityDenied

__all__ = ["Capabilities", "CapabilityDenied", "capabilities_for", "current", "using"]
