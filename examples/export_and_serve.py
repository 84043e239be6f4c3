"""Exports a run, serves the folder with `transformers serve`, and asks it for text, as any client of OpenAI's API does.

  python examples/export_and_serve.py                                             # a run of half a minute
  python examples/export_and_serve.py --workdir=runs/demo/kronecker-seed0 --stay  # your run, until Ctrl-C

The server needs nothing of kronecker: `pip install 'transformers[serving]' torch`, in any environment.
"""

import argparse
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np

from kronecker.interop import export, gpt2_folder
from kronecker.model import build, sampling
from kronecker.training import restore

ROOT = pathlib.Path(__file__).parents[1]
NEW_TOKENS = 24
SMALL = {  # 60 steps on some of Python's own source code
    "tokenizer": "bpe:400",
    "model.layers": 2,
    "model.d_model": 64,
    "model.context": 64,
    "train.sequence": 64,
    "train.steps": 60,
    "eval.every": 60,
    "eval.sequences": 32,
    "checkpoint.every": 60,
    "embedding.pos_dim": 8,
}


def train(folder: pathlib.Path) -> pathlib.Path:
    (folder / "text").mkdir()
    for module in ("argparse", "ast", "configparser", "csv", "shutil", "subprocess", "tarfile", "textwrap", "zipfile"):
        source = pathlib.Path(sysconfig.get_path("stdlib")) / f"{module}.py"
        if source.exists():
            shutil.copy(source, folder / "text" / f"{module}.txt")
    keys = SMALL | {"data.source": f"text:{folder / 'text'}", "data.folder": folder / "data"}
    keys["data.validation_fraction"] = 0.2
    overrides = [f"--config.{key}={value}" for key, value in keys.items()]
    run = folder / "run"
    subprocess.run(
        [sys.executable, ROOT / "train.py", f"--config={ROOT / 'configs/demo.py'}", f"--workdir={run}", *overrides],
        check=True,
    )
    return run


def completed(address: str, prompt: str) -> str:
    asked = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0}
    body = json.dumps(asked).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["choices"][0]["text"]


def wait_for(server: subprocess.Popen, address: str) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health").close()
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise SystemExit(f"the server ended with exit code {server.returncode}; its own message is above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", help="a run's folder; default: a small run is trained")
    parser.add_argument("--out", help="the folder to write; default: a temporary one")
    parser.add_argument("--prompt", default="def main(")
    parser.add_argument("--transformers", default="transformers", help="the command, if it is not on PATH")
    parser.add_argument("--stay", action="store_true", help="serve until Ctrl-C")
    asked = parser.parse_args()
    if not shutil.which(asked.transformers):
        raise SystemExit(f"{asked.transformers}: no such command; pip install 'transformers[serving]' torch")
    with tempfile.TemporaryDirectory() as folder:
        serve(asked, pathlib.Path(folder))


def serve(asked: argparse.Namespace, folder: pathlib.Path) -> None:
    workdir, out = asked.workdir or train(folder), pathlib.Path(asked.out or folder / "hf")

    # 1. Export: the code of each token's bytes becomes an ordinary table.
    run = restore.open_run(workdir)
    for line in export.write(run, workdir, out):
        print(line)
    print(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")

    # 2. Reload: the same table, bit for bit.
    vocab = run.config.model.vocab_size
    reloaded = gpt2_folder.read(out, run.arm.model.shape)
    assert np.array_equal(reloaded.table[:vocab], build.input_table(run.arm, run.params))

    # 3. Serve.  The port is one that was free a moment ago.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [asked.transformers, "serve", str(out.resolve()), "--host=127.0.0.1", f"--port={port}", "--device=cpu"]
    server = subprocess.Popen(command)
    try:
        wait_for(server, address)
        # A text begins after the id that ends the one before it, as in training.
        end = run.tokenizer.token_bytes[run.tokenizer.eot_id].decode()
        theirs = completed(address, end + asked.prompt)
        ids = [run.tokenizer.eot_id, *run.tokenizer.encode_batch([asked.prompt])[0].tolist()]
        sampler = sampling.Sampler(run.arm, run.params)
        drawn = sampler.sample(ids, new_tokens=NEW_TOKENS, temperature=0, stop=run.tokenizer.eot_id)
        own = run.tokenizer.decode(list(drawn)).decode(errors="replace")
        print(f"{address} continues {asked.prompt!r} with {theirs!r}")
        print("the server's text and our sampler's are equal" if theirs == own else f"our sampler has {own!r}")
        if asked.stay:
            body = json.dumps({"prompt": end + asked.prompt, "max_tokens": NEW_TOKENS})
            print(f"curl {address}/v1/completions -H 'Content-Type: application/json' -d '{body}'")
            server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
