"""Declarations: found where they are asked for, under every transform, and nowhere else."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from kronecker.embedding import linen
from kronecker.model import transformer
from kronecker.runtime import declared

IDS = np.zeros((1, 1), np.int32)


class Tagger(nn.Module):
    """A stranger's module around an embedding."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        return nn.Dense(2)(linen.TableEmbed(8, 4)(ids))


def model(**options: bool) -> transformer.Transformer:
    shape = transformer.Shape(2, 2, 16, 8, vocab_size=30, padded_vocab=32, **options)
    return transformer.Transformer(shape, linen.TableEmbed(32, 16))


def test_who_does_not_ask_meets_plain_arrays():
    declared.of(model(), IDS)
    for module in (model(), Tagger()):
        variables = module.init(jax.random.key(0), IDS)
        boxes = jax.tree.leaves(variables, is_leaf=lambda node: isinstance(node, declared.Declared))
        assert all(isinstance(leaf, jax.Array) for leaf in boxes)


@pytest.mark.parametrize("options", [{}, {"scan_layers": True}, {"remat": True}, {"scan_layers": True, "remat": True}])
def test_declarations_do_not_depend_on_how_layers_are_compiled(options: dict[str, bool]):
    found = declared.of(model(**options), IDS)
    assert found["blocks"]["attention"]["qkv"]["kernel"].names == ("layer", "width", "qkv", "head", "head_width")
    assert found["blocks"]["attention"]["qkv"]["kernel"].value.shape == (2, 16, 3, 2, 8)
    assert not found["blocks"]["attention"]["qkv"]["bias"].decays
    assert found["positions"].decays


def test_the_one_input_matrix_is_found_by_its_declaration():
    made = model()
    params = made.init(jax.random.key(0), IDS)["params"]
    assert declared.input_matrix(params, declared.of(made, IDS)) is params["embed"]["table"]


def test_one_parameter_that_declares_nothing_is_refused_by_its_path():
    with pytest.raises(ValueError, match=r"Dense_0/bias \(2,\): this parameter has no declaration"):
        declared.of(Tagger(), IDS)
