"""The training loop: from a config to a run's directory, resumable at any moment.

On a CPU a resumed run equals the undisturbed one bit for bit, with the same machine, devices and versions.  On a GPU it
does so with train.deterministic alone, which has not been tried on one.
"""

import contextlib
import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from kronecker import tokenization
from kronecker.data import manifests, preparation, rows
from kronecker.embedding import bags, codec, implementations, selfcheck
from kronecker.model import accounting, build
from kronecker.run import rundir, sinks
from kronecker.runtime import determinism, device_mesh, distributed, hardware, preemption, progress, sharding, storage
from kronecker.schema import resolution
from kronecker.training import checkpoint, evaluation, plan, profiling, run_log, train_step


def run(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    asked_to_leave: Callable[[], bool] = lambda: False,
    compile_only: bool = False,
) -> dict[str, Any] | None:
    """Trains, or goes on training, and returns the content of result.json.

    A run that is complete returns at once.  Nothing is written before everything that can be checked is checked.

    Args:
      config: every key of `keys.KEYS`; resolved here.
      workdir: the run's directory.
      asked_to_leave: as `preemption.Notice.asked`.
      compile_only: whether to return None when all is compiled and what it takes is told; writes no run.

    Raises:
      ValueError: if the config cannot work, the devices have too little memory, or `workdir` or the data belong to
        something else.
      FloatingPointError: if the loss stops being finite.
      preemption.Preempted: if asked to leave; the same call goes on from what was saved, as if it had not been.
    """
    workdir = storage.open_path(workdir, "--workdir")
    resolution.resolve(config)  # before processes wait for each other
    device_mesh.use_simulated_cpu_devices(config)
    distributed.start(config)
    device_mesh.use_compilation_cache(config)
    config = resolution.resolve(config, jax.device_count())
    sinks.check_sinks(config)
    profiling.check(workdir, config.log.profile_steps)
    prepared, tokenizer = preparation.ensure_prepared(config)
    config = resolution.with_vocabulary(config, tokenizer.vocab_size)
    if compile_only:
        trainer = _Trainer(config, workdir, prepared, tokenizer)
        trainer.compile()
        trainer.evaluator()
        return None
    rundir.check_same_run(workdir, config)
    result = rundir.read_json(workdir / rundir.RESULT)
    if result is not None:
        return result
    return _Trainer(config, workdir, prepared, tokenizer).train(asked_to_leave)


