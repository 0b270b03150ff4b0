"""Grammars are tried in a process that can be killed: limits, places, who goes away, who knows what."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from speaking import BYTES, END, endless, saying

from helpers import PATIENCE_S, until
from herd.errors import Interrupted, PassFailed, UsageError
from herd.grammars import Grammar
from herd.llm import LLM
from herd.llm.grammar_trials import GRAMMAR_BYTES, GRAMMAR_S, Trials
from herd.llm.waiting import Leaving
from herd.server.limits import Limits
from herd.text.tokenizer import Tokenizer

EASY = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
ENDLESS = {"type": "integer", "allOf": [{"multipleOf": 1299.709}]}
"""Compiles without end: a count of digits alone does not show it."""
HOURS = 3600.0


def schema(value: Any) -> Grammar:
    return Grammar("schema", json.dumps(value))


def children() -> set[int]:
    """Processes that this one has started and that have not been waited for."""
    found = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(line.split()[0]) for line in found.stdout.splitlines() if line.split()[1] != "ps"}


@pytest.fixture
def before() -> Iterator[set[int]]:
    """Processes that were there before the test; there are no others after it."""
    found = children()
    yield found
    until("its processes are gone", lambda: children() <= found)


def tried(before: set[int], **limits: Any) -> Trials:
    return Trials(BYTES, BYTES.eos_ids, **limits)


def test_what_takes_too_long_is_refused_by_the_name_of_the_limit_and_the_next_one_passes(before: set[int]) -> None:
    trials = tried(before, seconds=1.0)
    trials.judge(schema(EASY), "a")
    (first,) = children() - before
    with pytest.raises(UsageError, match=r"takes over 1 s \(grammar_s\); write a simpler one"):
        trials.judge(schema(ENDLESS), "a")
    assert first not in children(), "killed"
    trials.judge(schema({"type": "null"}), "a")
    assert len(children() - before) == 1, "replaced"
    trials.close()


def test_what_takes_too_much_memory_is_refused_by_the_name_of_the_limit(before: set[int]) -> None:
    trials = tried(before, seconds=HOURS, memory_bytes=2 << 20)
    trials.judge(schema(EASY), "a")
    large = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(400)}}
    with pytest.raises(UsageError, match=r"takes over 2 MiB \(grammar_bytes\)"):
        trials.judge(schema(large), "a")
    trials.judge(schema({"type": "null"}), "a")
    trials.close()


def test_a_process_that_died_on_its_own_while_idle_is_no_fault_of_the_next_grammar(before: set[int]) -> None:
    trials = tried(before)
    trials.judge(schema(EASY), "a")
    (pid,) = children() - before
    os.kill(pid, 9)
    until("it is dead", lambda: not trials._idle[0].alive)
    trials.judge(schema({"type": "null"}), "a")
    trials.close()


def asking(
    trials: Trials, grammar: Grammar, owner: str
) -> "tuple[threading.Thread, Leaving, list[BaseException | None]]":
    """Somebody who asks, on a thread; the list gets what came of it."""
    leaving, out = Leaving(), list[BaseException | None]()

    def work() -> None:
        try:
            with leaving.here():
                trials.judge(grammar, owner)
        except BaseException as error:
            out.append(error)
        else:
            out.append(None)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, leaving, out


def test_who_goes_away_ends_what_is_tried_for_him_and_what_waits(before: set[int]) -> None:
    trials = tried(before, seconds=HOURS)
    one = asking(trials, schema(ENDLESS), "a")
    until("it is tried", lambda: bool(children() - before))
    queued = asking(trials, schema({"const": 1}), "a")
    queued[1].leave()
    queued[0].join(PATIENCE_S)
    assert isinstance(queued[2][0], Interrupted)
    assert not one[2], "the place is still taken"
    one[1].leave()
    one[0].join(PATIENCE_S)
    assert isinstance(one[2][0], Interrupted)
    until("it has ended", lambda: children() <= before)
    gone = Leaving()
    gone.leave()
    with gone.here(), pytest.raises(Interrupted):
        trials.judge(schema(ENDLESS), "a")
    trials.judge(schema(EASY), "a")
    trials.close()


def test_bad_grammars_of_one_wait_behind_his_own(before: set[int]) -> None:
    trials = tried(before, seconds=HOURS)
    many = [asking(trials, schema({**ENDLESS, "title": str(i)}), "many") for i in range(5)]
    until("one is tried", lambda: bool(children() - before))
    for n in range(3):
        trials.judge(schema({"const": n}), f"other{n}")
    assert len(children() - before) == 2
    for thread, leaving, _ in reversed(many):
        leaving.leave()
        thread.join(PATIENCE_S)
    trials.close()


def test_what_came_of_a_grammar_is_known_to_its_owner_alone(before: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    trials = tried(before)
    taken: list[str] = []
    take = trials._take
    monkeypatch.setattr(trials, "_take", lambda: taken.append("") or take())
    bad = schema({"not": {}})
    for owner, so_far in (("a", 1), ("a", 1), ("b", 2), ("b", 2), ("a", 2)):
        trials.judge(schema(EASY), owner)
        assert len(taken) == so_far
    for owner, so_far in (("a", 3), ("a", 3), ("b", 4), ("a", 4)):
        with pytest.raises(UsageError, match="not cannot be enforced"):
            trials.judge(bad, owner)
        assert len(taken) == so_far
    trials.close()


def test_twins_that_wait_together_are_tried_once(before: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    trials = tried(before, seconds=1.0)
    taken: list[str] = []
    take = trials._take
    monkeypatch.setattr(trials, "_take", lambda: taken.append("") or take())
    twins = [asking(trials, schema(ENDLESS), "a") for _ in range(4)]
    for thread, _, out in twins:
        thread.join(PATIENCE_S)
        assert isinstance(out[0], UsageError)
    assert len(taken) == 1
    trials.close()


def test_a_process_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials(BYTES, BYTES.eos_ids)
    for program in ("/nowhere/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", program)
        with pytest.raises(PassFailed, match="did not start"):
            trials.judge(schema(EASY), "a")


@pytest.mark.parametrize(
    "limits", [{"seconds": 0}, {"seconds": "2"}, {"seconds": True}, {"memory_bytes": 5}, {"memory_bytes": 1e9}]
)
def test_a_wrong_limit_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="grammar_"):
        Trials(BYTES, BYTES.eos_ids, **limits)


def test_the_limits_of_the_service_are_the_ones_of_the_library() -> None:
    assert (Limits().grammar_s, Limits().grammar_bytes) == (GRAMMAR_S, GRAMMAR_BYTES)


def test_special_tokens_may_be_named_as_the_engine_lets_them(before: set[int]) -> None:
    trials = tried(before)
    trials.judge(Grammar("lark", 'start: "a" <|eom|> "b"'), "a")
    trials.judge(Grammar("lark", f'start: "a" <[{END}]>'), "a")
    for wrong in ('start: "a" <|nobody|>', f'start: "a" <[{BYTES.vocab_size}]>'):
        with pytest.raises(UsageError):
            trials.judge(Grammar("lark", wrong), "a")
    trials.close()


# -- through a model ---------------------------------------------------------------------------------------------------

TOOL = {"name": "f", "parameters": EASY}
WAYS: dict[str, dict[str, Any]] = {
    "a schema": {"schema": EASY},
    "any object": {"schema": True},
    "a tool that must be called": {"tools": [TOOL], "tool_choice": "required"},
    "a tool by name": {"tools": [TOOL], "tool_choice": "f"},
    "a schema as an option": {"grammar": "schema:" + json.dumps(EASY)},
    "any object as an option": {"grammar": "json"},
    "Lark": {"grammar": 'lark:start: "a"'},
    "a regular expression": {"grammar": "regex:a+"},
    "a Grammar": {"grammar": Grammar("regex", "a")},
}


async def last(stream: Any) -> Any:
    return [event async for event in stream]


VERBS: dict[str, Callable[[LLM, dict[str, Any]], Any]] = {
    "chat": lambda m, a: m.chat("Hi", **a),
    "chat_samples": lambda m, a: m.chat_samples("Hi", 2, **a),
    "stream": lambda m, a: list(m.stream("Hi", **a)),
    "chat_many": lambda m, a: m.chat_many(["Hi", "Ho"], **a),
    "achat": lambda m, a: asyncio.run(m.achat("Hi", **a)),
    "achat_many": lambda m, a: asyncio.run(m.achat_many(["Hi", "Ho"], **a)),
    "complete_many": lambda m, a: m.complete_many(["Hi", "Ho"], **a),
    "acomplete_many": lambda m, a: asyncio.run(m.acomplete_many(["Hi", "Ho"], **a)),
    "acomplete": lambda m, a: asyncio.run(m.acomplete("Hi", **a)),
    "astream": lambda m, a: asyncio.run(last(m.astream("Hi", **a))),
    "complete": lambda m, a: m.complete("Hi", **a),
    "stream_complete": lambda m, a: list(m.stream_complete("Hi", **a)),
    "astream_complete": lambda m, a: asyncio.run(last(m.astream_complete("Hi", **a))),
}


def test_every_way_in_is_tried_once_a_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(Trials, "judge", lambda self, grammar, owner: asked.append((grammar.kind, owner)))
    for verb, call in VERBS.items():
        for way, arguments in WAYS.items():
            if "tools" in arguments and "complete" in verb:
                continue
            with endless() as model:
                asked.clear()
                for tenant in ("one", "two", "one", "two"):
                    call(model, {**arguments, "tenant": tenant, "max_tokens": 8})
                assert len(asked) == len(set(asked)) == 2, (verb, way)


def test_a_client_has_a_place_where_there_are_no_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[str] = []
    monkeypatch.setattr(Trials, "judge", lambda self, grammar, owner: owners.append(owner))
    with saying("aaa") as model:
        for n, whose in enumerate(({"client": "x"}, {"client": "y"}, {"client": "x", "tenant": "z"})):
            model.chat("Hi", grammar=f"regex:a{{{n + 1}}}", **whose)
    assert owners[:2] == ["x", "y"]
    assert owners[2] not in owners[:2]


def test_endless_schemas_that_are_given_up_leave_nothing_and_stop_no_chat(before: set[int]) -> None:
    async def run() -> None:
        with saying('{"a": "b"}', context=4096) as model:
            model._trials._seconds = HOURS
            streams = [model.astream("Hi", schema={**ENDLESS, "title": str(i)}, tenant="bad") for i in range(8)]
            tasks = [asyncio.create_task(stream.ready()) for stream in streams]
            while not children() - before:
                await asyncio.sleep(0.01)
            assert (await model.achat("Hi")).text == '{"a": "b"}'
            assert (await model.achat("Hi", schema=EASY, tenant="good")).parsed == {"a": "b"}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert (await model.achat("Hi", schema=EASY, tenant="bad")).parsed == {"a": "b"}
            assert len(children() - before) <= 2

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_a_closed_stream_ends_its_trial(before: set[int]) -> None:
    async def run() -> None:
        with saying("x") as model:
            model._trials._seconds = HOURS
            stream = model.astream("Hi", schema=ENDLESS)
            task = asyncio.create_task(stream.ready())
            while not children() - before:
                await asyncio.sleep(0.01)
            await stream.aclose()
            with pytest.raises(Interrupted):
                await task

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_a_trial_leaves_when_its_parent_dies(tmp_path: Path) -> None:
    program = (
        "from herd.grammars import Grammar; from herd.llm.grammar_trials import Trials; "
        "from herd.text.tokenizer import Tokenizer; "
        "b = Tokenizer.bytes_only(); t = Trials(b, b.eos_ids, seconds=3600); "
        "t.judge(Grammar('json'), 'a'); print(t._idle[0]._process.pid, flush=True); "
        f"t.judge(Grammar('schema', {json.dumps(ENDLESS)!r}), 'a')"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until("the trial has left", lambda: not Path(f"/proc/{pid}").exists())


def test_a_tokenizer_without_special_tokens_is_tried_as_well(before: set[int]) -> None:
    class Plain:
        vocab_size = 257
        encode = staticmethod(Tokenizer.bytes_only().encode)

        def token_bytes(self, token_id: int) -> bytes:
            return bytes([token_id]) if token_id < 256 else b""

        def is_special(self, token_id: int) -> bool:
            return False

    trials = Trials(Plain(), [256])
    trials.judge(schema(EASY), "a")
    trials.close()
