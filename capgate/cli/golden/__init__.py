"""Runs golden fixtures: ``capgate test``. Read ``command.py`` first."""
