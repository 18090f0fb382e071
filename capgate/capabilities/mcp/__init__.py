"""Gates MCP servers over streamable HTTP: asks before each call of a tool.

Uses ``enforcement``. Read ``gated_server.py`` first.
"""

from __future__ import annotations

from .gated_server import GatedMCP

__all__ = ["GatedMCP"]
