"""Runs: scores as one pair at a time gives them, failures apart, and a run that ended goes on where it was."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

import pytest

from fake_chat_model import DoesAll, OnlyChats
from helpers import hf_folder
from herd.chat_model import ChatModel, Pair
from herd.errors import BadFile, ContextTooLong, EngineDied, PassFailed, Unsupported, UsageError
from herd.evals import Results, Task, compare, find, read_all, run
from herd.evals.results import Result, Written, job_of, read
from herd.evals.running import TOGETHER
from herd.events import Score
from herd.llm import LLM, load
from herd.messages import Message

CHOICES = 'name = "c"\nkind = "choices"\nprompt = "{q}"\n'
ANSWER = 'name = "a"\nkind = "answer"\nprompt = "{q}"\nchecker = "includes"\n'
NUMBERS = range(12)


def task_of(folder: Path, text: str) -> Task:
    path = folder / "task.toml"
    path.write_text(text, encoding="utf-8")
    return find(str(path))


def questions(*numbers: int) -> str:
    return "".join(f'[[item]]\nq = "What is {i}?"\nanswer = "{i}"\n' for i in numbers)


def echo(turns: list[Message]) -> str:
    """Right of all but every third question."""
    number = int(turns[-1].text.split()[-1][:-1])
    return f"It is {number if number % 3 else 'unknown'}."


def results_of(model: ChatModel, task: Task, **options: Any) -> dict[int, Result]:
    found: dict[int, Result] = {}
    run(model, task, lambda result: found.update({result.item: result}), **options)
    return found


@dataclass(eq=False)
class Scores(OnlyChats):
    """Scores by a function of prompt and continuation."""

    of: Callable[[str, str], float] = lambda _p, _c: -1.0
    pairs: list[Any] = field(default_factory=list)

    @property
    def capabilities(self) -> Any:
        return DoesAll.capabilities

    async def ascore(self, pairs: Sequence[Pair], **whose: Any) -> list[Score]:
        self.pairs += pairs
        given = await DoesAll().ascore(pairs)
        scores = []
        for (prompt, continuation), score in zip(pairs, given, strict=True):
            total = self.of(str(prompt), str(continuation))
            tokens = tuple(type(t)(t.token_id, t.text, total / len(score.tokens)) for t in score.tokens)
            scores.append(Score(tokens, False, score.usage))
        return scores


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with load(hf_folder(tmp_path_factory.mktemp("models") / "tiny"), threads=1, kv="f32") as found:
        yield found


@pytest.mark.parametrize("metric", ["accuracy", "accuracy_per_byte", "accuracy_per_token"])
def test_choices_are_those_of_single_scores(tiny: LLM, tmp_path: Path, metric: str) -> None:
    items = "".join(
        f'[[item]]\nq = "The number {i} is"\nchoices = ["odd", "even as can be", "{i}", "Grüße"]\nanswer = {i % 4}\n'
        for i in range(20)
    )
    task = task_of(tmp_path, CHOICES + f'metric = "{metric}"\n' + items)
    found = results_of(tiny, task)
    for i, item in enumerate(task.items):
        prompt = f"The number {i} is"
        alone = [tiny.score([(prompt, " " + choice)])[0] for choice in item["choices"]]
        likely = [score.logprob for score in alone]
        assert found[i].logprobs == pytest.approx(likely, abs=1e-3)
        sizes = [len((" " + choice).encode()) for choice in item["choices"]]
        counts = [1] * 4 if metric == "accuracy" else sizes if "byte" in metric else [len(s.tokens) for s in alone]
        each = [one / count for one, count in zip(likely, counts, strict=True)]
        assert found[i].value == (each.index(max(each)) == item["answer"])


def test_bits_of_a_byte_are_those_of_the_whole_document(tiny: LLM, tmp_path: Path) -> None:
    task = task_of(tmp_path, 'name = "t"\nkind = "bits_per_byte"\n[[item]]\ntext = "Grüße an alle"\n')
    (score,) = tiny.score([("", "Grüße an alle")])
    (result,) = results_of(tiny, task).values()
    assert result.value == pytest.approx(-score.logprob / log(2) / len("Grüße an alle".encode()), rel=1e-4)


def test_a_vocabulary_without_a_first_token_leaves_out_the_documents_own(tmp_path: Path) -> None:
    class Bare(Scores):
        async def ascore(self, pairs: Sequence[Pair], **whose: Any) -> list[Score]:
            if pairs[0][0] == "":
                raise UsageError("nothing before the continuation")
            return await super().ascore(pairs, **whose)

        def tokenize(self, messages: Any, **_: Any) -> list[int]:
            return DoesAll().tokenize(messages)

        def detokenize(self, ids: Sequence[int]) -> str:
            return DoesAll().detokenize(ids)

    task = task_of(tmp_path, 'name = "t"\nkind = "bits_per_byte"\n[[item]]\ntext = "Übung"\n')
    (result,) = results_of(Bare(of=lambda _p, _c: -log(2) * 8), task).values()
    assert result.value == pytest.approx(2.0)  # 8 bits, and four bytes after a letter of two


def test_a_normalised_choice_may_be_another_one(tmp_path: Path) -> None:
    likely = {" no": -2.0, " yes of course": -2.5}
    item = '[[item]]\nq = "Q"\nchoices = ["no", "yes of course"]\nanswer = 1\n'
    model = Scores(of=lambda _p, c: likely[c])
    values = {
        metric: results_of(model, task_of(tmp_path, CHOICES + f'metric = "{metric}"\n' + item))[0].value
        for metric in ("accuracy", "accuracy_per_byte", "accuracy_per_token")
    }
    assert values == {"accuracy": 0.0, "accuracy_per_byte": 1.0, "accuracy_per_token": 1.0}


def test_choices_of_an_item_are_asked_for_together(tmp_path: Path) -> None:
    """So that their prompt is computed once."""
    model = Scores()
    items = "".join(f'[[item]]\nq = "Q{i}"\nchoices = ["a", "b", "c"]\nanswer = 1\n' for i in range(30))
    results_of(model, task_of(tmp_path, CHOICES + items))
    asked = [model.pairs[i : i + 3] for i in range(0, 90, 3)]
    assert sorted(asked) == sorted([(f"Q{i}", f" {c}") for c in "abc"] for i in range(30))


def test_answers_are_checked_and_kept(tmp_path: Path) -> None:
    model = OnlyChats(echo)
    found = results_of(model, task_of(tmp_path, ANSWER + 'system = "be brief"\n' + questions(*NUMBERS)))
    assert {i: one.value for i, one in found.items()} == {i: float(i % 3 > 0) for i in NUMBERS}
    assert found[4].said == "It is 4."
    turns, options = model.asked[0]
    assert turns[0].text == "be brief" and options == {"max_tokens": 256, "temperature": 0.0}


def test_answers_that_are_drawn_are_seeded(tmp_path: Path) -> None:
    model = OnlyChats(echo)
    task = task_of(tmp_path, ANSWER + "temperature = 0.7\n" + questions(*NUMBERS))
    results_of(model, task, seed=100)
    assert sorted(options["seed"] for _, options in model.asked) == [100 + i for i in NUMBERS]


def test_calls_of_tools_are_asked_for_and_compared(tmp_path: Path) -> None:
    text = ANSWER.replace("includes", "tool_call") + (
        '[[item]]\nq = "Q"\ntools = [{name = "weather", parameters = {type = "object"}}]\n'
        'calls = [{name = "weather", arguments = {city = "Oslo"}}]\n'
    )
    model = DoesAll()
    (result,) = results_of(model, task_of(tmp_path, text)).values()
    assert result.value == 1.0 and result.calls == ({"name": "weather", "arguments": {"city": "Oslo"}},)
    with pytest.raises(Unsupported, match="tools"):
        results_of(OnlyChats(), task_of(tmp_path, text))


def test_images_are_shown_before_the_question(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"bytes of an image")
    text = ANSWER + '[[item]]\nq = "What is it?"\nanswer = "It"\nimage = ["a.png", "a.png"]\n'
    model = DoesAll(answer="It is.")
    (result,) = results_of(model, task_of(tmp_path, text)).values()
    ((turns, _),) = model.asked
    kinds = [type(part).__name__ for part in turns[-1].content]
    assert result.value == 1.0 and kinds == ["ImagePart", "ImagePart", "TextPart"]
    with pytest.raises(Unsupported, match="image"):
        results_of(OnlyChats(), task_of(tmp_path, text))


def test_a_result_says_of_its_item_how_long_how_deep_and_which_kind(tmp_path: Path) -> None:
    text = ANSWER + questions(1) + 'length = 4000\ndepth = 25\ngroup = "one"\n' + questions(2)
    results = kept(tmp_path, OnlyChats(echo), task_of(tmp_path, text))
    assert [(one.length, one.depth, one.group) for _, one in sorted(results.found.items())] == [
        (4000, 25, "one"),
        (None, None, ""),
    ]
    assert read_all(tmp_path)["a"].found == results.found


def test_an_item_that_fails_is_no_zero(tmp_path: Path) -> None:
    def some(turns: list[Message]) -> str:
        if "4" in turns[-1].text:
            raise ContextTooLong("too long")
        if "7" in turns[-1].text:
            raise PassFailed("broken")
        return "It is " + turns[-1].text.split()[-1]

    task = task_of(tmp_path, ANSWER + questions(*range(10)))
    results = Results(job_of(task, "m", 0), results_of(OnlyChats(some), task))
    summary = results.summary
    assert summary.failed == {"context_length_exceeded": 1, "pass_failed": 1} and summary.answered == 8
    assert summary.interval is not None and summary.interval.mean == 1.0 and summary.why == "too long"


def test_a_model_that_cannot_score_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    model = OnlyChats()
    with pytest.raises(Unsupported, match="cannot score given texts"):
        results_of(model, task_of(tmp_path, CHOICES + '[[item]]\nq = "Q"\nchoices = ["a", "b"]\nanswer = 0\n'))
    assert model.asked == []


def test_a_log_probability_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    task = task_of(tmp_path, CHOICES + '[[item]]\nq = "Q"\nchoices = ["a", "b"]\nanswer = 0\n')
    assert results_of(Scores(of=lambda _p, _c: float("nan")), task)[0].error == "pass_failed"


def kept(folder: Path, model: ChatModel, task: Task, seed: int = 0, **options: Any) -> Results:
    written = Written(folder / task.name, job_of(task, model.name, seed))
    try:
        run(model, task, written.add, seed=seed, done=set(written.results.found), **options)
    finally:
        written.close()
    return written.results


@pytest.mark.parametrize("died_at", NUMBERS)
def test_a_run_that_died_at_any_item_goes_on_there(tmp_path: Path, died_at: int) -> None:
    task = task_of(tmp_path, ANSWER + questions(*NUMBERS))
    asked = 0

    def dying(turns: list[Message]) -> str:
        nonlocal asked
        asked += 1
        if asked > died_at:
            raise EngineDied("gone")
        return echo(turns)

    with pytest.raises(EngineDied):
        kept(tmp_path, OnlyChats(dying), task)
    before = read_all(tmp_path)["a"].found
    again = OnlyChats(echo)
    results = kept(tmp_path, again, task)
    assert len(again.asked) == len(NUMBERS) - len(before) and len(before) <= died_at
    assert results.values == {i: float(i % 3 > 0) for i in NUMBERS}
    assert read_all(tmp_path)["a"].found == results.found


KILLED = """
import os, signal, sys
from pathlib import Path
from test_running import ANSWER, OnlyChats, echo, kept, questions, task_of
asked = 0
def dying(turns):
    global asked
    asked += 1
    if asked > 700:
        os.kill(os.getpid(), signal.SIGKILL)
    return echo(turns)
