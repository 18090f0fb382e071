"""Builds, explains and compares policies: ``capgate build``, ``explain``, ``diff``, ``inspect``, ``schema``. Read ``commands.py`` first."""
