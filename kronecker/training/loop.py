"""The training loop: from a config to a run's folder, resumable at any step.

On a CPU a resumed run equals an uninterrupted one bit for bit, on the same machine, devices and versions.  On a GPU
this needs train.deterministic, and has not been tried.
"""

import contextlib
import dataclasses
import functools
import pkgutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from kronecker import tokenization
from kronecker.data import manifests, preparation, rows, unigrams
from kronecker.embedding import bags, codec, implementations, selfcheck
from kronecker.model import accounting, build
from kronecker.run import finished_runs, rundir, sinks
from kronecker.runtime import (
    determinism,
    device_mesh,
    distributed,
    hardware,
    locks,
    machine,
    preemption,
    profiling,
    progress,
    sharding,
    storage,
)
from kronecker.schema import choices, dotted, resolution
from kronecker.training import checkpoint, evaluation, plan, run_log, train_step

# Keys in which the processes of one run may differ: places, and what the fingerprints of text and tokenizer cover.
_OWN = ("data.", "tokenizer", "distributed.", "log.", "compilation_cache")


def run(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    asked_to_leave: Callable[[], signal.Signals | None] = lambda: None,
    compile_only: bool = False,
) -> dict[str, Any] | None:
    """Trains or resumes a run, and returns the content of result.json; a complete run returns at once.

    Writes nothing before all checks have passed.  `config` has every key of `keys.KEYS` and is resolved here;
    `asked_to_leave` is like `preemption.Notice.asked`.  With `compile_only` it compiles, prints the cost, and returns
    None without writing a run.

    Raises ValueError if the config cannot work, the devices have too little memory, or `workdir` or the data are of
    another run; FloatingPointError if the loss is not finite; preemption.Preempted if preempted: the same call then
    resumes from the checkpoint.
    """
    workdir = storage.open_path(workdir, "--workdir")
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir}: not a folder; choose another name")
    config = resolution.resolve(config)  # before processes wait for one another
    device_mesh.use_simulated_cpu_devices(config)
    distributed.start(config)
    device_mesh.use_compilation_cache(config)
    resolution.check_devices(config, jax.device_count())
    sinks.check_sinks(config)
    profiling.check(workdir, config.log.profile_steps)
    prepared, tokenizer = preparation.ensure_prepared(config)
    config = resolution.with_vocabulary(config, tokenizer.vocab_size)
    shared = {key: value for key, value in dotted.flat(config).items() if not key.startswith(_OWN)}
    found = {"the prepared text": prepared.fingerprint, "the tokenizer": tokenizer.fingerprint}
    distributed.require_equal(shared | found | {"--workdir": str(storage.absolute(workdir))})
    if compile_only:
        _prepare(config, workdir, prepared, tokenizer).compile()
        return None
    if (result := _result(workdir, config)) is not None:  # without the lock, so also on a disk that is read-only
        return result
    with _locked(workdir, config):
        if (result := _result(workdir, config)) is not None:
            return result
        trainer = _prepare(config, workdir, prepared, tokenizer)
        return trainer.train(trainer.compile(), asked_to_leave)


