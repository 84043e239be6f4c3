"""What train.py does before its first step: compile, tell what the run takes or refuse it, begin with other weights."""

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import pytest
import tiny_runs
from tiny_runs import finish, start

from configs import base
from kronecker.runtime import hardware
from kronecker.schema import resolution
from kronecker.training import plan

OPTIONS = {"tokenizer": "bpe:300", "train.steps": 8, "checkpoint.every": 4, "mesh.cpu_devices": 1}


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    finish(start(workdir, data, OPTIONS))
    return workdir


def refused(workdir: Path, data: Path, options: dict[str, Any], *flags: str) -> str:
    (words,) = finish(start(workdir, data, options, flags=flags), code=2)
    assert "Traceback" not in words
    return words.strip().splitlines()[-1]


@pytest.mark.slow
def test_compile_only_says_what_the_run_takes_and_writes_no_run(data: Path, tmp_path: Path):
    (words,) = finish(start(tmp_path / "run", data, OPTIONS, flags=["--compile_only"]))
    parameters = re.search(r"parameters: (\S+) \(input (\S+), body (\S+), head (\S+)\)", words).groups()
    total, *groups = (int(text.replace(",", "")) for text in parameters)
    assert groups[0] == 4096 * 16
    assert groups[2] == 16 * 384
    assert total == sum(groups)
    told = re.search(r"per device: (\S+) MB of (\S+) MB \(arguments (\S+) MB, results (\S+) MB, temp", words)
    total, limit, arguments, _ = (int(text.replace(",", "")) for text in told.groups())
    assert 0 < arguments <= total < limit
    assert "a step: 128 tokens, " in words
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_that_no_device_here_holds_is_refused_with_what_would_help(data: Path, tmp_path: Path):
    # 12.9 billion parameters: 155 GB with the optimizer's state, of which nothing is allocated
    big = {"model.d_model": 32768, "model.heads": 256}
    line = refused(tmp_path / "run", data, OPTIONS | big)
    assert re.match(
        r"error: out of memory: parameters and optimizer need [\d,]{7,} MB, a device has [\d,]+ MB; to need", line
    )
    for key in ("train.accumulate=2", "train.loss_chunk=32", "model.remat=True"):
        assert f"--config.{key}" in line
    assert "mesh.fsdp" not in line
    two = refused(tmp_path / "run", data, OPTIONS | big | {"mesh.cpu_devices": 2, "train.accumulate": 2})
    assert "to need less, add --config.train.loss_chunk=16 --config.model.remat=True --config.mesh.fsdp=2" in two
    many = refused(tmp_path / "run", data, OPTIONS | {"eval.batch": 2**20}, "--compile_only")
    assert re.match(
        r"error: out of memory: the evaluation needs [\d,]{6,} MB \(arg.*, optimizer 1 MB\), a device has", many
    )
    assert many.endswith("to need less, add --config.eval.batch=524288 --config.train.loss_chunk=1024")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_was_compiled_is_kept_for_the_next_process(data: Path, trained: Path, tmp_path: Path):
    kept = tmp_path / "compiled"
    options = OPTIONS | {"compilation_cache": kept}
    finish(start(tmp_path / "first", data, options))
    before = {file.name for file in kept.iterdir()}
    assert before
    finish(start(tmp_path / "second", data, options))
    assert {file.name for file in kept.iterdir() if "cache" in file.name} == {
        name for name in before if "cache" in name
    }
    assert tiny_runs.losses(tmp_path / "second") == tiny_runs.losses(trained)


@pytest.mark.slow
def test_another_runs_weights_begin_a_run_of_its_own(data: Path, trained: Path, tmp_path: Path):
    source, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(trained, source)
    options = OPTIONS | {"checkpoint.init_from": source, "train.lr": 1e-3, "seed": 5, "train.steps": 6}
    (words,) = finish(start(workdir, data, options))
    assert f"starts from the weights of {source}, step 8" in words
    ended, began = tiny_runs.losses(trained)["validation 8"], tiny_runs.losses(workdir)["validation 0"]
    assert began == pytest.approx(ended, abs=1e-6)
    assert json.loads((workdir / "env.json").read_text())["began_with"] == {"run": str(source), "step": 8}
    assert [line["step"] for line in tiny_runs.lines(workdir)] == [1, 2, 3, 4, 5, 6]
    assert tiny_runs.lines(workdir)[0]["lr"] != tiny_runs.lines(trained)[-1]["lr"]  # a schedule of its own
    line = refused(workdir, data, options | {"checkpoint.init_from": ""})
    assert "holds a run of another config" in line
    assert "checkpoint.init_from was" in line
    shutil.rmtree(source)  # whoever has begun needs it no more
    (workdir / "result.json").unlink()
    finish(start(workdir, data, options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.d_model": 32}, "its weights have another model shape"),
        ({"tokenizer": "bpe:301"}, "its weights have another tokenizer"),
        ({"embedding.pos_dim": 8}, "its weights have another byte table"),
        ({"embedding.norm": "length"}, "its embedding.norm is z, here length; make both equal"),
        ({"model.param_dtype": "bfloat16"}, "its model.param_dtype is float32, here bfloat16; make both equal"),
        ({"checkpoint.init_from": "nowhere"}, "checkpoint.init_from=nowhere: no checkpoint in this folder"),
    ],
)
def test_weights_that_do_not_fit_are_refused(options: dict, message: str, data: Path, trained: Path, tmp_path: Path):
    line = refused(tmp_path / "run", data, OPTIONS | {"checkpoint.init_from": trained} | options)
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_weights_under_another_draw_of_their_code_are_refused(data: Path, tmp_path: Path):
    drawn = {
        "embedding.arm": "random_code",
        "embedding.kind": "random_code",
        "embedding.redraw": True,
        "train.steps": 1,
    }
    drawn = OPTIONS | drawn | {"seed": 3}
    finish(start(tmp_path / "source", data, drawn))
    drawn |= {"checkpoint.init_from": tmp_path / "source"}
    for other in ({"seed": 4}, {"embedding.redraw": False}):
        line = refused(tmp_path / "run", data, drawn | other)
        assert f"its code is draw 3, here {other.get('seed', 0)}, that of the seed with embedding.redraw" in line
    finish(start(tmp_path / "run", data, drawn | {"train.lr": 1e-3}))