class _Trainer:
    """What stays fixed during a run."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: epath.Path,
        prepared: manifests.Prepared,
        tokenizer: tokenization.Tokenizer,
    ) -> None:
        self.config, self.workdir, self.prepared, self.tokenizer = config, workdir, prepared, tokenizer
        self.lead = jax.process_index() == 0
        self.label = f"{config.embedding.arm} seed {config.seed}"
        self.mesh: Mesh = device_mesh.make_mesh(config)
        self.compiler_options = determinism.compiler_options(config, self.mesh)
        self.arm = build.build(config, tokenizer.bytes_from(config.embedding.byte_source), self.mesh)
        self.identity = checkpoint.identity(config, self.arm, tokenizer.fingerprint, prepared.fingerprint)
        self.bag = sharding.replicate(self.arm.bag, self.mesh)
        self.like = train_step.abstract_state(self.arm.model, self.bag, config, self.mesh)
        self.limit = plan.device_limit()
        self.begun = rundir.has_checkpoint(workdir)
        self.weights: checkpoint.Weights | None = None
        if config.checkpoint.init_from and not self.begun:
            other = storage.open_path(config.checkpoint.init_from, "checkpoint.init_from")
            self.weights = checkpoint.find_weights(other, self.identity, config)
        self.held_out = evaluation.held_out(prepared, config, self.mesh)
        self.held_out()  # text that is missing or too short is refused before anything is written
        self._train_batches(0)
        if self.arm.codes:
            selfcheck.check_product(self.arm.bag, self.arm.codes, config.embedding, config.model.dtype)

    def compile(self) -> jax.stages.Compiled:
        """Returns the training step, having told what it takes."""
        lowered = train_step.lower_train_step(self.arm.model, self.bag, self.config, self.mesh, self.like)
        compiled = plan.compile_step(
            lowered, self.config, self.mesh.size, self.limit, self.begun, self.compiler_options
        )
        if self.lead:
            told = []
            if self.arm.codes:
                # A byte table says what the Kronecker code cannot tell apart; the other bags have other cells.
                shared = f"{bags.sharing(self.arm.bag):,} ids share all their cells with another"
                told += [codec.summary(self.arm.codes) if self.config.embedding.kind == "kronecker" else shared]
                told += [build.product_line(self.arm, self.config, self.mesh)]
            told += [determinism.line(self.config, self.mesh)]
            told += plan.lines(compiled, accounting.count(self.like.params), self.config, self.mesh.size, self.limit)
            lines = "".join(f"{self.label}  {words}\n" for words in told if words)
            print(lines, end="", file=sys.stderr, flush=True)
        return compiled

    def evaluator(self) -> Callable[..., dict[str, float] | None]:
        """Returns the evaluation, compiled, for which there is room beside the optimizer's state."""
        compile_with = functools.partial(
            plan.compile_evaluation,
            config=self.config,
            devices=self.mesh.size,
            limit=self.limit,
            beside=plan.bytes_of_a_device(self.like.opt_state),
            options=self.compiler_options,
        )
        return evaluation.make_evaluator(
            dataclasses.replace(self.arm, bag=self.bag),
            self.config,
            self.like.params,
            self.tokenizer.text_bytes,
            self.mesh,
            self.held_out,
            compile_with,
        )

    def train(self, asked_to_leave: Callable[[], bool]) -> dict[str, Any]:
        """Trains to the end, unless asked to leave, and returns the content of result.json."""
        c, last = self.config, self.config.train.steps
        update, evaluate = self.compile(), self.evaluator()
        self._write_conditions()
        own = rundir.locked(self.workdir) if self.lead else contextlib.nullcontext()
        with own, checkpoint.open_manager(self.workdir, c) as manager:
            start = manager.latest_step() or 0
            state = self._initial_state() if not start else self._restored_state(manager)
            weights = train_step.full_weights(c, self.mesh)
            batches = self._train_batches(start)
            log_lines = run_log.Log(c, self.arm.model.shape, self.workdir, start)
            with progress.ProgressLine(self.label, last, start, self.lead) as line, log_lines as log:
                recorded = self.workdir / profiling.FOLDER, c.log.profile_steps
                update = profiling.recorded(update, *recorded, start, last, log.watch.pause)
                # Do not reorder: evaluate and save the old state, and only then take the batch that changes it.
                for step in range(start, last + 1):
                    saves = step > start and (step == last or step % c.checkpoint.every == 0)
                    evaluates = step == last or bool(c.eval.every and step % c.eval.every == 0)
                    leave = asked_to_leave()
                    if not leave and evaluates and not log.has_validation(step):
                        log.flush(step, line)
                        line.show(step, "evaluating")
                        with log.watch.pause():
                            numbers = evaluate(state.params, asked_to_leave)
                        leave = numbers is None
                        if numbers is not None:
                            log.validation(step, numbers)
                    if saves:
                        log.flush(step, line)  # also shows that what is saved is finite
                    elif leave:
                        log.hold(step)
                    if saves or (leave and step > start):
                        with log.watch.pause():
                            log.sync()  # a run that goes on from this checkpoint finds the lines before it
                            checkpoint.save(manager, step, state, self.identity)
                    if leave:
                        manager.wait_until_finished()
                        saved = f"step {step:,} is saved" if step else "no step was finished"
                        raise preemption.Preempted(
                            f"{self.label}: told to leave; {saved}, and the same command goes on"
                        )
                    if step == last:
                        break
                    tokens = sharding.to_devices(next(batches), self.mesh)
                    state, step_metrics = update(state, self.bag, tokens, weights)
                    log.catch_up(step, line)  # with the updates before this one: the device has work meanwhile
                    if step % c.log.every == 0:
                        log.flush(step, line)
                    log.add(step_metrics)
            manager.wait_until_finished()
            return self._write_result(log)

    def _write_conditions(self) -> None:
        self.workdir.mkdir(parents=True, exist_ok=True)
        if self.lead:
            rundir.write_json(self.workdir / rundir.CONFIG, self.config.to_dict())
            if not rundir.has_checkpoint(self.workdir):
                own = {"data": str(self.prepared.location), "attention": self.arm.model.shape.attention}
                if self.arm.bag:
                    own["implementation"] = implementations.describe(self.arm.bag)
                if self.weights:
                    own["began_with"] = {"run": self.config.checkpoint.init_from, "step": self.weights.step}
                rundir.write_json(self.workdir / rundir.ENV, rundir.environment() | own)

    def _initial_state(self) -> train_step.TrainState:
        state = train_step.init_on_mesh(self.arm.model, self.bag, self.config, self.like)
        if self.config.checkpoint.init_from and not self.weights:
            raise ValueError(
                f"{self.workdir / rundir.CHECKPOINTS}: holds a checkpoint that is not whole, and the run was to begin "
                "with checkpoint.init_from; delete that folder, and the same command begins again"
            )
        if self.weights:
            state = state.replace(params=checkpoint.restore_weights(self.weights, self.like.params))
            if self.lead:
                words = f"the weights of {self.config.checkpoint.init_from} after step {self.weights.step:,}"
                print(f"{self.label}  begins with {words}", file=sys.stderr)
        params = accounting.count(state.params) | {"body_init_sha256": accounting.body_hash(state.params)}
        if self.lead:
            rundir.write_json(self.workdir / rundir.PARAMS, params)
        return state

    def _restored_state(self, manager: ocp.CheckpointManager) -> train_step.TrainState:
        return checkpoint.restore(manager, self.like, self.identity)

    def _train_batches(self, start: int) -> Iterator[np.ndarray]:
        t = self.config.train
        share = sharding.host_share(self.mesh)
        return rows.train_batches(self.prepared, t.sequence, t.batch, self.config.seed, start, *share)

    def _write_result(self, log: run_log.Log) -> dict[str, Any]:
        if self.lead:
            lines = sinks.read(self.workdir)
            train = [line for line in lines if line["kind"] == "train"]
            validation = [line for line in lines if line["kind"] == "validation"]
            result = {
                "step": self.config.train.steps,
                "tokens": self.config.train.tokens,
                "validation_loss": validation[-1]["loss"],
                "validation_bits_per_byte": validation[-1]["bits_per_byte"],
                "train_loss": train[-1]["loss"],
                "tokens_per_second": statistics.median(line["tokens_per_second"] for line in train),
                "clip_share": train[-1]["clip_share"],
                "seconds": log.watch.seconds(),
                "peak_memory_bytes": hardware.peak_memory_bytes(),
                "data_fingerprint": self.prepared.fingerprint,
                "tokenizer_fingerprint": self.tokenizer.fingerprint,
                "params": rundir.read_json(self.workdir / rundir.PARAMS),
            }
            (self.workdir / rundir.TOKEN_LOSSES).unlink(missing_ok=True)  # of a run that stood here before
            rundir.write_json(self.workdir / rundir.RESULT, result)
        sharding.wait_for_hosts("result")
        return rundir.read_json(self.workdir / rundir.RESULT)
