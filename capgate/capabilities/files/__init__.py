"""Gates the files below a folder: asks before each is opened, listed, made, renamed or removed.

Uses ``enforcement``. Read ``gated_files.py`` first.
"""

from __future__ import annotations

from .gated_files import GatedFiles

__all__ = ["GatedFiles"]
