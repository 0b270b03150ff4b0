"""How likely a prompt itself is: what `echo` with `logprobs` tells before the answer.

It is scored as a request of its own, before its answer begins, which then finds it in the cache.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from herd.chat_model import ChatModel
from herd.engine.request import SamplingOptions
from herd.errors import TooLarge, UsageError, Withheld, fail
from herd.event_stream import EVENT_BYTES, LIKELY_BYTES
from herd.events import Likely, Logprob, Note, Usage
from herd.policies import Policy
from herd.server.keys import Key
from herd.server.requests.fields import within
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.policed import CheckedTexts, checked_texts
from herd.server.requests.raw_prompts import (
    RawPrompt,
    begins_a_text,
    check_changed,
    check_ids,
    has_control,
    raw_prompt,
)
from herd.server.requests.sizes import prompt_bytes, spelt_bytes
from herd.server.service import Caller, Service, until_disconnect

Ids = Sequence[int]
CHARACTER_TOKENS = 4
"""The most tokens that have a part in one character: its bytes."""


class Scored(NamedTuple):
    """A prompt that is a text or ids, as far as its model may see it, and how likely it was."""

    text: str
    first: Likely
    """Its first token, before which nothing of the prompt stands: how likely it was is not known."""
    rest: tuple[Logprob, ...]
    """The other tokens."""
    usage: Usage
    notes: tuple[Note, ...] = ()
    note: str = ""
    """See `ReplyInProgress`."""


async def score_prompt(
    service: Service, caller: Caller, ask: GenerateRequest, top: int, *, answered: bool
) -> Scored | None:
    """Score a request's prompt, past the policy of whoever asks. top: so many of the likeliest tokens at each place.

    answered: `Service.open` is asked for the same request next; it charges the prompt and answers for the policy, and
    None comes of a prompt that the policy lets the model see nothing of. Raises UsageError, Withheld, TooLarge, Busy,
    QuotaSpent, and what loading and scoring raise.
    """
    SamplingOptions(logprobs=top)  # its limits
    service.refuse_when_stopping()
    within("model", len(ask.model), service.limits.name_bytes)
    within("n", ask.n, service.limits.samples)
    caller.facts.update(key=caller.key.name, model=ask.model)
    async with service.models.use(ask.model, ask.keep_alive_s) as model:
        for capability in ("scores", "ids"):
            model.capabilities.require(model.name, capability)
        seen = await _seen(service, caller, model, ask)
        if seen.passed.refusal is not None:
            if answered:
                return None
            raise Withheld(seen.passed.refusal)
        caller.key.check_quota(caller.key.tokens, "tokens", len(seen.ids))
        _hold(service, caller, (EVENT_BYTES + LIKELY_BYTES * (1 + top)) * len(seen.ids) * ask.n)
        async with until_disconnect(caller.request):
            first, rest, usage = await _likely(service, caller, model, ask, seen, top)
        if not answered:
            service.count_notes(seen.passed.notes)
            service.charge(caller, usage.prompt_tokens)
        return Scored(seen.passed.texts[0], first, rest, usage, seen.passed.notes, seen.note)


class _Seen(NamedTuple):
    """A prompt as its model may see it. is_text: what the vocabulary wants before a text comes before it: it is not
    given as ids and does not begin with that, or a policy has made other ids of it."""

    passed: CheckedTexts
    is_text: bool
    ids: Ids
    """Ids of the prompt, without the token that the vocabulary may want before a text."""
    raw: bool = False
    """Whether control tokens that a text spells are among them."""
    note: str = ""


async def _seen(service: Service, caller: Caller, model: ChatModel, ask: GenerateRequest) -> _Seen:
    """Raises Refused for ids of control tokens, TooLarge, Busy."""
    assert ask.prompt is not None
    prompt, made = ask.prompt, caller.admission.made
    needs = prompt_bytes(model, await service.text_size(caller, prompt))
    needs += 0 if isinstance(prompt, str) else spelt_bytes(model, len(prompt))
    made.hold(needs)
    try:
        policy = service.policies(caller, ask)
        look = partial(_look, model, policy, ask, caller.key)
        return await service.compute(caller, look, caller.admission.size_bytes)
    finally:
        made.let_go(needs)


def _look(model: ChatModel, policy: Policy | None, ask: GenerateRequest, key: Key) -> _Seen:
    prompt = ask.prompt
    assert prompt is not None
    if isinstance(prompt, str):
        text = prompt
    else:
        check_ids(model, prompt, key)
        text = model.detokenize(prompt)
    passed = checked_texts(policy, [text])
    (shown,) = passed.texts
    if not isinstance(prompt, str) and shown == text:
        return _Seen(passed, False, prompt)
    found = raw_prompt(model, prompt, ask.raw, key) if isinstance(prompt, str) else RawPrompt({}, "")
    raw = bool(found.options) if isinstance(prompt, str) else has_control(model, prompt)
    if shown != text and passed.refusal is None:
        check_changed(model, prompt, shown, raw=raw)
    spelt: dict[str, Any] = {"raw": True} if raw else {}
    ids = model.tokenize(shown, **spelt) if passed.refusal is None else ()
    whole = raw and (not isinstance(prompt, str) or begins_a_text(model, ids))
    return _Seen(passed, not whole, ids, raw, found.note)


def _hold(service: Service, caller: Caller, count: int) -> None:
    """Keep room for a part of a reply. Raises TooLarge, Busy."""
    most = service.limits.reply_bytes
    if count > most:
        do = "ask for a shorter prompt, fewer samples or logprobs"
        fail(TooLarge, "reply", got="more", expected=f"at most {most} bytes in memory", do=do)
    caller.admission.made.hold(count)


async def _likely(
    service: Service, caller: Caller, model: ChatModel, ask: GenerateRequest, seen: _Seen, top: int
) -> tuple[Likely, tuple[Logprob, ...], Usage]:
    """The first token, the others with their log-probabilities, and what that took."""
    decision = service.leaving(caller, ask.model, ask.said)
    score = partial(model.ascore, top=top, **service.whose(caller, decision, ask.user))
    if seen.is_text:
        with suppress(UsageError):  # the vocabulary wants no token before a text: the first one is its prompt
            (found,) = await score([("", seen.ids if seen.raw else seen.passed.texts[0])])
            return found.tokens[0], found.tokens[1:], found.usage
    rest: tuple[Logprob, ...] = ()
    usage = Usage(len(seen.ids), 0)
    if len(seen.ids) > 1:
        (found,) = await score([(seen.ids[:1], seen.ids[1:])])
        rest, usage = found.tokens, found.usage
    return await service.compute(caller, partial(_first, model, seen.ids, rest)), rest, usage


def spelt_out(token: Likely) -> bytes:
    """What a token adds to a prompt that is told again: control tokens are spelt out there."""
    return token.token_bytes or token.text.encode()


def _first(model: ChatModel, ids: Ids, rest: Sequence[Logprob]) -> Likely:
    """The first id by name. The bytes of a part of a character are what its character has before the next tokens."""
    for count in range(1, CHARACTER_TOKENS + 1):
        begin = model.detokenize(ids[:count])
        own = begin.encode().removesuffix(b"".join(map(spelt_out, rest[: count - 1])))
        text = own.decode("utf-8", "replace")
        if "\ufffd" not in begin:
            return Likely(ids[0], text, math.nan, spelt=None if text.encode() == own else own)
    return Likely(ids[0], model.detokenize(ids[:1]), math.nan)
