"""From a config with its vocabulary to the model of its arm and the bag that the arm's code is."""

import dataclasses
from collections.abc import Sequence

import ml_collections

from kronecker import bag as bags
from kronecker import codec, embedding, transformer


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """An arm ready to train.

    Attributes:
      model: the decoder around the arm's input embedding.
      bag: what `model` takes as its second argument; None for a table.
      codes: the vocabulary's bytes behind `bag`; None for a table.
    """

    model: transformer.Transformer
    bag: bags.Bag | None
    codes: codec.ByteTable | None


def build(config: ml_collections.ConfigDict, token_bytes: Sequence[bytes | None]) -> Arm:
    """Returns the arm that a resolved config describes.

    Args:
      config: with its vocabulary filled in.
      token_bytes: the tokenizer's raw bytes of each id.
    """
    names = [field.name for field in dataclasses.fields(transformer.Shape)]
    shape = transformer.Shape(**{name: config.model[name] for name in names})
    common = {
        "features": shape.d_model,
        "init_std": config.embedding.init_std,
        "param_dtype": shape.param_dtype,
    }
    if config.embedding.kind == "table":
        embed = embedding.TableEmbed(vocab=shape.padded_vocab, dtype=shape.dtype, **common)
        return Arm(transformer.Transformer(shape, embed), None, None)
    codes = codec.byte_table(token_bytes, config.embedding.pos_dim, shape.padded_vocab)
    bag = bags.kronecker_bag(codes, config.embedding.norm)
    embed = embedding.BagEmbed(rows=bag.rows, **common)
    return Arm(transformer.Transformer(shape, embed), bag, codes)
