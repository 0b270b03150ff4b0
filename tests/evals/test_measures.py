"""Two models measured side by side: files, memory, speed, and KL and perplexity where they have one vocabulary."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from helpers import TINY_TEXT, hf_folder
from herd import load
from herd.checkpoint.open import open_checkpoint
from herd.cli import main
from herd.errors import DoesNotFit
from herd.evals.measures import check_each_fits, measure
from herd.passes.likelihood import windows
from herd.quantize.comparing import COMPARE_TOKENS, held_out, window


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return hf_folder(folder / "a", TINY_TEXT, seed=0), hf_folder(folder / "b", TINY_TEXT, seed=1)


def test_measures_are_those_of_the_files_and_of_one_text(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    task = tmp_path / "t.toml"
    rows = "".join(f'[[item]]\nq = "{i}"\nchoices = ["a", "b"]\nanswer = {i % 2}\n' for i in range(4))
    task.write_text('name = "t"\nkind = "choices"\nprompt = "{q}"\n' + rows)
    words = ["eval", "--compare", str(two[0]), str(two[1]), str(task), "--hour", "2", "--out", str(tmp_path / "out")]
    assert main([*words, "--json", "-q"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"][0]["items"] == 4
    measures = found["measures"]
    for side, path in (("first", two[0]), ("second", two[1])):
        one = measures[side]
        assert one["size_bytes"] == sum(file.stat().st_size for file in path.glob("*.safetensors"))
        assert one["read_tokens_s"] > 0 and one["memory_bytes"] > one["size_bytes"]
        assert one["million_hours"] == pytest.approx(1e6 / one["said_tokens_s"] / 3600)
        assert one["million_dollars"] == pytest.approx(2 * one["million_hours"])
    assert measures["kl_mean"] > 0 and measures["notes"] == []
    with open_checkpoint(two[0]) as checkpoint:
        tokenizer, width = checkpoint.load_tokenizer(), window(checkpoint)
    texts = windows(tokenizer.encode(held_out()), width, tokenizer.bos_id if tokenizer.add_bos else None)
    texts = texts[: COMPARE_TOKENS // width]
    with load(two[0], force=True, chat_format="llama4") as llm:  # by another way: scores, out of a cache
        scores = llm.score([(ids[:1], ids[1:]) for ids in texts])
    mean = sum(score.logprob for score in scores) / sum(len(score.tokens) for score in scores)
    assert measures["tokens"] == sum(map(len, texts))
    assert measures["first_perplexity"] == pytest.approx(math.exp(-mean), rel=0.02)
    assert main(["eval", "--compare", str(tmp_path / "out/A"), str(tmp_path / "out/B"), "--json"]) in (0, 1)
    again = json.loads(capsys.readouterr().out)
    assert again["tasks"] == found["tasks"], "what is kept can be compared as two runs"
    assert main([*words[:-2], "--no-measures"]) in (0, 1)
    assert "measure" not in capsys.readouterr().out


def test_a_model_beside_itself_is_not_apart(two: tuple[Path, Path]) -> None:
    found = measure(two[0], two[0], threads=1)
    assert found.apart is not None
    assert found.apart.kl_mean == pytest.approx(0, abs=1e-9) and found.apart.same_top == 1.0
    assert found.apart.perplexity_ratio == pytest.approx(1)
    assert found.first.size_bytes == found.second.size_bytes
    assert np.isfinite(found.apart.source_perplexity)


def test_each_has_to_fit_before_anything_is_asked(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.evals.measures.available_bytes", lambda: 1 << 20)
    with pytest.raises(DoesNotFit, match="does not fit"):
        check_each_fits(two, None, "bf16")
