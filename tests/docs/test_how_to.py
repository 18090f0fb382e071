"""The how-to pages: each is followed in an empty folder, and the tests that it has are run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from capgate.settings.settings import VARIABLES

from ..support.tools import require_module
from .newcomer import blocks, here
from .pages import Text
from .site import DOCS

pytestmark = pytest.mark.slow

PAGES = sorted(path for path in (DOCS / "how_to").glob("*.md") if path.name != "index.md")
#: What a page needs beside what capgate brings.
MODULES = {"graphql": "graphql", "own_module": "ziglang", "sessions": "itsdangerous"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    if page.stem in MODULES:
        require_module(MODULES[page.stem])
    with here(tmp_path) as newcomer:
        assert newcomer.follow(page) > 0
        if list(newcomer.home.rglob("test_*.py")):
            code, printed = newcomer.run("python -m pytest -q")
            assert code == 0, printed


def test_every_page_is_listed() -> None:
    text = (DOCS / "how_to/index.md").read_text(encoding="utf-8")
    assert [page.stem for page in PAGES if f"\n{page.stem}\n" not in text] == []


def test_what_runs_elsewhere_names_settings_that_there_are() -> None:
    """What no test runs is a Dockerfile and a manifest of Kubernetes: they are read."""
    docker = Text(DOCS / "how_to/docker.md").text
    (manifest,) = [yaml.safe_load(b.text) for b in blocks(Text(DOCS / "how_to/kubernetes.md").text) if b.file]
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    assert set(given) | set(re.findall(r"CAPGATE_\w+", docker)) <= set(VARIABLES)
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert [given["CAPGATE_STORE"], str(Path(given["CAPGATE_TRUSTED_KEYS"]).parent)] == mounted
    assert container["readinessProbe"]["httpGet"]["path"] == given["CAPGATE_PUBLIC"]
    (file,) = [block.text for block in blocks(docker) if block.file == "Dockerfile"]
    copied = re.findall(r"^COPY (.+) \./$", file, re.MULTILINE)[0].split()
    assert set(copied) <= {block.file for block in blocks(docker)}
