"""What an engine has told of itself, as it is kept with a backend."""

import msgspec


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an engine has told of itself."""

    context: int
    """Tokens that prompt and answer have together."""
    places: int | None = None
    """Answers at once; None: it does not say."""
    seeds: bool = True
    """Whether the same seed draws the same tokens there."""
    grammars: bool = True
    """Whether it keeps to llguidance's grammars, which Herd's are."""
    model: str = ""
    """What it calls the model; empty: it does not say."""
