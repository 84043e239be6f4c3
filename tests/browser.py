"""Local HTML pages as Chromium shows them: what a reader would see, and what goes wrong, as facts to assert on.

It needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver).
"""

import base64
import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

FOUND = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
needed = pytest.mark.extras("" if all(FOUND.values()) else "needs apt-get install chromium chromium-driver")
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",  # they would take 15 px of the width that was asked for
)
PHONE = 600  # CSS px; narrower screens are phones, which lay out at 980 px what has no viewport of its own
PATIENCE = 300  # seconds: the machine may be busy
SLICE = 8000  # CSS px of a page that are drawn at once: Chromium repeats itself beyond 16,384

FACTS = """
const [width] = arguments;
const scrolls = (box) => {
  for (; box && box !== document.body && box !== document.documentElement; box = box.parentElement)
    if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return true;
  return false;
};
const seen = (element) => element.checkVisibility({visibilityProperty: true, opacityProperty: true});
const name = (element) => element.localName + (element.id && '#' + element.id)
  + [...element.classList].map((one) => '.' + one).join('');
for (const closed of document.querySelectorAll('details')) closed.open = true;

const out = [];
for (const element of document.body.querySelectorAll('*')) {
  const box = element.getBoundingClientRect();
  if (box.width && box.right > width + .5 && seen(element) && !scrolls(element.parentElement))
    out.push(`${name(element)} ends at ${Math.round(box.right)} px`);
}
const texts = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim(), parent = walker.currentNode.parentElement;
  const range = document.createRange();
  range.selectNodeContents(walker.currentNode);
  const box = range.getBoundingClientRect();
  if (!text || !box.width || !seen(parent)) continue;
  texts.push([parseFloat(getComputedStyle(parent).fontSize), text.slice(0, 60)]);
  if (box.right > width + .5 && !scrolls(parent))
    out.push(`text of ${name(parent)} ends at ${Math.round(box.right)} px: ${text.slice(0, 60)}`);
}

// A sticky column covers what scrolls under it, so a column that is wider than the room beside it is never seen whole.
const covered = [];
for (const table of document.querySelectorAll('table')) {
  const box = table.parentElement, cells = [...table.rows[0]?.cells ?? []];
  const sticky = cells.filter((cell) => getComputedStyle(cell).position === 'sticky');
  const room = box.clientWidth - sticky.reduce((sum, cell) => sum + cell.offsetWidth, 0);
  if (sticky.length && seen(table) && scrolls(box) && box.scrollWidth > box.clientWidth)
    for (const cell of cells)
      if (!sticky.includes(cell) && cell.offsetWidth > room + 1)
        covered.push(`${sticky[0].innerText} | ${cell.innerText}: ${cell.offsetWidth} px in ${room} px`);
}

const found = {
  images: [...document.images].map((image) => ({
    alt: image.alt, natural_width: image.naturalWidth, width: image.getBoundingClientRect().width,
    complete: image.complete, scrolls: scrolls(image.parentElement), cut: [], overlapping: []})),
  scroll_width: document.documentElement.scrollWidth,
  smallest_text: texts.sort((one, other) => one[0] - other[0])[0] ?? [0, ''],
  sticking_out: out,
  covered,
  links: [...document.querySelectorAll('a[href]')].map((link) => [link.getAttribute('href'), link.href]),
  anchors: [...document.querySelectorAll('[id], a[name]')].flatMap((at) => [at.id, at.name]).filter(Boolean),
};

// A page cannot look into an image, so each SVG is drawn once more as part of the page, where its texts have boxes.
// Matplotlib draws a text as paths in a group text_N, with the text itself in a comment.
const words = (text) =>
  [...text.childNodes].filter((node) => /text|comment/.test(node.nodeName)).map((node) => node.data).join('').trim();
const drawing = async (image, told) => {
  const source = await (await fetch(image.src)).text();
  const host = document.body.appendChild(document.createElement('div'));
  const svg = new DOMParser().parseFromString(source, 'image/svg+xml').documentElement;
  host.attachShadow({mode: 'open'}).append(svg);  // ids of one figure are ids of another too
  const edge = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text, g[id^=text_]')].map((one) => ({
    box: one.getBoundingClientRect(),
    said: words(one),
  }));
  texts.forEach(({box, said}, i) => {
    const over = [edge.left - box.left, box.right - edge.right, edge.top - box.top, box.bottom - edge.bottom];
    if (Math.max(...over) > .5) told.cut.push(said);
    for (const other of texts.slice(i + 1))
      if (Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left) > 1
          && Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top) > 1)
        told.overlapping.push(`${said} | ${other.said}`);
  });
  host.remove();
};
const drawn = [...document.images].map((image, i) =>
  image.naturalWidth && image.src.startsWith('data:image/svg+xml') ? drawing(image, found.images[i]) : null);
return Promise.all(drawn).then(() => found);
"""


