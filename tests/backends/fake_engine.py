"""An engine on loopback that takes token ids, in the forms of vLLM, SGLang and llama-server; a model of Herd's answers.

FakeEngine   answers from an LLM by ids; `asked` keeps every body
engine_of    one while it listens, and a target for it

Written from those engines' documentation and recorded answers, without the code that asks them. A grammar arrives as
text; `known` says which of Herd's it stands for.
"""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from herd.backends.target import Target
from herd.engine.request import Request, SamplingOptions, Want
from herd.errors import HerdError
from herd.grammars import Grammar
from herd.llm import LLM

PROBE = "start: NOT_FOR_XGRAMMAR\nNOT_FOR_XGRAMMAR: /[a-z]/ & /q/\n"
PATHS = {"vllm": "/v1/completions", "sglang": "/generate", "llama-server": "/completion"}


@dataclass
class FakeEngine:
    """An engine of one form. splits: whether llama-server leaves out ids of characters that are not whole."""

    form: str
    llm: LLM
    known: Mapping[str, Grammar] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""
    other: str = ""
    """A text that it encodes otherwise."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further fields of what it tells of itself."""

    def told(self, path: str) -> Any:
        """What a path tells; None: there is no such path."""
        context = self.llm.context
        if path == "/v1/models":
            return {"data": [{"id": "tiny", "max_model_len": context}]}
        if path == "/props" and self.form == "llama-server":
            return {"default_generation_settings": {"n_ctx": context}, "total_slots": 4, **self.facts}
        if path == "/get_server_info" and self.form == "sglang":
            known = {"grammar_backend": "llguidance", "enable_deterministic_inference": True, **self.facts}
            return {"served_model_name": "tiny", "max_req_input_len": context, **known}
        return None

    def ids(self, body: Mapping[str, Any]) -> list[int]:
        """Ids of a text."""
        text = body["content" if self.form == "llama-server" else "prompt"]
        special = body.get("parse_special", True)
        ids = (self.llm.tokenizer.for_author() if special else self.llm.tokenizer).encode(text)
        return ids if text != self.other else [*ids, 65]

    def options(self, body: Mapping[str, Any]) -> SamplingOptions:
        """Options of Herd's that a body asks for."""
        says = body["sampling_params"] if self.form == "sglang" else body
        grammar = {
            "vllm": lambda: (says.get("structured_outputs") or {}).get("grammar"),
            "sglang": lambda: says.get("ebnf"),
            "llama-server": lambda: (says.get("grammar") or "").removeprefix("%llguidance {}\n") or None,
        }[self.form]()
        limit = {"vllm": "max_tokens", "sglang": "max_new_tokens", "llama-server": "n_predict"}[self.form]
        seed = {"vllm": "seed", "sglang": "sampling_seed", "llama-server": "seed"}[self.form]
        bias = says.get("logit_bias") or {}
        pairs: Any = bias if isinstance(bias, list) else [(int(i), value) for i, value in bias.items()]
        penalty, window = says.get("repetition_penalty", 1.0), 0
        if self.form == "llama-server":
            penalty, window = says["repeat_penalty"], max(says["repeat_last_n"], 0)
            assert says["samplers"] == ["penalties", "temperature", "top_k", "top_p", "min_p"]
        return SamplingOptions(
            temperature=says["temperature"],
            top_k=max(says["top_k"], 0),
            top_p=says["top_p"],
            min_p=says["min_p"],
            repetition_penalty=penalty,
            repetition_window=window,
            presence_penalty=says["presence_penalty"],
            frequency_penalty=says["frequency_penalty"],
            seed=says.get(seed),
            max_tokens=says[limit],
            stop_ids=tuple(says.get("stop_token_ids") or ()),
            logit_bias=dict(pairs),
            logprobs=self._logprobs(body),
            ignore_eos=self.form == "vllm" and grammar is None,
            grammar=None if grammar is None else self.known[grammar],
        )

    def _logprobs(self, body: Mapping[str, Any]) -> int | None:
        if self.form == "vllm":
            return body.get("logprobs")
        if self.form == "sglang":
            return body.get("top_logprobs_num") if body.get("return_logprob") else None
        return body["n_probs"] or None

    def steps(self, body: Mapping[str, Any]) -> Iterator[Any]:
        """Steps of an answer."""
        engine, options = self.llm._engine, self.options(body)
        assert engine is not None
        ids = body["input_ids" if self.form == "sglang" else "prompt"]
        for i in ids:
            assert type(i) is int
        seed = options.seed or 0
        yield from engine.stream(engine.submit(Request(ids, options, seed=seed)))

    def scores(self, ids: list[int], start: int, top: int) -> list[Any]:
        """Scores of given ids."""
        engine = self.llm._engine
        assert engine is not None
        want = Want(what="logprobs", start=start, top=top)
        return [
            s for step in engine.stream(engine.submit(Request(ids, SamplingOptions(), want=want))) for s in step.scores
        ]

    def answer(self, body: dict[str, Any]) -> tuple[bool, Iterator[Any]]:
        """Whether it is streamed, and its values."""
        if self.form == "vllm" and "prompt_logprobs" in body:
            return False, iter([self._vllm_scores(body)])
        if self.form == "sglang" and body["sampling_params"]["max_new_tokens"] == 0:
            return False, iter([self._sglang_scores(body)])
        return bool(body.get("stream")), {"vllm": self._vllm, "sglang": self._sglang}.get(self.form, self._llama)(body)

    def _vllm(self, body: dict[str, Any]) -> Iterator[Any]:
        for step in self.steps(body):
            choice: dict[str, Any] = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
            choice["token_ids"] = [] if step.token_id is None else [step.token_id]
            if step.logprob is not None:
                tops = [(step.logprob.token_id, step.logprob.logprob), *step.logprob.top]
                told = {f"token_id:{i}": p for i, p in tops}
                choice["logprobs"] = {
                    "tokens": [f"token_id:{step.token_id}"], "token_logprobs": [step.logprob.logprob],
                    "top_logprobs": [told],
                }  # fmt: skip
            if step.finish is not None:
                choice["finish_reason"] = step.finish.reason
            yield {"object": "text_completion", "choices": [choice]}
        yield "[DONE]"

    def _vllm_scores(self, body: dict[str, Any]) -> Any:
        found = self.scores(body["prompt"], 1, max(body["prompt_logprobs"], 1))
        rows: list[Any] = [None]
        for one in found:
            told = {
                str(i): {"logprob": p, "rank": n + 1} for n, (i, p) in enumerate(one.top[: body["prompt_logprobs"]])
            }
            own = {"logprob": one.logprob, "rank": 1 if one.is_greedy else 7}
            rows.append(told | {str(one.token_id): own})
        choice = {"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": rows, "token_ids": [65]}
        return {"choices": [choice]}

    def _sglang(self, body: dict[str, Any]) -> Iterator[Any]:
        ids: list[int] = []
        rows: list[Any] = []
        tops: list[Any] = []
        for step in self.steps(body):
            ids += [] if step.token_id is None else [step.token_id]
            meta: dict[str, Any] = {"completion_tokens": len(ids), "cached_tokens": 0, "finish_reason": None}
            if step.logprob is not None:
                rows.append([step.logprob.logprob, step.logprob.token_id, None])
                tops.append([[p, i, None] for i, p in step.logprob.top])
                meta |= {"output_token_logprobs": list(rows), "output_top_logprobs": list(tops)}
            if step.finish is not None:
                meta["finish_reason"] = {"type": step.finish.reason}
            yield {"text": "", "output_ids": list(ids), "meta_info": meta}
        yield "[DONE]"

    def _sglang_scores(self, body: dict[str, Any]) -> Any:
        start, ids = body["logprob_start_len"], body["input_ids"]
        found = self.scores(ids, start + 1, body["top_logprobs_num"])
        rows = [[None, ids[start], None], *([one.logprob, one.token_id, None] for one in found)]
        tops = [None, *([[p, i, None] for i, p in one.top] for one in found)]
        meta = {"completion_tokens": 0, "finish_reason": {"type": "length"}}
        return {"output_ids": [], "meta_info": meta | {"input_token_logprobs": rows, "input_top_logprobs": tops}}

    def _llama(self, body: dict[str, Any]) -> Iterator[Any]:
        streams, whole, rows, data, count = body["stream"], [], [], b"", 0
        hidden: list[int] = []
        for step in self.steps(body):
            if step.token_id is not None:
                count += 1
                whole.append(step.token_id)
                if step.logprob is not None:
                    tops = [{"id": i, "logprob": p} for i, p in step.logprob.top]
                    rows.append({"id": step.token_id, "logprob": step.logprob.logprob, "top_logprobs": tops})
                special = self.llm.tokenizer.is_special(step.token_id)
                data += b"" if special else self.llm.tokenizer.token_bytes(step.token_id)
                hidden.append(step.token_id)
                if _is_whole(data):
                    if streams:
                        text = data.decode(errors="replace")
                        yield {"content": text, "tokens": hidden[-1:], "stop": False, "tokens_predicted": count}
                    data, hidden = b"", []
            if step.finish is not None:
                kind = {"stop": "eos", "length": "limit"}[step.finish.reason]
                last = {"content": "", "tokens": [], "stop": True, "stop_type": kind, "tokens_predicted": count}
                yield last if streams else {**last, "tokens": whole, "completion_probabilities": rows}


