"""Says what an application configures, and makes the checker that it means.

Uses ``checker``, ``store`` and the words. Read ``table.py`` first, then ``settings.py`` and ``select.py``.
"""

from __future__ import annotations

from .select import select_checker
from .settings import PREFIX, VARIABLES, Settings

__all__ = ["PREFIX", "VARIABLES", "Settings", "select_checker"]