@dataclasses.dataclass(frozen=True)
class Image:
    """An <img>.

    Attributes:
      alt: its text for those who do not see it.
      natural_width: CSS px of the picture itself; 0 where it could not be loaded.
      width: CSS px that it takes on the page.
      complete: whether the browser is done with it.
      scrolls: whether it stands in a box that scrolls sideways.
      cut: texts of an SVG that go over its edge.
      overlapping: pairs of texts of an SVG that share more than a pixel.
    """

    alt: str
    natural_width: int
    width: float
    complete: bool
    scrolls: bool
    cut: tuple[str, ...] = ()
    overlapping: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of visible text: its size in CSS px, and its beginning."""

    size: float
    text: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """A page at one width, its <details> open; lengths in CSS px.

    Attributes:
      width: of the screen.
      messages: warnings and errors on the console.
      requests: URLs that the page asked for beside its own.
      failed_requests: those of them that failed, each with the error.
      images: in order.
      scroll_width: of the whole document; more than `width` scrolls sideways.
      sticking_out: elements and texts that end right of the screen and are in no box that scrolls.
      covered: columns of tables that the sticky ones leave too little room for, however far one scrolls.
      smallest_text: outside images; of size 0 where there is none.
      dead_links: hrefs to files that do not exist, or to places that the page does not have.
    """

    width: int
    messages: tuple[str, ...]
    requests: tuple[str, ...]
    failed_requests: tuple[str, ...]
    images: tuple[Image, ...]
    scroll_width: int
    sticking_out: tuple[str, ...]
    covered: tuple[str, ...]
    smallest_text: Text
    dead_links: tuple[str, ...]


class Browser:
    """Opens local pages; `opened` makes one."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def facts(self, page: Path, width: int) -> Facts:
        """Returns what `page` is on a screen `width` CSS px wide."""
        self._open(page, width)
        found = self._driver.execute_script(FACTS, width)
        messages = [line for line in self._driver.get_log("browser") if line["level"] in ("WARNING", "SEVERE")]
        requests, failed = self._requests(page)
        return Facts(
            width=width,
            messages=tuple(f"{line['level']}: {line['message']}" for line in messages),
            requests=requests,
            failed_requests=failed,
            images=tuple(_image(**image) for image in found["images"]),
            scroll_width=found["scroll_width"],
            sticking_out=tuple(found["sticking_out"]),
            covered=tuple(found["covered"]),
            smallest_text=Text(*found["smallest_text"]),
            dead_links=tuple(href for href, url in found["links"] if _dead(url, page, found["anchors"])),
        )

    def evaluated(self, page: Path, width: int, script: str) -> Any:
        """Returns what a script returns on `page`; a dialog that the page opens raises."""
        self._open(page, width)
        return self._driver.execute_script(script)

    def screenshot(self, page: Path, width: int, folder: Path) -> list[Path]:
        """Writes the whole page as PNG files of at most `SLICE` px each, from its top down; returns them."""
        self._open(page, width)
        size = self._driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        written = []
        for top in range(0, size["height"], SLICE):
            clip = {"x": 0, "y": top, "width": size["width"], "height": min(SLICE, size["height"] - top), "scale": 1}
            drawn = self._driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True, "format": "png"}
            )
            file = folder / f"{page.stem}-{width}-{len(written)}.png"
            file.write_bytes(base64.b64decode(drawn["data"]))
            written.append(file)
        return written

    def _open(self, page: Path, width: int) -> None:
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < PHONE}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        for log in ("browser", "performance"):
            self._driver.get_log(log)  # reading empties it of what the page before said
        self._driver.get(page.resolve().as_uri())

    def _requests(self, page: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        own = page.resolve().as_uri()
        asked: dict[str, str] = {}
        failed = []
        for line in self._driver.get_log("performance"):
            event = json.loads(line["message"])["message"]
            of: dict[str, Any] = event["params"]
            if event["method"] == "Network.requestWillBeSent":
                url = of["request"]["url"]
                if url.partition("#")[0] != own and not url.startswith("data:"):
                    asked[of["requestId"]] = url
            elif event["method"] == "Network.loadingFailed" and of["requestId"] in asked:
                failed.append(f"{asked[of['requestId']]}: {of['errorText']}")
        return tuple(asked.values()), tuple(failed)


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """Yields a browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = FOUND["chromium"]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to start as root with it
    service = webdriver.ChromeService(executable_path=FOUND["chromedriver"])  # a path: nothing is looked for or fetched
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_page_load_timeout(PATIENCE)
            driver.set_script_timeout(PATIENCE)
            yield Browser(driver)
        finally:
            driver.quit()


def _image(cut: list[str], overlapping: list[str], **of: Any) -> Image:
    return Image(cut=tuple(cut), overlapping=tuple(overlapping), **of)


def _dead(url: str, page: Path, anchors: list[str]) -> bool:
    split = urllib.parse.urlsplit(url)
    if split.scheme != "file":
        return False
    target = Path(urllib.parse.unquote(split.path))
    if target != page.resolve():
        return not target.exists()
    return split.fragment not in ("", "top") and urllib.parse.unquote(split.fragment) not in anchors
