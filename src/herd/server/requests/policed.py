"""Texts that a model gets outside of a dialog (to embed, to judge), past the policy of whoever asks."""

from collections.abc import Sequence
from typing import NamedTuple

from herd.events import Note, Reply, Timings, Usage
from herd.messages import Message
from herd.policies import Cleaner, Editor, Policy, Prompt
from herd.text.said import Said

NOTHING = Reply("", "stop", Usage(0, 0, 0), Timings(0.0, 0.0, 0.0, 0.0, 0.0))


class Passed(NamedTuple):
    """texts: as the model may see them. refusal: why it may see none of them."""

    texts: list[str]
    notes: tuple[Note, ...] = ()
    refusal: str | None = None


def past(policy: Policy | None, texts: Sequence[str]) -> Passed:
    """What a policy makes of texts that come as a user's. It takes as long as the policy does."""
    if policy is None:
        return Passed(list(texts))
    turns = [Message("user", text) for text in texts]
    shown = policy.cleaned(Prompt(turns)).messages if isinstance(policy, Cleaner) else turns
    refusal = policy.before(turns)
    notes = policy.notes(NOTHING, Said()) if isinstance(policy, Editor) else ()
    return Passed([turn.text for turn in shown], notes, refusal)
