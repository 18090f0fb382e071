"""Asks for a decision, on behalf of an actor, by a deadline, and refuses a client: what all enforcement points share.

Uses ``checker`` and the words. Read ``point.py`` first.
"""
