"""Says what an application configures, and makes the checker that it means.

Uses ``checker``, ``store`` and the words. Read ``settings.py`` first.
"""

from __future__ import annotations

from .select import select_checker
from .settings import Settings

__all__ = ["Settings", "select_checker"]
