"""Explains policy documents: what would turn an answer round, and what changes between two documents.

Uses the rest of ``policy``. Read ``advice.py`` first.
"""
