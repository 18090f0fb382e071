"""``capgate build``: a policy document becomes a module on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..build import build_policy
from ..errors import ArtifactError
from ..store.loader import WasmArtifact, read_document


def run(document: Path, output: Path) -> None:
    """Build ``document`` into ``output``, replaced in one step, and print the digest and the path like sha256sum."""
    artifact = WasmArtifact.from_bytes(build_policy(read_document(document)))
    try:
        _replace(output, artifact.data)
    except OSError as error:
        raise ArtifactError(f"cannot be written: {error.strerror}", path=str(output)) from error
    print(f"{artifact.sha256}  {output}")


def _replace(path: Path, data: bytes) -> None:
    """Write ``data`` so that whoever opens ``path`` sees the old file or the whole new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
