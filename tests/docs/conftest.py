"""The site, built once."""

from __future__ import annotations

import pytest

from ..support.tools import require_module
from .site import Site, build


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    for name in ("sphinx", "furo", "myst_parser"):
        require_module(name)
    folder = tmp_path_factory.mktemp("site") / "html"
    done = build(folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return Site(folder)
