"""Runs golden fixtures: ``capgate test``. Uses ``testing.golden``. Read ``command.py`` first."""
