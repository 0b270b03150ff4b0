"""SGLang by token ids: `/generate` with `input_ids`. Written from its source (0.5); never run here, for want of a card.

Where it differs from Herd (engine/sampler.py): its repetition penalty looks at the answer alone, it filters by top_k
and top_p at once, a seed counts only where it was started with --enable-deterministic-inference, and log-probabilities
are of the distribution that is drawn from: the raw one where nothing changes it. Grammars are Herd's where it was
started with --grammar-backend llguidance. Each event repeats all ids so far, unless it was started with
--incremental-streaming-output.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from herd.backends.failures import Broken, Withdrawn, failure, of_event
from herd.backends.ids_facts import Facts
from herd.backends.ids_wire import Get, Heard, Post, Reader, Wire, ended, ids_of, is_greedy, likeliest, pick
from herd.backends.target import Target
from herd.engine.request import Reason, Request, SamplingOptions, TokenLogprob, TokenScore
from herd.grammar.masks import lark_of

MARGIN = 7
"""Tokens of its context that no request may use, where it does not say how long a prompt may be."""
_REASONS: Mapping[str, Reason] = {"stop": "stop", "length": "length"}


class SglangWire(Wire):
    """See the module."""

    path = "/generate"
    engine = "SGLang"
    tokenize_path = "/v1/tokenize"
    scores = True
    guided = "started with --grammar-backend llguidance"

    @classmethod
    async def ask(cls, target: Target, get: Get, post: Post) -> Facts:
        """See Wire."""
        told = pick(await get("/get_server_info"), Mapping, target, "what the server tells")
        name = told.get("served_model_name") or told.get("model_path")
        if target.model and name is not None and name != target.model:
            raise failure(Withdrawn, target, f"has no model {target.model}; it has", str(name))
        context = told.get("max_req_input_len")
        if not isinstance(context, int):
            rows = pick(await get("/v1/models"), Mapping, target, "the list of models").get("data")
            row = pick((pick(rows, list, target, "models") or [None])[0], Mapping, target, "a model")
            context = pick(row.get("max_model_len"), int, target, "max_model_len") - MARGIN
        places = told.get("max_running_requests")
        return Facts(
            context,
            places=places if isinstance(places, int) and places > 0 else None,
            seeds=told.get("enable_deterministic_inference") is True,
            grammars=told.get("grammar_backend") == "llguidance",
            model=str(name or ""),
        )

    def defaults(self, options: SamplingOptions) -> SamplingOptions:
        """See Wire."""
        return replace(options, repetition_penalty=1.0, top_k=0 if options.top_p < 1 else options.top_k)

    def check(self, request: Request) -> None:
        """See Wire."""
        self.check_common(request)
        options = request.options
        if options.repetition_penalty != 1:
            self.refuse("repetition_penalty", options.repetition_penalty, "1: its own looks at the answer alone")
        if options.ignore_eos and options.stop_ids:
            self.refuse("stop_ids", "them with ignore_eos", "one of them")
        changed = options.presence_penalty or options.frequency_penalty or options.logit_bias or options.grammar
        drawn = not is_greedy(options)
        if options.logprobs is not None and (changed or (drawn and options.temperature != 1)):
            self.refuse("logprobs", "them where something changes the distribution", "temperature 0 or 1 and no more")
        if drawn and ((options.top_k > 0) + (options.top_p < 1) + (options.min_p > 0)) > 1:
            self.refuse("top_k, top_p and min_p", "more than one of them", "one: it applies them at once")
        if drawn and options.seed is not None and not self.facts.seeds:
            self.refuse("seed", options.seed, "none: it was not started with --enable-deterministic-inference")

    def body(
        self, request: Request, seed: int, most: int, said: Sequence[int] = (), piece: int | None = None
    ) -> dict[str, Any]:
        """See Wire."""
        options, want, greedy = request.options, request.want, is_greedy(request.options)
        body: dict[str, Any] = {"input_ids": list(request.ids)}
        if request.salt:
            body["extra_key"] = request.salt.hex()
        if want.what == "logprobs":
            return body | {
                "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
                "stream": False,
                "return_logprob": True,
                "logprob_start_len": want.start - 1,
                "top_logprobs_num": max(want.top, 1),
            }
        sampling: dict[str, Any] = {
            "max_new_tokens": most,
            "temperature": 0.0 if greedy else options.temperature,
            "top_p": 1.0 if greedy else options.top_p,
            "top_k": -1 if greedy or not options.top_k else options.top_k,
            "min_p": 0.0 if greedy else options.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": options.presence_penalty,
            "frequency_penalty": options.frequency_penalty,
            "ignore_eos": options.ignore_eos,
            "stop_token_ids": sorted({*request.end_ids, *options.stop_ids}),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "no_stop_trim": True,
        }
        if not greedy and self.facts.seeds:
            sampling["sampling_seed"] = seed & ((1 << 63) - 1)
        if options.logit_bias:
            sampling["logit_bias"] = {str(i): bias for i, bias in options.logit_bias.items()}
        if options.grammar is not None:
            sampling["ebnf"] = lark_of(options.grammar)
        body |= {"sampling_params": sampling, "stream": True}
        if options.logprobs is not None:
            body |= {"return_logprob": True, "logprob_start_len": -1, "top_logprobs_num": options.logprobs}
        return body

    def reader(self, request: Request, piece: int | None = None) -> Reader:
        """See Wire."""
        if request.want.what == "logprobs":
            return _Scores(self.target, request)
        return _Answer(self.target, request.options.logprobs)


class _Answer(Reader):
    """Reads an answer whose events hold all ids so far, or those that are new."""

    def __init__(self, target: Target, top: int | None) -> None:
        self._target, self._top = target, top
        self._seen = 0

    def take(self, value: Any) -> Heard:
        value, meta = _event(value, self._target)
        ids = ids_of(value.get("output_ids") or [], self._target, "output_ids")
        count = pick(meta.get("completion_tokens"), int, self._target, "completion_tokens")
        new = ids[self._seen :] if len(ids) == count else ids
        if self._seen + len(new) != count:
            raise failure(Broken, self._target, f"told {len(ids)} ids where it counts {count}")
        self._seen = count
        cached = meta.get("cached_tokens")
        return Heard(
            self._tokens(new, meta),
            cached=cached if isinstance(cached, int) else None,
            finish=_reason(meta.get("finish_reason"), self._target),
        )

    def _tokens(self, ids: list[int], meta: Mapping[str, Any]) -> list[tuple[int, TokenLogprob | None]]:
        if self._top is None or not ids:
            return [(i, None) for i in ids]
        rows = pick(meta.get("output_token_logprobs"), list, self._target, "output_token_logprobs")[-len(ids) :]
        told = (meta.get("output_top_logprobs") if self._top else None) or [None] * len(ids)
        tops = pick(told, list, self._target, "output_top_logprobs")[-len(ids) :]
        found: list[tuple[int, TokenLogprob | None]] = []
        if len(rows) != len(ids) or len(tops) != len(ids):
            raise failure(Broken, self._target, "sent log-probabilities that do not belong to its ids")
        for i, row, top in zip(ids, rows, tops, strict=True):
            own, logprob = _row(row, self._target)
            if own != i:
                raise failure(Broken, self._target, "sent the log-probability of another id")
            rest = [] if top is None else [_row(one, self._target) for one in pick(top, list, self._target, "tops")]
            found.append((i, TokenLogprob(i, logprob, likeliest(rest, self._top))))
        return found


class _Scores(Reader):
    """Reads the scores of the ids of a prompt."""

    def __init__(self, target: Target, request: Request) -> None:
        self._target, self._request = target, request

    def take(self, value: Any) -> Heard:
        _, meta = _event(value, self._target)
        ids = self._request.ids[self._request.want.start :]
        rows = pick(meta.get("input_token_logprobs"), list, self._target, "input_token_logprobs")[-len(ids) :]
        tops = pick(meta.get("input_top_logprobs"), list, self._target, "input_top_logprobs")[-len(ids) :]
        if len(rows) != len(ids) or len(tops) != len(ids):
            raise failure(Broken, self._target, f"scored {len(rows)} ids of {len(ids)}")
        return Heard(scores=tuple(map(self._score, ids, rows, tops)), finish="stop")

    def _score(self, token_id: int, row: Any, top: Any) -> TokenScore:
        own, logprob = _row(row, self._target)
        if own != token_id:
            raise failure(Broken, self._target, "scored another id than the one that was given")
        best = likeliest([_row(one, self._target) for one in pick(top, list, self._target, "tops")], 1 << 20)
        return TokenScore(own, logprob, bool(best) and best[0][0] == own, best[: self._request.want.top])


def _event(value: Any, target: Target) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """An event and what it tells of itself. Raises what it tells in place of an answer."""
    value = pick(value, Mapping, target, "an event")
    if value.get("error") is not None:
        raise of_event(target, value)
    return value, pick(value.get("meta_info"), Mapping, target, "meta_info")


def _reason(told: Any, target: Target) -> Reason | None:
    """Why an answer ended; None: it goes on."""
    if told is None:
        return None
    told = pick(told, Mapping, target, "finish_reason")
    kind = told.get("type")
    if kind == "abort":
        body = {"error": {"message": str(told.get("message") or "it was ended there"), "code": told.get("status_code")}}
        raise of_event(target, body)
    return ended(kind, _REASONS, target, "finish_reason")


def _row(row: Any, target: Target) -> tuple[int, float]:
    """The id and log-probability of [logprob, id, text]."""
    row = pick(row, list, target, "a log-probability")
    if len(row) < 2:
        raise failure(Broken, target, "sent a log-probability without its id")
    return pick(row[1], int, target, "an id"), float(pick(row[0], (int, float), target, "a log-probability"))
