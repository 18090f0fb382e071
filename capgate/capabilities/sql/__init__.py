"""Gates SQLAlchemy engines: asks before each statement that reaches the database.

Uses ``enforcement``. Read ``gated_engine.py`` first.
"""

from __future__ import annotations

from .gated_engine import gate_engine, named, query_name

__all__ = ["gate_engine", "named", "query_name"]
