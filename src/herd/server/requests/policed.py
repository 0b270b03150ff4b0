"""Texts for a model outside of a dialog (to embed, to rank), checked by the caller's policy."""

from collections.abc import Sequence
from typing import NamedTuple

from herd.events import Note, Reply, Timings, Usage
from herd.messages import Message
from herd.policies import Cleaner, Editor, Policy, Prompt
from herd.text.said import Said

NOTHING = Reply("", "stop", Usage(0, 0, 0), Timings(0.0, 0.0, 0.0, 0.0, 0.0))


class CheckedTexts(NamedTuple):
    """The result of a check. texts: as the model may see them. refusal: why it may see none of them."""

    texts: list[str]
    notes: tuple[Note, ...] = ()
    refusal: str | None = None


def checked_texts(policy: Policy | None, texts: Sequence[str]) -> CheckedTexts:
    """Check texts, as a user's, with a policy. Takes as long as the policy does."""
    if policy is None:
        return CheckedTexts(list(texts))
    turns = [Message("user", text) for text in texts]
    shown = policy.cleaned(Prompt(turns)).messages if isinstance(policy, Cleaner) else turns
    refusal = policy.before(turns)
    notes = policy.notes(NOTHING, Said()) if isinstance(policy, Editor) else ()
    return CheckedTexts([turn.text for turn in shown], notes, refusal)
