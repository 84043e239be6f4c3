"""The README.md of an exported model: what it is, its numbers, and what it is not for."""

from collections.abc import Mapping
from typing import Any

import jinja2
from etils import epath

from kronecker.run import finished_runs, measured_on, rundir, sinks
from kronecker.runtime import machine
from kronecker.schema import arms, dotted
from kronecker.training import restore

FILE = "README.md"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("kronecker", "assets"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(run: restore.Restored, workdir: epath.Path, exported: Mapping[str, Any]) -> str:
    """Returns the card; `workdir` is the run's folder, `exported` what the template shows of weights and tokenizer.

    Raises FileNotFoundError or ValueError if the run's records are missing or damaged.
    """
    c = run.config
    line = arms.ARMS[c.embedding.arm].line if c.embedding.arm in arms.ARMS else f"embedding.kind {c.embedding.kind}"
    return _TEMPLATES.get_template("model_card.md").render(
        arm=c.embedding.arm,
        line=line[0].upper() + line[1:],
        seed=c.seed,
        vocab_size=f"{c.model.vocab_size:,}",
        context=f"{c.model.context:,}",
        induced=run.arm.bag is not None,
        tied=c.model.tie_head,
        end=run.tokenizer.token_bytes[run.tokenizer.eot_id].decode(),
        tokens=f"{run.step * c.train.batch * c.train.sequence:,}",
        facts=_facts(run, workdir),
        **exported,
    )


def _facts(run: restore.Restored, workdir: epath.Path) -> dict[str, str]:
    c, tokenizer, prepared = run.config, run.tokenizer, run.prepared
    env = finished_runs.read_json(
        workdir, rundir.ENV, {"versions": dict, "commit": (str, type(None)), "devices": list, "started": str}
    )
    conditions = measured_on.of_run(dotted.flat(c), run.step)
    of_step = [line for line in sinks.read(workdir) if line["kind"] == "validation" and line["step"] == run.step]
    source, spec = machine.without_paths_outside([prepared.manifest["source"]["spec"], c.tokenizer])
    train = prepared.manifest["splits"]["train"]
    facts = {
        "Model": f"{conditions['model']}, biases {'on' if c.model.bias else 'off'}",
        "Text": f"{source}: {train['documents']:,} documents, {train['tokens']:,} tokens",
        "Fingerprint of the text": f"`{prepared.fingerprint}`",
        "Tokenizer": f"{spec}, {tokenizer.vocab_size:,} ids",
        "Fingerprint of the tokenizer": f"`{tokenizer.fingerprint}`",
        "Training": f"{conditions['training']}; {c.train.optimizer}, learning rate {c.train.lr:g}",
    }
    if c.checkpoint.init_from:
        facts["Started from"] = machine.without_paths_outside([c.checkpoint.init_from])[0]
    if of_step:
        loss, bits = of_step[-1]["loss"], of_step[-1]["bits_per_byte"]
        facts["Held-out loss"] = f"{loss:.4f} nats per token, {bits:.4f} bits per byte"
    else:
        facts["Held-out loss"] = f"not measured at step {run.step:,}"
    versions = ", ".join(f"{name} {env['versions'].get(name)}" for name in ("jax", "flax"))
    return facts | {
        "Seed": str(c.seed),
        "Code": f"commit {env['commit'] or 'unknown'}; {versions}",
        "Devices": f"{len(env['devices'])} of {', '.join(dict.fromkeys(env['devices']))}",
        "Started": env["started"],
    }
