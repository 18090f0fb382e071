"""Asks for a decision, on behalf of an actor, by a deadline, and says no to the client: what every enforcement point shares.

Uses ``checker`` and the words. Read ``point.py`` first.
"""
