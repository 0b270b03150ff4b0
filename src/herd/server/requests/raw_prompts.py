"""Prompts whose caller is their author: which control tokens stand in one, and what becomes of those that it spells."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from herd.chat_model import ChatModel
from herd.errors import Forbidden, UsageError, fail
from herd.server.keys import Key
from herd.server.requests.fields import Refused

NOTED = 4
"""Tokens that a note names."""
MOST_NAME = 80
"""Characters of such a name."""


def check_ids(model: ChatModel, ids: Sequence[int], key: Key) -> None:
    """Raise Forbidden for ids of control tokens that a key may not send, since with them a client writes whatever turn
    it likes; Refused for those of images."""
    control, images = model.control_ids, model.image_ids
    may = "raw" in key.rights
    for i in ids:
        if i in images:
            raise Refused(f"prompt: got the id {i} of a token of images; show them in a dialog", "prompt")
        if i in control and not may:
            what = f"prompt: got the id {i} of a control token, which key {key.name} may not send"
            fail(Forbidden, what, do="send a dialog, or use a key with the right raw")


class RawPrompt(NamedTuple):
    """What becomes of the control tokens that a text prompt spells."""

    options: Mapping[str, Any]
    """Keyword arguments of the model."""
    note: str
    """What stays text, in one line; empty: nothing."""


def raw_prompt(model: ChatModel, prompt: str, asked: bool, key: Key) -> RawPrompt:
    """Whether a text's spellings become tokens, and what the client is told of those that do not. asked: whether they
    are to. Takes as long as the text is."""
    if not (spelt := model.spellings(prompt)):
        return RawPrompt({}, "")
    may = "raw" in key.rights
    if asked and may:
        spelt = model.spellings(prompt, raw=True)
        return RawPrompt({"raw": True}, _note(spelt, "images are shown in a dialog") if spelt else "")
    missing = [*(() if asked else ("raw: true",)), *(() if may else ("a key with the right raw",))]
    return RawPrompt({}, _note(spelt, f"as tokens they take {' and '.join(missing)}"))


def has_control(model: ChatModel, ids: Sequence[int]) -> bool:
    """Whether there are control tokens among ids, or the one that begins a text at their beginning."""
    return begins_a_text(model, ids) or not model.control_ids.isdisjoint(ids)


def begins_a_text(model: ChatModel, ids: Sequence[int]) -> bool:
    """Whether the first id is the special one that begins a text, which need not come before it then."""
    return len(ids) > 0 and ids[0] not in model.control_ids and bool(model.spellings(model.detokenize(ids[:1])))


def check_changed(model: ChatModel, prompt: str | Sequence[int], shown: str, *, raw: bool) -> None:
    """Raise UsageError where what a policy shows of a prompt with control tokens spells others: what is text must not
    become one. raw: of a text, whether what it spells are tokens. Takes as long as the prompt is."""
    if isinstance(prompt, str):
        before = list(model.spellings(prompt)) if raw else []
    else:
        control, first = model.control_ids, [model.detokenize(prompt[:1])] * begins_a_text(model, prompt)
        before = [*first, *(model.detokenize((i,)) for i in prompt if i in control)]
    if before and list(model.spellings(shown)) != before:
        do = "send what people wrote as a dialog"
        fail(UsageError, "prompt", got="control tokens that a policy's changes would not leave as they are", do=do)


def _note(spelt: Sequence[str], why: str) -> str:
    """A line for a header, which holds printable ASCII alone."""
    names = list(dict.fromkeys(spelt))
    shown = [ascii(name)[1:-1][:MOST_NAME] for name in names[:NOTED]]
    more = f" and {len(names) - NOTED} more" if len(names) > NOTED else ""
    return f"prompt: {' '.join(shown)}{more} stay text; {why}"
