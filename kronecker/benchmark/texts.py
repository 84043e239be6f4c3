"""Token ids of real text, because an encoder's cost depends on how often ids repeat and how long tokens are."""

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path

import ml_collections
import numpy as np

from kronecker import tokenization
from kronecker.data import preparation, sources

TEXT_BYTES = 4_000_000  # read from the start of a source: about a million tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A tokenizer and the ids of a text."""

    tokenizer: tokenization.Tokenizer  # its spec is the user's
    ids: np.ndarray  # int32 (n,): documents, each followed by the end-of-text id
    source: str

    def batches(self, count: int, sequences: int, length: int) -> np.ndarray:
        """Returns int32 (count, sequences, length): different sequences, drawn at random from the text.

        Raises ValueError if the text is too short.
        """
        rows = len(self.ids) // length
        if rows < count * sequences:
            raise ValueError(
                f"--data: {self.source}, read up to {TEXT_BYTES // 10**6} MB, has {len(self.ids):,} tokens under "
                f"{self.tokenizer.name}; {count} batches of {sequences:,} x {length:,} need "
                f"{count * sequences * length:,}; use smaller batches or more text"
            )
        chosen = np.random.default_rng(0).permutation(rows)[: count * sequences]
        return self.ids[: rows * length].reshape(rows, length)[chosen].reshape(count, sequences, length)


def read(tokenizer: str, data: ml_collections.ConfigDict) -> Text:
    """Returns the start of a source's training text, encoded; the tokenizer bpe:SIZE is trained on this text.

    Raises ValueError for a wrong source or tokenizer, OSError for a missing file.
    """
    if data.source.startswith(preparation.PREPARED):
        raise ValueError(f"--data={data.source}: benchmarks need raw text; give the source it was prepared from")
    source = sources.open_source(data)
    source.fetch(lambda done, total: None)
    texts = [text for text in sources.training_texts(source, data.validation_fraction, TEXT_BYTES) if text]
    size = tokenization.bpe_size(tokenizer)
    loaded = _trained(tokenizer, size, texts) if size else tokenization.load(tokenizer)
    end = np.array([loaded.eot_id], np.int32)
    pieces = [piece for ids in loaded.encode_batch(texts) for piece in (ids.astype(np.int32), end)]
    return Text(loaded, np.concatenate(pieces or [end]), source.name)


def _trained(spec: str, size: int, texts: Iterable[str]) -> tokenization.Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenization.train_bpe(texts, size, file)
        return dataclasses.replace(tokenization.load(f"tokenizers:{file}"), spec=spec, name=spec.replace(":", ""))
