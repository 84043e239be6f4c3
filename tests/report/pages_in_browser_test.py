"""The pages as a browser shows them, on a desk and on a phone: nothing broken, nothing cut off, nothing too small."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import browser
import matplotlib
import numpy as np
import pytest
from matplotlib import figure, image
from paper_runs import LAYERED, TYPOS, write_runs
from run_folders import vocabulary, write_losses, write_run

from kronecker.paper import paper_page, training_claims
from kronecker.probes import parameters
from kronecker.report import compare, comparison_page, pages, plot
from kronecker.run import finished_runs

pytestmark = browser.needed
SEEDS, IDS, PREDICTIONS = range(3), 60, 20_000
RUNS = {  # folder -> (arm, loss, overrides): with settings, so that names are as long as a study's
    "table_untied": ("table_untied", 4.61, {}),
    "table_tied": ("table_tied", 4.71, {}),
    "kronecker": ("kronecker", 4.58, {}),
    "kronecker_unit": ("kronecker_unit", 4.609, {}),
    "kronecker_8": ("kronecker", 4.6, {"embedding.pos_dim": 8}),
    "kronecker_2x": ("kronecker", 4.57, {"embedding.lr_mult": 2.0, "embedding.truncation": "head_raw"}),
}
LEAST_TEXT, LEAST_LETTERS, LEAST_FIGURE = 11, 9, 320  # CSS px: of text, of text in a figure, of a figure
LETTERS = plot.LOOK["font.size"] * 96 / 72  # CSS px, of text in a figure that is not shrunk
DESK, PHONE = 1280, 400


def write_report(file: Path) -> None:
    rng = np.random.default_rng(0)
    text = rng.integers(0, IDS, PREDICTIONS + 1).astype(np.int32)
    facts = vocabulary(
        IDS,
        train_count=rng.integers(0, 1000, IDS),
        bytes=rng.integers(1, 40, IDS),
        special=np.arange(IDS) == 7,
        script=rng.integers(0, 3, IDS),
    )
    colliding = np.where(np.arange(IDS) % 3 == 0, 4, -1).astype(np.int32)
    for name, (arm, loss, overrides) in RUNS.items():
        for seed in SEEDS:
            folder = file.parent / "runs" / f"{name}-seed{seed}"
            run = write_run(folder, arm, seed, loss, overrides)
            noise = np.random.default_rng(seed).gamma(4, 1, PREDICTIONS)
            nats = (noise + loss - 4 + 0.01 * rng.normal(size=PREDICTIONS)).astype(np.float32)
            codes = {"code_group": colliding} if arm == "kronecker" else {}
            write_losses(run, facts | codes, nats=nats, inputs=text[:-1], targets=text[1:])
    compared = compare.compare([finished_runs.read(run) for run in finished_runs.find([file.parent / "runs"])])
    comparison_page.write(compared, file, "Made-up runs")


def write_paper(file: Path) -> None:
    compared = training_claims.pair(write_runs(file.parent / "runs"))
    found = {"parameters": [parameters.measure()], "probes": [LAYERED, TYPOS]}
    paper_page.write(compared, found, file, "The paper's tables")


PAGES: dict[str, Callable[[Path], None]] = {"report": write_report, "paper": write_paper}


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    with browser.opened() as one:
        yield one


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp(request.param) / f"{request.param}.html"
    PAGES[request.param](file)
    return file


@pytest.fixture(scope="module", params=[DESK, PHONE])
def shown(request: pytest.FixtureRequest, chromium: browser.Browser, page: Path) -> browser.Facts:
    return chromium.facts(page, request.param)


def test_the_page_raises_no_complaint_of_the_browser(shown: browser.Facts):
    assert shown.messages == ()


def test_the_page_asks_for_no_other_file_or_host(shown: browser.Facts):
    assert shown.requests == shown.failed_requests == ()


def test_every_figure_is_drawn_and_has_a_text_for_those_who_do_not_see_it(shown: browser.Facts):
    assert len(shown.images) >= 3
    assert [image for image in shown.images if not (image.complete and image.natural_width and image.alt)] == []


def test_every_figure_is_large_enough_to_read(shown: browser.Facts):
    small = {image.alt: image.width for image in shown.images if image.width < min(LEAST_FIGURE, image.natural_width)}
    assert small == {}
    letters = {image.alt: LETTERS * image.width / image.natural_width for image in shown.images if image.natural_width}
    assert {alt: size for alt, size in letters.items() if size < LEAST_LETTERS} == {}


def test_no_text_in_a_figure_is_cut_off_or_overlaps_another(shown: browser.Facts):
    assert {image.alt: image.cut for image in shown.images if image.cut} == {}
    assert {image.alt: image.overlapping for image in shown.images if image.overlapping} == {}


def test_the_page_does_not_scroll_sideways(shown: browser.Facts):
    assert shown.sticking_out == ()
    assert shown.scroll_width <= shown.width


def test_every_column_of_a_table_can_be_brought_into_view(shown: browser.Facts):
    assert shown.covered == ()


def test_no_text_is_too_small(shown: browser.Facts):
    assert shown.smallest_text.size >= LEAST_TEXT, shown.smallest_text.text


def test_every_link_leads_somewhere(shown: browser.Facts):
    assert shown.dead_links == ()


CSS = Path(pages.__file__).parents[1] / "assets" / "pages" / "page.css"


@pytest.mark.parametrize(("cells", "shadow"), [(2, False), (40, True)])
def test_a_shadow_at_its_right_edge_marks_a_table_that_goes_on_there(
    chromium: browser.Browser, tmp_path: Path, cells: int, shadow: bool
):
    page = tmp_path / "page.html"
    table = f'<div class="scroll"><table><tr>{"<td>x</td>" * cells}</tr></table></div>'
    page.write_text(f"{HEAD}<style>{CSS.read_text()} body {{ padding: 0 }}</style><body>{table}")
    (drawn,) = chromium.screenshot(page, PHONE, tmp_path)
    edge, inside = image.imread(drawn)[5, [PHONE - 1, PHONE - 100], 0]  # 0 is black, 1 white
    assert (edge < 0.8, inside > 0.98) == (shadow, True)


# The helper itself: that it sees each of these faults.

HEAD = '<!DOCTYPE html><title>x</title><meta name="viewport" content="width=device-width, initial-scale=1">'
WIDE = '<div id="wide" style="width: 900px">x</div>'
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="30"></svg>'


@pytest.fixture
def look(chromium: browser.Browser, tmp_path: Path) -> Callable[..., browser.Facts]:
    def write_and_look(body: str, head: str = HEAD, width: int = PHONE) -> browser.Facts:
        (tmp_path / "page.html").write_text(f"{head}<body style='margin: 0'>{body}")
        return chromium.facts(tmp_path / "page.html", width)

    return write_and_look


def test_a_page_without_faults_has_none_reported(look: Callable[..., browser.Facts], tmp_path: Path):
    (tmp_path / "odd name #1.csv").write_text("1")
    links = (
        '<a href="odd%20name%20%231.csv">x</a><a href="#here">x</a><a href="#top">x</a><a href="https://x.test/">x</a>'
    )
    hidden = '<p style="display: none; font-size: 3px">hidden</p>'
    picture = f"<img alt='dot' src='data:image/svg+xml,{DOT}'>"
    script = "<script>console.log('fine')</script>"
    box = f'<div style="overflow-x: auto">{WIDE}{picture}</div>'
    assert look(f'<p id="here">x {links}</p>{hidden}{script}{box}') == browser.Facts(
        width=PHONE,
        messages=(),
        requests=(),
        failed_requests=(),
        images=(browser.Image("dot", natural_width=90, width=90, complete=True, scrolls=True),),
        scroll_width=PHONE,
        sticking_out=(),
        covered=(),
        smallest_text=browser.Text(16, "x"),
        dead_links=(),
    )


@pytest.mark.parametrize("level", ["error", "warn"])
def test_what_a_page_says_on_the_console_is_reported(look: Callable[..., browser.Facts], level: str):
    (message,) = look(f"<script>console.{level}('gone wrong')</script>").messages
    assert "gone wrong" in message


def test_what_one_page_said_is_not_reported_of_the_next(look: Callable[..., browser.Facts]):
    assert look("<script>console.error('x')</script><img src='none.png'>").messages
    after = look("x")
    assert after.messages == after.requests == after.failed_requests == ()


def test_a_picture_that_is_not_there_is_reported(look: Callable[..., browser.Facts]):
    seen = look('<img src="none.png" alt="none">')
    assert [(image.alt, image.natural_width) for image in seen.images] == [("none", 0)]
    (request,), (failed,) = seen.requests, seen.failed_requests
    assert request.endswith("/none.png")
    assert failed == f"{request}: net::ERR_FILE_NOT_FOUND"


def test_a_picture_that_cannot_be_read_is_reported(look: Callable[..., browser.Facts]):
    (image,) = look(f"<img src='data:image/svg+xml,{DOT[:-9]}' alt='cut'>").images
    assert image.natural_width == 0


def test_texts_of_a_figure_that_are_cut_off_or_overlap_are_reported(look: Callable[..., browser.Facts]):
    paper = figure.Figure((3, 2))
    for x, y, text in [
        (0.9, 0.9, "goes over the edge"),
        (0.2, 0.5, "one here"),
        (0.25, 0.5, "two there"),
        (0.2, 0.2, "x"),
    ]:
        paper.text(x, y, text)
    with matplotlib.rc_context(plot.LOOK):
        picture = base64.b64encode(plot.svg(paper).encode()).decode()
    (image,) = look(f'<img alt="x" src="data:image/svg+xml;base64,{picture}">').images
    assert image.cut == ("goes over the edge",)
    assert image.overlapping == ("one here | two there",)


@pytest.mark.parametrize(
    ("body", "end", "told"),
    [
        (WIDE, 900, "div#wide ends at 900 px"),
        (f'<details class="more"><summary>x</summary>{WIDE}</details>', 900, "div#wide ends at 900 px"),
        (f'<p style="font: 10px monospace">{"x" * 100}</p>', None, "text of p ends at"),
        (f'<div class="a b" style="width: 500px; overflow: auto">{WIDE}</div>', 500, "div.a.b ends at 500 px"),
    ],
)
def test_what_sticks_out_to_the_right_is_reported(
    look: Callable[..., browser.Facts], body: str, end: int | None, told: str
):
    seen = look(body)
    (only,) = seen.sticking_out
    assert only.startswith(told)
    assert seen.scroll_width == end or (end is None and seen.scroll_width > PHONE)
    assert look(body, width=DESK).sticking_out == ()


@pytest.mark.parametrize(("name", "reported"), [(250, ()), (251.5, ("row | 1.23: 150 px in 148 px",))])
def test_a_column_that_a_sticky_one_leaves_no_room_is_reported(
    look: Callable[..., browser.Facts], name: float, reported: tuple[str, ...]
):
    cell = '<td style="padding: 0; min-width: {}px; {}">{}</td>'
    cells = [cell.format(name, "position: sticky; left: 0", "row"), cell.format(90, "", 4), cell.format(150, "", 1.23)]
    seen = look(f'<div style="overflow-x: auto"><table style="border-spacing: 0"><tr>{"".join(cells)}</table></div>')
    assert seen.covered == reported


def test_a_page_that_a_phone_would_show_shrunk_is_reported(look: Callable[..., browser.Facts]):
    assert look("x", head="<!DOCTYPE html><title>x</title>").scroll_width > PHONE


def test_the_smallest_visible_text_is_reported(look: Callable[..., browser.Facts]):
    assert look('<p>x<b style="font-size: 6px">tiny</b>').smallest_text == browser.Text(6, "tiny")


def test_links_to_nothing_are_reported(look: Callable[..., browser.Facts]):
    hrefs = ("page/none.csv", "#nowhere", "page.html#nor-here", "page.html", "#here")
    assert look('<p id="here">' + "".join(f'<a href="{href}">x</a>' for href in hrefs)).dead_links == hrefs[:3]


def test_a_picture_of_the_page_holds_all_of_it(chromium: browser.Browser, tmp_path: Path):
    (tmp_path / "tall.html").write_text(f'{HEAD}<body style="margin: 0"><div style="height: {browser.SLICE + 50}px">')
    drawn = chromium.screenshot(tmp_path / "tall.html", PHONE, tmp_path)
    sizes = [tuple(int.from_bytes(file.read_bytes()[at : at + 4]) for at in (16, 20)) for file in drawn]  # PNG's IHDR
    assert sizes == [(PHONE, browser.SLICE), (PHONE, 50)]
