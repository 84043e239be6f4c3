"""The code blocks of a page of Markdown: run as printed in a copy of the checkout, or checked where they cannot run.

    bash      runs; a failing command fails the page.  `NAME=VALUE  # tests: SMALLER` runs with SMALLER
    console   lines that begin with `$ ` run, the lines below are the output to come, `...` any lines of it; times,
              sizes and fractions are masked, but not in what a failing command prints
    python    runs below the page's earlier python blocks
    diff      is applied; the bash block after it tries it
    text      is not run

The blocks of a page run in order in one copy and share their shell variables.  `<!-- not run: needs REASON -->` before
a block leaves it out: only its syntax, its flags, its config keys and its make targets are checked.
`<!-- tests: NAME=VALUE -->` sets an environment variable for the block.
"""

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import markdown_pages
from markdown_pages import ROOT

KINDS = ("bash", "console", "python", "diff", "text")
SECONDS = 1200  # of a block, on a busy machine
MARKER = re.compile(r"<!--\s*(not run|tests):?\s*(.*?)\s*-->", re.DOTALL)
VARIABLE = re.compile(r"^(\s*(\w+) ?= ?)(\S+)\s+# tests: (\S+)$", re.MULTILINE)
MEASURED = re.compile(r"\d[\d,]*(\.\d+(e[+-]?\d+)?|e[+-]?\d+|(?= ?(ms|s|min|h|[kMGT]?B|tokens/s)\b)|(?= ?%))")
HERE_DOCUMENT = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?(.*?)\n.*?\n\s*\1\n", re.DOTALL)
# What `make` may not do in a test: start the tests again, or install.
OUTSIDE = {"test", "extras", "check", "quick", "reference", "tpu", "gpu", "sky", "engines", "trackers", "clean"}


class WrongBlockError(Exception):
    """A block that does not do what the page says."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its fence, `needs` the reason why it is not run, `environment` what is set."""

    page: str
    line: int
    kind: str
    text: str
    needs: str | None
    environment: tuple[tuple[str, str], ...]

    def fault(self, words: str, output: str = "") -> WrongBlockError:
        return WrongBlockError(
            f"{self.page}:{self.line}: {words}\n\n{self.text}" + (f"\nprinted:\n{output}" if output else "")
        )


def read(page: str, text: str) -> list[Block]:
    """Returns the blocks of a page with its marked variables set for tests."""
    blocks: list[Block] = []
    marks: dict[str, str] = {}
    for token in markdown_pages.tokens(text):
        here = Block(page, (token.map or [0])[0] + 1, token.info.partition(" ")[0], token.content, None, ())
        if marks and token.type not in ("fence", "html_block"):
            raise here.fault(f"a marker stands right before the block that it is about: {marks}")
        if token.type == "html_block":
            marks |= dict(MARKER.findall(token.content))
        elif token.type == "code_block":
            raise here.fault("an indented block has no kind; fence it")
        elif token.type == "fence":
            if here.kind not in KINDS:
                raise here.fault(f"{here.kind or 'nothing'!r} is no kind of block; take one of {', '.join(KINDS)}")
            blocks.append(_marked(here, marks))
            marks = {}
    for i, block in enumerate(blocks):
        if block.kind == "diff" and not any(after.kind in ("bash", "console") for after in blocks[i + 1 : i + 2]):
            raise block.fault("a diff is followed by a bash block that tries it")
    return _with_variables(blocks)


def _marked(block: Block, marks: dict[str, str]) -> Block:
    needs, environment = None, ()
    if "not run" in marks:
        needs = marks["not run"].removeprefix("needs ")
        if needs == marks["not run"] or not needs:
            raise block.fault("a block that is not run says why: <!-- not run: needs REASON -->")
    if "tests" in marks:
        name, equals, value = marks["tests"].partition("=")
        if not equals:
            raise block.fault("what tests set is <!-- tests: NAME=VALUE -->")
        environment = ((name, value),)
    return dataclasses.replace(block, needs=needs, environment=environment)


