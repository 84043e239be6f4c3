"""What TensorBoard and W&B themselves read of a run that was rolled back, copied, moved and started anew.

They are not in the environment: `make trackers` installs them beside it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import ROOT

TRACKERS = Path(sys.prefix) / "trackers"
# Writes one line for each step after the first argument up to the second, as a process that resumes there does.
WRITE = """
import sys
sys.path.append(TRACKERS)  # last, so that the environment's own packages are used
from etils import epath
from kronecker.run import sinks
from kronecker.schema import dotted
c = dotted.defaults()
c.log.tensorboard, c.log.wandb = True, "tests"
workdir, start, last, loss = sys.argv[1], *map(int, sys.argv[2:])
opened = sinks.open_sinks(epath.Path(workdir), c, start)
for step in range(start + 1 if start else 0, last + 1):
    line = {"step": step, "tokens": step, "loss": loss + step / 8}
    more = {"clip_share": 0.0, "embedding_std": 1.0, "tokens_per_second": 1.0, "seconds": 1.0}
    for sink in opened:
        sink.write(line | {"kind": "train"} | more if step else line | {"kind": "validation", "bits_per_byte": 1.0})
for sink in opened:
    sink.close()
"""
READ = """
import json, sys
sys.path.append(TRACKERS)
if sys.argv[1] == "tensorboard":
    from tensorboard.backend.event_processing import event_accumulator
    read = event_accumulator.EventAccumulator(sys.argv[2]).Reload()
    print(json.dumps({tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}))
else:
    import pathlib
    from wandb.proto import wandb_internal_pb2
    # LevelDB's log, after 7 bytes: blocks of 32 KiB with parts, each with a CRC, its length and its place
    sessions = []
    for file in sys.argv[2:]:
        content, at, data, lines, about = pathlib.Path(file).read_bytes(), 7, b"", [], {}
        while at + 7 <= len(content):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            length, place = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
            data += content[at + 7 : at + 7 + length]
            at += 7 + length
            if place not in (1, 4):  # whole, or the last part
                continue
            record, data = wandb_internal_pb2.Record.FromString(data), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                lines.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
            elif record.WhichOneof("record_type") == "run":
                about = {"id": record.run.run_id, "project": record.run.project, "name": record.run.display_name}
        sessions.append([about, lines])
    print(json.dumps(sessions))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.extras("" if TRACKERS.exists() else "needs wandb and tensorboard: make trackers"),
]


def python(script: str, *arguments: Any) -> str:
    command = [sys.executable, "-c", script.replace("TRACKERS", repr(str(TRACKERS))), *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logged(run: Path) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
    """Returns each of the folder's W&B sessions, by time: what the run is, and its lines."""
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    return json.loads(python(READ, "wandb", *files))


def steps(lines: list[dict[str, Any]]) -> list[int]:
    return [line["step"] for line in lines]


def test_a_rolled_back_moved_copied_and_restarted_run_is_logged_as_it_went(tmp_path: Path):
    run, moved, copy = tmp_path / "run", tmp_path / "moved", tmp_path / "copy"
    run.mkdir()
    python(WRITE, run, 0, 6, 5)
    python(WRITE, run, 4, 8, 3)  # the last checkpoint was that of step 4
    read = json.loads(python(READ, "tensorboard", run / "tensorboard"))
    assert read["train/loss"] == [[step, (5 if step <= 4 else 3) + step / 8] for step in range(1, 9)]
    assert read["validation/loss"] == [[0, 5.0]]
    assert not any("line" in tag for tag in read)
    (first, before), (second, after) = logged(run)
    assert (
        first == second == {"id": json.loads((run / "wandb.json").read_text())["id"], "project": "tests", "name": "run"}
    )
    assert (steps(before), steps(after)) == (list(range(7)), [5, 6, 7, 8])
    assert [line["train/loss"] for line in after] == [3 + step / 8 for step in (5, 6, 7, 8)]

    shutil.copytree(run, copy)
    python(WRITE, copy, 8, 9, 3)
    about, own = logged(copy)[-1]
    assert about["id"] != first["id"]
    assert steps(own) == list(range(10)), "a copy's own W&B run has the lines before it too"
    run.rename(moved)
    python(WRITE, moved, 8, 9, 3)
    about, own = logged(moved)[-1]
    assert about == first | {"name": "moved"}
    assert steps(own) == [9]

    python(WRITE, moved, 0, 2, 7)  # no checkpoint is left: it starts anew
    assert logged(moved)[-1][0]["id"] != first["id"]
    read = json.loads(python(READ, "tensorboard", moved / "tensorboard"))
    assert read["train/loss"] == [[1, 7.125], [2, 7.25]]
    assert read["validation/loss"] == [[0, 7.0]]
