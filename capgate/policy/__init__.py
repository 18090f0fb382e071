"""Policy documents, and :class:`RuntimePolicy`, which judges by one in Python."""

from __future__ import annotations

from .document import Document, Section, is_label
from .evaluate import ALWAYS, INPUTS, ActionEntry, Explanation, RuntimePolicy
from .rules import Pattern, Rule
from .strict import ascii_lower
from .wellformed import is_well_formed

__all__ = [
    "ALWAYS",
    "INPUTS",
    "ActionEntry",
    "Document",
    "Explanation",
    "Pattern",
    "Rule",
    "RuntimePolicy",
    "Section",
    "ascii_lower",
    "is_label",
    "is_well_formed",
]
