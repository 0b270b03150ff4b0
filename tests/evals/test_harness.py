"""lm-evaluation-harness over a model of Herd: tasks from local files, by definition and through its command line."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from helpers import hf_folder
from herd.errors import BadFile, MissingExtra, NotFound, UsageError
from herd.llm import LLM, load

NEEDS = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
ITEMS = [{"q": f"The number {i} is", "choices": [" odd", " even as can be"], "answer": 1 - i % 2} for i in range(6)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with load(hf_folder(tmp_path_factory.mktemp("models") / "tiny"), threads=1, kv="f32") as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return tmp_path


def task(folder: Path, name: str, lines: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'items.jsonl'}\n"
        f"test_split: test\n{lines}"
    )
    return str(path)


CHOICES = (
    'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
    'target_delimiter: ""\nmetric_list:\n  - metric: acc\n'
)
TEXTS = (
    'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{q}}"\n'
    "metric_list:\n  - metric: bits_per_byte\n"
)
ANSWERS = (
    'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{answer}}"\n'
    'generation_kwargs:\n  until: ["."]\n  max_gen_toks: 3\nmetric_list:\n  - metric: exact_match\n'
)


@NEEDS
def test_tasks_of_local_files_are_those_of_single_scores(tiny: LLM, folder: Path) -> None:
    from herd.evals.harness import evaluate

    found = evaluate(tiny, [task(folder, "mine", CHOICES), task(folder, "texts", TEXTS), task(folder, "say", ANSWERS)])
    right = 0
    for item in ITEMS:
        likely = [tiny.score([(item["q"], choice)])[0].logprob for choice in item["choices"]]  # type: ignore[union-attr]
        right += likely.index(max(likely)) == item["answer"]
    assert found["mine"]["acc,none"] == pytest.approx(right / 6)
    assert found["texts"]["bits_per_byte,none"] > 0
    assert found["say"]["exact_match,none"] == 0


def ask(*arguments: Any) -> Any:
    return type("Instance", (), {"args": arguments})()


@NEEDS
def test_each_kind_of_request_is_the_models_own(tiny: LLM) -> None:
    from herd.evals.harness import lm_class

    lm = lm_class()(tiny)
    pairs = [("Der Mond", " ist"), ("Der Mond", " war"), ("a ", "b")]
    scores = tiny.score(pairs)
    assert lm.loglikelihood([ask(*pair) for pair in pairs]) == [(s.logprob, s.is_greedy) for s in scores]
    text = "Der Mond ist aufgegangen"
    first = tiny.tokenizer.bos_id if tiny.tokenizer.bos_id is not None else tiny.tokenizer.eos_id
    (whole,) = tiny.score([([first], tiny.tokenize(text))])
    assert lm.loglikelihood_rolling([ask(text)]) == [pytest.approx(whole.logprob)]
    assert lm.loglikelihood([ask("", text)])[0][0] == pytest.approx(whole.logprob)
    said = tiny.complete("Der", max_tokens=4, temperature=0).text
    assert lm.generate_until([ask("Der", {"max_gen_toks": 4, "until": ["\n\n\n"]})] * 3) == [said] * 3
    with pytest.raises(UsageError, match="generation_kwargs: num_beams"):
        lm.generate_until([ask("Der", {"num_beams": 2})])


@NEEDS
def test_what_is_no_task_is_told(tiny: LLM, folder: Path) -> None:
    from herd.evals.harness import evaluate

    with pytest.raises(NotFound, match="no file"):
        evaluate(tiny, [str(folder / "nowhere.yaml")])
    (folder / "bad.yaml").write_text("dataset_path: json\n")
    with pytest.raises(BadFile, match="no line `task: NAME`"):
        evaluate(tiny, [str(folder / "bad.yaml")])


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_the_extra_it_says_which() -> None:
    from herd.evals.harness import lm_class

    with pytest.raises(MissingExtra, match=r"pip install 'llama-herd\[lm-eval\]'"):
        lm_class()
