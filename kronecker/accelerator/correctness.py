"""Part `check`: does this device compute correctly?  Errors relative to the norm, and losses in nats per token.

Shapes: N tokens, d width, V vocabulary, B batch, T time, H heads, h head width.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kronecker.accelerator import arm_losses
from kronecker.accelerator.extents import Extent, Take, Task, Text, arm_config
from kronecker.benchmark import settings, texts
from kronecker.embedding import bags, codec, implementations, selfcheck
from kronecker.model import attention, build, output_head
from kronecker.schema import choices, resolution
from kronecker.schema.arms import KINDS

# Allowed errors: attention kernels in bfloat16 against float32 on the same rounded operands; losses in chunks.
ATTENTION = 2**-6
LOSS = 1e-5
# Largest allowed difference of a loss from the CPU's in float32, nats per token.  It grows in a few steps: Adam's steps
# are as long for small gradients as for large ones, and rounding decides the sign of the smallest.
LOSSES = {"float32": 2e-3, "bfloat16": 3e-2, arm_losses.DETERMINISTIC: 3e-2}


def session(task: Task) -> Take:
    """Returns a function that returns a result by its name: rows with an error and the largest allowed error."""
    extent, text = task.extent, task.text
    arms = list(dict.fromkeys(name.split("-")[1] for name in task.wanted if name.startswith("arm-")))
    if arms:  # the CPU computes them in the background, for the last checks
        cpu = task.stack.enter_context(arm_losses.on_cpu(extent, text, arms))
    trial = functools.cache(lambda: arm_losses.Trial(extent, text, arms))
    read = functools.cache(lambda: texts.read(text.tokenizer, arm_config("kronecker", text, {}).data))
    kinds = {
        "product": lambda dtype: _products(extent, read(), dtype),
        "attention": lambda: _attention(extent),
        "loss": lambda: _loss(extent),
        "selfcheck": lambda: _selfchecks(extent, text, read()),
        "arm": lambda *named: _arm(extent, trial().start(*named), named, cpu, task.seconds_left),
    }

    def measure(name: str) -> dict[str, Any]:
        kind, *rest = name.split("-")
        rows = kinds[kind](*rest)
        return {"rows": rows, "fault": faults(rows)}

    return measure


def faults(rows: Sequence[dict[str, Any]]) -> str | None:
    """Returns a sentence on the rows that are wrong, or None."""
    found = [
        f"{row['what']}: error {row['error']:.1e}, at most {row['allowed']:.1e} is allowed"
        for row in rows
        if row["error"] is not None and not row["error"] <= row["allowed"]
    ]
    return "; ".join(found + [row["fault"] for row in rows if row.get("fault")]) or None


def _products(extent: Extent, read: texts.Text, dtype: str) -> list[dict[str, Any]]:
    """Returns the errors of all implementations and their gradients against dense codes in float64, on real ids."""
    tokens, width = extent.product
    ids_N = read.batches(1, 1, tokens)[0, 0]
    table = codec.byte_table(read.tokenizer.token_bytes, settings.Setting().P)
    plain = bags.kronecker_bag(table)
    rng = np.random.default_rng(0)
    weights_Dd = rng.normal(0, plain.rows**-0.5, (plain.rows, width)).astype(np.float32)
    grad_Nd = rng.normal(size=(tokens, width)).astype(np.float32)
    code_ND = codec.dense_code(table, ids_N, "z")
    exact = code_ND @ weights_Dd.astype(np.float64), code_ND.T @ grad_Nd.astype(np.float64)
    rows = []
    for name in choices.IMPLEMENTATIONS:
        for gradient in choices.GATHER_GRADIENTS if name == "gather" else ("auto",):
            label = f"gather, gradient by {gradient}" if name == "gather" else name
            try:
                bag = implementations.prepare(
                    plain, name, dtype, platform=jax.default_backend(), gather_gradient=gradient
                )
            except ValueError as error:  # the codes would be too large
                rows.append({"what": f"{label}: codes too large", "error": None, "allowed": None, "reason": str(error)})
                continue
            for what, error, allowed in selfcheck.errors(bag, ids_N, weights_Dd, grad_Nd, exact, dtype):
                rows.append({"what": f"{label}: {what}", "error": error, "allowed": allowed})
    return rows


def _attention(extent: Extent) -> list[dict[str, Any]]:
    """Returns the errors of this platform's attention kernels against XLA in float32, forward and gradients."""
    shape = extent.attention
    *qkv, grad = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(4))
    kernels = [name for name, platform in attention.PLATFORM.items() if platform == jax.default_backend()]

    @functools.partial(jax.jit, static_argnames=("kernel", "dtype"))
    def run(qkv, grad, kernel, dtype):
        operands = [x.astype(dtype) for x in qkv]
        out, pullback = jax.vjp(lambda *x: attention.causal(*x, kernel), *operands)
        return out, *pullback(grad.astype(out.dtype))

    with jax.default_matmul_precision("highest"):
        exact = run(qkv, grad, "xla", "float32")
    rows = []
    for kernel in ("xla", *kernels):
        got = run(qkv, grad, kernel, "bfloat16")
        for what, ours, want in zip(("value", "dq", "dk", "dv"), got, exact, strict=True):
            rows.append({"what": f"{kernel}: {what}", "error": _error(ours, want), "allowed": ATTENTION})
    return rows


