"""What /metrics tells of what models and the log count themselves."""

import dataclasses
import io
import re
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from serving import client_of, fake_service

from fake_chat_model import DoesAll, OnlyChats
from helpers import TINY_TEXT, hf_folder
from herd.engine.executors.child import ChildExecutor
from herd.engine.executors.wire import Progressed
from herd.engine.messages import TokenEvent
from herd.events import Counters
from herd.llm import LLM, load
from herd.server.log import Log
from herd.server.metrics import COUNTERS, MOST_MODELS, Metrics

SAID = 40


def told(text: str, model: str) -> dict[str, int]:
    """Of one model, by the fields of Counters."""
    found = {}
    for field, (name, _) in COUNTERS.items():
        sample = re.search(rf'^{name}_total{{model_name="{model}"}} (\S+)$', text, re.MULTILINE)
        assert sample is not None, name
        found[field] = int(float(sample[1]))
    return found


def test_every_counter_is_told() -> None:
    assert list(COUNTERS) == [field.name for field in dataclasses.fields(Counters)]


@pytest.mark.parametrize("engine", ["thread", "child"])
def test_what_a_model_computed_is_told_once_its_answer_is_there(
    tmp_path: Path, engine: Literal["thread", "child"]
) -> None:
    folder = hf_folder(tmp_path / "tiny", TINY_TEXT)
    made: list[LLM] = []
    heard: list[Any] = []

    def start(path: str) -> LLM:
        llm = load(folder, engine=engine, threads=1, chat_format="llama4", force=True)
        made.append(llm)
        executor = llm._running().executor
        if isinstance(executor, ChildExecutor):
            hear = executor._heard
            executor._heard = lambda message: (heard.append(message), hear(message))[1]  # type: ignore[method-assign]
        return llm

    service = fake_service(tmp_path, names=("tiny",), load=start)
    turns = [{"role": "user", "content": "once upon a time, " * 8}]
    body = {"model": "tiny", "messages": turns, "max_tokens": SAID, "ignore_eos": True}
    wanted = Counters()
    with client_of(service) as client:
        began_s = time.monotonic()
        for _ in range(2):
            reply = client.post("/v1/chat/completions", json={**body, "temperature": 0})
            assert reply.status_code == 200, reply.text
            usage = reply.json()["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            now = told(client.get("/metrics").text, made[0].name)
            wanted.admitted += 1
            wanted.cached_tokens += cached
            # the last pass over the prompt says the first token; each further one says one, and the guesses it keeps
            wanted.passes += usage["completion_tokens"]
            wanted.rows += usage["prompt_tokens"] - cached + usage["completion_tokens"] - 1
            assert now["passes"] >= wanted.passes - now["kept"]
            assert now["rows"] == wanted.rows - now["kept"] + now["proposed"]
            assert (now["admitted"], now["cached_tokens"]) == (wanted.admitted, wanted.cached_tokens)
            assert now["preempted"] == now["forked"] == now["failed_passes"] == 0
        assert now["cached_tokens"] > 0
        assert client.post("/v1/chat/completions", json={**body, "n": 3}).status_code == 200
        assert told(client.get("/metrics").text, made[0].name)["forked"] == 2
        seconds = time.monotonic() - began_s
    if engine == "child":
        of_two = heard[: heard.index(next(m for m in heard if isinstance(m, TokenEvent) and m.number > 1))]
        assert sum(isinstance(m, Progressed) for m in of_two) <= 2 + seconds + 1, "not with each of so many steps"
        assert sum(isinstance(m, TokenEvent) for m in of_two) == 2 * SAID
    assert made[0].counters is None, "closed with the service"


def test_models_that_do_not_count_have_no_series_and_some_share_one() -> None:
    duck = DoesAll(name="duck")
    duck.counters = Counters(passes=3, kept=1)
    others = [DoesAll(name=f"m{i}") for i in range(2)]
    for other in others:
        other.counters = Counters(passes=5)
    metrics = Metrics(lambda: [OnlyChats(name="quiet"), duck, *others])
    assert told(metrics.text().decode(), "duck") == {**dict.fromkeys(COUNTERS, 0), "passes": 3, "kept": 1}
    assert b"quiet" not in metrics.text()
    full = Metrics(lambda: others)
    for i in range(MOST_MODELS):
        full.name_of(f"before {i}")
    assert told(full.text().decode(), "other")["passes"] == 10


def test_lines_of_the_log_that_nobody_took_are_told() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("gone")

    log = Log("json", Gone())
    log.event("one")
    log.close()
    assert b"herd_log_lines_dropped_total 1.0" in Metrics(log=log).text()
    assert b"herd_log_lines_dropped_total 1" not in Metrics().text()
