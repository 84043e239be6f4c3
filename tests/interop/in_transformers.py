"""Opens exported folders in transformers: logits, greedy text, a copy saved and opened again, ids of text."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

asked = json.loads(Path(sys.argv[1]).read_text())
torch.set_num_threads(1)


def logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor(ids)).logits.float().numpy()


def opened(folder: str, copy: Path) -> dict:
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model.eval()
    found = logits(model, asked["ids"])
    prompt = torch.tensor([row[: asked["prompt"]] for row in asked["ids"]])
    mask = torch.ones_like(prompt)
    greedy = model.generate(
        prompt, attention_mask=mask, do_sample=False, max_new_tokens=64, eos_token_id=None, pad_token_id=0
    )
    model.save_pretrained(copy)
    again = logits(AutoModelForCausalLM.from_pretrained(copy), asked["ids"])
    np.savez(copy / "numbers.npz", logits=found, greedy=greedy.numpy(), greedy_logits=logits(model, greedy.tolist()))
    return {
        "class": type(model).__name__,
        "keys": {name: sorted(map(str, keys)) for name, keys in report.items() if keys},
        "again_is_equal": bool((again == found).all()),
        "tied": model.lm_head.weight is model.transformer.wte.weight,
        "dtype": str(model.dtype),
        "numbers": str(copy / "numbers.npz"),
    }


def encoded(folder: str) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in asked["texts"]]
    return {"ids": ids, "texts": [tokenizer.decode(one) for one in ids], "eos": tokenizer.eos_token_id}


def random(folder: Path, tied: bool) -> dict:
    """Saves a GPT-2 of transformers' own with drawn weights, in several files, and returns its logits."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**asked["sizes"], tie_word_embeddings=tied)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.1 * torch.randn_like(weights)
    model.save_pretrained(folder, max_shard_size="50KB")
    np.save(folder / "logits.npy", logits(model, asked["ids"]))
    return {"folder": str(folder), "files": len(list(folder.glob("*.safetensors")))}


work = Path(asked["work"])
answer = {
    "models": {name: opened(folder, work / f"copy-{name}") for name, folder in asked["models"].items()},
    "random": {str(tied): random(work / f"random-{tied}", tied) for tied in (True, False)},
    "tokenizers": {name: encoded(folder) for name, folder in asked["tokenizers"].items()},
}
Path(sys.argv[2]).write_text(json.dumps(answer))
