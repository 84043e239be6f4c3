"""The code blocks of README.md and docs/: each does what the page says (tests/code_blocks.py has the rules)."""

from pathlib import Path

import code_blocks
import markdown_pages
import pytest

# A page with a test of its own is run there.
PAGES = [page for page in markdown_pages.pages() if not Path(__file__).with_name(f"{Path(page).stem}_test.py").exists()]


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder data/ with the demo's text in it: ten seconds that most pages would take."""
    checkout = code_blocks.Checkout(tmp_path_factory.mktemp("data"))
    checkout.run("demo", fenced(("bash", "python scripts/prepare_data.py --config=configs/demo.py")))
    return checkout.root / "data"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_do_what_it_says(tmp_path: Path, demo_data: Path, page: str):
    try:
        code_blocks.Checkout(tmp_path, demo_data).run(page, (markdown_pages.ROOT / page).read_text())
    except code_blocks.WrongBlockError as wrong:
        pytest.fail(str(wrong), pytrace=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> code_blocks.Checkout:
    return code_blocks.Checkout(tmp_path_factory.mktemp("checkout"))


def fenced(*blocks: tuple[str, str]) -> str:
    return "# A page\n\n" + "\n".join(f"```{kind}\n{text}\n```\n" for kind, text in blocks)


RIGHT = {
    "variables and folder last": fenced(
        ("bash", "HERE=tests\nmkdir -p made && cd made\necho 1 >file"),
        ("bash", 'test "$HERE" = tests\ntest -f file\ncd ..'),
    ),
    "a long one is shorter": fenced(
        ("bash", 'TOKENS=1_000_000  # tests: 20_000\npython -c "import sys; assert $TOKENS == 20_000"')
    ),
    "the package is the copy's": fenced(
        (
            "python",
            "import kronecker, pathlib\nassert pathlib.Path(kronecker.__file__).is_relative_to(pathlib.Path.cwd())",
        )
    ),
    "python blocks are one session": fenced(("python", "a = 1"), ("python", "assert a == 1")),
    "measured numbers differ": fenced(
        ("console", "$ echo '12  tokens in 3.1 s, 1,234 MB, 45 %'\n12 tokens in 2 s, 9 MB, 3 %")
    ),
    "an error is printed": fenced(
        (
            "console",
            "$ python train.py --config=configs/demo.py --config.model.layerz=3\n"
            "error: config.model.layerz: there is no such key; did you mean model.layers?",
        )
    ),
    "part of the output": fenced(("console", "$ printf 'first\\n2\\n3\\nlast\\n'\nfirst\n...\nlast")),
    "an environment for tests": "<!-- tests: ARGS=--dry_run -->\n" + fenced(("bash", 'test "$ARGS" = --dry_run'))[10:],
    "a diff and its trial": fenced(
        ("diff", "--- /dev/null\n+++ b/configs/mine.py\n@@ -0,0 +1 @@\n+# first\n"),
        ("bash", "grep first configs/mine.py"),
    ),
    "not run": "<!-- not run: needs a GPU -->\n```bash\npython train.py --config=configs/demo.py --workdir=x  # a day\n"
    "```\n",
    "not run: a loop": "<!-- not run: needs hours -->\n```bash\nfor arm in kronecker table_tied; do\n"
    "  python train.py --config=configs/demo.py:arm=$arm --workdir=runs/$arm\ndone\n```\n",
    "for another machine": "<!-- not run: needs a cloud -->\n```bash\nssh there 'cd code &&\n"
    "  nohup python train.py --config=... --workdir=x >log &'\n```\n",
    "never run": fenced(("text", "no command at all '")),
}


@pytest.mark.parametrize("page", RIGHT.values(), ids=RIGHT)
def test_a_right_block_passes(checkout: code_blocks.Checkout, page: str):
    checkout.run("page.md", page)


def not_run(commands: str) -> str:
    return f"<!-- not run: needs a GPU -->\n```bash\n{commands}\n```\n"


WRONG = {
    "a command fails": (fenced(("bash", "ls nowhere\necho fine")), "page.md:3: exit code 2"),
    "a variable without a value": (fenced(("bash", "echo $NOWHERE")), "unbound variable"),
    "a flag that does not exist": (
        fenced(("bash", "python eval.py --steps=1")),
        "Unknown command line flag",
    ),
    "other output": (fenced(("console", "$ echo 12 tokens\n13 tokens")), "other output"),
    "another number in an error": (fenced(("console", "$ echo 1.5; exit 2\n1.6")), "other output"),
    "an error that is not printed": (fenced(("console", "$ false")), "exit code 1"),
    "a dead variable": (fenced(("bash", "TOKENS=1_000  # tests: 10\ntrue")), "TOKENS is set and never used"),
    "a variable in the midst of a command": (fenced(("bash", "echo 1_000 # tests: 10")), "stands alone on its line"),
    "python fails": (fenced(("python", "1 / 0")), "ZeroDivisionError"),
    "a diff of other lines": (
        fenced(("diff", "--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-no such line\n+other"), ("bash", "true")),
        "the diff does not apply",
    ),
    "a diff without a trial": (fenced(("diff", "--- a/x")), "followed by a bash block"),
    "no kind": (fenced(("", "ls")), "no kind of block"),
    "another kind": (fenced(("sh", "ls")), "no kind of block"),
    "indented": ("# A page\n\n    ls\n", "an indented block"),
    "not run without a reason": ("<!-- not run -->\n```bash\nls\n```\n", "says why"),
    "a marker of nothing": ("<!-- not run: needs a GPU -->\n\nwords\n", "right before the block"),
    "not run: the shell's syntax": (not_run("if true; then"), "bash cannot read it"),
    "not run: a flag": (
        not_run("python scripts/sweep.py --config=configs/demo.py --outt=x"),
        "Unknown command line flag",
    ),
    "not run: a key": (
        not_run("DATA=--config.data.sorce=x\nA=1 python train.py --config=configs/demo.py \\\n    $DATA --workdir=x"),
        "did you mean data.source?",
    ),
    "not run: keys that do not go together": (
        not_run("python train.py --config=configs/demo.py --config.model.heads=3 --workdir=x"),
        "model.heads",
    ),
    "not run: on another machine": (
        not_run("ssh there --command='cd x &&\n python eval.py --steps=1'"),
        "Unknown command",
    ),
    "not run: a script": (not_run("python scripts/nothing.py"), "no such script"),
    "not run: a target": (not_run("make nothing"), "No rule to make target"),
    "not run: after a file with an apostrophe": (
        not_run("cat >x <<'END'\nit's\nEND\npython eval.py --steps=1"),
        "Unknown command line flag",
    ),
    "not run: python": ("<!-- not run: needs a TPU -->\n```python\na = \n```\n", "invalid syntax"),
    "make that tests": (fenced(("bash", "make test")), "make test is for no test to run"),
    "a command in the text": ("Use `python eval.py --steps=1`.\n", "page.md:1: `python eval.py --steps=1`"),
}


@pytest.mark.parametrize(("page", "complaint"), WRONG.values(), ids=WRONG)
def test_a_wrong_block_fails(checkout: code_blocks.Checkout, page: str, complaint: str):
    with pytest.raises(code_blocks.WrongBlockError) as wrong:
        checkout.run("page.md", page)
    assert complaint in str(wrong.value)


def test_a_block_that_hangs_ends_with_what_it_started(tmp_path: Path):
    hanging = code_blocks.Checkout(tmp_path, seconds=2)
    with pytest.raises(code_blocks.WrongBlockError, match="not done after 2 s"):
        hanging.run("page.md", fenced(("bash", "(sleep 4; touch late) & sleep 60")))
    with pytest.raises(code_blocks.WrongBlockError, match="exit code"):
        code_blocks.Checkout.run(hanging, "page.md", fenced(("bash", "sleep 1; test -e nothing")))
    assert not (hanging.root / "late").exists()
