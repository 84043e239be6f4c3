"""A run's first weights from a GPT-2 folder: checkpoint.init_from=hf:FOLDER."""

import hashlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from etils import epath

from kronecker import tokenization
from kronecker.data import manifests, unigrams
from kronecker.embedding import bags
from kronecker.interop import gpt2_folder, graft, hf_tokenizer
from kronecker.model import accounting, transformer
from kronecker.runtime import printing
from kronecker.schema import arms


class Start(NamedTuple):
    """The weights that a run starts from, on this host; the same interface as `checkpoint.Weights`."""

    params: dict[str, Any]  # the whole tree
    facts: dict[str, Any]  # what env.json records: the sha256 of the weights, and what a fit leaves unexplained

    def restore(self, abstract_params: dict[str, Any]) -> dict[str, Any]:
        """Returns the parameters, laid out as `abstract_params`."""
        return jax.tree.map(
            lambda like, leaf: jax.device_put(np.asarray(leaf, like.dtype), like.sharding), abstract_params, self.params
        )


def find(
    folder: str,
    config: ml_collections.ConfigDict,
    tokenizer: tokenization.Tokenizer,
    prepared: manifests.Prepared | None = None,
    bag: bags.Bag | None = None,
) -> Start:
    """Returns the weights in `folder` for a run of a config with its vocabulary.

    The projection of an arm with a code, `bag`, is fitted to GPT-2's table, by the counts of ids in `prepared`.

    Raises FileNotFoundError if a file is missing; ValueError if the arm has neither table nor code, or the folder does
    not fit.
    """
    if bag is None and config.embedding.kind != arms.TABLE.name:
        raise ValueError(
            f"embedding.kind is {config.embedding.kind}, but GPT-2 has a table; use an arm with a table, or with "
            "a code that a graft can fit to it: table_untied, table_tied or kronecker"
        )
    set_here = {"embedding.scale": config.embedding.scale != 1, "model.unigram_bias": config.model.unigram_bias}
    for key, is_set in set_here.items():
        if is_set:
            raise ValueError(f"{key} is set, but GPT-2 has none; leave it at its default")
    model = gpt2_folder.read(folder, transformer.Shape.of(config.model))
    _check_ids(epath.Path(folder), model.about, tokenizer)
    digest = hashlib.sha256()
    for file in sorted(epath.Path(folder).glob("*.safetensors")):
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    facts: dict[str, Any] = {"sha256": digest.hexdigest()}
    own = {"table": model.table}
    if bag is not None and not arms.kind(config.embedding.kind).is_code:
        own["projection"] = np.zeros((bag.rows, config.model.d_model), np.float32)
    elif bag is not None:
        vocab = config.model.vocab_size
        fitted = graft.graft(bag, model.table[:vocab], unigrams.sampled(prepared, "train", vocab, graft.COUNTED))
        own = {"projection": fitted.projection} | ({"logit_scale": 1 / fitted.factor} if config.model.tie_head else {})
        facts |= fitted.residuals
    return Start(model.params | {accounting.INPUT: own}, facts)


def _check_ids(folder: epath.Path, about: dict[str, Any], tokenizer: tokenization.Tokenizer) -> None:
    """Raises ValueError if the ids of the folder's weights are those of another tokenizer."""
    remedy = "set tokenizer to that of the model"
    if about:
        if about.get("tokenizer_fingerprint") != tokenizer.fingerprint:
            raise ValueError(f"{folder}: was exported from a run with another tokenizer; {remedy}")
        return
    file = folder / hf_tokenizer.JSON
    try:
        theirs = tokenization.load(f"tokenizers:{file}").token_bytes
    except (OSError, ValueError) as error:
        if jax.process_index() == 0:
            printing.say(f"{folder}: nothing tells whether its ids are those of {tokenizer.spec} ({error})")
        return
    for i, (there, here) in enumerate(zip(theirs, tokenizer.token_bytes, strict=False)):
        if there != here:
            raise ValueError(f"{file}: id {i} is {there!r}, but {here!r} in {tokenizer.spec}; {remedy}")
