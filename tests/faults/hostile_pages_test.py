"""Scripts in names, titles, tokens, prompts and paths: in a real browser pages show them as text and run none."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import browser
import numpy as np
import paper_runs
import pytest
from disturbed import FAULT, HARMLESS, Tally
from run_folders import vocabulary, write_losses, write_run

from kronecker.accelerator import ledger, summary
from kronecker.paper import paper_page, probe_page, training_claims
from kronecker.probes import parameters
from kronecker.report import compare, comparison_page
from kronecker.run import finished_runs, result

# Each would set `hacked`, or open a dialog, if a browser took it for HTML, an attribute, a style or a script.
EVIL = (
    "<script>hacked=1;alert(1)</script>",
    "<img src=x onerror=hacked=1>",
    "\" onmouseover=hacked=1 onload='hacked=1' x=\"",
    "</title></style></svg><svg onload=hacked=1>",
    "javascript:hacked=1//",
    "{{ 7*7 }}{% raw %}&lt;b&gt;",
)
EVIL_NAME = "<svg onload=hacked=1>&amp;'\"`"  # of a folder, which may hold no slash
IDS, PREDICTIONS = 60, 4000
ALL = " ".join(EVIL)
# Moves the mouse over everything, and clicks what would run a script; then tells what ran and what is there.
PROBE = """
for (const element of document.querySelectorAll('*'))
  for (const event of ['mouseover', 'focus', 'error', 'load']) element.dispatchEvent(new Event(event));
const [active, links] = [[], []];
for (const element of document.querySelectorAll('*')) {
  for (const one of element.attributes ?? []) {
    if (one.name.startsWith('on')) active.push(element.localName + ' ' + one.name);
    if (/^\\s*javascript:/i.test(one.value)) active.push(element.localName + ' ' + one.value);
  }
  if (element.localName === 'script') active.push(element.textContent);
}
return {hacked: window.hacked === undefined ? null : String(window.hacked), active,
        text: document.documentElement.textContent, title: document.title};
"""


def write_report(file: Path) -> None:
    runs = file.parent / EVIL_NAME
    facts = vocabulary(IDS, train_count=np.arange(IDS), bytes=np.arange(IDS) % 9 + 1, script=np.arange(IDS) % 3)
    facts["scripts"] = np.array(EVIL[:3])
    ids = (np.arange(PREDICTIONS + 1) % IDS).astype(np.int32)
    for arm, loss in (("table_untied", 4.6), ("kronecker", 4.5)):
        settings = {"data.source": f"text:{ALL}", "tokenizer": f"tiktoken:{EVIL[1]}"}
        folder = write_run(runs / f"{EVIL_NAME}{arm}", arm, 0, loss, settings)
        env = json.loads((folder / "env.json").read_text())
        env |= {"commit": EVIL[2], "platform": EVIL[1], "devices": list(EVIL[:2]), "python": EVIL[3], "started": ALL}
        env |= {"command": ["train.py", *EVIL], "versions": {EVIL[0]: EVIL[1]}}
        (folder / "env.json").write_text(json.dumps(env))
        nats = np.full(PREDICTIONS, loss, np.float32)
        write_losses(folder, facts, nats=nats, inputs=ids[:-1], targets=ids[1:])
    compared = compare.compare([finished_runs.read(run) for run in finished_runs.find([runs])])
    comparison_page.write(compared, file, ALL)


def hostile_results() -> list[result.Result]:
    """Returns results whose every text is hostile: titles, conditions, columns, prompts in cells, notes."""
    table = result.Result(
        name="generation",
        title=ALL,
        source=EVIL[0],
        conditions=dict(zip(EVIL, reversed(EVIL), strict=True)),
        columns=(EVIL[1], "text"),
        rows=[(text, text) for text in EVIL],
        paper=[(EVIL[3], EVIL[4])],
        notes=EVIL,
        paper_conditions={EVIL[0]: EVIL[5]},
    )
    typos = dict(zip(("stable", "KL, nats"), EVIL, strict=False))
    rows = [(metric, group, 30, 0.5, 0.6, 0.1, -0.1, 0.3, 0.2) for metric in typos for group in EVIL]
    return [table, dataclasses.replace(paper_runs.TYPOS, title=ALL, rows=rows, notes=EVIL)]


def write_probes(file: Path) -> None:
    probe_page.write(hostile_results(), file, ALL)


def write_paper(file: Path) -> None:
    compared = training_claims.pair(paper_runs.write_runs(file.parent / "runs"))
    paper_page.write(compared, {"parameters": [parameters.measure()], "probes": hostile_results()}, file, ALL)


def write_accelerator(file: Path) -> None:
    facts = {"devices": [ALL], "rehearsal": False, "code": EVIL[0], "commit": EVIL[1], "versions": {EVIL[2]: EVIL[3]}}
    facts |= {"python": EVIL[4], "memory_bytes": None, "driver": EVIL[5]}
    kept = ledger.Ledger(file.parent, facts)
    kept.write("study", "one", 1.0, None, ALL)
    kept.write("check", EVIL[1].replace("/", ""), 1.0, None, EVIL[0])
    summary.write(kept, {"study": (1, True)}).rename(file)


PAGES: dict[str, Callable[[Path], None]] = {
    "report": write_report,
    "paper": write_paper,
    "probes": write_probes,
    "accelerator": write_accelerator,
}


@browser.needed
@pytest.mark.slow
def test_no_page_runs_what_stands_in_names_and_texts(tmp_path: Path, tally: Tally):
    with browser.opened() as chromium:
        (tmp_path / "bait.html").write_text(f"<title>x</title>{EVIL[1]}<script>hacked=2</script>")
        bait = chromium.evaluated(tmp_path / "bait.html", 1280, PROBE)
        assert bait["hacked"] and bait["active"]  # the probe sees what it looks for
        for name, write in PAGES.items():
            file = tmp_path / name / f"{name}.html"
            file.parent.mkdir()
            write(file)
            for page in (file, *file.parent.rglob("*.svg")):
                shown = chromium.evaluated(page, 1280, PROBE)
                wrong = [*shown["active"], *([f"hacked {shown['hacked']}"] if shown["hacked"] else [])]
                if page == file:
                    wrong += [f"not shown: {text}" for text in EVIL if text not in shown["text"]]
                tally.add("scripts on pages", FAULT if wrong else HARMLESS, page.name, str(wrong))
    tally.check()
