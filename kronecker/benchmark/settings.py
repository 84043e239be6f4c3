"""What the encoder's benchmark can be asked to time; no JAX here, so that a refused flag need not wait for it."""

import dataclasses

from kronecker.schema import choices

TABLE, REFERENCE = "table", "reference"
GATHER_BY_ONE_HOT = "gather_onehot"  # gather, its gradient by one-hot products; "gather" is the one by scatter
NAMES = (*choices.IMPLEMENTATIONS, GATHER_BY_ONE_HOT, TABLE, REFERENCE)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One problem to time."""

    tokens: int = 8192  # N, embedded at a time
    d: int = 768  # the model's width
    P: int = 16  # byte positions
    tokenizer: str = ""  # as in a config; "": the one of --tokenizer
    only: str = ""  # contenders, joined by "+"; "": all
    # ids, where those beyond the tokenizer's are padding, which costs as much; 0: as a config pads the tokenizer's
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
    """Returns the setting of "tokens=8192,d=768,P=16,tokenizer=gpt2,only=bag+table"; what is left out is the default.

    Raises ValueError if a key is not known, a number is not one, or there is no such contender.
    """
    known = {field.name: field.type for field in dataclasses.fields(Setting)}
    values = {}
    for item in argument.split(","):
        key, equals, value = item.partition("=")
        if key not in known or not equals or (known[key] is int and not (value.isdecimal() and int(value))):
            raise ValueError(
                f"--setting={argument}: cannot read {item!r}; write "
                "tokens=8192,d=768,P=16,tokenizer=gpt2,only=bag+table, each part where it is not the default"
            )
        values[key] = known[key](value)
    setting = Setting(**values)
    for name in setting.names:
        if name not in NAMES:
            raise ValueError(f"--setting={argument}: there is no contender {name!r}; only= takes {', '.join(NAMES)}")
    return setting
