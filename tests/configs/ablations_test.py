"""The ablations: the runs of each, that its pairs are valid pairs, and that the costs in its docstring are right.

`PYTHONPATH=.:tests python tests/configs/ablations_test.py` rewrites the costs in the docstrings.
"""

import ast
import collections
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from etils import epath
from run_folders import write_run

from configs import arms, base, settings
from configs import sizes as named_sizes
from kronecker import tokenization
from kronecker.embedding import codec
from kronecker.model import build
from kronecker.report import compare
from kronecker.run import finished_runs
from kronecker.schema import config_files, dotted, resolution
from kronecker.sweep import planning
from kronecker.training import cost

ROOT = Path(__file__).parents[2]
REWRITE = "PYTHONPATH=.:tests python tests/configs/ablations_test.py"
ALL_SETTINGS = tuple(f"setting={name}" for name in settings.SETTINGS)
# Every ablation: its number of runs per seed, and every option that it accepts.
ABLATIONS = {
    "configs/gpu_study.py": (6, ("",)),
    "configs/ablations/paper.py": (7, ("",)),
    "configs/ablations/all_arms.py": (len(arms.ARMS), ALL_SETTINGS),
    "configs/ablations/byte_source.py": (3, ALL_SETTINGS),
    "configs/ablations/collisions.py": (2, ("setting=study",)),
    "configs/ablations/init_scale.py": (10, ALL_SETTINGS),
    "configs/ablations/learning_rate.py": (10, ("setting=study", "setting=gpu")),
    "configs/ablations/lr_mult.py": (8, ALL_SETTINGS),
    "configs/ablations/multilingual.py": (
        6,
        tuple(f"vocabulary={name},setting={where}" for name in ("tekken", "o200k") for where in ("paper", "gpu")),
    ),
    "configs/ablations/norm.py": (5, ALL_SETTINGS),
    "configs/ablations/pos_dim.py": (7, ALL_SETTINGS),
    "configs/ablations/sizes.py": (3, tuple(f"size={name}" for name in named_sizes.SIZES)),
    "configs/ablations/truncation.py": (7, ALL_SETTINGS),
    "configs/ablations/twice_the_rate.py": (5, ("setting=study",)),
    "configs/ablations/tying.py": (4, ALL_SETTINGS),
}
BESIDE_THE_STUDY = ("configs/ablations/collisions.py", "configs/ablations/twice_the_rate.py")
RATES_DIFFER = ("configs/ablations/learning_rate.py", "configs/ablations/twice_the_rate.py")
OF_ONE_ARM = (
    "configs/ablations/all_arms.py",
)  # its docstring has the cost of one arm, so that new arms change no line
EACH = [(path, arg) for path, (_, args) in ABLATIONS.items() for arg in args]
# Files that the user provides, and their place in a contributor's checkout.
FILES = {name: ROOT.parent / "shared" / "tokenizers" / name for name in ("tekken_240911.json", "o200k_base.tiktoken")}
COST_LINE = re.compile(r"^  (?:(\S+=\S+) +)?(\d+ runs x .*)$", re.MULTILINE)
COST_LINES = re.compile(r"(?<=prints it)([^\n]*:\n)(?:  .*\n)+")

Run = tuple[dict, ml_collections.ConfigDict]


def runs_of(path: str, arg: str) -> dict[str, Run]:
    """Returns the runs with the sweep's default seeds, with the contributor's tokenizer files."""
    spec = f"{path}:{arg}" if arg else path
    return planning.expand(spec, None, {"tokenizer": located(config_files.load(spec).tokenizer)})


def located(spec: str) -> str:
    """Returns a tokenizer's spec with the path of its file."""
    kind, _, name = spec.partition(":")
    return f"{kind}:{FILES[name]}" if name in FILES else spec


def with_vocabularies(runs: dict[str, Run]) -> dict[str, ml_collections.ConfigDict]:
    spec = next(iter(runs.values()))[1].tokenizer
    skip_without_file(spec)
    size = cost.vocab_size(spec)
    return {name: resolution.with_vocabulary(c, size) for name, (_, c) in runs.items()}


def skip_without_file(spec: str) -> None:
    missing = [name for name, file in FILES.items() if spec.endswith(name) and not file.exists()]
    if missing:
        pytest.skip(f"../shared/tokenizers/{missing[0]} is not here")


def described(path: str, arg: str) -> str:
    """Returns the cost that the docstring must state."""
    runs = runs_of(path, arg)
    if path in OF_ONE_ARM:
        runs = {name: run for name, run in runs.items() if run[0][planning.ARM] == "kronecker"}
    return cost.describe(list(with_vocabularies(runs).values()))


