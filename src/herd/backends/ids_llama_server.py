"""llama.cpp's llama-server by token ids: `/completion` with an array of ids and `return_tokens`. Checked against build
11434.

Where it differs from Herd (engine/sampler.py): presence and frequency penalties count the prompt, too; `ignore_eos`
keeps the ends from being said; a bias is added before penalties; a seed has 32 bits, so that Herd's is folded; what one
request leaves in a slot's cache any other may find, so that nothing is cached once a tenant has asked. Grammars are
Herd's where it was built with llguidance.

It streams no id of a character that is not yet whole, only its count, and the whole text with the last one. Which ids
they were is found from that text where it can be one spelling alone; else the answer is left there, and the next few
ids are asked for as a whole before it goes on. With log-probabilities or a grammar all of it is asked for as a whole.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

from herd.backends.failures import Broken, Withdrawn, failure, of_event
from herd.backends.ids_facts import Facts
from herd.backends.ids_wire import Get, Heard, Post, Reader, Wire, ended, ids_of, is_greedy, likeliest, pick
from herd.backends.target import Target
from herd.engine.request import Reason, Request, TokenLogprob
from herd.errors import HerdError
from herd.grammar.masks import lark_of
from herd.text.tokenizer import Tokenizer

SEEDS = (1 << 32) - 1
"""The seed that stands for a fresh one; those below it are its seeds."""
STRIDE = 0x9E3779B1
"""The difference of the seeds of two pieces of an answer, for each id between them."""
SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
"""The order of Herd's own sampler."""
_REASONS: Mapping[str, Reason] = {"eos": "stop", "limit": "length"}


