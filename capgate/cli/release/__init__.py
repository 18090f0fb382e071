"""Signs, publishes and activates releases: ``capgate sign``, ``publish``, ``activate``, ``rollback``. Read ``commands.py`` first."""
