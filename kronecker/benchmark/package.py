"""The paper author's package, `kronecker-embeddings` on PyTorch, as a contender; imported only when used."""

import concurrent.futures
import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import pathlib
import re
from typing import Any

import ml_collections
import numpy as np

from kronecker.benchmark import timing
from kronecker.embedding import author_package, codec

MISSING = "the author's package is not installed; `make reference` installs it"
_HIGHEST = pathlib.Path("/proc/self/clear_refs")  # writing "5" resets the peak of the resident memory


def installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "kronecker_embeddings"))


class Layer:
    """The package's layer in its dynamic mode, on a table's bytes, with PyTorch's AdamW.

    It runs on the GPU if both JAX and PyTorch use one, else on the CPU with one thread for each core.
    """

    def __init__(
        self, table: codec.ByteTable, projection_Dd: np.ndarray, train: ml_collections.ConfigDict, on_gpu: bool
    ) -> None:
        self._torch = torch = importlib.import_module("torch")
        package = importlib.import_module("kronecker_embeddings")
        torch.set_num_threads(timing.threads())
        self.device = "cuda" if on_gpu and torch.cuda.is_available() else "cpu"
        vocab, pos_dim = table.bytes.shape
        self._layer = package.KroneckerEmbedding(
            vocab,
            projection_Dd.shape[1],
            pos_dim=pos_dim,
            byte_buffer=torch.from_numpy(table.bytes),
            length_buffer=torch.from_numpy(table.lengths.astype(np.int16)),
        )
        state = author_package.state_dict_from_projection(projection_Dd)
        self._layer.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        self._layer.to(self.device)
        self._clip = train.clip
        self._adamw = torch.optim.AdamW(
            self._layer.parameters(),
            lr=train.lr,
            betas=(train.beta1, train.beta2),
            eps=train.eps,
            weight_decay=train.weight_decay,
            fused=True,
        )

    def to_device(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(np.array(array)).to(self.device)

    def forward(self, ids: Any) -> None:
        with self._torch.no_grad():
            self._layer(ids)
        self._wait()

    def gradient(self, ids: Any, grad: Any) -> tuple[Any, Any]:
        """Returns the embeddings and the gradient of W, in our layout (D, d)."""
        self._adamw.zero_grad(set_to_none=True)
        out = self._layer(ids)
        out.backward(grad)
        self._wait()
        return out.detach(), self._layer.projection.weight.grad.T

    def update(self, ids: Any, grad: Any) -> None:
        """Computes embeddings and gradient, clips the gradient as training does and takes a step of AdamW."""
        self.gradient(ids, grad)
        if self._clip:
            self._torch.nn.utils.clip_grad_norm_(self._layer.parameters(), self._clip)
        self._adamw.step()
        self._wait()

    def _wait(self) -> None:
        if self.device == "cuda":
            self._torch.cuda.synchronize()


def peak_memory(
    table: codec.ByteTable, width: int, train: ml_collections.ConfigDict, ids: np.ndarray
) -> dict[str, int] | None:
    """Returns how many bytes the peak resident memory of a new process grows by in one update; None outside Linux.

    Libraries, layer, optimizer state and arguments are allocated before, so they do not count.
    """
    if not _HIGHEST.exists():
        return None
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return {"temporaries": pool.submit(_growth, table, width, train.to_dict(), ids).result()}


def _growth(table: codec.ByteTable, width: int, train: dict[str, Any], ids: np.ndarray) -> int:
    projection_Dd = np.zeros((table.code_dim, width), np.float32)
    layer = Layer(table, projection_Dd, ml_collections.ConfigDict(train), on_gpu=False)
    grad = layer.to_device(np.ones((*ids.shape, width), np.float32))
    layer.update(layer.to_device(ids[:1]), grad[:1])  # allocates the optimizer's state and the libraries' pools
    _HIGHEST.write_text("5", encoding="utf-8")
    before = _resident_bytes("VmRSS")
    layer.update(layer.to_device(ids), grad)
    return _resident_bytes("VmHWM") - before


def _resident_bytes(line: str) -> int:
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^{line}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found) * 1024
