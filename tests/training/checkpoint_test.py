"""Checkpoints: what is kept, what is refused, and that saving never blocks nor blurs the next update."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils

from kronecker.runtime import device_mesh, sharding
from kronecker.training import checkpoint

IDENTITY = {"tokenizer": "t", "dataset": "d", "model shape": "m", "byte table": "b"}


def keep(newest: int, every: int = 0) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"checkpoint": {"keep": newest, "keep_every": every}})


def state(value: float) -> dict[str, jax.Array]:
    whole = sharding.replicated(device_mesh.make_mesh())
    return jax.device_put({"w": jnp.full((64, 8), value), "step": jnp.int32(value)}, whole)


def save_all(workdir: epath.Path, config: ml_collections.ConfigDict, steps: range) -> None:
    with checkpoint.open_manager(workdir, config) as manager:
        for step in steps:
            checkpoint.save(manager, step, state(step), IDENTITY)


@pytest.fixture
def workdir(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


def test_the_newest_are_kept_and_every_nth_for_good(workdir: epath.Path):
    save_all(workdir, keep(2, every=4), range(1, 11))
    with checkpoint.open_manager(workdir) as manager:
        assert sorted(manager.all_steps()) == [4, 8, 9, 10]


def test_restore_gives_the_latest_or_the_step_asked_for(workdir: epath.Path):
    save_all(workdir, keep(3), range(1, 4))
    with checkpoint.open_manager(workdir) as manager:
        for asked, got in ((None, 3), (2, 2)):
            restored = checkpoint.restore(manager, state(0), IDENTITY, asked)
            assert int(restored["step"]) == got
            np.testing.assert_array_equal(restored["w"], np.full((64, 8), got, np.float32))


@pytest.mark.parametrize("name", IDENTITY)
def test_a_checkpoint_of_something_else_is_refused_by_name(workdir: epath.Path, name: str):
    save_all(workdir, keep(1), range(1, 2))
    with (
        checkpoint.open_manager(workdir) as manager,
        pytest.raises(ValueError, match=rf"step 1 was saved with another {name} \({IDENTITY[name]}, now other\)"),
    ):
        checkpoint.restore(manager, state(0), IDENTITY | {name: "other"})


def test_a_step_that_is_not_there_is_named(workdir: epath.Path):
    save_all(workdir, keep(1), range(1, 3))
    with checkpoint.open_manager(workdir) as manager, pytest.raises(ValueError, match="no checkpoint of step 1 here"):
        checkpoint.restore(manager, state(0), IDENTITY, 1)


def test_updates_that_take_over_the_memory_do_not_reach_a_save_in_flight(workdir: epath.Path):
    whole = sharding.replicated(device_mesh.make_mesh())
    large = jax.jit(lambda: jnp.zeros((4096, 2048)), out_shardings=whole)()
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    with checkpoint.open_manager(workdir, keep(1)) as manager:
        checkpoint.save(manager, 1, {"w": large}, IDENTITY)
        for _ in range(5):
            large = add(large)
        jax.block_until_ready(large)
        manager.wait_until_finished()
        restored = checkpoint.restore(manager, {"w": large}, IDENTITY)
    assert not np.any(np.asarray(restored["w"]))
    assert np.all(np.asarray(large) == 5)


def test_a_save_asks_jax_for_no_preemption(workdir: epath.Path, monkeypatch: pytest.MonkeyPatch):
    """Its step in place of a call's number would make all processes agree on a call that has passed."""
    asked: list[int] = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: bool(asked.append(step)))
    save_all(workdir, keep(2), range(1, 3))
    assert multihost_utils.reached_preemption_sync_point(7) is False
    assert asked == [7]
