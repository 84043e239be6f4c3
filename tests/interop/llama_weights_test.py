"""What is no plain Llama is refused by name; what is one reads alike from both forms (llama_test has its logits)."""

from pathlib import Path

import llama_models
import numpy as np
import pytest
from safetensors import numpy as safetensors

from kronecker.interop import llama_weights


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mistral"}, "model_type is mistral; Llama here has 'llama' alone"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 8.0}}, "rope_type is linear"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is yarn"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; it must divide num_attention_heads, 4"),
        ({"head_dim": 5}, "head_dim is 5; it must be even"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it must be a whole number"),
        ({"hidden_size": "16"}, "hidden_size is 16; it must be a whole number"),
        ({"rope_theta": float("nan")}, "rope_theta is nan; it must be a number above 0"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight is missing"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1\.\S+ is no weight of Llama"),
        ({"intermediate_size": 25}, r"gate_proj\.weight is F32 of shape \[24, 16\]; it must be .*\[25, 16\]"),
    ],
)
def test_other_models_are_refused_by_name(tmp_path: Path, changes: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said):
        llama_weights.read(llama_models.write_folder(tmp_path / "model", **changes))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"rope__scaling__type": "yarn"}, r"llama\.rope\.scaling\.type is yarn; Llama here has 'none' alone"),
        ({"rope__scaling__factor": 4.0}, r"llama\.rope\.scaling\.factor is 4\.0; Llama here has 1 alone"),
        ({"rope__scale_linear": 4.0}, r"llama\.rope\.scale_linear is 4\.0; Llama here has 1 alone"),
        ({"rope__dimension_count": 2}, r"rope\.dimension_count is 2; it must be llama\.attention\.key_length, 6"),
    ],
)
def test_other_rotary_positions_in_gguf_are_refused_by_name(tmp_path: Path, metadata: dict[str, object], said: str):
    plain = {"rope__scaling__factor": 1.0, "rope__dimension_count": llama_models.HEAD}
    llama_weights.read(llama_models.write_gguf(tmp_path / "plain.gguf", **plain))
    with pytest.raises(ValueError, match=said):
        llama_weights.read(llama_models.write_gguf(tmp_path / "model.gguf", **metadata))


def test_a_head_of_its_own_in_a_tied_model_is_refused_and_a_copy_of_the_table_is_read(tmp_path: Path):
    folder, found = llama_models.write_folder(tmp_path / "model"), llama_models.weights()
    for head in (found["model.embed_tokens.weight"], found["model.embed_tokens.weight"] + 1):
        safetensors.save_file(found | {"lm_head.weight": head}, folder / "model.safetensors")
        if head is found["model.embed_tokens.weight"]:
            assert "head" not in llama_weights.read(folder).params
    with pytest.raises(
        ValueError, match=r"lm_head\.weight is not model\.embed_tokens\.weight, but config\.json ties them"
    ):
        llama_weights.read(folder)


def test_a_weight_that_is_not_finite_or_unknown_is_refused(tmp_path: Path):
    folder = llama_models.write_folder(tmp_path / "model")
    found = llama_models.weights()
    safetensors.save_file(found | {"rope_freqs": np.ones(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="rope_freqs is no weight of Llama"):
        llama_weights.read(folder)
    found["model.norm.weight"][0] = np.inf
    safetensors.save_file(found, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.norm\.weight has values that are not finite"):
        llama_weights.read(folder)


@pytest.mark.parametrize("content", [None, b"{", b"[1]", b"[" * 100_000, b"\xff"])
def test_a_missing_or_damaged_config_is_one_line_that_names_it(tmp_path: Path, content: bytes | None):
    folder = llama_models.write_folder(tmp_path / "model")
    (folder / "config.json").unlink()
    if content:
        (folder / "config.json").write_bytes(content)
    with pytest.raises(
        (ValueError, FileNotFoundError), match=r"config\.json( does not exist|: not JSON|: holds .*, not a JSON object)"
    ):
        llama_weights.read(folder)