def _is_whole(data: bytes) -> bool:
    """Whether no character is begun at the end of some bytes."""
    for cut in range(1, 4):
        head = data[-cut : -cut + 1] if cut > 1 else data[-1:]
        if head and head[0] >= 0xC0:
            return cut >= (2 if head[0] < 0xE0 else 3 if head[0] < 0xF0 else 4)
        if not head or head[0] < 0x80:
            return True
    return True


@contextlib.contextmanager
def engine_of(form: str, llm: LLM, **more: Any) -> Iterator[FakeEngine]:
    """A fake engine while it listens on loopback."""
    engine = FakeEngine(form, llm, **more)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing is logged."""

        def do_GET(self) -> None:
            self._say(engine.told(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path in ("/tokenize", "/v1/tokenize"):
                self._say({"tokens": engine.ids(body)})
            elif self.path != PATHS[engine.form]:
                self._say(None)
            elif (body.get("structured_outputs") or {}).get("grammar") == PROBE:
                guided = engine.facts.get("guided", True)  # by another backend it is bad grammar
                self._say({"choices": [{"text": "q"}]} if guided else {"error": {"code": 400}}, 200 if guided else 400)
            elif str(body.get("grammar", "")) == '%llguidance {}\nstart: "a"':
                self._say({"content": "a", "tokens": [97]})
            else:
                engine.asked.append(body)
                with contextlib.suppress(OSError):
                    self._answer(body)

        def _answer(self, body: dict[str, Any]) -> None:
            try:
                streams, values = engine.answer(body)
                first = next(values)
            except HerdError as error:
                self._say({"error": {"message": str(error), "code": 400}}, 400)
                return
            if not streams:
                self._say(first)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self._event(first)
            for value in values:
                self._event(value)

        def _event(self, value: Any) -> None:
            data = value if isinstance(value, str) else json.dumps(value)
            self.wfile.write(f"data: {data}\n\n".encode())

        def _say(self, value: Any, status: int = 200) -> None:
            data = json.dumps(value if value is not None else {"error": {"message": "no such path"}}).encode()
            self.send_response(status if value is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    engine.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def target_at(address: str, **more: Any) -> Target:
    """A target in the house at an address."""
    return Target(**{"name": "rack", "base_url": address, "model": "tiny", "in_house": True, **more})
