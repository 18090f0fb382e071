"""Gates MCP servers over streamable HTTP: asks before each call of a tool.

Uses ``enforcement``. Read ``gate.py`` first.
"""

from __future__ import annotations

from .gate import GatedMCP

__all__ = ["GatedMCP"]