def _with_variables(blocks: list[Block]) -> list[Block]:
    text = "\n".join(block.text for block in blocks)
    for block in blocks:
        marked = VARIABLE.findall(block.text)
        if len(marked) != block.text.count("# tests:"):
            raise block.fault("a number for tests stands alone on its line: NAME=VALUE  # tests: SMALLER")
        for _, name, _, _ in marked:
            if not re.search(rf"\$\{{?{name}\b" if block.kind != "python" else rf"\b{name}\b(?! ?=)", text):
                raise block.fault(f"{name} is set and never used")
    return [dataclasses.replace(block, text=VARIABLE.sub(r"\1\4", block.text)) for block in blocks]


class Checkout:
    """A copy of git's files, a repository of its own, with the packages that this test has and the given `data`."""

    def __init__(self, folder: Path, data: Path | None = None, seconds: float = SECONDS) -> None:
        self.root = folder / "kronecker"
        self._seconds, self._state, self._output = seconds, folder / "state", folder / "output"
        for path in markdown_pages.tracked():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, self.root / path)
        if data:
            shutil.copytree(data, self.root / "data", copy_function=os.link)
        packages = self.root / ".venv"
        packages.mkdir()
        for name in ("bin", "lib", "lib64", "include", "pyvenv.cfg"):
            if (Path(sys.prefix) / name).exists():
                (packages / name).symlink_to(Path(sys.prefix) / name)
        (packages / "ready").touch()  # for make, which would install again
        makes = {"ARGS", "COLUMNS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "RUNS", "SEEDS", "SITE", "VENV"}
        self._environment = {name: value for name, value in os.environ.items() if name not in makes} | {
            "HOME": str(folder),
            "PATH": f"{packages / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.root),  # before the checkout that is installed
            "NO_MKDOCS_2_WARNING": "1",
        }
        identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
        for command in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "--message=All"]):
            subprocess.run(["git", *command], cwd=self.root, env=self._environment, check=True)

    def run(self, page: str, text: str) -> None:
        """Runs or checks every block of the page; raises WrongBlockError at the first that is wrong."""
        earlier = ""
        variables: dict[str, str] = {}
        for block in read(page, text):
            if block.needs:
                self.check(block, variables)
            elif block.kind == "bash":
                self._refuse(block, variables)
                code, printed = self._bash(block, f"set -euo pipefail\n{block.text}")
                if code:
                    raise block.fault(f"exit code {code}", printed)
            elif block.kind == "console":
                self._refuse(block, variables)
                self._console(block)
            elif block.kind == "python":
                earlier += block.text
                (self.root.parent / "block.py").write_text(earlier)
                code, printed = self._bash(block, f"python {self.root.parent / 'block.py'}")
                if code:
                    raise block.fault(f"exit code {code}", printed)
            elif block.kind == "diff":
                self._apply(block)
        self.check_inline(page, text)

    def check(self, block: Block, variables: dict[str, str]) -> None:
        """Checks a block that is not run: its syntax, and what our own scripts and make say of its commands."""
        if block.kind == "python":
            try:
                compile(block.text, block.page, "exec")
            except SyntaxError as error:
                raise block.fault(str(error)) from None
        elif block.kind == "diff":
            self._apply(block, "--check")
        elif block.kind in ("bash", "console"):
            commands = typed(block)
            syntax = subprocess.run(["bash", "-n"], input=commands, capture_output=True, text=True)
            if syntax.returncode:
                raise block.fault("bash cannot read it", syntax.stderr)
            for words in split(commands, variables):
                refusal = self._refusal(words)
                if refusal:
                    raise block.fault(shlex.join(words), refusal)

    def check_inline(self, page: str, text: str) -> None:
        """Checks the commands that stand within the text, as those of a block that is not run."""
        for line, token in markdown_pages.inline(text):
            if token.type == "code_inline" and re.match(r"(make|python) ", token.content):
                for words in split(token.content, {}):
                    refusal = self._refusal(words)
                    if refusal:
                        raise WrongBlockError(f"{page}:{line}: `{token.content}`\n{refusal}")

    def _refusal(self, words: list[str]) -> str:
        """Returns what make, or the script's own parser of flags, has against a command; "" if nothing."""
        command = ["make", "--dry-run"] if words[0] == "make" else ["python", "tests/flags_only.py"]
        answer = subprocess.run(
            [*command, *words[1:]],
            cwd=self.root,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return answer.stdout if answer.returncode else ""

    def _refuse(self, block: Block, variables: dict[str, str]) -> None:
        for words in split(typed(block), variables):
            for target in OUTSIDE & set(words) if words[0] == "make" else ():
                raise block.fault(f"make {target} is for no test to run: <!-- not run: needs ... -->")

    def _apply(self, block: Block, *flags: str) -> None:
        applied = subprocess.run(
            ["git", "apply", *flags, "-"], cwd=self.root, input=block.text, capture_output=True, text=True
        )
        if applied.returncode:
            raise block.fault("the diff does not apply", applied.stderr)

    def _console(self, block: Block) -> None:
        for command, expected in session(block):
            code, printed = self._bash(block, command)
            lines = [line.rstrip() for line in printed.splitlines()]
            if code and not expected:
                raise block.fault(f"{command}: exit code {code}", printed)
            if code:
                pattern, shown = _pattern(expected), lines
            else:
                pattern, shown = _pattern([mask(line) for line in expected]), [mask(line) for line in lines]
            if expected and not re.fullmatch(pattern, "".join(line + "\n" for line in shown)):
                raise block.fault(f"{command}: exit code {code}, other output", printed)

    def _bash(self, block: Block, commands: str) -> tuple[int, str]:
        """Returns the exit code and all that was printed; shell variables and folder are those of the block before."""
        script = (
            f'if [ -e {self._state} ]; then . {self._state} 2>/dev/null; cd "$PWD"; fi\n'
            f"trap 'declare -p >{self._state}' EXIT\n{commands}"
        )
        with self._output.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.root,
                env=self._environment | dict(block.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(self._seconds)
            except subprocess.TimeoutExpired:
                raise block.fault(f"not done after {self._seconds} s", self._output.read_text()) from None
            finally:
                with contextlib.suppress(ProcessLookupError):  # also what it left in the background
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return code, self._output.read_text()


def session(block: Block) -> list[tuple[str, list[str]]]:
    """Returns the commands of a console block, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if found and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0]}\n{line.removeprefix('> ')}", [])
        elif line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif found:
            found[-1][1].append(line.rstrip())
        else:
            raise block.fault("a console block begins with `$ ` and a command")
    return found


def typed(block: Block) -> str:
    """Returns the commands of a bash or console block."""
    return block.text if block.kind == "bash" else "\n".join(command for command, _ in session(block))


def mask(line: str) -> str:
    """Hides fractions, times, sizes and speeds, and the blanks that align them."""
    return re.sub(r"\s+", " ", MEASURED.sub("#", line)).strip()


def _pattern(lines: list[str]) -> str:
    return "".join("(?:.*\n)*" if line == "..." else re.escape(line) + "\n" for line in lines)


def split(text: str, variables: dict[str, str]) -> Iterator[list[str]]:
    """Yields the words of each command that calls one of our scripts or make; adds what is assigned to `variables`."""
    waiting = ""
    for line in HERE_DOCUMENT.sub(r"\2\n", text + "\n").replace("\\\n", " ").splitlines():
        waiting += line + "\n"
        lexer = shlex.shlex(waiting, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation goes on in the next line
            continue
        waiting = ""
        command: list[str] = []
        for word in [*words, ";"]:
            if not set(word) <= set("();<>|&"):
                command.append(string.Template(word).safe_substitute(variables))
                continue
            yield from _ours(command, variables)
            command = []
    if waiting.strip():
        raise WrongBlockError(f"a quotation without an end: {waiting}")


def _ours(words: list[str], variables: dict[str, str]) -> Iterator[list[str]]:
    while words and (assigned := re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL)):
        variables[assigned[1]] = assigned[2]
        words = words[1:]
    if words and words[0] == "make":
        yield words
    for i, word in enumerate(words[:-1]):
        if re.fullmatch(r"(.*/)?python[\d.]*", word) and words[i + 1].endswith(".py"):
            yield ["python", *words[i + 1 :]]
            return
    for word in words:
        if ".py " in word:  # a command for another machine
            yield from split(word, variables)
