"""Checkpoints: what is kept, refused and passed over, and that saving never blocks nor blurs the next update."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils

from kronecker.run import rundir
from kronecker.runtime import device_mesh, sharding
from kronecker.training import checkpoint

IDENTITY = {"tokenizer": "t", "dataset": "d", "model shape": "m", "byte table": "b"}


def keep(newest: int, every: int = 0) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"checkpoint": {"keep": newest, "keep_every": every}})


def steps(workdir: epath.Path) -> list[int]:
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir())


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
    assert steps(workdir) == [4, 8, 9, 10]


def test_a_linked_checkpoint_is_restored_but_not_trained_on_as_orbax_cannot_delete_it(workdir: epath.Path):
    save_all(workdir, keep(2), range(1, 3))
    linked = Path(workdir) / "checkpoints" / "2"
    linked.rename(Path(workdir) / "elsewhere")
    linked.symlink_to(Path(workdir) / "elsewhere")
    assert int(checkpoint.restore(workdir, state(0), IDENTITY)["step"]) == 2
    with pytest.raises(ValueError, match=r"checkpoints/2: a link, which orbax cannot delete; put the folder itself"):
        save_all(workdir, keep(2), range(3, 4))


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/2"])
def test_a_link_that_leads_nowhere_is_no_lost_checkpoint(workdir: epath.Path, name: str):
    save_all(workdir, keep(2), range(1, 3))
    linked, elsewhere = Path(workdir) / name, Path(workdir) / "elsewhere"
    elsewhere.mkdir()
    linked.rename(elsewhere / "disk")
    linked.symlink_to(elsewhere / "disk")
    elsewhere.rename(Path(workdir) / "unmounted")
    for read in (checkpoint.resume, checkpoint.restore):
        with pytest.raises(OSError, match=f"{name}: a link that leads nowhere; mount the disk"):
            read(workdir, state(0), IDENTITY)
    (Path(workdir) / "unmounted").rename(elsewhere)
    assert checkpoint.resume(workdir, state(0), IDENTITY)[0] == 2


def test_restore_gives_the_latest_or_the_step_asked_for(workdir: epath.Path):
    save_all(workdir, keep(3), range(1, 4))
    for asked, got in ((None, 3), (2, 2)):
        restored = checkpoint.restore(workdir, state(0), IDENTITY, asked)
        assert int(restored["step"]) == got
        np.testing.assert_array_equal(restored["w"], np.full((64, 8), got, np.float32))


@pytest.mark.parametrize("name", IDENTITY)
def test_a_checkpoint_of_something_else_is_refused_by_name(workdir: epath.Path, name: str):
    save_all(workdir, keep(1), range(1, 2))
    for read in (checkpoint.restore, checkpoint.resume):
        with pytest.raises(ValueError, match=rf"step 1 was saved with another {name} \({IDENTITY[name]}, now other\)"):
            read(workdir, state(0), IDENTITY | {name: "other"})
    assert steps(workdir) == [1]


def test_a_step_that_is_not_there_is_named(workdir: epath.Path):
    save_all(workdir, keep(1), range(1, 3))
    with pytest.raises(ValueError, match="no checkpoint of step 1 here; saved steps: 2"):
        checkpoint.restore(workdir, state(0), IDENTITY, 1)


def test_the_end_of_a_finished_run_is_not_replaced_by_an_older_step(workdir: epath.Path):
    save_all(workdir, keep(1), range(1, 3))
    (workdir / "result.json").write_text('{"step": 3}')
    with pytest.raises(ValueError, match="no checkpoint of step 3 here; saved steps: 2"):
        checkpoint.restore(workdir, state(0), IDENTITY)


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
    restored = checkpoint.restore(workdir, {"w": large}, IDENTITY)
    assert not np.any(np.asarray(restored["w"]))
    assert np.all(np.asarray(large) == 5)


def test_a_save_asks_jax_for_no_preemption(workdir: epath.Path, monkeypatch: pytest.MonkeyPatch):
    """Its step in place of a call's number would make all processes agree on a call that has passed."""
    asked: list[int] = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: bool(asked.append(step)))
    save_all(workdir, keep(2), range(1, 3))
    assert multihost_utils.reached_preemption_sync_point(7) is False
    assert asked == [7]


