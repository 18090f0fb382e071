"""Writes what one begins with: ``capgate new``.

It may use every room. Read ``command.py`` first. The files come from ``template``, which is part of the wheel.
"""
