"""vLLM by token ids: `/v1/completions` with `prompt: [ids]`. Checked against vLLM 0.32.

Where its numbers differ from Herd's (engine/sampler.py): min_p is applied before top_p, a repetition penalty looks at
all of the text, a bias is added before penalties, and a temperature below 0.01 becomes 0.01. Log-probabilities are of
the raw distribution, unless it was started with another --logprobs-mode. Its usual backend for grammars, xgrammar,
reads Lark as well, but leaves white space in JSON free. So every grammar has a terminal that xgrammar cannot read:
unless xgrammar was asked for by name, llguidance takes it then, which is tried.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from herd.backends.failures import Broken, Unfit, Withdrawn, failure, of_event
from herd.backends.ids_facts import Facts
from herd.backends.ids_wire import NOTHING, Get, Heard, Post, Reader, Wire, ended, ids_of, is_greedy, likeliest, pick
from herd.backends.target import Target
from herd.engine.request import Reason, Request, SamplingOptions, TokenLogprob, TokenScore
from herd.grammar.masks import lark_of

COLDEST = 0.01
"""The lowest temperature that it draws with."""
UNREADABLE = "NOT_FOR_XGRAMMAR: /[a-z]/ & /q/\n"
"""A terminal of two expressions that hold at once. No rule uses it."""
PROBE = f"start: NOT_FOR_XGRAMMAR\n{UNREADABLE}"
"""A grammar whose only text is the letter q."""
_REASONS: Mapping[str, Reason] = {"stop": "stop", "length": "length"}
_MARK = "token_id:"
"""What stands before an id where tokens are asked for as ids."""


class VllmWire(Wire):
    """See the module."""

    path = "/v1/completions"
    engine = "vLLM"
    scores = True
    guided = "started with llguidance (--structured-outputs-config.backend auto or guidance)"

    @classmethod
    async def ask(cls, target: Target, get: Get, post: Post) -> Facts:
        """See Wire."""
        rows = pick(await get("/v1/models"), Mapping, target, "the list of models").get("data")
        rows = [row for row in pick(rows, list, target, "the list of models") if isinstance(row, Mapping)]
        names = [str(row.get("id")) for row in rows]
        found = next((row for row in rows if row.get("id") == target.model), None)
        if found is None:
            raise failure(Withdrawn, target, f"has no model {target.model}; it has", ", ".join(names))
        context = pick(found.get("max_model_len"), int, target, "max_model_len")
        return Facts(context, grammars=await _has_grammars(target, post), model=target.model)

    def defaults(self, options: SamplingOptions) -> SamplingOptions:
        """See Wire."""
        return replace(options, repetition_window=0)

    def check(self, request: Request) -> None:
        """See Wire."""
        self.check_common(request)
        options = request.options
        if options.repetition_penalty != 1 and options.repetition_window != 0:
            self.refuse("repetition_window", options.repetition_window, "0: its penalty looks at all of the text")
        if is_greedy(options):
            return
        if options.temperature < COLDEST:
            self.refuse("temperature", options.temperature, f"0, or {COLDEST} and more")
        if options.min_p > 0 and options.top_p < 1:
            self.refuse("min_p", "it with a top_p", "one of them: it applies min_p first")

    def body(
        self, request: Request, seed: int, most: int, said: Sequence[int] = (), piece: int | None = None
    ) -> dict[str, Any]:
        """See Wire. Nothing is left to its own generation_config."""
        options, greedy = request.options, is_greedy(request.options)
        body: dict[str, Any] = {
            "model": self.target.model,
            "prompt": list(request.ids),
            "add_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
        if request.salt:
            body["cache_salt"] = request.salt.hex()
        if request.want.what == "logprobs":
            return body | {
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": request.want.top,
                "stream": False,
            }
        body |= {
            "stream": True,
            "max_tokens": most,
            "temperature": 0.0 if greedy else options.temperature,
            "top_p": 1.0 if greedy else options.top_p,
            "top_k": -1 if greedy or not options.top_k else options.top_k,
            "min_p": 0.0 if greedy else options.min_p,
            "repetition_penalty": options.repetition_penalty,
            "presence_penalty": options.presence_penalty,
            "frequency_penalty": options.frequency_penalty,
            "ignore_eos": True,  # Herd's own ends are those that count
            "stop_token_ids": sorted({*request.end_ids, *options.stop_ids}),
        }
        if not greedy:
            body["seed"] = seed & ((1 << 63) - 1)
        if options.logprobs is not None:
            body["logprobs"] = options.logprobs
        if options.logit_bias:
            body["logit_bias"] = {str(i): bias for i, bias in options.logit_bias.items()}
        if options.grammar is not None:
            body["structured_outputs"] = {"grammar": f"{lark_of(options.grammar)}\n{UNREADABLE}"}
        return body

    def reader(self, request: Request, piece: int | None = None) -> Reader:
        """See Wire."""
        if request.want.what == "logprobs":
            return _Scores(self.target, request)
        return _Answer(self.target, request.options.logprobs)


async def _has_grammars(target: Target, post: Post) -> bool:
    """Whether it keeps to a grammar that only llguidance reads: two expressions that hold at once."""
    body = {"model": target.model, "prompt": "a", "max_tokens": 1, "temperature": 0.0}
    try:
        found = await post("/v1/completions", body | {"structured_outputs": {"grammar": PROBE}})
        said = pick(found, Mapping, target, "an answer")["choices"][0]["text"]
    except (Unfit, Broken, LookupError, TypeError):
        return False
    return isinstance(said, str) and said == "q"


class _Answer(Reader):
    """Reads an answer; top: how many of the likeliest ids come with each token, None: nothing."""

    def __init__(self, target: Target, top: int | None) -> None:
        self._target, self._top = target, top

    def take(self, value: Any) -> Heard:
        choice = _choice(value, self._target)
        if choice is None:
            return NOTHING
        ids = ids_of(choice.get("token_ids") or [], self._target, "token_ids")
        finish = choice.get("finish_reason")
        reason = None if finish is None else ended(finish, _REASONS, self._target, "finish_reason")
        return Heard(self._tokens(ids, choice.get("logprobs")), finish=reason)

    def _tokens(self, ids: list[int], told: Any) -> list[tuple[int, TokenLogprob | None]]:
        if self._top is None or not ids:
            return [(i, None) for i in ids]
        told = pick(told, Mapping, self._target, "logprobs")
        own = pick(told.get("token_logprobs"), list, self._target, "token_logprobs")
        tops = told.get("top_logprobs") or [None] * len(ids)
        if len(own) != len(ids) or not isinstance(tops, list) or len(tops) != len(ids):
            raise failure(Broken, self._target, "sent log-probabilities that do not belong to its ids")
        return [(i, self._logprob(i, p, top)) for i, p, top in zip(ids, own, tops, strict=True)]

    def _logprob(self, token_id: int, logprob: Any, tops: Any) -> TokenLogprob:
        own = float(pick(logprob, (int, float), self._target, "a log-probability"))
        found = [] if tops is None else [self._named(*one) for one in pick(tops, dict, self._target, "tops").items()]
        return TokenLogprob(token_id, own, likeliest(found, self._top or 0))

    def _named(self, name: str, logprob: Any) -> tuple[int, float]:
        digits = name.removeprefix(_MARK)
        if not digits.isascii() or not digits.isdigit() or len(digits) > 12:
            raise failure(Broken, self._target, "named a likely token otherwise than by its id")
        return int(digits), float(pick(logprob, (int, float), self._target, "a log-probability"))


class _Scores(Reader):
    """Reads the scores of the ids of a prompt."""

    def __init__(self, target: Target, request: Request) -> None:
        self._target, self._request = target, request

    def take(self, value: Any) -> Heard:
        choice = _choice(value, self._target)
        if choice is None:
            return NOTHING
        rows = pick(choice.get("prompt_logprobs"), list, self._target, "prompt_logprobs")
        ids, start = self._request.ids, self._request.want.start
        if len(rows) != len(ids):
            raise failure(Broken, self._target, f"scored {len(rows)} ids of {len(ids)}")
        return Heard(scores=tuple(map(self._score, ids[start:], rows[start:])), finish="stop")

    def _score(self, token_id: int, row: Any) -> TokenScore:
        found = {}
        for name, told in pick(row, dict, self._target, "a score").items():
            told = pick(told, dict, self._target, "a score")
            if not name.isascii() or not name.isdigit() or len(name) > 12:
                raise failure(Broken, self._target, "named a scored token otherwise than by its id")
            logprob = float(pick(told.get("logprob"), (int, float), self._target, "a score"))
            found[int(name)] = logprob, pick(told.get("rank"), int, self._target, "a rank")
        if token_id not in found:
            raise failure(Broken, self._target, "scored another id than the one that was given")
        own, rank = found[token_id]
        top = likeliest([(i, logprob) for i, (logprob, _) in found.items()], self._request.want.top)
        return TokenScore(token_id, own, rank == 1, top)


def _choice(value: Any, target: Target) -> Mapping[str, Any] | None:
    """The one choice of an event; None: it holds none. Raises what the event tells in place of one."""
    value = pick(value, Mapping, target, "an event")
    if value.get("error") is not None:
        raise of_event(target, value)
    choices = pick(value.get("choices"), list, target, "choices")
    if not choices:
        return None
    choice: Mapping[str, Any] = pick(choices[0], Mapping, target, "a choice")
    if len(choices) > 1 or choice.get("index", 0) != 0:
        raise failure(Broken, target, "sent a second answer")
    return choice
