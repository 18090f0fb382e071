"""``capgate build``: a policy document becomes a module on disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...artifact.build import build_policy
from ...artifact.load import WasmArtifact, load_policy
from ...errors import ArtifactError
from ...store.folders import replace_at
from ..words import print_json

#: Bytes of a document from which on building it takes long enough to say how far it is.
MANY: Final = 250_000


def run(document: Path, output: Path, *, as_json: bool) -> None:
    """Build ``document`` into ``output``, replaced in one step, and print the digest and the path like sha256sum.

    A link is followed. Raises :class:`ArtifactError` where the module cannot be written, as over a device or a FIFO.
    """
    with _progress(document) as told:
        policy = load_policy(document)
        artifact = WasmArtifact.from_bytes(build_policy(policy, progress=told))
    shown = os.fsencode(output).decode("utf-8", "replace")  # a name need not be text
    write(output, artifact.data)
    if as_json:
        facts = {name: getattr(artifact, name) for name in ("sha256", "name", "version")}
        print_json({"path": shown, **facts, "bytes": len(artifact.data), "inputs": sorted(artifact.inputs or ())})
    else:
        print(f"{artifact.sha256}  {shown}", flush=True)


@contextlib.contextmanager
def _progress(document: Path) -> Iterator[Callable[[int, int], None] | None]:
    """What is told how far it is: a bar on standard error, where that is a terminal and the document large."""
    console = Console(stderr=True)
    if not console.is_terminal or _size(document) < MANY:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda done, total: progress.update(task, description="building", completed=done, total=total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # whoever reads it says so
        return 0


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
    replace_at(path, data, mode=0o644)
