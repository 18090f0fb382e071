"""The committed guest of OPA's ABI is what its sources give, the evaluator's among them."""

from __future__ import annotations

import pytest

from ..support.rego_guests import COMPILED
from .guest import rebuild

pytestmark = pytest.mark.slow


def test_the_sources_give_the_committed_bytes() -> None:
    pytest.importorskip("ziglang", reason="the guest's compiler, from the extra 'guest'")
    assert rebuild.compile_guest() == COMPILED.read_bytes()
    assert rebuild.main(["--check"]) == 0


def test_it_is_used_in_no_other_way() -> None:
    with pytest.raises(SystemExit):
        rebuild.main(["--force"])