def noise(seed: int) -> dict[str, Any]:
    """Returns a state of random bits, which storage cannot compress: its bytes are in files as they are.

    Smaller arrays are stored together with a check of the storage's own.
    """
    bits = np.random.default_rng(seed).integers(0, 2**32, (5, 64, 64), np.uint32)
    for nan in (0x7F80 << 16, 0x7F80):  # copies of a NaN may have other bits
        bits[bits & nan == nan] ^= np.uint32(nan)
    arrays = {
        "params": {"embed": bits[0].view(np.float32), "head": bits[1].view(np.uint16).view(jnp.bfloat16)},
        "opt_state": {
            "mu": bits[2].view(np.float32),
            "count": bits[3].view(np.int32),
            "quantised": bits[4].view(np.int8),
        },
        "step": np.int32(seed),
    }
    return jax.device_put(arrays, sharding.replicated(device_mesh.make_mesh()))


def same(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("three")
    with checkpoint.open_manager(epath.Path(workdir), keep(3)) as manager:
        for step in (1, 2, 3):
            checkpoint.save(manager, step, noise(step), IDENTITY)
    return workdir


@pytest.fixture
def copy(three: Path, tmp_path: Path) -> epath.Path:
    return epath.Path(shutil.copytree(three, tmp_path / "copy"))


def flip(file: Path, byte: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << 4
    file.write_bytes(content)


def rot(workdir: epath.Path, step: int, path: str) -> None:
    """Flips one bit of an array of `noise` wherever its bytes are stored."""
    group, name = path.split("/")
    part = np.asarray(noise(step)[group][name]).tobytes()[256:272]
    files = Path(workdir / "checkpoints" / str(step)).rglob("d/*")
    for file in [file for file in files if part in file.read_bytes()]:
        flip(file, file.read_bytes().index(part) + 5)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "flipped": lambda file: flip(file, file.stat().st_size // 3),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_does_no_harm_or_its_checkpoint_is_passed_over(
    damage: str, three: Path, tmp_path: Path, capfd: pytest.CaptureFixture
):
    passed_over = set()
    for file in sorted(file.relative_to(three) for file in (three / "checkpoints" / "3").rglob("*") if file.is_file()):
        workdir = epath.Path(shutil.copytree(three, tmp_path / "copy"))
        DAMAGES[damage](Path(workdir / file))
        step, restored = checkpoint.resume(workdir, noise(0), IDENTITY)
        words = capfd.readouterr().err
        assert step == (2 if words else 3)
        assert same(restored, noise(step))
        if words:
            passed_over.add(file.name)
            assert words.count("\n") == 1
            assert words.startswith(f"{workdir}/checkpoints/3: damaged (")
            assert words.endswith(f"); moved to {workdir}/damaged-checkpoints/3; resumes from step 2\n")
            assert steps(workdir) == [1, 2]
            assert not file.exists()
        shutil.rmtree(workdir)
    assert passed_over >= {"metadata", "manifest.ocdbt"}


def test_a_folder_that_lacks_everything_is_passed_over(copy: epath.Path, capfd: pytest.CaptureFixture):
    shutil.rmtree(copy / "checkpoints" / "3")
    (copy / "checkpoints" / "3").mkdir()
    (copy / "checkpoints" / "4").write_text("")
    assert checkpoint.resume(copy, noise(0), IDENTITY)[0] == 2
    assert capfd.readouterr().err.count("resumes from step 2") == 2
    assert steps(copy) == [1, 2]


@pytest.mark.parametrize(
    "path", ["params/embed", "params/head", "opt_state/mu", "opt_state/count", "opt_state/quantised"]
)
def test_rot_in_an_array_is_named_and_the_intact_steps_with_it(path: str, copy: epath.Path):
    rot(copy, 3, path)
    rot(copy, 1, path)
    fault = rf"checkpoints/3: damaged \({path} is not what was saved\); intact steps: 2; eval.py --step=2 uses one"
    with pytest.raises(ValueError, match=fault):
        checkpoint.restore(copy, noise(0), IDENTITY)
    with pytest.raises(ValueError, match=fault.replace("/3", "/1", 1)):
        checkpoint.restore(copy, noise(0), IDENTITY, 1)
    assert same(checkpoint.restore(copy, noise(0), IDENTITY, 2), noise(2))
    weights = checkpoint.Weights(copy, 3)
    if path.startswith("params"):
        with pytest.raises(ValueError, match=fault):
            weights.restore(noise(0)["params"])
    else:
        assert same(weights.restore(noise(0)["params"]), noise(3)["params"])
    assert steps(copy) == [1, 2, 3]


def test_a_folder_with_the_number_of_another_step_is_passed_over(copy: epath.Path, capfd: pytest.CaptureFixture):
    for name in ("1", "9"):
        shutil.copytree(copy / "checkpoints" / "3", copy / "checkpoints" / name, dirs_exist_ok=True)
    step, found = checkpoint.resume(copy, noise(0), IDENTITY)
    assert (step, same(found, noise(3))) == (3, True)
    assert "checkpoints/9: damaged (identity: ValueError: it was saved as step 3); moved to" in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"checkpoints/1: damaged .* saved as step 3.*intact steps: 3, 2; "):
        checkpoint.restore(copy, noise(0), IDENTITY, 1)


def test_rot_in_what_a_checkpoint_belongs_to_is_not_another_tokenizer(copy: epath.Path):
    file = copy / "checkpoints" / "3" / "identity" / "metadata"
    file.write_text(file.read_text().replace('"tokenizer": "t"', '"tokenizer": "u"'))
    with pytest.raises(ValueError, match=r"checkpoints/3: damaged \(identity: ValueError: not what was saved\)"):
        checkpoint.restore(copy, noise(0), IDENTITY)
    assert checkpoint.resume(copy, noise(0), IDENTITY)[0] == 2


def test_a_checkpoint_without_checksums_is_accepted_with_a_note(copy: epath.Path, capfd: pytest.CaptureFixture):
    file = copy / "checkpoints" / "3" / "identity" / "metadata"
    file.write_text(json.dumps(IDENTITY))
    assert same(checkpoint.resume(copy, noise(0), IDENTITY)[1], noise(3))
    note = f"{copy}/checkpoints/3: cannot be checked for damage, as it was saved without checksums\n"
    assert capfd.readouterr().err == note


def test_a_damaged_checkpoint_on_another_disk_is_passed_over(copy: epath.Path, small_disk: Path):
    there = Path(shutil.move(copy / "checkpoints", small_disk / "checkpoints"))
    Path(copy / "checkpoints").symlink_to(there)
    rot(copy, 3, "params/embed")
    assert checkpoint.resume(copy, noise(0), IDENTITY)[0] == 2
    assert sorted(file.name for file in there.iterdir()) == ["1", "2"]
    assert [file.name for file in (copy / "damaged-checkpoints").iterdir()] == ["3"]
    assert (copy / "damaged-checkpoints" / "3" / "state" / "manifest.ocdbt").exists()


def test_without_an_intact_checkpoint_nothing_is_touched(copy: epath.Path):
    for step in (1, 2, 3):
        (copy / "checkpoints" / str(step) / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(
        ValueError, match=r"no checkpoint is intact \(.*; put back a copy of one, or delete this folder"
    ):
        checkpoint.resume(copy, noise(0), IDENTITY)
    with pytest.raises(ValueError, match="no other checkpoint is intact: train the run again in a new --workdir"):
        checkpoint.restore(copy, noise(0), IDENTITY)
    assert steps(copy) == [1, 2, 3]


def test_an_empty_folder_is_no_checkpoint(workdir: epath.Path, capfd: pytest.CaptureFixture):
    (workdir / "checkpoints" / "7").mkdir(parents=True)
    assert not rundir.has_checkpoint(workdir)
    assert checkpoint.resume(workdir, noise(0), IDENTITY) == (0, None)
    assert "moved to" in capfd.readouterr().err
    assert checkpoint.resume(workdir, noise(0), IDENTITY) == (0, None)


def test_a_step_that_was_passed_over_is_saved_again(copy: epath.Path):
    (copy / "checkpoints" / "1" / "_CHECKPOINT_METADATA").write_text("not JSON")
    for times in (1, 2):
        rot(copy, 3, "params/embed")
        assert checkpoint.resume(copy, noise(0), IDENTITY)[0] == 2
        with checkpoint.open_manager(copy, keep(2)) as manager:
            checkpoint.save(manager, 3, noise(3), IDENTITY)
        assert steps(copy) == [2, 3]
        assert same(checkpoint.restore(copy, noise(0), IDENTITY), noise(3))
        assert len(list((copy / "damaged-checkpoints").iterdir())) == times


def test_a_checkpoint_is_on_the_disk_before_its_folder_gets_its_name(
    workdir: epath.Path, monkeypatch: pytest.MonkeyPatch
):
    synced: dict[int, list[str]] = {}  # inode -> the names that it had
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.setdefault(os.fstat(descriptor).st_ino, []).append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    save_all(workdir, keep(1), range(1, 2))
    folder = Path(workdir / "checkpoints" / "1")
    late = {folder / "_CHECKPOINT_METADATA", folder / "commit_success.txt"}  # orbax's, and not read
    for path in {folder.parent, *folder.rglob("*")} - late:
        assert path.stat().st_ino in synced, path
    array = next((folder / "state" / "d").iterdir())
    assert "orbax-checkpoint-tmp" in synced[array.stat().st_ino][0]
