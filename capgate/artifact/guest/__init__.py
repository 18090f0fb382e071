"""Holds the policy guest: its source, the module compiled from it, and the image of a policy that it searches.

Uses ``policy`` and the words. Read ``image.py`` first.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from .image import make_image
from .rule_tables import IMAGE_BASE

__all__ = ["IMAGE_BASE", "evaluator", "make_image"]


@cache
def evaluator() -> bytes:
    """Return the compiled guest, without an image. ``rebuild.py`` makes it from ``evaluator.zig``, byte for byte."""
    return files(__name__).joinpath("evaluator.wasm").read_bytes()
