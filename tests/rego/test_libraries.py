"""A builtin whose library is not installed is refused, with what to install; the others are there."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CODE = """
import sys
sys.modules[{module!r}] = None
from capgate.rego import BUILTINS, NOT_PROVIDED
assert {name!r} not in BUILTINS
assert {library!r} in NOT_PROVIDED[{name!r}] and "pip install capgate[rego]" in NOT_PROVIDED[{name!r}]
assert "sprintf" in BUILTINS and "time.now_ns" in BUILTINS
"""


@pytest.mark.parametrize(
    ("module", "library", "name"),
    [
        ("re2", "google-re2", "regex.replace"),
        ("yaml", "pyyaml", "yaml.unmarshal"),
        ("tzdata", "tzdata", "time.format"),
        ("cryptography", "cryptography", "io.jwt.decode_verify"),
    ],
)
def test_without_its_library_a_builtin_is_refused(module: str, library: str, name: str) -> None:
    code = CODE.format(module=module, library=library, name=name)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
