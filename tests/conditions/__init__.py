"""Conditions: their text, their types, their bytes, their answers."""
