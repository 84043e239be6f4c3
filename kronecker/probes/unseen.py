"""Byte strings that are not tokens, embedded by an arm whose input is a code: the paper's forced OOV (section 6.12).

The strings become ids after the padded vocabulary, with codes in the arm's bag like those of tokens.  Parameters and
head do not change: such an id can be in a prompt and is never sampled.

Shapes: V vocabulary (padded), N strings.
"""

import dataclasses
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from flax import struct

from kronecker.embedding import bags, codec, linen
from kronecker.model import build


class TwoBags(struct.PyTreeNode):
    """The bags of an arm whose induced table is its head too."""

    embedded: bags.Bag  # of the vocabulary and the strings, (V + N, K)
    head: bags.Bag  # of the vocabulary, (V, K), prepared for its induced table


class TiedEmbed(linen.BagEmbed):
    """A BagEmbed that embeds more ids than its head has."""

    def __call__(self, ids_BT: jax.Array, bag: TwoBags) -> jax.Array:
        return super().__call__(ids_BT, bag.embedded)

    def output(self, bag: TwoBags) -> tuple[jax.Array, jax.Array]:
        """Returns the induced table (V, d) of the head's ids, and the scale of the logits."""
        return super().output(bag.head)


def extend(
    arm: build.Arm, config: ml_collections.ConfigDict, token_bytes: Sequence[bytes | None], strings: Sequence[bytes]
) -> tuple[build.Arm, list[int]]:
    """Returns the arm with `strings`, not empty, as further ids, and these ids.

    A string is cut to P bytes as a token is; a token's bytes get that token's vector.  Exceptions: random_code, whose
    codes depend on the id, where a string gets a random code of its length; the shuffled codes, where it gets the code
    of its bytes, which is another token's; and table_plus_kronecker, where it has no row.  `token_bytes` has the bytes
    of each id, as `Tokenizer.bytes_from` gives them for the config's embedding.byte_source.

    Raises ValueError if the arm is a table, a string is empty, or it would change the code of a token.
    """
    c, padded = config.embedding, config.model.padded_vocab
    if arm.bag is None:
        raise ValueError(f"arm {c.arm} is a table: it has no vector for a byte string; give an arm with a code")
    if not all(strings):
        raise ValueError("an empty byte string has no code; give at least one byte")
    padding = [None] * (padded - len(token_bytes))
    ids = list(range(padded, padded + len(strings)))
    codes = codec.byte_table(
        [*token_bytes, *padding, *strings], c.pos_dim, truncation=c.truncation, special={*arm.codes.special, *ids}
    )
    bag = build.make_bag(codes, c.kind, c.norm, build.draw(config))
    own = (arm.bag.symbols, arm.bag.lengths)
    if not all(np.array_equal(new[:padded], old) for new, old in zip((bag.symbols, bag.lengths), own, strict=True)):
        raise ValueError(
            f"adding {[s for s in strings if len(s) == 1]} would change codes of tokens in arm {c.arm}, because all "
            "256 codes of one byte are taken; give strings of two bytes or more"
        )
    extended = dataclasses.replace(arm, bag=bag, codes=codes)
    if arm.model.shape.tie_head:
        fields = [field.name for field in dataclasses.fields(arm.model.embed) if field.name not in ("parent", "name")]
        embed = TiedEmbed(**{name: getattr(arm.model.embed, name) for name in fields})
        extended = build.Arm(arm.model.clone(embed=embed), TwoBags(bag, arm.bag), codes)
    return extended, ids
