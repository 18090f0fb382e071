"""Reads OPA bundles: a gzipped archive of a module, its data and a manifest, perhaps signed. Read ``contents.py``
first.
"""

from __future__ import annotations

from .archive import is_archive
from .contents import Bundle, read_bundle
from .signature import BundleKeys, BundleSignature

__all__ = ["Bundle", "BundleKeys", "BundleSignature", "is_archive", "read_bundle"]
