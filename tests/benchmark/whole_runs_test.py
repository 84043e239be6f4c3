"""The benchmark of whole runs: which processes it starts and when, and its arithmetic."""

import json
from pathlib import Path

import pytest

from kronecker.benchmark import timing, whole_runs

# In place of train.py, whose run would take seconds: writes when it began and ended, and its arguments.
RUN = """
import json, sys, time
began = time.monotonic()
time.sleep(0.05)
if "--config.fail=1" in sys.argv:
    sys.exit("no such key")
with open({starts!r}, "a") as file:
    file.write(json.dumps([began, time.monotonic(), sys.argv[1:]]) + "\\n")
"""


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    starts = tmp_path / "starts.jsonl"
    (tmp_path / "run.py").write_text(RUN.format(starts=str(starts)))
    monkeypatch.setattr(whole_runs, "TRAIN", tmp_path / "run.py")
    monkeypatch.setattr(timing, "threads", lambda: 4)
    return starts


def test_each_way_starts_a_run_for_each_core_so_many_at_a_time(tmp_path: Path, starts: Path, capsys):
    result = whole_runs.run(["--config=configs/study.py"], tmp_path)
    assert [(way["at_a_time"], way["devices_each"]) for way in result["ways"]] == [(1, 4), (2, 2), (4, 1)]
    runs = [json.loads(line) for line in starts.read_text().splitlines()]
    assert len(runs) == 3 * 4 * (5 + 1)  # of which one round is the warm-up
    for devices in (4, 2, 1):
        own = sorted(run for run in runs if f"--config.mesh.cpu_devices={devices}" in run[2])
        most = max(sum(began <= at < ended for began, ended, _ in own) for at, _, _ in own)
        assert most == 4 // devices
        assert all("--config=configs/study.py" in run[2] for run in own)
        assert {word for run in own for word in run[2] if "seed=" in word} == {f"--config.seed={k}" for k in range(4)}
    one, _, four = result["ways"]
    assert one["runs_per_hour"] == pytest.approx(3600 * 4 / one["median_seconds"])
    assert one["speedup"]["median"] == 1
    assert four["speedup"]["of_medians"] == pytest.approx(four["runs_per_hour"] / one["runs_per_hour"])
    whole_runs.show(result)
    assert f"{four['runs_per_hour']:.1f}" in capsys.readouterr().out


def test_a_failed_run_ends_it_with_the_place_of_its_log(tmp_path: Path, starts: Path):
    with pytest.raises(ChildProcessError, match=r"its log is .*seed0\.log"):
        whole_runs.run(["--config.fail=1"], tmp_path)
    assert "no such key" in (tmp_path / "seed0.log").read_text()
