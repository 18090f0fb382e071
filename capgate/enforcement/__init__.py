"""Asks for a decision, on behalf of an actor, in time, and refuses a client: what all enforcement points share.

Uses ``checker`` and the words. Read ``point.py`` first.
"""
