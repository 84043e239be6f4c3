"""How models continue prompts with words, misspellings and unseen strings: the paper's section 6.12.

normal        a word in each slot of a prompt
misspelled    the word with a typo
novel         a string that is no word, as tokens
forced        the same string as one position, whose bytes an arm with a code embeds.  A table cannot embed them and is
              given the tokens, so its `forced` is its `novel`
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kronecker.model import sampling
from kronecker.probes import continuations, paired, unseen
from kronecker.run import measured_on
from kronecker.run.result import Result
from kronecker.schema import dotted
from kronecker.training import restore

SOURCE = "6.12"
CONDITIONS = NORMAL, MISSPELLED, NOVEL, FORCED = "normal", "misspelled", "novel", "forced"
_IN_ONE_LINE = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})
AS_TOKENS, AS_BYTES = "tokens", "one position"
PAPER = (
    ("table, tied", MISSPELLED, AS_TOKENS, 20, 2, None, None),
    ("Kronecker", MISSPELLED, AS_TOKENS, 20, 5, None, None),
)
PAPER_CONDITIONS = measured_on.PAPER | {
    "prompts": "20 others, up to 30 new tokens, T = 0.7, top-p 0.9",
    "seed of the draws": "42",
    "seeds": "1",
}


@dataclasses.dataclass(frozen=True)
class Text:
    """A prompt and its continuation."""

    condition: str  # one of CONDITIONS
    given: str  # how the strings in the slots were given, AS_TOKENS or AS_BYTES
    prompt: str  # as text
    continuation: str  # as text, U+FFFD for what is not UTF-8
    tokens: int  # of the continuation
    degenerate: bool  # whether it repeats itself
    echo: bool  # whether a string from the prompt's slots occurs in it


@dataclasses.dataclass(frozen=True)
class Measured:
    """The continuations of one run."""

    name: str  # arm and seed
    conditions: dict[str, str]  # what it was measured on
    texts: tuple[Text, ...]  # one a prompt for each of CONDITIONS, in that order

    def of(self, condition: str) -> list[Text]:
        return [text for text in self.texts if text.condition == condition]


def measure(
    run: restore.Restored,
    templates: Sequence[continuations.Template],
    *,
    new_tokens: int = 30,
    temperature: float = 0.7,
    top_p: float = 0.9,
    seed: int = 42,
    typo_seed: int = 0,
    cache: bool = True,
) -> Measured:
    """Returns a run's continuations of every prompt under every condition; the settings are the paper's.

    A prompt begins with the end-of-text id, as a document does in training, and a continuation ends before one.  Prompt
    i has the seed `seed` + i under every condition; `typo_seed` is that of the misspellings.  Other options are
    `Sampler`'s; texts are the same with and without its cache.

    Raises ValueError if there are no prompts, or an option is out of range.
    """
    if not templates:
        raise ValueError("there are no prompts; give at least one")
    tokenizer, arm, ids_of = run.tokenizer, run.arm, {}
    around = [template.around(tokenizer) for template in templates]
    if arm.bag is not None:  # an arm with a code has a vector for any byte string
        strings = list(dict.fromkeys(string for _, of_slots in around for string in of_slots))
        token_bytes = tokenizer.bytes_from(run.config.embedding.byte_source)
        arm, ids = unseen.extend(arm, run.config, token_bytes, strings)
        ids_of = dict(zip(strings, ids, strict=True))
    sampler = sampling.Sampler(arm, run.params, cache)

    def write(place: int, condition: str, prompt: str, strings: Sequence[bytes], ids: Sequence[int]) -> Text:
        options = {"new_tokens": new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed + place}
        drawn = list(sampler.sample([tokenizer.eot_id, *ids], stop=tokenizer.eot_id, **options))
        continuation = tokenizer.decode(drawn)
        given = (condition, AS_BYTES if condition == FORCED else AS_TOKENS, prompt)
        judged = (continuations.degenerate(drawn), continuations.echoes(continuation, strings))
        return Text(*given, continuation.decode(errors="replace"), len(drawn), *judged)

    texts = []
    in_slots = {
        NORMAL: [template.words for template in templates],
        MISSPELLED: [template.misspelled(typo_seed) for template in templates],
        NOVEL: [template.novel for template in templates],
    }
    for condition, strings_of in in_slots.items():
        prompts = [template.filled(strings) for template, strings in zip(templates, strings_of, strict=True)]
        for place, ids in enumerate(tokenizer.encode_batch(prompts)):
            strings = [string.encode() for string in strings_of[place]]
            texts.append(write(place, condition, prompts[place], strings, ids.tolist()))
    if not ids_of:
        texts += [dataclasses.replace(text, condition=FORCED) for text in texts if text.condition == NOVEL]
    else:
        for place, (template, (parts, strings)) in enumerate(zip(templates, around, strict=True)):
            ids = list(parts[0])
            for string, part in zip(strings, parts[1:], strict=True):
                ids += [ids_of[string], *part]
            prompt = template.filled([f"⟨{string}⟩" for string in template.novel])
            texts.append(write(place, FORCED, prompt, strings, ids))
    name = f"{run.config.embedding.arm}-seed{run.config.seed}"
    conditions = measured_on.of_run(dotted.flat(run.config), run.step) | {
        "prompts": f"{len(templates):,}, up to {new_tokens:,} new tokens, T = {temperature:g}, top-p {top_p:g}",
        "seed of the draws": str(seed),
        "tokenizer": tokenizer.name,
    }
    return Measured(name, conditions, tuple(texts))


def describe(*runs: Measured) -> list[Result]:
    """Returns what each run's continuations look like under each condition, and the continuations themselves."""
    rows, listed = [], []
    for run in runs:
        for condition in CONDITIONS:
            texts = run.of(condition)
            flagged, echoed = (sum(getattr(text, field) for text in texts) for field in ("degenerate", "echo"))
            mean_tokens = float(np.mean([text.tokens for text in texts]))
            rows.append((run.name, condition, texts[0].given, len(texts), flagged, echoed, mean_tokens))
            listed += [
                (run.name, condition, text.prompt, text.continuation.translate(_IN_ONE_LINE), "yes" * text.degenerate)
                for text in texts
            ]
    heads = ("arm", "condition", "string given as", "prompts", "flagged", "echoed", "mean tokens")
    notes = [
        f"flagged: an n-gram of ids occurs {continuations.FEWEST} times or more and covers more than half of the text; "
        "echoed: the text contains the string of a slot.",
        "The paper's prompts are in its author's repository, its rule for a flag is not. Ours are other prompts and "
        "another rule, so the counts are not comparable with the paper's.",
    ]
    if tables := [run.name for run in runs if run.of(FORCED)[0].given == AS_TOKENS]:
        notes.append(
            f"{', '.join(tables)}: a table cannot embed a byte string, so its `forced` is the same as its `novel`."
        )
    conditions = _conditions(runs)
    title = "Continuations that repeat themselves, and those that use the prompt's word again"
    texts_heads = ("arm", "condition", "prompt", "continuation", "flagged")
    return [
        Result("generation", title, SOURCE, conditions, heads, rows, PAPER, notes, PAPER_CONDITIONS),
        Result("generation_texts", "The continuations", SOURCE, conditions, texts_heads, listed),
    ]


