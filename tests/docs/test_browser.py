"""The site in a browser: nothing is cut off or too wide, in the light and in the dark, with the keyboard."""

from __future__ import annotations

import functools
import http.server
import importlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.tools import require_module, require_tool
from .site import Site

pytestmark = pytest.mark.slow

#: Least contrast of text to what is behind it: WCAG 2.2, 1.4.3.
CONTRAST = 4.5
CONTRAST_OF = """selectors => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const linear = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = part => {
    for (; part; part = part.parentElement) {
      const colour = parts(getComputedStyle(part).backgroundColor);
      if (colour.length == 3 || colour[3] == 1) return colour;
    }
    return [255, 255, 255];
  };
  const shown = part => part.innerText.trim() && part.offsetParent;
  return [...document.querySelectorAll(selectors)].filter(shown).map(part => {
    const [a, b] = [light(parts(getComputedStyle(part).color)), light(behind(part))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), part.tagName + ': ' + part.innerText.slice(0, 40)];
  });
}"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(site.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = require_tool("chromium")
    require_module("playwright")
    sync_playwright = importlib.import_module("playwright.sync_api").sync_playwright
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


def opened(browser: Any, width: int, scheme: str = "light") -> Any:
    """A new page of a window of that width."""
    return browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()


@pytest.mark.parametrize("width", [360, 1400])
def test_no_page_is_wider_than_the_window_or_asks_another_host(
    browser: Any, site: Site, address: str, width: int
) -> None:
    page, wrong, asked = opened(browser, width), list[tuple[str, str]](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: wrong.append((page.url, request.url)))
    page.on("pageerror", lambda error: wrong.append((page.url, str(error))))
    for path in site.pages:
        page.goto(f"{address}/{path.relative_to(site.folder)}")
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append((page.url, "is too wide"))
        broken = page.evaluate("[...document.images].filter(it => !it.naturalWidth).map(it => it.src)")
        wrong += [(page.url, image) for image in broken]
    page.context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith((f"{address}/", "data:"))] == []
    assert len(site.pages) > 40


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(browser: Any, address: str, scheme: str) -> None:
    page, wrong, seen = opened(browser, 1400, scheme), list[Any](), 0
    for name in ("index", "tutorial/users", "reference/settings", "reference/api", "reference/reasons", "concepts"):
        page.goto(f"{address}/{name}.html")
        measured = page.evaluate(CONTRAST_OF, "article p, article li, article td, article h1, article a, pre span")
        seen += len(measured)
        wrong += [(name, contrast, text) for contrast, text in measured if contrast < CONTRAST]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    page.context.close()
    assert wrong == []
    assert seen > 500
    assert (max(background) < 60) == (scheme == "dark")


def test_the_keyboard_is_enough(browser: Any, address: str) -> None:
    page = opened(browser, 1400)
    page.goto(f"{address}/index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#furo-main-content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#furo-main-content")
    page.goto(f"{address}/index.html")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.tagName"))
    page.context.close()
    assert {"tutorial/index.html", "INPUT", "reference/reasons.html"} <= reached


def test_the_search_finds_a_reason(browser: Any, address: str) -> None:
    page = opened(browser, 1400)
    page.goto(f"{address}/search.html?q=pool_exhausted")
    page.wait_for_selector("#search-results li a", timeout=60_000)
    links = page.eval_on_selector_all("#search-results li a", "all => all.map(it => it.getAttribute('href'))")
    page.context.close()
    assert any(Path(link.partition("?")[0].partition("#")[0]).name == "reasons.html" for link in links)
