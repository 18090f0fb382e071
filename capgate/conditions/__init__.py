"""Compiles conditions, written in CEL, into bytes, and answers them from the facts of a question.

Uses ``errors``. Read ``nodes.py`` first, then ``compiled.py``.

A condition goes from text to a typed tree (``read.py``), by the grammar of ``cel-python``, which only those who build
need. From there it goes to bytes (``condition_table.py``), which are answered in Python (``answers.py``) and by the
guest, from facts that ``fact_table.py`` lays out.
"""

from __future__ import annotations

from .answers import MISSING_FACT, OUT_OF_RANGE, OVERFLOW, TOO_LONG, WRONG_TYPE, Answer, Facts, Unknown
from .compiled import Conditions, compile_conditions
from .declaration import ATTRIBUTE_TYPES, ATTRIBUTES_LIMIT, HOLDERS, NAME_LIMIT, Declaration, unusable_names
from .explanation import ConditionPart, Turn, explain
from .nodes import Constant, Fact, Has, Junction, Node, Operation, Plain
from .reach import Reach, candidates_of, facts_in, reach_of
from .read import read_condition
from .scan import TEXT_LIMIT
from .text import text_of
from .together import ALWAYS, EVERY, FALSE, TRUE, UNKNOWN, Together, Wish, together, with_constants

__all__ = [
    "ALWAYS",
    "ATTRIBUTES_LIMIT",
    "ATTRIBUTE_TYPES",
    "EVERY",
    "FALSE",
    "HOLDERS",
    "MISSING_FACT",
    "NAME_LIMIT",
    "OUT_OF_RANGE",
    "OVERFLOW",
    "TEXT_LIMIT",
    "TOO_LONG",
    "TRUE",
    "UNKNOWN",
    "WRONG_TYPE",
    "Answer",
    "ConditionPart",
    "Conditions",
    "Constant",
    "Declaration",
    "Fact",
    "Facts",
    "Has",
    "Junction",
    "Node",
    "Operation",
    "Plain",
    "Reach",
    "Together",
    "Turn",
    "Unknown",
    "Wish",
    "candidates_of",
    "compile_conditions",
    "explain",
    "facts_in",
    "reach_of",
    "read_condition",
    "text_of",
    "together",
    "unusable_names",
    "with_constants",
]
