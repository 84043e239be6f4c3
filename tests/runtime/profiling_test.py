"""Recordings of the profiler: a real run's, and what is read from those of real programs on a CPU."""

import contextlib
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny_runs
from etils import epath

from kronecker.runtime import profiling

ROOT = Path(__file__).parents[2]
STEPS = 12


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of four steps, each a loop of products with a sum behind it."""
    folder = tmp_path_factory.mktemp("recording")

    def loop(x):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ carry), None), x, length=5)[0].sum()

    compiled, x = jax.jit(loop), jnp.ones((256, 256))
    compiled(x).block_until_ready()
    with profiling.recording(folder):
        for number in range(4):
            with profiling.step(number):
                compiled(x).block_until_ready()
    return folder


def annotated_steps(folder: Path) -> list[int]:
    file = next(folder.glob("plugins/profile/*/*.xplane.pb"))
    lines = [line for plane in jax.profiler.ProfileData.from_file(str(file)).planes for line in plane.lines]
    found = [event for line in lines for event in line.events if event.name == profiling.STEP]
    return sorted(dict(event.stats)["step_num"] for event in found)


def test_the_costliest_kernels_of_a_recording_are_read_without_tensorflow(products: Path):
    found = profiling.costliest(products, 3)
    assert [kernel.seconds for kernel in found] == sorted((kernel.seconds for kernel in found), reverse=True)
    assert len(found) == 3
    assert all(kernel.operation for kernel in found)
    every = profiling.costliest(products, 1000)
    assert sum(kernel.share for kernel in every) == pytest.approx(1)
    assert max(kernel.calls for kernel in every) >= 4 * 5  # the products of all turns of the loop


def test_a_loop_is_not_charged_with_its_body(products: Path):
    loops = [kernel for kernel in profiling.costliest(products, 1000) if kernel.name.startswith("while")]
    assert loops
    assert sum(kernel.share for kernel in loops) < 0.5


def test_own_times_of_nested_events_add_up_to_the_outermost():
    events = [(0, 100, "outer", {}), (10, 30, "inner", {"hlo_op": "dot"}), (50, 40, "inner", {}), (100, 5, "next", {})]
    own = list(profiling._own_times(events))
    assert sorted(own) == [("inner", "", 40), ("inner", "dot", 30), ("next", "", 5), ("outer", "", 30)]


def test_the_steps_after_the_warm_up_are_recorded_and_the_clock_stops_meanwhile(tmp_path: Path):
    paused = []

    @contextlib.contextmanager
    def pause():
        paused.append("stopped")
        yield
        paused.append("goes on")

    update = profiling.recorded(jax.jit(lambda x: x + 1), tmp_path, 3, 20, 100, pause)
    x = jnp.zeros(())
    for _ in range(20):
        x = update(x)
    assert float(x) == 20
    assert annotated_steps(tmp_path) == [25, 26, 27]
    assert paused == ["stopped", "goes on"] * 2


@pytest.mark.parametrize(("steps", "last", "expected"), [(3, 6, [3, 4, 5]), (9, 4, [0, 1, 2, 3])])
def test_a_run_too_short_to_warm_up_is_recorded_at_its_end(tmp_path: Path, steps: int, last: int, expected: list[int]):
    update = profiling.recorded(jax.jit(lambda x: x + 1), tmp_path, steps, 0, last, contextlib.nullcontext)
    for _ in range(last):
        update(jnp.zeros(()))
    assert annotated_steps(tmp_path) == expected


def test_without_steps_nothing_is_recorded(tmp_path: Path):
    update = jax.jit(lambda x: x + 1)
    assert profiling.recorded(update, tmp_path, 0, 0, 100, contextlib.nullcontext) is update
    with pytest.raises(FileNotFoundError, match="no profile found"):
        profiling.costliest(tmp_path)


def test_a_recording_into_a_bucket_is_refused():
    with pytest.raises(ValueError, match=r"log\.profile_steps=3 needs a local --workdir, got gs://"):
        profiling.check(epath.Path("gs://bucket/run"), 3)
    profiling.check(epath.Path("gs://bucket/run"), 0)


@pytest.mark.slow
def test_a_training_run_leaves_a_recording_and_the_losses_of_one_that_is_not_recorded(data: Path, tmp_path: Path):
    options = {"tokenizer": "bpe:300", "train.steps": STEPS, "mesh.cpu_devices": 1}
    for name, steps in (("recorded", 4), ("plain", 0)):
        command = tiny_runs.command(tmp_path / name, data, options | {"log.profile_steps": steps})
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert annotated_steps(tmp_path / "recorded" / "profile") == [5, 6, 7, 8]
    assert profiling.costliest(tmp_path / "recorded" / "profile")
    assert tiny_runs.losses(tmp_path / "recorded") == tiny_runs.losses(tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
