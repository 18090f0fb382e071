"""Makes one policy module: builds it from a document, or reads it from a file or a bundle, pinned by its digest.

Uses ``policy``, ``wasm`` and the words. Read ``load.py`` first.
"""
