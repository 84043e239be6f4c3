"""Token ids of real text, for timings: how often ids repeat and how long they are decides what an encoder costs."""

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path

import ml_collections
import numpy as np

from kronecker import tokenization
from kronecker.data import preparation, sources

TEXT_BYTES = 4_000_000  # of a source, the first: about a million tokens
BPE = "bpe:"


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A tokenizer and a stream of its ids.

    Attributes:
      tokenizer: the tokenizer; its spec is what the user wrote.
      ids: int32 (n,), the documents of a source, each followed by the end-of-text id.
      source: the source's name.
    """

    tokenizer: tokenization.Tokenizer
    ids: np.ndarray
    source: str

    def batches(self, count: int, sequences: int, length: int) -> np.ndarray:
        """Returns `count` batches, int32 (count, sequences, length), of sequences from all over the text.

        Raises:
          ValueError: if the text has too few ids for sequences that are all different.
        """
        rows = len(self.ids) // length
        if rows < count * sequences:
            raise ValueError(
                f"--data: the first {TEXT_BYTES // 10**6} MB of {self.source} are {len(self.ids):,} ids of "
                f"{self.tokenizer.name}, and {count} batches of {sequences:,} x {length:,} take "
                f"{count * sequences * length:,}; choose more text or smaller batches"
            )
        chosen = np.random.default_rng(0).permutation(rows)[: count * sequences]
        return self.ids[: rows * length].reshape(rows, length)[chosen].reshape(count, sequences, length)


def read(tokenizer: str, data: ml_collections.ConfigDict) -> Text:
    """Returns the start of a source's training text under a tokenizer.

    Args:
      tokenizer: as in a config; bpe:SIZE is trained on the text itself.
      data: the `data` group of a config.

    Raises:
      ValueError: if source or tokenizer do not fit.
      OSError: if a file is missing.
    """
    if data.source.startswith(preparation.PREPARED):
        raise ValueError(f"--data={data.source}: several tokenizers read the text itself; give the source it was from")
    source = sources.open_source(data)
    source.fetch(lambda done, total: None)
    texts = [text for text in sources.training_texts(source, data.validation_fraction, TEXT_BYTES) if text]
    loaded = _trained(tokenizer, texts) if tokenizer.startswith(BPE) else tokenization.load(tokenizer)
    end = np.array([loaded.eot_id], np.int32)
    pieces = [piece for ids in loaded.encode_batch(texts) for piece in (ids.astype(np.int32), end)]
    return Text(loaded, np.concatenate(pieces or [end]), source.name)


def _trained(spec: str, texts: Iterable[str]) -> tokenization.Tokenizer:
    size = spec.removeprefix(BPE)
    if not size.isdecimal():
        raise ValueError(f"tokenizer is {spec!r}; write bpe:SIZE, for example bpe:8192")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenization.train_bpe(texts, int(size), file)
        return dataclasses.replace(tokenization.load(f"tokenizers:{file}"), spec=spec, name=spec.replace(":", ""))
