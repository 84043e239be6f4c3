"""The Markdown files of the repository as GitHub reads them."""

import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]


def tracked(pattern: str = "*") -> list[str]:
    """Returns the paths of git's files that match, from the root."""
    found = subprocess.run(["git", "ls-files", "-z", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in found.stdout.split("\0") if path and (ROOT / path).exists()]


def pages() -> list[str]:
    """Returns README.md and the pages of docs/, from the root."""
    return ["README.md", *tracked("docs/*.md")]


def tokens(text: str) -> list[Token]:
    """Returns the blocks of `text`; those of words have children."""
    return MarkdownIt("gfm-like", {"linkify": False}).parse(text)


def inline(text: str) -> Iterator[tuple[int, Token]]:
    """Yields the line of each paragraph, heading and cell, and its links, images, code and words one by one."""
    for block in tokens(text):
        for token in block.children or []:
            yield (block.map or [0])[0] + 1, token


def links(text: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the address of each link and image."""
    for line, token in inline(text):
        if token.type in ("link_open", "image"):
            yield line, str(token.attrGet("href") or token.attrGet("src"))


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub gives to the headings."""
    found: dict[str, int] = {}
    names = set()
    blocks = tokens(text)
    for block, content in itertools.pairwise(blocks):
        if block.type == "heading_open":
            words = "".join(child.content for child in content.children or [])
            name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found[name] = found.get(name, 0) + 1
            names.add(name if found[name] == 1 else f"{name}-{found[name] - 1}")
    return names
