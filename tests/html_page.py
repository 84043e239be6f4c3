"""A page of HTML, taken apart for tests."""

from html import parser as html_parser


class Page(html_parser.HTMLParser):
    """The parts of a page that the tests look at."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.images, self.links, self.cells, self.text = [], [], [], [], ""
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attributes)
        if tag == "img":
            self.images.append(values)
        if tag == "a":
            self.links.append(values["href"])
        if tag == "td":
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data