def _loss(extent: Extent) -> list[dict[str, Any]]:
    """Returns the errors of the loss and its gradients in chunks against one computation for all tokens."""
    batch, time, width, chunk = extent.loss
    vocab = 50_257
    x_BTd = jax.random.normal(jax.random.key(0), (batch, time, width))
    made = output_head.Head(0.02 * jax.random.normal(jax.random.key(1), (width, vocab)), vocab, "float32")
    targets_BT = jax.random.randint(jax.random.key(2), (batch, time), 0, vocab)
    weights_BT = jnp.full((batch, time), 1 / (batch * time))

    @functools.partial(jax.jit, static_argnames="chunk")
    def run(made, x_BTd, chunk):
        loss, (head_grad, x_grad) = jax.value_and_grad(output_head.nats_sum, argnums=(0, 1))(
            made, x_BTd, targets_BT, weights_BT, chunk
        )
        return loss, head_grad.matrix, x_grad

    with jax.default_matmul_precision("highest"):
        whole, parts = (jax.device_get(run(made, x_BTd, size)) for size in (0, chunk))
    named = zip(("loss", "head gradient", "hidden-state gradient"), parts, whole, strict=True)
    return [
        {"what": f"{what}, chunks of {chunk}", "error": _error(ours, want), "allowed": LOSS}
        for what, ours, want in named
    ]


def _selfchecks(extent: Extent, text: Text, read: texts.Text) -> list[dict[str, Any]]:
    """Returns the result of training's self-check for each arm that has a code, with the product of this device."""
    rows = []
    for arm in extent.arms:
        for dtype in choices.DTYPES:
            c = resolution.resolve(arm_config(arm, text, {**extent.trained, "model.dtype": dtype}))
            if not KINDS[c.embedding.kind].bag:
                continue
            made = build.build(resolution.with_vocabulary(c, read.tokenizer.vocab_size), read.tokenizer.token_bytes)
            row = {"what": f"{arm}, {dtype}: {made.bag.implementation}", "error": None, "allowed": None}
            try:
                selfcheck.check_product(made.bag, made.codes, c.embedding, dtype)
            except FloatingPointError as error:
                row["fault"] = f"{arm}: {error}"
            rows.append(row)
    return rows


def _arm(extent: Extent, arm: Any, named: Sequence[str], cpu: Callable, seconds_left: Callable[[], float]) -> list:
    """Returns how far an arm's losses are from the CPU's, and whether a second run gives the same bits."""
    name, dtype = named
    initial = jax.device_get(arm.state)
    ours = arm_losses.losses(arm, extent.trained["train.steps"])
    bitwise = arm_losses.repeats(arm, initial)
    theirs = cpu(name, max(1.0, seconds_left()))
    row = {
        "what": f"{name}, {dtype}: {len(ours)} losses",
        "error": float(np.abs(np.subtract(ours, theirs)).max()),
        "allowed": LOSSES[dtype],
        "bitwise": bitwise,
        "product": arm.facts["implementation"],
        "losses": ours,
        "losses_cpu": theirs,
    }
    if dtype == arm_losses.DETERMINISTIC and not bitwise:
        row["fault"] = f"{name}: train.deterministic is set, but a second run of the same steps gave different bits"
    return [row]


def _error(ours: jax.Array, want: np.ndarray) -> float:
    ours, want = (np.asarray(x, np.float64) for x in (ours, want))
    return float(np.linalg.norm(ours - want) / np.linalg.norm(want))
