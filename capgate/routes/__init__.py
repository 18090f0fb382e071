"""Says what a route needs and which route a request reaches, using ``policy`` and the words; read ``declare.py`` first."""