def _result(workdir: epath.Path, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """Returns the result of a finished run, in all processes or in none; raises ValueError for another run's folder."""
    finished = distributed.told_by_all((workdir / rundir.RESULT).exists())[0]
    rundir.check_same_run(workdir, config)
    needed = finished_runs.NEEDED[rundir.RESULT] | {"validation_loss": float}
    return finished_runs.read_json(workdir, rundir.RESULT, needed) if finished else None


@contextlib.contextmanager
def _locked(workdir: epath.Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Holds the run's folder in the first process; the others wait until it does, so that all find the same files."""
    with rundir.Lock(workdir, config) if _is_lead() else contextlib.nullcontext() as lock:
        while state := distributed.told_by_all(lock.ask() if lock else rundir.Lock.MINE)[0]:
            if state == rundir.Lock.REFUSED:
                raise ValueError(lock.refusal if lock else f"--workdir={workdir}: in use; see process 0")
            time.sleep(locks.POLL_SECONDS)
        yield


def _prepare(
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    prepared: manifests.Prepared,
    tokenizer: tokenization.Tokenizer,
) -> "_Trainer":
    """Builds the model and opens the data; raises ValueError, before anything is written, if they cannot be trained."""
    mesh = device_mesh.make_mesh(config)
    counts = unigrams.counts(prepared, tokenizer.vocab_size) if config.model.unigram_bias else None
    token_bytes = tokenizer.bytes_from(config.embedding.byte_source)
    arm = build.build(config, token_bytes, mesh, counts, tokenizer.special_ids)
    bag = sharding.replicate(arm.bag, mesh)
    identity = checkpoint.identity(config, arm, tokenizer.fingerprint, prepared.fingerprint)
    abstract_state = train_step.abstract_state(arm.model, bag, config, mesh)
    has_checkpoint, init_weights = rundir.has_checkpoint(workdir), None
    kind, _, folder = (init_from := config.checkpoint.init_from).partition(":")
    if kind in choices.INIT_FROM and not has_checkpoint:
        init_weights = pkgutil.resolve_name(choices.INIT_FROM[kind])(folder, config, tokenizer, prepared, arm.bag)
    elif init_from and not has_checkpoint:
        source = storage.open_path(init_from, "checkpoint.init_from")
        init_weights = checkpoint.find_weights(source, identity, config, abstract_state.params)
    if init_weights:
        distributed.require_equal({"the weights of checkpoint.init_from": init_weights.facts})
    trainer = _Trainer(
        config, workdir, prepared, tokenizer, mesh, arm, bag, identity, abstract_state, has_checkpoint, init_weights
    )
    evaluation.held_out(prepared, config, mesh)  # raises if text is missing or too short, as does the next line
    trainer.train_batches(0)
    if arm.codes:
        selfcheck.check_product(arm.bag, arm.codes, config.embedding, config.model.dtype)
    return trainer


class _Programs(NamedTuple):
    """The compiled update(state, bag, tokens, weights) and evaluate(params, stop)."""

    update: Callable[..., tuple[train_step.TrainState, train_step.StepMetrics]]
    evaluate: Callable[..., dict[str, float] | None]


@dataclasses.dataclass(frozen=True, eq=False)
class _Trainer:
    """The fixed parts of a run."""

    config: ml_collections.ConfigDict
    workdir: epath.Path
    prepared: manifests.Prepared
    tokenizer: tokenization.Tokenizer
    mesh: Mesh
    arm: build.Arm
    bag: bags.Bag | None  # the arm's, on every device
    identity: dict[str, str]  # equal in all its checkpoints
    abstract_state: train_step.TrainState  # shapes, types and shardings
    has_checkpoint: bool  # when the process started
    init_weights: checkpoint.Weights | None  # or its like, from checkpoint.init_from, if the run is new

    def compile(self) -> _Programs:
        """Compiles training step and evaluation, and prints their cost; raises ValueError if memory is too small."""
        c, devices, limit = self.config, self.mesh.size, plan.device_limit()
        options = determinism.compiler_options(c, self.mesh)
        remedy = functools.partial(plan.remedy, c, devices, limit, self.has_checkpoint)
        plan.check_state(self.abstract_state, limit, remedy)
        lowered = train_step.lower_train_step(self.arm.model, self.bag, c, self.mesh, self.abstract_state)
        update = plan.compiled(lowered, "training step", limit, remedy, options)
        if _is_lead():
            params = accounting.count(self.abstract_state.params)
            self._say(*self._describe(), *plan.lines(update, params, c, devices, limit))
        remedy = functools.partial(plan.remedy_of_evaluation, c, devices)
        reserved = plan.bytes_of_a_device(self.abstract_state.opt_state)
        evaluate = evaluation.make_evaluator(
            dataclasses.replace(self.arm, bag=self.bag),
            c,
            self.abstract_state.params,
            self.prepared,
            self.tokenizer,
            self.mesh,
            lambda lowered: plan.compiled(lowered, "evaluation", limit, remedy, options, reserved),
        )
        return _Programs(update, evaluate)

    def train(self, programs: _Programs, asked_to_leave: Callable[[], signal.Signals | None]) -> dict[str, Any]:
        """Trains to the end, unless preempted, and returns the content of result.json."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        if _is_lead():
            (self.workdir / rundir.DIVERGED).unlink(missing_ok=True)  # of an attempt before this one
            rundir.write_json(self.workdir / rundir.CONFIG, self.config.to_dict())
        start, state = checkpoint.resume(self.workdir, self.abstract_state, self.identity)
        if state is None:
            state = self._initial_state()
        else:
            self._say(f"resumes after step {start:,}")
        params = self._write_records(state, start)
        with (
            checkpoint.open_manager(self.workdir, self.config) as manager,
            run_log.Log(self.config, self.arm.model.shape, self.workdir, start) as log,
        ):
            try:
                step, leaves = self._train_steps(start, state, programs, manager, log, asked_to_leave)
            except FloatingPointError as error:
                if _is_lead():
                    rundir.write_json(self.workdir / rundir.DIVERGED, {"reason": str(error)})
                raise
        if leaves:
            saved = f"step {step:,} is saved" if step else "no step is finished"
            received = asked_to_leave()
            words = f"{run_log.label(self.config)}: received {received.name}; {saved}; the same command resumes"
            raise preemption.Preempted(words, received)
        return self._write_result(log, params)

    def _train_steps(
        self,
        start: int,
        state: train_step.TrainState,
        programs: _Programs,
        manager: ocp.CheckpointManager,
        log: run_log.Log,
        asked_to_leave: Callable[[], signal.Signals | None],
    ) -> tuple[int, bool]:
        """Returns the last step, which is saved, and whether training was preempted."""
        c, last = self.config, self.config.train.steps
        recording = self.workdir / profiling.FOLDER, c.log.profile_steps
        update = profiling.recorded(programs.update, *recording, start, last, log.watch.pause)
        batches, weights = self.train_batches(start), train_step.full_weights(c, self.mesh)
        # Transfers other than device_put and device_get raise here: they would delay every step.  On a CPU only those
        # to the device are detected (a NumPy batch, a number added to a loss); float(loss) reads the same memory.
        with jax.transfer_guard("disallow"):
            # DO NOT REORDER: evaluate and save the old state before the update that changes it.
            for step in range(start, last + 1):
                leaves = bool(asked_to_leave())
                evaluates = step == last or (c.eval.every and step % c.eval.every == 0)
                if evaluates and not leaves and not log.has_validation(step):
                    leaves = not log.evaluate(step, functools.partial(programs.evaluate, state.params), asked_to_leave)
                saves = step > start and (step == last or step % c.checkpoint.every == 0)
                if saves:
                    log.flush(step)  # also checks that the saved state is finite
                elif leaves:
                    log.save_pending(step)
                if saves or (leaves and step > start):
                    self._save(manager, step, state, log)
                if leaves or step == last:
                    break
                tokens = sharding.to_devices(next(batches), self.mesh)
                state, step_metrics = update(state, self.bag, tokens, weights)
                log.catch_up(step)  # waits for earlier updates, while the device computes this one
                if step % c.log.every == 0:
                    log.flush(step)
                log.add(step_metrics)
        return step, leaves

    def _save(self, manager: ocp.CheckpointManager, step: int, state: train_step.TrainState, log: run_log.Log) -> None:
        with log.watch.pause():
            log.sync()  # a run resumed from this checkpoint needs the lines before it
            checkpoint.save(manager, step, state, self.identity)

    def train_batches(self, start: int) -> Iterator[np.ndarray]:
        t = self.config.train
        share = sharding.host_share(self.mesh)
        return rows.train_batches(self.prepared, t.sequence, t.batch, self.config.seed, start, *share)

    def _describe(self) -> list[str | None]:
        """Returns lines about the code, its product, train.deterministic and few held-out tokens; None: no line."""
        lines = []
        if self.arm.codes:
            # `codec.summary` counts equal Kronecker codes; other kinds have other codes.
            shared = f"{bags.sharing(self.arm.bag):,} ids share a code with another id"
            lines += [codec.summary(self.arm.codes) if self.config.embedding.kind == "kronecker" else shared]
            lines += [build.product_line(self.arm, self.config, self.mesh)]
        return [*lines, determinism.line(self.config, self.mesh), evaluation.few_tokens(self.prepared, self.config)]

    def _environment(self) -> dict[str, Any]:
        """Returns the content of env.json."""
        facts = {"data": str(self.prepared.location), "attention": self.arm.model.shape.attention}
        if self.arm.bag:
            facts["implementation"] = implementations.describe(self.arm.bag)
        if self.init_weights:
            facts["began_with"] = {"run": self.config.checkpoint.init_from, **self.init_weights.facts}
        return machine.environment() | facts

    def _initial_state(self) -> train_step.TrainState:
        init_from = self.config.checkpoint.init_from
        if init_from and not self.init_weights:
            raise ValueError(
                f"{self.workdir / rundir.CHECKPOINTS}: incomplete checkpoint found, so checkpoint.init_from cannot be "
                "applied safely; delete this folder and run the same command again"
            )
        state = train_step.init_on_mesh(self.arm.model, self.bag, self.config, self.abstract_state)
        if self.init_weights:
            state = state.replace(params=self.init_weights.restore(self.abstract_state.params))
            facts = ", ".join(f"{name} {value}" for name, value in self.init_weights.facts.items())
            self._say(f"starts from the weights of {init_from}, {facts}")
        return state

    def _write_records(self, state: train_step.TrainState, start: int) -> dict[str, Any]:
        """Writes env.json and params.json, of a resumed run only those that were lost; returns the latter's content.

        The hash of the initial body is in both, as no checkpoint has it.
        """
        params = accounting.count(state.params)
        if start:
            env, saved = (self._read_record(name) for name in (rundir.ENV, rundir.PARAMS))
            bodies = {body for one in (env, saved) if isinstance(body := one.get("body_init_sha256"), str)}
            if len(bodies) != 1:
                fault = "of another run than" if bodies else "lost or damaged, and body_init_sha256 is not in"
                remedy = "restore one of them from a copy, or train in a new --workdir"
                raise ValueError(f"{self.workdir / rundir.PARAMS}: {fault} {rundir.ENV}; {remedy}")
            body = bodies.pop()
        else:
            env, saved, body = {}, {}, accounting.body_hash(state.params)
        params |= {"body_init_sha256": body}
        if _is_lead():
            now = self._environment() | {"body_init_sha256": body}
            joined = {name: machine.after(env[name], now[name]) for name in machine.CHANGING if env}
            if env != (after := (env or now) | joined):
                rundir.write_json(self.workdir / rundir.ENV, after)
            if saved != params:
                rundir.write_json(self.workdir / rundir.PARAMS, params)
            if start and (not env or saved != params):
                self._say(f"{self.workdir}: {rundir.ENV} or {rundir.PARAMS} was lost: written again")
        return params

    def _read_record(self, name: str) -> dict[str, Any]:
        """Returns a file's content, empty if it is lost or damaged."""
        try:
            return rundir.read_json(self.workdir / name, finished_runs.NEEDED[name]) or {}
        except ValueError:
            return {}

    def _write_result(self, log: run_log.Log, params: dict[str, Any]) -> dict[str, Any]:
        if _is_lead():
            lines, last = sinks.read(self.workdir), self.config.train.steps
            train = [line for line in lines if line["kind"] == "train"]
            validation = [line for line in lines if line["kind"] == "validation"]
            if not train or train[-1]["step"] != last:
                raise ValueError(
                    f"{self.workdir / sinks.METRICS}: the training line of step {last:,} is lost, so the result has no "
                    f"training loss; restore it, or delete {self.workdir / rundir.CHECKPOINTS / str(last)} and run the "
                    "same command again: it trains the last steps again"
                )
            result = {
                "step": last,
                "tokens": self.config.train.tokens,
                "validation_loss": validation[-1]["loss"],
                "validation_bits_per_byte": validation[-1]["bits_per_byte"],
                "train_loss": train[-1]["loss"],
                "tokens_per_second": statistics.median(line["tokens_per_second"] for line in train),
                "clip_share": train[-1]["clip_share"],
                "seconds": log.watch.seconds(),
                "peak_memory_bytes": hardware.peak_memory_bytes(),
                "held_out_tokens": self.prepared.tokens("validation") - 1,  # that can be predicted
                "data_fingerprint": self.prepared.fingerprint,
                "tokenizer_fingerprint": self.tokenizer.fingerprint,
                "config_sha256": self.identity["config"],
                "metrics_gaps": sinks.gaps(lines, last),
                "params": params,
            }
            for name in (rundir.TOKEN_LOSSES, rundir.HELD_OUT, rundir.INPUT_USE):  # of an earlier run in this folder
                (self.workdir / name).unlink(missing_ok=True)
            rundir.write_json(self.workdir / rundir.RESULT, result)
        sharding.wait_for_hosts("result")
        return rundir.read_json(self.workdir / rundir.RESULT)

    def _say(self, *lines: str | None) -> None:
        for line in filter(None, lines if _is_lead() else ()):
            progress.note(run_log.label(self.config), line)


def _is_lead() -> bool:
    return jax.process_index() == 0