kept(Path(sys.argv[1]), OnlyChats(dying), task_of(Path(sys.argv[1]), ANSWER + questions(*range(1000))))
"""


def test_a_run_killed_at_item_700_asks_exactly_what_is_missing(tmp_path: Path) -> None:
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=paths)
    assert killed.returncode == -9
    before = read_all(tmp_path)["a"].found
    assert 700 - TOGETHER["answer"] <= len(before) <= 700
    again = OnlyChats(echo)
    results = kept(tmp_path, again, task_of(tmp_path, ANSWER + questions(*range(1000))))
    asked = sorted(int(turns[-1].text.split()[-1][:-1]) for turns, _ in again.asked)
    assert asked == sorted(set(range(1000)) - before.keys())
    assert results.values == {i: float(i % 3 > 0) for i in range(1000)}
    lines = (tmp_path / "a/results.jsonl").read_bytes().splitlines()
    assert len(lines) == 1001 and len({json.loads(line)["item"] for line in lines[1:]}) == 1000


def test_a_file_that_was_cut_anywhere_loses_what_was_cut_and_nothing_else(tmp_path: Path) -> None:
    task = task_of(tmp_path, ANSWER + questions(1, 2, 3))
    whole = kept(tmp_path, OnlyChats(echo), task).found
    path = tmp_path / "a" / "results.jsonl"
    data = path.read_bytes()
    for cut in range(0, len(data) + 1, 7):
        path.write_bytes(data[:cut])
        again = OnlyChats(echo)
        assert kept(tmp_path, again, task).found == whole
        lines = max(0, data[:cut].count(b"\n") - 1)
        assert len(again.asked) == 3 - lines
        assert read_all(tmp_path)["a"].found == whole


def test_a_larger_limit_goes_on_with_a_smaller_ones_items(tmp_path: Path) -> None:
    task = task_of(tmp_path, ANSWER + questions(*NUMBERS))
    kept(tmp_path, OnlyChats(echo), task, limit=5)
    again = OnlyChats(echo)
    kept(tmp_path, again, task)
    assert len(again.asked) == len(NUMBERS) - 5


def test_two_runs_do_not_write_to_one_folder_at_a_time(tmp_path: Path) -> None:
    task = task_of(tmp_path, ANSWER + questions(1, 2))

    def again(turns: list[Message]) -> str:
        with pytest.raises(UsageError, match="another run writes its results there"):
            kept(tmp_path, OnlyChats(echo), task)
        return echo(turns)

    assert len(kept(tmp_path, OnlyChats(again), task).found) == 2
    assert len(kept(tmp_path, OnlyChats(echo), task).found) == 2


def test_another_task_model_or_seed_is_refused(tmp_path: Path) -> None:
    task = task_of(tmp_path, ANSWER + questions(1, 2))
    kept(tmp_path, OnlyChats(echo), task)
    for model, other, seed in (
        (OnlyChats(echo, "other"), task, 0),
        (OnlyChats(echo), task_of(tmp_path, ANSWER + questions(1, 3)), 0),
        (OnlyChats(echo), task, 1),
    ):
        with pytest.raises(UsageError, match="the unfinished run there was another one"):
            kept(tmp_path, model, other, seed)


def test_progress_counts_items_from_those_that_are_done(tmp_path: Path) -> None:
    task = task_of(tmp_path, ANSWER + questions(*NUMBERS))
    told: list[tuple[str, int, int]] = []
    run(OnlyChats(echo), task, lambda _: None, done={0, 5}, progress=lambda *one: told.append(one))
    assert told == [("a", done, 12) for done in range(2, 13)]


def test_runs_are_compared_item_by_item(tmp_path: Path) -> None:
    numbers = range(1, 200)
    task = task_of(tmp_path, ANSWER + questions(*numbers))
    good, bad = OnlyChats(lambda turns: turns[-1].text), OnlyChats(echo)
    one, other = ({"a": kept(tmp_path / name, model, task)} for name, model in (("one", good), ("other", bad)))
    (worse,) = compare(one, other)
    assert (worse.verdict, worse.first, worse.difference.items, worse.unpaired) == ("worse", 1.0, 199, 0)
    assert compare(other, one)[0].verdict == "better" and compare(one, one)[0].verdict == "same"
    assert compare(one, other, allow=0.5)[0].verdict == "same"
    for i in range(20):
        other["a"].found[i] = Result(item=i, error="timed_out")
    (unsure,) = compare(one, other)
    assert (unsure.verdict, unsure.unpaired) == ("cannot tell", 20)


def test_runs_of_different_tasks_are_not_compared(tmp_path: Path) -> None:
    first = {"a": kept(tmp_path / "one", OnlyChats(echo), task_of(tmp_path, ANSWER + questions(1, 2)))}
    second = {"a": kept(tmp_path / "two", OnlyChats(echo), task_of(tmp_path, ANSWER + questions(1, 3)))}
    with pytest.raises(UsageError, match="another task of this name"):
        compare(first, second)
    with pytest.raises(UsageError, match="a task of a"):
        compare(first, {"b": second["a"]})


@pytest.mark.parametrize(
    ("higher", "line"),
    [
        ("yes", '{"item":0,"value":1e308}'),
        ("yes", '{"item":0,"value":-0.5}'),
        ("yes", '{"item":-1,"value":1}'),
        ("no", '{"item":0,"value":1e101}'),
        ("no", '{"item":0,"value":1e999}'),
        ("no", '{"item":0,"value":-1e308}'),
    ],
)
def test_a_file_of_results_whose_values_nothing_measures_is_none(tmp_path: Path, higher: str, line: str) -> None:
    """Somebody else's, for example: no number is made of it."""
    job = {"name": "t", "task": "x", "metric": "m", "higher": higher, "model": "m", "seed": "0"}
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"version": 1, "job": job}) + '\n{"item":1,"value":0.5}\n' + line + "\n")
    with pytest.raises(BadFile, match=r"line 3: expected the result of an item"):
        read(path)
