"""Keeps live policy instances and asks them.

Uses ``artifact``, ``wasm``, ``rego`` and the words. Read ``pool.py`` first.
"""
