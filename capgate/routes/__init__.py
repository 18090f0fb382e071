"""Says what each route needs and which one a request reaches; uses ``policy`` and the words (``declare.py`` first)."""
