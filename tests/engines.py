"""The tools that open exported folders, each in a child process: transformers, CTranslate2, ONNX Runtime and others.

`make engines` installs them beside .venv.  What a child does is a script in tests/interop: it reads what is asked, as
JSON, and writes its answer.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv" / "engines" / "bin" / "python"
# No request leaves the machine, and one thread each, as the tests share the cores.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}

needed = pytest.mark.extras("" if PYTHON.exists() else "needs the engines: make engines")


def ask(script: str, **asked: Any) -> dict[str, Any]:
    """Returns what tests/interop/SCRIPT.py answers."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(asked, default=str))
        own = {"HF_HOME": folder, "PYTHONPATH": ""}
        command = [PYTHON, "-W", "ignore", ROOT / "tests" / "interop" / f"{script}.py", question, answer]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | ENVIRONMENT | own, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(answer.read_text())
