"""Builds, explains and compares policies: ``capgate schema``, ``build``, ``explain``, ``inspect`` and ``diff``.

Uses every room but ``middleware`` and ``capabilities``. Read ``build.py`` first.
"""
