"""`herd eval`: a model asked, its results kept, gone on with and compared, with exit status and JSON."""

import json
from pathlib import Path

import pytest

from helpers import hf_folder
from herd.backends.settings import Backend, Backends
from herd.cli import main

ROWS = "".join(f'[[item]]\nq = "{i}"\nchoices = ["a", "bc", "d"]\nanswer = {i % 3}\n' for i in range(6))
TASK = 'name = "c"\nkind = "choices"\nprompt = "{q}"\n' + ROWS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(hf_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "c.toml").write_text(TASK)
    return str(tmp_path / "c.toml")


def test_results_are_told_kept_and_gone_on_with(
    model: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    page = tmp_path / "page.html"
    assert main(["eval", model, task, "--out", out, "--limit", "4", "-q", "--html", str(page)]) == 0
    assert page.read_text().count('<tr><td class="num quiet">') == 4
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["c", "accuracy"]
    before = (tmp_path / "out/c/results.jsonl").read_bytes()
    assert before.count(b"\n") == 5
    assert main(["eval", model, task, "--out", out, "--json", "-q"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (row["task"], row["answered"], row["failed"]) == ("c", 6, {})
    assert (tmp_path / "out/c/results.jsonl").read_bytes().startswith(before)
    assert main(["eval", "--compare", out, out, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (row["verdict"], row["items"], row["difference"]) == ("same", 6, 0.0)


def test_a_run_of_another_model_is_refused(
    model: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["eval", model, task, "--out", out, "-q"]) == 0
    other = str(hf_folder(tmp_path / "other", seed=1))
    assert main(["eval", other, task, "--out", out, "-q"]) == 2
    assert "the unfinished run there was another one: got model" in capsys.readouterr().err
    assert main(["eval", model, task, "--out", out, "-q", "--kv", "int8"]) == 2
    assert "kv=int8" in capsys.readouterr().err


def test_what_cannot_be_compared_is_named(
    model: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Backends().add("near", Backend(preset="herd", model="x", url="http://127.0.0.1:9/v1"))
    out = str(tmp_path / "out")
    assert main(["eval", model, task, "--out", out, "-q"]) == 0
    assert main(["eval", model, task, "--out", out, "-q", "--seed", "3"]) == 2
    assert "expected seed 3; start it as it was, or in another --out" in capsys.readouterr().err
    for words in ((out, model), (str(tmp_path / "nowhere"), out)):
        assert main(["eval", "--compare", *words]) == 2
        assert f"got {words[words[0] == out]}, where no results lie" in capsys.readouterr().err
    for words in ((model, "backend:near"), ("backend:near", model)):
        assert main(["eval", "--compare", *words, task]) == 2
        assert "got a backend, backend:near, expected models of files; ask each with --out" in capsys.readouterr().err


def test_a_broken_line_is_one_line_before_a_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.toml").write_text(TASK.split("[[item]]")[0] + 'items = "t.jsonl"\n')
    good = '{"q": "x", "choices": ["a", "b"], "answer": 0}\n'
    (tmp_path / "t.jsonl").write_text(good * 6 + good[:-3] + "\n" + good)
    assert main(["eval", str(tmp_path / "no-model"), str(tmp_path / "t.toml"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "t.jsonl, line 7: not JSON" in line and not (tmp_path / "out").exists()


def results(folder: Path, values: list[float]) -> str:
    lines = ['{"version":1,"job":{"name":"c","task":"0","metric":"accuracy","higher":"yes"}}']
    lines += [json.dumps({"item": i, "value": value}) for i, value in enumerate(values)]
    (folder / "c").mkdir(parents=True)
    (folder / "c/results.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_a_regression_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = results(tmp_path / "a", [1.0] * 40), results(tmp_path / "b", [1.0] * 25 + [0.0] * 15)
    assert main(["eval", "--compare", a, b]) == 1
    assert "worse" in capsys.readouterr().out
    assert main(["eval", "--compare", b, a]) == 0
    assert "better" in capsys.readouterr().out
    c = results(tmp_path / "c", [1.0] * 38 + [0.0] * 2)
    assert main(["eval", "--compare", a, c]) == 0
    assert "cannot tell; about" in capsys.readouterr().out


def test_broken_results_are_told_with_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = results(tmp_path / "a", [1.0] * 3)
    path = tmp_path / "a/c/results.jsonl"
    path.write_text(path.read_text().replace('{"item": 1', '{"item": x'))
    assert main(["eval", "--compare", a, a]) == 2
    assert "results.jsonl, line 3" in capsys.readouterr().err
    path.write_text("{}\n")
    assert main(["eval", "--compare", a, a]) == 2
    assert "expected results of herd eval" in capsys.readouterr().err
