"""`herd upgrade` and `herd use`: a version compared on one's own tasks, switched to, refused where it is worse, and
left again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers import hf_folder
from herd.cli import main
from herd.evals import comparisons
from herd.store import stored

ITEMS = 40


def write_task(path: Path, answers: Sequence[int]) -> str:
    rows = (f'[[item]]\nq = "{i}"\nchoices = ["a", "b", "c"]\nanswer = {a}\n' for i, a in enumerate(answers))
    path.write_text('name = "mine"\nkind = "choices"\nprompt = "{q}"\n' + "".join(rows))
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models, and a task that the first one does right: its answers are what that one finds likeliest."""
    folder = tmp_path_factory.mktemp("models")
    old, new = (str(hf_folder(folder / name, seed=seed)) for seed, name in enumerate(("old", "new")))
    assert main(["eval", old, write_task(folder / "asked.toml", [0] * ITEMS), "--out", str(folder / "out"), "-q"]) == 0
    lines = (folder / "out/mine/results.jsonl").read_text().splitlines()[1:]
    likely = {row["item"]: row["logprobs"].index(max(row["logprobs"])) for row in map(json.loads, lines)}
    return {"old": old, "new": new, "task": write_task(folder / "mine.toml", [likely[i] for i in range(ITEMS)])}


@pytest.fixture(autouse=True)
def home(made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    stored.import_path(made["old"], "tiny")
    return tmp_path / "home"


def upgraded(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["upgrade", *words, "--json", "-q", "--no-measures"]) == status, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_worse_one_is_not_switched_to_unless_that_is_said(
    made: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stored.find("tiny")[1].id
    found = upgraded(capsys, "tiny", made["new"], "--task", made["task"], "--yes", status=1)
    assert (found["verdict"], found["switched"], found["before"]) == ("worse", False, before)
    assert (found["tasks"][0]["first"], found["tasks"][0]["items"]) == (1.0, ITEMS)
    assert stored.find("tiny")[1].id == before and len(stored.entries()["tiny"].versions) == 2
    kept = Path(found["folder"]) / "B/mine/results.jsonl"
    rows = kept.read_text().splitlines()
    rows[1] = json.dumps({**json.loads(rows[1]), "value": 0.5})  # planted: it is seen where what was asked is kept
    kept.write_text("\n".join(rows) + "\n")
    again = upgraded(capsys, "tiny", made["new"], "--yes", "--even-if-worse")
    assert (again["folder"], again["switched"]) == (found["folder"], True), "the task of the last time"
    planted = again["tasks"][0]["second"]
    assert (planted * ITEMS) % 1 == 0.5
    line = stored.entries()["tiny"].history[-1]
    assert (line.to, line.why, line.compared) == (found["new"], "upgrade", found["folder"])
    back = upgraded(capsys, "tiny", f"tiny@{before}", "--yes")
    assert (back["verdict"], back["switched"], back["tasks"][0]["first"]) == ("better", True, planted)
    assert stored.find("tiny")[1].id == before
    assert json.loads((Path(back["folder"]) / "comparison.json").read_bytes())["first"] == found["new"]


def test_somebody_is_asked_and_use_goes_back(
    made: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    says = [False, True]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda question, **_: asked.append(question) or says.pop(0))
    before = stored.find("tiny")[1].id
    assert main(["upgrade", "tiny", made["new"], "--task", made["task"], "-q", "--no-measures"]) == 1
    assert "worse on some task" in asked[0] and "mine" in capsys.readouterr().out
    assert stored.find("tiny")[1].id == before
    assert main(["upgrade", "tiny", made["new"]]) == 0
    said = capsys.readouterr().err
    now = stored.find("tiny")[1].id
    assert now != before and f"herd use tiny {before} goes back" in said and f"tasks: {made['task']}" in said
    assert main(["use", "tiny"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:3]] == [before, now] and "in use" in rows[2] and "in use" not in rows[1]
    assert f"{before} -> {now}  upgrade" in rows[3] and "compared in" in rows[3]
    assert main(["use", "tiny", before[:7]]) == 0
    assert stored.find("tiny")[1].id == before
    capsys.readouterr()
    assert main(["use", "tiny", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [v["in_use"] for v in data["versions"]] == [True, False]
    assert [x["why"] for x in data["history"]] == ["upgrade", "use"]
    assert main(["rm", f"tiny:{now}"]) == 0
    assert Path(made["new"]).exists() and len(stored.entries()["tiny"].versions) == 1


def test_without_a_task_smoke_tasks_are_asked_and_that_is_told(
    made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upgrade", "tiny", made["new"], "--limit", "1", "--yes", "--json", "--no-measures"]) in (0, 1)
    said = capsys.readouterr()
    assert "smoke tasks are asked, which are no benchmark" in said.err
    assert len(json.loads(said.out)["tasks"]) >= 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tiny", "{new}"], "no terminal to ask on; --yes switches"),
        (["tiny", "{new}", "--even-if-worse"], "expected --yes before it"),
        (["tiny", "{old}", "--yes"], "already"),
        (["nobody", "{new}", "--yes"], "nobody"),
        (["tiny", "{new}", "--yes", "--task", "nowhere.toml"], "nowhere.toml"),
        (["tiny", "{new}", "--yes", "--chat-format", "nonsense"], "nonsense"),
    ],
)
def test_what_is_wrong_is_one_line_and_the_name_stays(
    words: list[str], says: str, made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = stored.find("tiny")[1].id
    assert main(["upgrade", *(word.format(**made) for word in words), "-q"]) in (2, 3)
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert stored.find("tiny")[1].id == before


def test_a_checker_of_ones_own_can_be_trusted_here_as_well(
    made: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What refuses it says `--trust`, so the command that was typed has to know that flag."""
    (home.parent / "mine.py").write_text("def check(reply, item):\n    return True\n")
    task = home.parent / "own.toml"
    head = 'name = "own"\nkind = "answer"\nprompt = "{q}"\nchecker = "mine.py"\nmax_tokens = 2\n'
    task.write_text(f'{head}[[item]]\nq = "a"\nanswer = "b"\n')
    words = ["upgrade", "tiny", made["new"], "--task", str(task), "--yes", "--no-measures"]
    assert main(words) == 2 and "give --trust" in capsys.readouterr().err
    assert main([*words, "--trust"]) == 0 and "runs " in capsys.readouterr().err
    assert main([*words[:2], made["old"], *words[3:]]) == 0


def test_two_upgrades_at_once_do_not_undo_each_other(
    made: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compared with one version does not take the place of another one."""
    before, saves = stored.find("tiny")[1].id, comparisons.save
    third = hf_folder(Path(made["old"]).parent / "third", seed=7)

    def save(*given: Any) -> Path:
        stored.import_path(third, "tiny")
        return saves(*given)

    monkeypatch.setattr(comparisons, "save", save)
    words = ["upgrade", "tiny", made["new"], "--task", made["task"], "--yes", "--even-if-worse"]
    assert main([*words, "-q", "--no-measures"]) == 2
    said = capsys.readouterr().err
    now = stored.find("tiny")[1]
    assert f"tiny means another version by now: got {now.id}, expected {before}; herd use tiny" in said
    assert now.location == third and len(stored.entries()["tiny"].versions) == 3
