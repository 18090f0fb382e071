"""Shows capgate at work: ``capgate demo``. Read ``command.py`` first."""
