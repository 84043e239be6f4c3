"""The site that `make docs` builds: without a warning, without a dead link, and as it should look in a browser."""

import collections
import html.parser
import os
import posixpath
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import browser
import markdown_pages
import pytest
from markdown_pages import ROOT

DESK, PHONE = 1280, 400
LEAST_TEXT = 11  # CSS px


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={site}"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stdout
    assert [line for line in built.stdout.splitlines() if not line.startswith("INFO ")] == []
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    with browser.opened() as one:
        yield one


class Parts(html.parser.HTMLParser):
    """The tags of a page, those of its article, its addresses and its anchors."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.article: collections.Counter[str] = collections.Counter()
        self._inside = False
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside |= tag == "article"
        self.article[tag] += self._inside
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.addresses.append(value)
            elif name == "id" and value:
                self.anchors.add(value)

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "article"


def of_site(site: Path, page: str) -> Path:
    return site / page.replace("README.md", "index.md").replace(".md", ".html")


@pytest.mark.parametrize("page", markdown_pages.tracked("*.md"))
def test_every_link_leads_somewhere_on_github(page: str):
    files = set(markdown_pages.tracked())
    places = files | {str(folder) for file in files for folder in Path(file).parents}
    dead = []
    for line, link in markdown_pages.links((ROOT / page).read_text()):
        parts = urllib.parse.urlsplit(link)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), urllib.parse.unquote(parts.path)))
        target = target if parts.path else page
        if parts.scheme:
            assert parts.scheme in ("https", "mailto"), f"{page}:{line}: {link}"
        elif target not in places:
            dead.append(f"{page}:{line}: {link}: no such file in git")
        elif parts.fragment and parts.fragment not in markdown_pages.anchors((ROOT / target).read_text()):
            dead.append(f"{page}:{line}: {link}: no such heading")
    assert not dead, "\n".join(dead)


def test_every_link_leads_somewhere_in_the_site(site: Path):
    pages = {file: Parts(file) for file in site.rglob("*.html") if file.name != "404.html"}
    dead = []
    for file, parts in pages.items():
        for address in parts.addresses:
            split = urllib.parse.urlsplit(address)
            if split.scheme or split.netloc:
                continue
            target = (file.parent / urllib.parse.unquote(split.path)).resolve() if split.path else file
            if not target.is_file():
                dead.append(f"{file.relative_to(site)}: {address}: no such file")
            elif split.fragment and target in pages and split.fragment not in pages[target].anchors:
                dead.append(f"{file.relative_to(site)}: {address}: no such place")
    assert not dead, "\n".join(dead)


@pytest.mark.parametrize("page", markdown_pages.pages())
def test_a_page_has_the_parts_that_github_shows(site: Path, page: str):
    github: collections.Counter[str] = collections.Counter()
    for token in markdown_pages.tokens((ROOT / page).read_text()):
        if token.type in ("heading_open", "list_item_open", "tr_open"):
            github[token.tag] += 1
        elif token.type in ("fence", "code_block"):
            github["pre"] += 1
        github["img"] += sum(child.type == "image" for child in token.children or [])
    shown = Parts(of_site(site, page)).article
    assert {tag: shown[tag] for tag in github} == github


@browser.needed
@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("page", markdown_pages.pages())
def test_a_page_fits_its_screen_and_asks_nothing_of_others(
    site: Path, chromium: browser.Browser, page: str, width: int
):
    shown = chromium.facts(of_site(site, page), width)
    assert shown.messages == ()
    assert [url for url in shown.requests if not url.startswith(site.as_uri())] == []
    assert shown.failed_requests == ()
    assert shown.sticking_out == ()
    assert shown.scroll_width <= width
    assert shown.smallest_text.size >= LEAST_TEXT, shown.smallest_text


def dead_link(root: Path) -> None:
    with (root / "docs/gpus.md").open("a") as page:
        page.write("\n[nowhere](../results/nowhere.json)\n")


def dead_anchor(root: Path) -> None:
    with (root / "README.md").open("a") as page:
        page.write("\n[nowhere](docs/gpus.md#nowhere)\n")


def not_in_the_navigation(root: Path) -> None:
    (root / "docs/forgotten.md").write_text("# Forgotten\n")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [(dead_link, "nowhere.json"), (dead_anchor, "#nowhere"), (not_in_the_navigation, "docs/forgotten.md")],
)
def test_a_fault_stops_the_build(tmp_path: Path, spoil: Callable[[Path], None], complaint: str):
    for path in markdown_pages.tracked():
        if path.endswith((".md", ".css", ".yml")) or path.startswith(("docs/", "results/")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
    spoil(tmp_path)
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    assert complaint in built.stdout
