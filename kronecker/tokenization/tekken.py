"""tekken: one JSON file with the pattern, the ranks and the sizes; special ids come first; tiktoken does the merges."""

import base64

from kronecker.tokenization import base, tiktoken_ranks

# Names of the special tokens, for files up to version v7, which omit them; in all versions other ids are <SPECIAL_id>.
UNNAMED = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


def from_file(spec: str, path: str) -> base.Tokenizer:
    """Returns the tokenizer of a tekken.json, with its vocabulary cut to the file's default size.

    Raises FileNotFoundError if the file does not exist; ValueError if it is no tekken file, or lacks ranks or bytes.
    """
    definition = base.read_json(spec, base.read(spec, path), "tekken.json")
    try:
        sizes = definition["config"]
        size, specials = int(sizes["default_vocab_size"]), int(sizes["default_num_special_tokens"])
        if not 0 <= specials <= base.MOST_UNUSED:
            raise ValueError(f"{specials:,} special tokens; 0 to {base.MOST_UNUSED:,} are allowed")
        named = definition.get("special_tokens")
        names = {rank: f"<SPECIAL_{rank}>" for rank in range(specials)}
        names |= (
            dict(enumerate(UNNAMED[:specials]))
            if named is None
            else {int(token["rank"]): str(token["token_str"]) for token in named}
        )
        # Ranks need not start at 0, so a token's id can be its rank.
        ranks = {
            base64.b64decode(token["token_bytes"], validate=True): specials + int(token["rank"])
            for token in definition["vocab"]
            if int(token["rank"]) < size - specials
        }
        pattern = str(sizes["pattern"])
        special = {text: rank for rank, text in names.items() if text.encode()}
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise ValueError(f"tokenizer {spec}: not a tekken.json ({fault}); download the file again") from error
    if sorted(names) != list(range(specials)) or len(special) < specials:
        raise ValueError(
            f"tokenizer {spec}: its special tokens must be {specials:,} distinct texts with ids 0 to {specials - 1:,}; "
            "download the file again"
        )
    if len(ranks) != size - specials or sorted(ranks.values()) != list(range(specials, size)):
        raise ValueError(
            f"tokenizer {spec}: it has {len(ranks):,} of the {size - specials:,} tokens of its default vocabulary; "
            "download the file again"
        )
    return tiktoken_ranks.from_ranks(spec, base.label(path), ranks, pattern, special)