def docstring(path: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / path).read_text()), clean=False)


def default_seeds(path: str) -> int:
    return inspect.signature(config_files.load_module(path).sweep).parameters["seeds"].default


def differing(one: ml_collections.ConfigDict, other: ml_collections.ConfigDict) -> set[str]:
    first, second = dotted.flat(one), dotted.flat(other)
    return {key for key in first if first[key] != second[key]}


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


def test_every_ablation_is_tested_here():
    found = {str(file.relative_to(ROOT)) for file in (ROOT / "configs" / "ablations").glob("*.py")}
    assert found == set(ABLATIONS) - {"configs/gpu_study.py"}


@pytest.mark.parametrize(("path", "arg"), EACH)
def test_every_run_resolves_for_its_vocabulary(path: str, arg: str):
    runs = with_vocabularies(runs_of(path, arg))
    assert len(runs) == ABLATIONS[path][0] * default_seeds(path)


@pytest.mark.parametrize(("path", "arg"), EACH)
def test_whole_seeds_come_one_after_another(path: str, arg: str):
    seeds = [c.seed for _, c in runs_of(path, arg).values()]
    assert seeds == sorted(seeds)
    assert seeds[0] == (100 if "learning_rate" in path else 0)
    assert set(collections.Counter(seeds).values()) == {ABLATIONS[path][0]}


@pytest.mark.parametrize(("path", "arg"), EACH)
def test_the_runs_of_a_seed_differ_in_the_embedding_and_the_tie_alone(path: str, arg: str):
    runs = runs_of(path, arg)
    if path in BESIDE_THE_STUDY:
        runs = {f"study/{name}": run for name, run in runs_of("configs/study.py", "").items()} | runs
    of_seed = collections.defaultdict(list)
    for keys, c in runs.values():
        of_seed[c.seed].append((keys[planning.ARM], c))
    for members in of_seed.values():
        baseline = next(c for arm, c in members if arm == "table_untied")
        keys = set().union(*(differing(baseline, c) for _, c in members))
        own = {"train.lr"} if path in RATES_DIFFER else set()
        assert {key for key in keys if not key.startswith("embedding.") and key != "model.tie_head"} == own


@pytest.mark.parametrize("setting", settings.SETTINGS)
def test_runs_of_one_name_and_setting_are_one_run_in_every_ablation(setting: str):
    whole = {"paper": "configs/ablations/paper.py", "gpu": "configs/gpu_study.py", "study": "configs/study.py"}[setting]
    known = runs_of(whole, "")
    for path, arg in EACH:
        if arg == f"setting={setting}" and path not in RATES_DIFFER:
            runs = runs_of(path, arg)
            for name in runs.keys() & known.keys():
                assert not differing(runs[name][1], known[name][1])
            known |= runs
    assert "kronecker-lr_mult10.0-seed2" in known


def test_the_papers_comparison_has_the_papers_numbers():
    runs = runs_of("configs/ablations/paper.py", "")
    assert {(c.train.steps, c.train.batch * c.train.sequence) for _, c in runs.values()} == {(4623, 540_672)}
    assert {c.train.tokens for _, c in runs.values()} == {2_499_526_656}
    assert len({c.seed for _, c in runs.values()}) == 3
    model = next(iter(runs.values()))[1].model
    assert (model.layers, model.heads, model.d_model, model.context) == (12, 12, 768, 1024)
    assert {c.embedding.pos_dim for keys, c in runs.values() if keys[planning.ARM] == "kronecker"} == {16}


@pytest.mark.parametrize("size", named_sizes.SIZES)
def test_every_size_has_the_papers_steps_and_tokens_a_step(size: str):
    c = resolution.resolve(config_files.load(f"configs/ablations/sizes.py:size={size}"))
    assert (c.train.steps, c.train.batch * c.train.sequence) == (4623, 540_672)


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_a_kronecker_embedding_starts_at_the_scale_asked_for(std: float):
    tokens = [bytes([i, *b"token"[: i % 6]]) for i in range(100)]
    c = base.apply(base.get_config(), arms.kronecker_at(std) | {"model.layers": 1})
    c = resolution.with_vocabulary(resolution.resolve(c), len(tokens))
    arm = build.build(c, tokens)
    init = jax.jit(lambda key, bag: arm.model.init(key, jnp.zeros((1, 1), jnp.int32), bag)["params"])
    _, params = build.with_table(arm, init(jax.random.key(0), arm.bag))
    assert float(params["embed"]["table"][: len(tokens)].std()) == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(("path", "arg"), EACH)
