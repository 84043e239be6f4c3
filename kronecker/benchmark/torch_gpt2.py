"""The decoder of kronecker/model/transformer.py with a learned table, in PyTorch, to compare our step with.

It uses nn.Module, F.scaled_dot_product_attention, F.cross_entropy, torch.optim.AdamW with two groups of decay, and
clips the gradient's global norm.  It starts from our parameters, so the losses of both must agree.  PyTorch is imported
when `Trainer` is created.

Shapes: B batch, T time, V padded vocabulary, d model width, H heads, h head width.
"""

import importlib
import re
import types
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
from flax import traverse_util

from kronecker.model import transformer
from kronecker.training import optimizer


class Trainer:
    """A GPT-2 in training that starts from `params`: our model's with a learned table, as numpy arrays.

    The config is resolved, with its vocabulary: float32, no dropout, no accumulation.  `compiled` uses torch.compile
    for model and loss, which compiles at the first step; `adamw` are options of torch.optim.AdamW.
    """

    def __init__(
        self,
        params: dict[str, Any],
        config: ml_collections.ConfigDict,
        threads: int,
        compiled: bool = False,
        **adamw: bool,
    ) -> None:
        self._torch = torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        shape = transformer.Shape.of(config.model)
        self._train, self._real = config.train, shape.vocab_size
        self._schedule = optimizer.make_schedule(config)
        self._updates = 0
        self._model = _model(torch, shape)
        self._loss = torch.compile(self._eager_loss, dynamic=False) if compiled else self._eager_loss
        named = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, value in _state(params):
                size = named[name].shape  # of a linear layer (out, in); ours is (in, out)
                turned = len(size) == 2 and name not in ("embed.weight", "positions.weight")
                array = value.reshape(size[::-1]).T if turned else value.reshape(size)
                named[name].copy_(torch.from_numpy(np.array(array)))
        groups = [
            {"params": [p for p in named.values() if (p.dim() >= 2) is matrices], "weight_decay": decay}
            for matrices, decay in ((True, self._train.weight_decay), (False, 0.0))
        ]
        t = self._train
        self._optimizer = torch.optim.AdamW(groups, lr=t.lr, betas=(t.beta1, t.beta2), eps=t.eps, **adamw)

    def step(self, tokens_BT1: np.ndarray, mask_padding: bool = False) -> float:
        """Takes one update with ids int64 (B, T + 1) and returns the loss before it, in nats per token.

        `mask_padding` gives padded vocabulary entries zero probability, as our model does.  It copies the logits, which
        usual PyTorch code does not.
        """
        loss = self._loss(self._torch.from_numpy(tokens_BT1), mask_padding)
        loss.backward()
        if self._train.clip:
            self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._train.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = float(self._schedule(self._updates))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._updates += 1
        return loss.item()

    def _eager_loss(self, tokens_BT1: Any, mask_padding: bool) -> Any:
        logits = self._model(tokens_BT1[:, :-1])
        if mask_padding:
            logits = logits[..., : self._real]
        targets = tokens_BT1[:, 1:].reshape(-1)
        return self._torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets)


def _model(torch: types.ModuleType, shape: transformer.Shape) -> Any:
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            d = shape.d_model
            self.attention_norm, self.mlp_norm = (nn.LayerNorm(d, transformer.LAYER_NORM_EPS) for _ in range(2))
            self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x_BTd: Any) -> Any:
            batch, time, d = x_BTd.shape
            qkv = self.qkv(self.attention_norm(x_BTd)).split(d, dim=2)
            heads = (x.view(batch, time, shape.heads, d // shape.heads).transpose(1, 2) for x in qkv)
            y_BHTh = functional.scaled_dot_product_attention(*heads, is_causal=True)
            x_BTd = x_BTd + self.out(y_BHTh.transpose(1, 2).reshape(batch, time, d))
            return x_BTd + self.down(functional.gelu(self.up(self.mlp_norm(x_BTd)), approximate="tanh"))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(shape.padded_vocab, shape.d_model)
            self.positions = nn.Embedding(shape.context, shape.d_model)
            self.blocks = nn.ModuleList(Block() for _ in range(shape.layers))
            self.final_norm = nn.LayerNorm(shape.d_model, transformer.LAYER_NORM_EPS)
            self.head = nn.Linear(shape.d_model, shape.padded_vocab, bias=False)
            if shape.tie_head:
                self.head.weight = self.embed.weight

        def forward(self, ids_BT: Any) -> Any:
            x_BTd = self.embed(ids_BT) + self.positions(torch.arange(ids_BT.shape[1]))
            for block in self.blocks:
                x_BTd = block(x_BTd)
            return self.head(self.final_norm(x_BTd))

    return Decoder()


def _state(params: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our parameters under PyTorch's names, those of the blocks layer by layer."""
    for path, leaf in traverse_util.flatten_dict(params, sep=".").items():
        name = path.replace(".attention.", ".")
        name = name if name.endswith(".bias") else re.sub(r"\.(table|kernel|scale)$", "", name) + ".weight"
        if path.startswith("blocks."):
            yield from ((name.replace("blocks", f"blocks.{layer}"), of_layer) for layer, of_layer in enumerate(leaf))
        else:
            yield name, leaf
