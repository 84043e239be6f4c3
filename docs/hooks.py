"""Builds the site from the repository's own files, so that a link works in the site as it works on GitHub.

Pages keep their paths in the repository, and what they link to joins the site: Markdown as a page, a text file as a
page that shows it, a folder as its README or the list of its files, all else as it is.
"""

import html.parser
import posixpath
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

AS_IT_IS = {".css", ".csv", ".gif", ".html", ".json", ".png", ".svg"}  # browsers show them
LANGUAGES = {".py": "python", ".yaml": "yaml", ".cff": "yaml", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the theme's files, the pages, and what can be reached from the pages."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    pages = ["README.md", *(str(page.relative_to(root)) for page in sorted(docs.rglob("*.md")))]
    found: dict[str, File] = {}
    waiting = [*pages, *config.extra_css]
    while waiting:
        path = waiting.pop(0)
        if path not in found and (root / path).exists():
            found[path] = _file(root, path, config, in_nav=path in pages)
            waiting += _linked(root, path)
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *found.values()])


class _Shown(File):
    """A text file or the list of a folder's files, on a page of its own."""

    def is_documentation_page(self) -> bool:
        return True


class _Folder(File):
    """A folder with a README: a link to it leads to that page, which is written once."""

    def copy_file(self, dirty: bool = False) -> None:
        del dirty


def _file(root: Path, path: str, config: MkDocsConfig, in_nav: bool) -> File:
    inclusion = InclusionLevel.INCLUDED if in_nav else InclusionLevel.NOT_IN_NAV
    source = root / path
    of_folder = source / "README.md"
    made, page, text = File, None, None
    if of_folder.exists():
        made, page = _Folder, posixpath.join(path, "index.html")
    elif source.is_dir():
        made, page, text = _Shown, f"{path}/index.html", "\n".join(sorted(each.name for each in source.iterdir()))
    elif source.suffix not in AS_IT_IS | {".md"}:
        made, page, text = _Shown, f"{path}.html", source.read_text()
    file = made(path, str(root), config.site_dir, config.use_directory_urls, dest_uri=page, inclusion=inclusion)
    if text is not None:
        file.content_string = f"# {path}\n\n``````{LANGUAGES.get(source.suffix, 'text')}\n{text}\n``````\n"
    return file


def _linked(root: Path, path: str) -> list[str]:
    """Returns the paths in the repository that the file links to or shows."""
    source = root / path
    if source.is_dir():
        return [f"{path}/README.md"]
    if source.suffix == ".md":
        links = _links_of_markdown(source.read_text())
    elif source.suffix == ".html":
        links = _links_of_html(source.read_text())
    else:
        return []
    targets = []
    for link in links:
        parts = urllib.parse.urlsplit(link)
        if parts.path and not parts.scheme and not parts.netloc:
            joined = posixpath.normpath(posixpath.join(posixpath.dirname(path), urllib.parse.unquote(parts.path)))
            targets += [] if joined.startswith("..") else [joined]
    return targets


def _links_of_markdown(text: str) -> Iterator[str]:
    for block in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        for token in block.children or []:
            if token.type in ("link_open", "image"):
                yield str(token.attrGet("href") or token.attrGet("src"))


def _links_of_html(text: str) -> list[str]:
    found: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attrs if name in ("href", "src") and value)

    Reader().feed(text)
    return found
