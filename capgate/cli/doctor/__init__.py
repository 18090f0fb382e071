"""Reads how an application is put together, and says what is wrong with it: ``capgate doctor``.

It may use every room. Read ``command.py`` first, then ``examine.py``, which has the order of what is looked at.
"""
