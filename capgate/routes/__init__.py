"""Says what a route needs, and which route a request reaches.

Uses ``policy`` and the words. Read ``declare.py`` first.
"""
