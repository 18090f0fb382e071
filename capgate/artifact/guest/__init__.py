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
def evaluator(*, facts: bool = False) -> bytes:
    """Return a compiled guest, without an image: the one of policies that look at ``facts``, or of the others.

    ``rebuild.py`` makes them from their sources, byte for byte.
    """
    return files(__name__).joinpath("facts_evaluator.wasm" if facts else "evaluator.wasm").read_bytes()
