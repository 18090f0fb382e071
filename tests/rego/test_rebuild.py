"""The committed guest of OPA's ABI is what its sources give, the evaluator's among them."""

from __future__ import annotations

import pytest

from ..support.rego_guests import COMPILED
from ..support.tools import require_module
from .guest import rebuild

pytestmark = pytest.mark.slow


def test_the_sources_give_the_committed_bytes() -> None:
    require_module("ziglang")
    assert rebuild.compile_guest() == COMPILED.read_bytes()
    assert rebuild.main(["--check"]) == 0


def test_it_is_used_in_no_other_way() -> None:
    with pytest.raises(SystemExit):
        rebuild.main(["--force"])
