"""Writes one small random Llama as a Hugging Face folder and as a GGUF file, from a seed that never changes."""

import json
from pathlib import Path

import gguf
import gguf_models
import numpy as np
from safetensors import numpy as safetensors

WIDTH, HEADS, GROUPS, HEAD, HIDDEN, LAYERS = 16, 4, 2, 6, 24, 2
VOCAB = len(gguf_models.TOKENS)
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": HEAD,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": True,
}
NAMES = {  # of a layer: there, in GGUF
    "input_layernorm": ("attn_norm", (WIDTH,)),
    "self_attn.q_proj": ("attn_q", (HEADS * HEAD, WIDTH)),
    "self_attn.k_proj": ("attn_k", (GROUPS * HEAD, WIDTH)),
    "self_attn.v_proj": ("attn_v", (GROUPS * HEAD, WIDTH)),
    "self_attn.o_proj": ("attn_output", (WIDTH, HEADS * HEAD)),
    "post_attention_layernorm": ("ffn_norm", (WIDTH,)),
    "mlp.gate_proj": ("ffn_gate", (HIDDEN, WIDTH)),
    "mlp.up_proj": ("ffn_up", (HIDDEN, WIDTH)),
    "mlp.down_proj": ("ffn_down", (WIDTH, HIDDEN)),
}


def weights(tied: bool = True) -> dict[str, np.ndarray]:
    """Returns the tensors by the folder's names."""
    rng = np.random.default_rng(7)
    shapes = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes |= {} if tied else {"lm_head.weight": (VOCAB, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, (_, shape) in NAMES.items()}
    return {name: 0.5 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder: Path, tied: bool = True, **changes: object) -> Path:
    """Writes config.json and model.safetensors; `changes` are of the config."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": tied, **changes}))
    safetensors.save_file(weights(tied), folder / "model.safetensors")
    return folder


def write_gguf(file: Path, **metadata: object) -> Path:
    """Writes the same tied model with the tokenizer of gguf_models; `metadata` are further numbers and texts."""
    found = weights()
    outside = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    tensors = {theirs: found[name] for theirs, name in outside.items()}
    for layer in range(LAYERS):
        for name, (theirs, _) in NAMES.items():
            array = found[f"model.layers.{layer}.{name}.weight"]
            if theirs in ("attn_q", "attn_k"):  # the two coordinates that turn together become neighbours
                array = array.reshape(-1, 2, HEAD // 2, WIDTH).swapaxes(1, 2).reshape(array.shape)
            tensors[f"blk.{layer}.{theirs}.weight"] = array
    return gguf_models.write(file, tensors=tensors, describe=lambda writer: _describe(writer, metadata))


def _describe(writer: gguf.GGUFWriter, metadata: dict[str, object]) -> None:
    for key, value in metadata.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"llama.{key.replace('__', '.')}", value)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_key_length(HEAD)
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
