"""Signs, publishes and activates releases, from ``capgate keygen`` to ``capgate rollback``.

Uses ``store``, ``testing`` and what is below them. Read ``signing.py`` first.
"""
