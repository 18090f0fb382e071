"""Says what an application configures, and makes the checker that it means.

Uses ``checker``, ``store`` and the words. Read ``table.py`` first, then ``settings.py`` and ``select.py``.
"""

from __future__ import annotations

from .select import select_checker
from .settings import Settings

__all__ = ["Settings", "select_checker"]
