"""``capgate build``: a policy document becomes a module on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..build import build_policy
from ..errors import ArtifactError
from ..store.loader import WasmArtifact, read_document


def run(document: Path, output: Path) -> None:
    """Build ``document`` into ``output``, replaced in one step, and print the digest and the path like sha256sum.

    A link is followed. Raises :class:`ArtifactError` where the module cannot be written, as over a device or a FIFO.
    """
    artifact = WasmArtifact.from_bytes(build_policy(read_document(document)))
    shown = os.fsencode(output).decode("utf-8", "replace")  # a name need not be text
    write(output, artifact.data)
    print(f"{artifact.sha256}  {shown}", flush=True)


def write(output: Path, data: bytes) -> None:
    """``data`` as the file ``output``, replaced in one step; a link is followed. Raises :class:`ArtifactError`."""
    shown = os.fsencode(output).decode("utf-8", "replace")
    try:
        _replace(Path(os.path.realpath(output)), data, shown)
    except OSError as error:
        raise ArtifactError(f"cannot be written: {error.strerror}", path=shown) from error


def _replace(path: Path, data: bytes, shown: str) -> None:
    """Write ``data`` so that whoever opens ``path`` sees the old file or the whole new one."""
    if path.exists() and not path.is_file():
        raise ArtifactError("cannot be written: it is there, and not a regular file", path=shown)
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
