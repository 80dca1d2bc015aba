"""The pages build without a warning, load nothing from anywhere else, and can be searched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "docs" / "site" / "mkdocs.yml"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built pages."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(CONFIG), "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """Collects the addresses of all that a page loads by itself: not where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "srcset", "poster", "data"} | ({"href"} if tag in ("link", "use", "image") else set())
        values = dict(attrs)
        if values.get("rel") in ("prev", "next", "canonical", "alternate"):
            return
        self.addresses += [value for name, value in attrs if name in names and value]
        self.addresses += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style") or "")


def elsewhere(address: str) -> bool:
    return re.match(r"(?:https?:)?//", address.strip()) is not None


def test_what_is_loaded_is_found():
    """Guards the test below against a reader that sees nothing."""
    page = Loaded()
    page.feed(
        '<link rel="stylesheet" href="https://a/x.css"><script src="//b/x.js"></script><a href="https://c/">'
        '<img srcset="http://d/x.png"><p style="background: url(https://e/x.png)"><img src="x.png">'
    )
    assert [a for a in page.addresses if elsewhere(a)] == [
        "https://a/x.css", "//b/x.js", "http://d/x.png", "https://e/x.png",
    ]  # fmt: skip


def test_nothing_is_loaded_from_another_host(site):
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) >= 11 and styles
    for path in pages:
        page = Loaded()
        page.feed(path.read_text(encoding="utf-8"))
        assert page.addresses and not [a for a in page.addresses if elsewhere(a)], path
    for path in styles:
        found = re.findall(r"(?:url\(|@import\s+)['\"]?([^'\")]+)", path.read_text(encoding="utf-8"))
        assert not [a for a in found if elsewhere(a)], path


def test_examples_and_figure_are_in_the_pages(site):
    for page, example in (("environment", "dark_room"), ("agent", "fast_weights"), ("experiment", "few_arms")):
        text = re.sub(r"<[^>]+>", "", (site / f"{page}.html").read_text(encoding="utf-8"))
        first = (ROOT / "docs" / "examples" / f"{example}.py").read_text().splitlines()[0]
        assert first.strip('"') in text
    assert 'id="snail-figure"' in (site / "how-it-works.html").read_text(encoding="utf-8")
    assert (site / "notebook.ipynb").exists() and not (site / "site").exists()


def test_the_reference_has_what_extensions_derive_from(site):
    for package, names in {
        "snail": ("SequenceModel", "SNAIL"),
        "envs": ("TrialVectorEnv",),
        "baselines": ("ClassicalAgent",),
        "runs": ("TrialTask", "SequenceAgent", "register", "register_agent", "load_extensions", "Training"),
    }.items():
        text = (site / "api" / f"{package}.html").read_text(encoding="utf-8")
        for name in names:
            assert re.search(rf'id="{package}(\.\w+)+\.{name}"', text), name


def test_the_figure_shows_the_model_as_it_is(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "figures"))
    import draw_snail

    assert draw_snail.draw() == draw_snail.PATH.read_text(encoding="utf-8")


@pytest.fixture
def address(site) -> Iterator[str]:
    """Where the pages are served, for this machine alone."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_reader_searches_and_asks_no_other_host(address):
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="dark")
        asked: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}/how-it-works.html")
        assert page.locator("svg[aria-labelledby=snail-figure]").is_visible()
        page.click("input[name=query]")
        page.keyboard.type("dilation")
        page.locator(".md-search-result__item a", has_text="How SNAIL works").first.wait_for(timeout=60_000)
        page.goto(f"{address}/api/snail.html")
        page.locator("h3", has_text="SequenceModel").wait_for(timeout=60_000)
        browser.close()
    assert not problems
    assert len(asked) > 5 and all(a.startswith((address, "data:", "blob:")) for a in asked), asked
