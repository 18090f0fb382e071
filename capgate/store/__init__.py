"""Where policies come from: one file read once (:func:`load_wasm_artifact`), the same with its signed manifest
(:class:`Verifier`), or a store of releases (:class:`PolicyStore`)."""

from __future__ import annotations

from ..artifact.load import WasmArtifact, load_wasm_artifact
from .directory import PolicyStore
from .manifest import Audience, Manifest
from .reader import Status, StoreReader
from .records import Active
from .releases import Release
from .signing import KeyPair, TrustedKeys
from .verifier import VerifiedPolicy, Verifier

__all__ = [
    "Active",
    "Audience",
    "KeyPair",
    "Manifest",
    "PolicyStore",
    "Release",
    "Status",
    "StoreReader",
    "TrustedKeys",
    "VerifiedPolicy",
    "Verifier",
    "WasmArtifact",
    "load_wasm_artifact",
]
