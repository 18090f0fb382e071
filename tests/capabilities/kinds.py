"""Names the checkers that the gated clients are tried with.

It makes no difference to a client what answers, so the quick run takes one and leaves the others to the full run.
"""

from __future__ import annotations

import pytest

from ..support import gates

KINDS = [gates.KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in gates.KINDS[1:])]
