"""Names the engines that tests run on."""

from __future__ import annotations

import sys
from typing import Final

#: Engines that must import on this Python. An absent one fails the run: a skipped engine would look like a passed one.
EXPECTED_ENGINES: Final = ("wasmer", "wasmtime") if sys.version_info < (3, 11) else ("wasmtime",)
