"""reasoning-gym's items and scorers: answers to be found, and over the package itself where it is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from herd.errors import BadFile, HerdError, MissingExtra, NotFound
from herd.evals import find, judging, sandbox
from herd.evals.reasoning import answer_of
from herd.events import Reply, Timings, Usage

HERE = find_spec("reasoning_gym") is not None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is <answer> 7 </answer>.", "7"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<answer>3", "3"),
        (" 4 ", "4"),
        ("", ""),
    ],
)
def test_an_answer_stands_between_its_marks(text: str, answer: str) -> None:
    assert answer_of(text) == answer


@pytest.mark.skipif(HERE, reason="reasoning-gym is installed")
def test_without_the_package_its_tasks_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"llama-herd\[evals\]"):
        find("reasoning-gym:chain_sum")


def test_a_task_that_names_no_data_set_is_refused(tmp_path: Path) -> None:
    head = 'name = "r"\nkind = "answer"\nprompt = "{question}"\nchecker = "reasoning_gym"\n'
    (tmp_path / "r.toml").write_text(head + '[[item]]\nquestion = "x"\nnumber = 0\n')
    with pytest.raises(BadFile, match="options of the checker: Object missing required field `name`"):
        find(str(tmp_path / "r.toml"))
    with pytest.raises(HerdError, match="NAME:SEED"):
        find("reasoning-gym:chain_sum:x")


@pytest.mark.skipif(not HERE, reason="reasoning-gym is not installed")
def test_its_scorers_judge_in_a_sandbox(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no task reasoning-gym:nothing: expected .*chain_sum"):
        find("reasoning-gym:nothing")
    import reasoning_gym

    task = find("reasoning-gym:chain_sum:3")
    made = reasoning_gym.create_dataset("chain_sum", size=100, seed=3)
    assert [item["question"] for item in task.items] == [one["question"] for one in made]
    assert find("reasoning-gym:chain_sum").digest != task.digest
    if all(sandbox.refusal(way) for way in sandbox.ways()):
        pytest.skip("no sandbox holds here")
    with judging.opened(task) as judge:
        for item, entry in list(zip(task.items, made, strict=True))[:4]:
            told = [f"<answer>{entry['answer']}</answer>", "<answer>no number</answer>"]
            values = [judge.value(Reply(one, "stop", Usage(1, 1), Timings()), item) for one in told]
            assert values == [made.score_answer(entry["answer"], entry), made.score_answer("no number", entry)]
            assert values[0] == 1.0 and values[1] < 1.0
