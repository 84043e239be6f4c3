"""The settings of the encoder's benchmark; imports no JAX, so that a wrong flag fails at once."""

import dataclasses

from kronecker.schema import choices

TABLE, REFERENCE = "table", "reference"
GATHER_BY_ONE_HOT = "gather_onehot"  # gather, whose gradient is a one-hot product; that of "gather" is a scatter
NAMES = (*choices.IMPLEMENTATIONS, GATHER_BY_ONE_HOT, TABLE, REFERENCE)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One problem to time."""

    tokens: int = 8192  # N, tokens in a batch
    d: int = 768  # the model's width
    P: int = 16  # byte positions
    tokenizer: str = ""  # as in a config; "": the one of --tokenizer
    only: str = ""  # contenders, joined by "+"; "": all
    # Vocabulary size; ids beyond the tokenizer's are padding, which costs as much.  0: padded as by a config.
    V: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.only.split("+")) if self.only else NAMES


_FEW = "bag+induced+table"
SETTINGS = (
    Setting(),
    Setting(P=32),
    Setting(tokens=1024, d=256),
    *(Setting(tokens, 256, 16, "", _FEW) for tokens in (256, 65536, 131072)),
    *(Setting(tokens, 256, 16, "bpe:8192", _FEW) for tokens in (4096, 8192, 16384)),
)


def parse(argument: str) -> Setting:
    """Returns the setting of a text such as "tokens=8192,d=768,P=16,tokenizer=gpt2,only=bag+table".

    Keys that are left out keep their defaults.  Raises ValueError for an unknown key, a wrong number or an unknown
    contender.
    """
    known = {field.name: field.type for field in dataclasses.fields(Setting)}
    values = {}
    for item in argument.split(","):
        key, equals, value = item.partition("=")
        if key not in known or not equals or (known[key] is int and not (value.isdecimal() and int(value))):
            raise ValueError(
                f"--setting={argument}: cannot read {item!r}; write KEY=VALUE pairs joined by commas, such as "
                f"tokens=8192,d=768,only=bag+table; keys: {', '.join(known)}; numbers are at least 1"
            )
        values[key] = known[key](value)
    setting = Setting(**values)
    for name in setting.names:
        if name not in NAMES:
            raise ValueError(f"--setting={argument}: unknown contender {name!r} in only=; allowed: {', '.join(NAMES)}")
    return setting
