"""Reads and explains policy documents, and answers by them in Python.

Uses the words. Read ``document.py`` first, then ``evaluate.py``.
"""

from __future__ import annotations

from .document import Document, PolicySection, is_label
from .evaluate import ALWAYS, INPUTS, ActionEntry, Explanation, RuntimePolicy
from .monitored import MonitoredRule, MonitoredRules
from .rules import Pattern, Rule
from .wellformed import is_well_formed

__all__ = [
    "ALWAYS",
    "INPUTS",
    "ActionEntry",
    "Document",
    "Explanation",
    "MonitoredRule",
    "MonitoredRules",
    "Pattern",
    "PolicySection",
    "Rule",
    "RuntimePolicy",
    "is_label",
    "is_well_formed",
]
