"""Where policies come from. So far: :func:`load_wasm_artifact`, one file read once."""

from __future__ import annotations

from .loader import WasmArtifact, load_wasm_artifact

__all__ = ["WasmArtifact", "load_wasm_artifact"]