class LlamaServerWire(Wire):
    """See the module."""

    path = "/completion"
    engine = "llama-server"
    tells_progress = True
    guided = "built with llguidance"

    def __init__(self, target: Target, facts: Facts, token_bytes: Sequence[bytes] = ()) -> None:
        """token_bytes: of each id of the vocabulary; of one that shows in no text, none."""
        super().__init__(target, facts)
        self._spellings = Spellings(token_bytes)
        self._has_tenants = False

    @classmethod
    def over(cls, target: Target, facts: Facts, tokenizer: Tokenizer) -> Self:
        """See Wire."""
        hidden = tokenizer.control_ids
        return cls(
            target, facts, [b"" if i in hidden else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        )

    @classmethod
    async def ask(cls, target: Target, get: Get, post: Post) -> Facts:
        """See Wire. Whether it was built with llguidance is tried with a grammar of one letter."""
        props = pick(await get("/props"), Mapping, target, "what the server tells")
        rows = pick(await get("/v1/models"), Mapping, target, "the list of models").get("data")
        names = [str(row.get("id")) for row in pick(rows, list, target, "models") if isinstance(row, Mapping)]
        if target.model and target.model not in names:
            raise failure(Withdrawn, target, f"has no model {target.model}; it has", ", ".join(names))
        settings = pick(props.get("default_generation_settings"), Mapping, target, "default_generation_settings")
        places = props.get("total_slots")
        return Facts(
            pick(settings.get("n_ctx"), int, target, "n_ctx"),
            places=places if isinstance(places, int) and places > 0 else None,
            grammars=await _has_grammars(post),
            model=target.model,
        )

    @classmethod
    def spelt(cls, target: Target, text: str) -> dict[str, Any]:
        """See Wire."""
        return {"content": text, "add_special": False, "parse_special": True}

    def check(self, request: Request) -> None:
        """See Wire."""
        self.check_common(request)
        options = request.options
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(options, name):
                self.refuse(name, getattr(options, name), "0: it would count the prompt, too")
        if options.ignore_eos:
            self.refuse("ignore_eos", "true", "false: it would keep the ends from being said")
        if request.progress and not _streams(request):
            self.refuse("progress", "it with logprobs or a grammar", "one of them")

    def body(
        self, request: Request, seed: int, most: int, said: Sequence[int] = (), piece: int | None = None
    ) -> dict[str, Any]:
        """See Wire. Nothing is left to what it was started with, but a grammar: that there is to be none it cannot be
        told. What goes on draws with another seed: the first one would begin its numbers anew."""
        options, greedy = request.options, is_greedy(request.options)
        self._has_tenants |= request.salt != b""
        streams = piece is None and _streams(request)
        left = most - len(said)
        body: dict[str, Any] = {
            "prompt": [*request.ids, *said],
            "return_tokens": True,
            "stream": streams,
            "return_progress": streams,
            "cache_prompt": not self._has_tenants,
            "n_predict": left if piece is None else min(piece, left),
            "samplers": SAMPLERS,
            "temperature": 0.0 if greedy else options.temperature,
            "top_k": 0 if greedy else options.top_k,
            "top_p": 1.0 if greedy else options.top_p,
            "min_p": 0.0 if greedy else options.min_p,
            "repeat_penalty": options.repetition_penalty,
            "repeat_last_n": options.repetition_window or self.facts.context,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "dynatemp_range": 0.0,
            "mirostat": 0,
            "seed": (seed + len(said) * STRIDE) % SEEDS,
            "n_probs": 0 if options.logprobs is None else max(options.logprobs, 1),
            "post_sampling_probs": False,
            "logit_bias": [[i, bias] for i, bias in options.logit_bias.items()],
            "ignore_eos": False,
            "stop": [],
        }
        if options.grammar is not None:
            body["grammar"] = f"%llguidance {{}}\n{lark_of(options.grammar)}"
        return body

    def reader(self, request: Request, piece: int | None = None) -> Reader:
        """See Wire."""
        if piece is not None or not _streams(request):
            return _Whole(self.target, request.options.logprobs)
        return _Answer(self.target, self._spellings)


def _streams(request: Request) -> bool:
    """Whether an answer can be streamed: nothing is known of ids that are left out but themselves, and a grammar would
    begin anew behind them."""
    return request.options.logprobs is None and request.options.grammar is None


async def _has_grammars(post: Post) -> bool:
    """Whether it keeps to a grammar of llguidance's, whose only text is one letter."""
    body = {"prompt": "a", "n_predict": 1, "grammar": '%llguidance {}\nstart: "a"', "temperature": 0, "stream": False}
    try:
        found = await post("/completion", body)
    except HerdError:
        return False
    return isinstance(found, Mapping) and found.get("content") == "a"


class Spellings:
    """Which ids may stand for bytes that belong to no whole characters yet."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._bytes = token_bytes
        self._by_bytes: dict[bytes, list[int]] | None = None

    def of(self, token_id: int) -> bytes:
        """The bytes of an id."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def only(self, data: bytes, count: int) -> list[int] | None:
        """The ids that spell some bytes, so many of them, behind none of which a character is whole; None: none do, or
        several."""
        if len(data) > MOST_HIDDEN:
            return None
        if self._by_bytes is None:
            self._by_bytes = {}
            for i, one in enumerate(self._bytes):
                if one:
                    self._by_bytes.setdefault(one, []).append(i)
        found = self._ways(data, count)
        return list(found[0]) if len(found) == 1 else None

    def _ways(self, data: bytes, count: int) -> list[tuple[int, ...]]:
        """Ways to spell the bytes with so many ids, two at the most. From the end on, so that no rest is spelt anew for
        each beginning: there may be more beginnings than anybody can try."""
        pieces = self._pieces(data)
        ways: dict[int, list[tuple[int, ...]]] = {len(data): [()]}
        for _ in range(min(count, len(data) + 1)):
            ways = {
                at: list(
                    itertools.islice(((i, *rest) for end, ids in found for rest in ways.get(end, ()) for i in ids), 2)
                )
                for at, found in pieces.items()
            }
        return ways.get(0, [])

    def _pieces(self, data: bytes) -> dict[int, list[tuple[int, list[int]]]]:
        """Where one id may begin -> where it may end, no character being whole there, and the ids that do."""
        assert self._by_bytes is not None
        places = [at for at in range(1, len(data) + 1) if not is_whole(data[:at])]
        return {
            at: [(end, ids) for end in places if end > at and (ids := self._by_bytes.get(data[at:end]))]
            for at in (0, *places)
        }


MOST_HIDDEN = 64
"""Bytes of ids that were not streamed."""


def is_whole(data: bytes) -> bool:
    """Whether the last character of some bytes is whole, as llama-server sees it: no beginning of one is at the end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return needed <= back
        if byte < 0x80:
            return True
    return True


class _Answer(Reader):
    """Reads a streamed answer, and finds the ids that it leaves out."""

    def __init__(self, target: Target, spellings: Spellings) -> None:
        self._target, self._spellings = target, spellings
        self._seen = 0

    def take(self, value: Any) -> Heard:
        value = _event(value, self._target)
        ids = ids_of(value.get("tokens") or [], self._target, "tokens")
        count = pick(value.get("tokens_predicted"), int, self._target, "tokens_predicted")
        progress = value.get("prompt_progress")
        cached = read = None
        if progress is not None:
            progress = pick(progress, Mapping, self._target, "prompt_progress")
            cached = pick(progress.get("cache"), int, self._target, "the cached part of a prompt")
            read = pick(progress.get("processed"), int, self._target, "the read part of a prompt")
            ids, count = [], self._seen  # it tells of no token
        is_last = value.get("stop") is True
        left_out = count - self._seen - len(ids)
        if left_out < 0:
            raise failure(Broken, self._target, f"told {self._seen + len(ids)} ids where it counts {count}")
        if left_out:
            found = self._left_out(pick(value.get("content"), str, self._target, "content"), ids, left_out)
            if found is None:
                return Heard(lost=True)
            ids = [*found, *ids]
        self._seen += len(ids)
        finish = _reason(value, self._target) if is_last else None
        return Heard([(i, None) for i in ids], cached=cached, read=read, finish=finish)

    def _left_out(self, content: str, ids: list[int], count: int) -> list[int] | None:
        """The ids that it did not stream; None: its text does not say which."""
        text, last = content.encode(), b"".join(map(self._spellings.of, ids))
        if not ids or not text.endswith(last):
            return None
        return self._spellings.only(text.removesuffix(last), count)


class _Whole(Reader):
    """Reads an answer, or a piece of one, that comes as a whole; top: see `_Answer` of `ids_vllm`."""

    def __init__(self, target: Target, top: int | None) -> None:
        self._target, self._top = target, top

    def take(self, value: Any) -> Heard:
        value = _event(value, self._target)
        ids = ids_of(value.get("tokens") or [], self._target, "tokens")
        if self._top is None:
            return Heard([(i, None) for i in ids], finish=_reason(value, self._target))
        rows = pick(value.get("completion_probabilities") or [], list, self._target, "completion_probabilities")
        if len(rows) != len(ids):  # it tells none within a character
            raise failure(Broken, self._target, "sent log-probabilities for some of its ids alone")
        tokens = [(i, self._logprob(i, row)) for i, row in zip(ids, rows, strict=True)]
        return Heard(tokens, finish=_reason(value, self._target))

    def _logprob(self, token_id: int, row: Any) -> TokenLogprob:
        own, logprob = self._row(row)
        if own != token_id:
            raise failure(Broken, self._target, "sent the log-probability of another id")
        tops = [self._row(one) for one in pick(row.get("top_logprobs"), list, self._target, "top_logprobs")]
        return TokenLogprob(own, logprob, likeliest(tops, self._top or 0))

    def _row(self, row: Any) -> tuple[int, float]:
        row = pick(row, Mapping, self._target, "a log-probability")
        logprob = pick(row.get("logprob"), (int, float), self._target, "a log-probability")
        return pick(row.get("id"), int, self._target, "an id"), float(logprob)


def _event(value: Any, target: Target) -> Mapping[str, Any]:
    """An event. Raises what it tells in place of an answer."""
    found: Mapping[str, Any] = pick(value, Mapping, target, "an event")
    if found.get("error") is not None:
        raise of_event(target, found)
    return found


def _reason(value: Mapping[str, Any], target: Target) -> Reason:
    """Why an answer ended."""
    return ended(value.get("stop_type"), _REASONS, target, "stop_type")
