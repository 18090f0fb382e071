"""The site: it builds without a warning, asks no other host for anything, and none of its links is broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
import typer

from capgate import PolicyInput
from capgate.cli.app import app

from ..project.test_public_names import PROMISED
from .site import DOCS, Site

pytestmark = pytest.mark.slow


def test_every_page_is_there(site: Site) -> None:
    sources = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    made = {path.relative_to(site.folder) for path in site.pages}
    assert sources <= made
    assert made - sources <= {Path(name) for name in ("genindex.html", "search.html", "py-modindex.html")}


def test_no_page_loads_anything_from_another_host(site: Site) -> None:
    for path, page in site.pages.items():
        for address in page.loads:
            assert urlsplit(address)[:2] == ("", "") or address.startswith("data:"), (path.name, address)
    for path in [*site.folder.rglob("*.css"), *site.folder.rglob("*.svg")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""(?:@import\s+["']?|url\(\s*["']?|href=["'])(?:https?:)?//""", text), path


def test_no_link_and_no_anchor_is_broken(site: Site) -> None:
    broken = []
    for path, page in site.pages.items():
        for link in [*page.links, *page.loads]:
            scheme, host, to, _, fragment = urlsplit(link)
            if scheme or host:
                continue
            target = (path.parent / unquote(to)).resolve() if to else path
            if not target.is_file() or (
                fragment and target in site.pages and unquote(fragment) not in site.pages[target].anchors
            ):
                broken.append((path.name, link))
    assert broken == []


def test_every_picture_says_what_it_shows(site: Site) -> None:
    for path, page in site.pages.items():
        for image in page.images:
            assert image.get("alt"), (path.name, image)


PICTURES = sorted((DOCS / "pictures").glob("*.svg"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_each_picture_is_readable_on_a_telephone_in_the_dark_and_aloud(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    named = {part.tag.rpartition("}")[2]: part.text for part in root}
    assert named["title"]
    assert named["desc"]
    assert float(root.attrib["viewBox"].split()[2]) <= 360
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"<script|(?:href|src)=", text)


def test_the_picture_of_a_question_has_all_of_it() -> None:
    text = (DOCS / "pictures/question.svg").read_text(encoding="utf-8")
    drawn = set(re.findall(r'class="code left"[^>]*>(\w+)<', text))
    assert drawn == set(PolicyInput.__struct_fields__)


def test_every_public_name_is_in_the_reference(site: Site) -> None:
    anchors = site.pages[site.folder / "reference/api.html"].anchors
    said = {anchor.rpartition(".")[2] for anchor in anchors if anchor.startswith("capgate")}
    missing = {module: set(names) - said for module, names in PROMISED.items() if module != "capgate.testing.plugin"}
    assert not any(missing.values()), missing


def test_every_command_is_in_the_reference(site: Site) -> None:
    text = re.sub(r"<[^>]+>", "", site.pages[site.folder / "reference/command_line.html"].text)
    commands: Any = typer.main.get_command(app)
    assert len(commands.commands) > 15
    assert [name for name in commands.commands if f"capgate {name}" not in text] == []