def compare(a: Measured, b: Measured, seed: int = 0) -> list[Result]:
    """Returns paired statistics of B against A, the baseline, prompt by prompt; the bootstrap draws from `seed`.

    Raises ValueError if they were given other prompts.
    """
    if [text.prompt for text in a.of(NOVEL)] != [text.prompt for text in b.of(NOVEL)]:
        raise ValueError(f"{a.name} and {b.name} were given different prompts; measure both on the same prompts")
    rows = []
    for label, field in (("flagged, share", "degenerate"), ("echoed, share", "echo")):
        for condition in CONDITIONS:
            of_a, of_b = (np.array([getattr(text, field) for text in run.of(condition)]) for run in (a, b))
            rows.append((label, condition, *dataclasses.astuple(paired.compare(of_a, of_b, seed))))
    columns = ("", "condition", a.name, b.name, "difference", "95 % low", "high", "test", "p")
    note = (
        f"{b.name} minus {a.name}, prompt by prompt, one text a prompt. The interval covers neither other samples nor "
        "other seeds."
    )
    title = f"Continuations of {b.name} against {a.name}"
    return [Result("generation_paired", title, SOURCE, _conditions((a, b)), columns, rows, (), (note,))]


def _conditions(runs: Sequence[Measured]) -> dict[str, str]:
    return measured_on.merged(run.conditions for run in runs)