@pytest.mark.slow
def test_weights_of_another_derived_rank_are_not_called_damaged(data: Path, tmp_path: Path):
    used = {f"embedding.{key}": value for key, value in (("arm", "factorized_live"), ("kind", "factorized"))}
    used = OPTIONS | used | {"embedding.rank_rows": "used", "model.d_model": 64, "train.steps": 1}
    finish(start(tmp_path / "source", data, used))
    used |= {"checkpoint.init_from": tmp_path / "source", "embedding.pos_dim": 1}
    assert "its embedding.pos_dim is 16, here 1; make both equal" in refused(tmp_path / "run", data, used)


@pytest.mark.slow
def test_weights_of_an_edited_config_are_refused(data: Path, trained: Path, tmp_path: Path):
    source = Path(shutil.copytree(trained, tmp_path / "source"))
    config = source / "config.json"
    config.write_text(config.read_text().replace('"scale": 1.0', '"scale": 3.0'))
    line = refused(tmp_path / "run", data, OPTIONS | {"checkpoint.init_from": source, "embedding.scale": 3.0})
    assert f"checkpoint.init_from={source}: its config.json is not that of its checkpoints; restore the file" in line


def advised(c: ml_collections.ConfigDict, **values: Any) -> dict[str, str]:
    return dict(re.findall(r"--config\.(\S+)=(\S+)", plan.remedy(resolution.resolve(c, 4), 4, **values)))


def test_what_is_advised_is_a_config_that_can_be():
    c = base.apply(base.get_config(), {"train.batch": 12, "mesh.data": 4, "model.vocab_size": 1000})
    keys = advised(c, limit=1)
    assert keys == {
        "train.accumulate": "3",
        "train.loss_chunk": "128",
        "model.remat": "True",
        "mesh.data": "-1",
        "mesh.fsdp": "4",
    }
    assert advised(c, limit=10**12)["mesh.fsdp"] == "2"  # where two devices leave room enough
    assert "train.accumulate" not in advised(c, limit=1, has_checkpoint=True)  # it would be another run
    assert advised(c, limit=1, has_checkpoint=True)["train.loss_chunk"] == "384"
    base.apply(c, {"train.accumulate": 3, "train.loss_chunk": 1, "model.remat": True, "mesh.data": 1, "mesh.fsdp": 4})
    assert "use a smaller model" in plan.remedy(resolution.resolve(c, 4), 4, limit=None)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"eval.batch": 12}, "to need less, add --config.eval.batch=4 --config.train.loss_chunk=128"),
        ({"eval.batch": 4, "train.loss_chunk": 6}, "to need less, add --config.train.loss_chunk=3"),
        ({"eval.batch": 4, "train.loss_chunk": 1}, "use a smaller model, or more or larger devices"),
    ],
)
def test_an_evaluation_for_which_there_is_no_room_is_refused_beside_the_optimizers_state(options: dict, advice: str):
    c = resolution.resolve(base.apply(base.get_config(), options), 4)
    lowered = jax.jit(jnp.sin).lower(jnp.zeros(2**18))
    compiled = functools.partial(
        plan.compiled, lowered, "evaluation", 4 * 2**20, functools.partial(plan.remedy_of_evaluation, c, 4)
    )
    assert compiled(reserved=2**20)
    needs = r"the evaluation needs 5 MB \(arguments 1 MB, .*, optimizer 3 MB\), a device has 4 MB; "
    words = needs + re.escape(advice)
    with pytest.raises(ValueError, match=f"{words}$"):
        compiled(reserved=3 * 2**20)


def test_a_devices_peak_is_that_of_the_longest_name_that_it_begins_with():
    assert hardware.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert hardware.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert hardware.peak_flops("cpu") is None
