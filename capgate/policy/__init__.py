"""Policy documents, and :class:`RuntimePolicy`, which judges by one in Python."""

from __future__ import annotations

from .document import Document, Section, ascii_lower, is_label
from .evaluate import Rule, RuntimePolicy, is_well_formed

__all__ = ["Document", "Rule", "RuntimePolicy", "Section", "ascii_lower", "is_label", "is_well_formed"]
