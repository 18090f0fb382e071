"""``capgate schema``: the JSON Schema of policy documents, for editors."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from ...policy.schema import document_schema
from ..words import print_json
from .build import write


def run(output: Path | None, *, as_json: bool) -> None:
    """Print the schema, or write it to ``output``. Raises :class:`ArtifactError` where that cannot be written."""
    data = f"{json.dumps(document_schema(), indent=2)}\n".encode("ascii")
    if output is None:
        print(data.decode("ascii"), end="", flush=True)
        return
    write(output, data)
    if as_json:
        shown = os.fsencode(output).decode("utf-8", "replace")
        print_json({"path": shown, "sha256": hashlib.sha256(data).hexdigest()})