def test_the_cost_in_a_docstring_is_the_cost(path: str, arg: str):
    written = {match[1] or "": match[2] for match in COST_LINE.finditer(docstring(path))}
    assert set(written) == set(ABLATIONS[path][1])
    assert written[arg] == described(path, arg), f"if meant: {REWRITE}"


@pytest.mark.parametrize(
    ("name", "spec", "truncation", "shared"),
    [
        ("pos_dim", "gpt2", "head", {8: 7582, 12: 682, 16: 44, 24: 22, 32: 17, 48: 5}),
        ("truncation", "gpt2", "head_tail", {8: 1779, 16: 42}),
        ("multilingual", "tekken:tekken_240911.json", "head", {16: 724, 32: 46}),
        ("multilingual", "tekken:tekken_240911.json", "head_tail", {16: 82, 32: 42}),
        ("multilingual", "tiktoken:o200k_base.tiktoken", "head", {16: 2503, 32: 184}),
        ("multilingual", "tiktoken:o200k_base.tiktoken", "head_tail", {16: 353, 32: 158}),
    ],
)
def test_the_shared_codes_in_a_docstring_are_counted(name: str, spec: str, truncation: str, shared: dict[int, int]):
    skip_without_file(spec)
    tokenizer, text = tokenization.load(located(spec)), docstring(f"configs/ablations/{name}.py")
    ordinary = [None if i in tokenizer.special_ids else b for i, b in enumerate(tokenizer.token_bytes)]
    for pos_dim, count in shared.items():
        groups = codec.collisions(codec.byte_table(ordinary, pos_dim, truncation=truncation))
        assert sum(map(len, groups)) == count
        assert re.search(rf"\b{count:,}\b", text)


@pytest.mark.parametrize("path", ABLATIONS)
def test_the_commands_in_a_docstring_are_commands(path: str):
    text = docstring(path).replace("\\\n", "")
    commands = re.findall(r"^  python scripts/sweep.py (.*)$", text, re.MULTILINE)
    assert commands[0].startswith(f"--config={path}")
    assert f"--seeds={default_seeds(path)}" in commands[0]
    for command in commands:
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in command.split())
        overrides = {key.removeprefix("config."): flags[key] for key in flags if key.startswith("config.")}
        assert flags["out"].startswith("runs/")
        assert planning.expand(flags["config"], int(flags["seeds"]), overrides)


@pytest.mark.parametrize("path", ["configs/ablations/lr_mult.py", "configs/ablations/init_scale.py"])
def test_the_baseline_in_a_docstring_is_one_that_compare_knows(tmp_path: Path, path: str):
    baseline = re.search(r"--baseline='(.*)'", docstring(path))[1]
    found = []
    for name, (keys, _) in planning.expand(path, 1, {}).items():
        if keys[planning.ARM] == "table_untied":
            found.append(finished_runs.read(epath.Path(write_run(tmp_path / name, "table_untied", 0, 4.5, keys))))
    assert len(compare.compare(found, baseline).arms) == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pos_dim.py:setting=papers", "setting is 'papers'; allowed: paper, gpu, study"),
        ("multilingual.py:setting=study", "setting is 'study'; allowed: paper, gpu"),
        ("multilingual.py:vocabulary=gpt2", "vocabulary is 'gpt2'; allowed: o200k, tekken"),
        ("collisions.py:setting=gpu", "setting is 'gpu'; allowed: study"),
        ("learning_rate.py:setting=paper", "setting is 'paper'; allowed: study, gpu"),
        ("sizes.py:setting=gpu", "'setting' is not known; for example :size=124m"),
    ],
)
def test_a_setting_that_an_ablation_does_not_have_is_refused(spec: str, message: str):
    with pytest.raises(ValueError, match=message):
        config_files.load(f"configs/ablations/{spec}")


def rewrite(path: str) -> None:
    told = {arg: described(path, arg) for arg in ABLATIONS[path][1]}
    width = max(map(len, told))
    lines = "".join(f"  {arg:<{width}}  {line}\n" if arg else f"  {line}\n" for arg, line in told.items())
    (ROOT / path).write_text(COST_LINES.sub(lambda match: match[1] + lines, (ROOT / path).read_text(), count=1))


if __name__ == "__main__":
    for ablation in ABLATIONS:
        rewrite(ablation)
