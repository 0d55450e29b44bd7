"""The pages as a site: it builds without a warning, no link in it is dead, and a browser fetches nothing for it."""

import importlib.util
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}
NAMED_ONLY = {"canonical", "edit", "prev", "next"}  # <link> that no browser loads


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        for name in ("src", "href"):
            if (tag, name) in LOADED and name in found and found.get("rel") not in NAMED_ONLY:
                self.loaded.add(found[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        if os.environ.get("CINEMA_REQUIRE_CHROMIUM"):
            pytest.fail("this is CI, and mkdocs-material is not installed")
        pytest.skip("mkdocs-material is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def target(page: Path, url: str, site: Path) -> tuple[Path, str] | None:
    """The file and the anchor that a URL on a page means; None for another place in the world."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    file = (site / path.lstrip("/") if path.startswith("/") else page.parent / path) if path else page
    return (file / "index.html" if file.is_dir() else file).resolve(), unquote(parts.fragment)


def test_there_is_a_page_for_each_of_ours(site, pages):
    built = {str(path.relative_to(site)) for path in pages}
    assert {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} <= built


def test_no_link_is_dead(site, pages):
    dead, followed = [], 0
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links begin at the root of a server
        for url in page.links | page.loaded:
            if (found := target(path, url, site)) is None:
                continue
            file, anchor = found
            followed += 1
            if not file.is_file():
                dead.append(f"{path.name}: {url}")
            elif anchor and file.suffix == ".html" and anchor not in pages[file].anchors:
                dead.append(f"{path.name}: {url} has no such heading")
    assert not dead
    assert followed > 500


def test_nothing_is_fetched_from_elsewhere(pages):
    elsewhere = {url for page in pages.values() for url in page.loaded if urlsplit(url).netloc}
    assert not elsewhere
