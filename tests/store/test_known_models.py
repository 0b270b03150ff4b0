"""The table of models that `herd pull` knows: every row is whole, and agrees with what can be computed."""

import fnmatch
import re
from collections import Counter
from pathlib import Path

import pytest

import herd
from herd.errors import BadFile, UsageError
from herd.store import fetch, known_models, licences, registry
from herd.store.choosing import Candidate
from herd.store.known_models import ListedModel, ModelSource, Quant
from herd.weights import count

MODELS = known_models.models()
FORMS = [(m, *form) for m in MODELS.values() for form in m.forms]
IDS = [f"{m.name}-{s.repo}-{q.name}" for m, s, q, _ in FORMS]


def test_every_name_means_one_model() -> None:
    every = Counter(known_models.names())
    assert [name for name, times in every.items() if times > 1] == []
    assert not every.keys() & fetch.KNOWN.keys()  # what comes out of a package index keeps its name
    for name in every:
        model = known_models.find(name.upper())
        assert model is not None and (name == model.name or name in model.also)
        assert registry.check_name(model.store_name) == model.store_name
        assert known_models.find(model.store_name) is model
        assert known_models.split(f"{name}:Q4_K") == (model, "Q4_K")
        assert known_models.split(name) == (model, None)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_model_has_a_licence_whose_duties_are_told_and_something_to_fetch(model: ListedModel) -> None:
    licence = licences.find(model.licence)
    assert licence is not None and licence.duties and licence.url.startswith("https://")
    assert model.title and model.forms
    repos = [source.repo for source in model.sources]
    assert len(repos) == len(set(repos))
    assert any(candidate.sure for _, _, candidate in model.forms), "nothing of it could be chosen"


@pytest.mark.parametrize(("model", "source", "quant", "candidate"), FORMS, ids=IDS)
def test_a_row_is_whole(model: ListedModel, source: ModelSource, quant: Quant, candidate: Candidate) -> None:
    org, _, name = source.repo.partition("/")
    assert org and name and registry.NAME.fullmatch(source.repo)
    assert re.fullmatch(r"[A-Z0-9][A-Z0-9_-]*", quant.name)
    assert [q.name for q in source.quants].count(quant.name) == 1
    assert (source.gated is None) == (source.gate_checked is None)
    assert (quant.checked is None) == (quant.size_bytes is None)
    assert quant.size_bytes is None or quant.size_bytes > 0
    pattern = source.pattern(quant)
    assert (pattern is None) == (source.form == "safetensors")
    if pattern is not None:
        assert quant.name in pattern and pattern.endswith(".gguf") and pattern.count("/") <= 1
        assert ("-of-" in pattern) == quant.split
        assert source.vision is None or not fnmatch.fnmatch(source.vision.file, pattern)
    assert candidate.name == f"{model.name}:{quant.name}"


@pytest.mark.parametrize(("model", "source", "quant", "candidate"), FORMS, ids=IDS)
def test_a_size_is_one_that_the_shape_can_have(
    model: ListedModel, source: ModelSource, quant: Quant, candidate: Candidate
) -> None:
    """Two bytes a weight and a header for BF16, to the file's header where the size is exact; 1.5 to 9 bits else."""
    if quant.size_bytes is None:
        return
    parameters = count(model.config).total if source.form == "safetensors" else count(model.config).text
    if quant.name == "BF16":
        room = 1 << 16 if quant.bytes is not None else quant.size_bytes // 200
        assert abs(quant.size_bytes - 2 * parameters) <= room
    else:
        assert 1.5 < 8 * quant.size_bytes / parameters < 9
        assert candidate.bits is not None and 1.5 < candidate.bits < 9


def test_within_a_repository_larger_labels_are_larger() -> None:
    order = ["UD-IQ1_S", "UD-IQ1_M", "UD-IQ2_XXS", "UD-Q2_K_XL", "UD-Q3_K_XL", "UD-Q4_K_XL", "FP8", "BF16"]
    for model in MODELS.values():
        for source in model.sources:
            sizes = {q.name: q.size_bytes for q in source.quants if q.size_bytes is not None}
            found = [sizes[name] for name in order if name in sizes]
            assert found == sorted(found), source.repo


def test_every_form_that_is_listed_has_its_marks_in_the_file() -> None:
    """What is read is all that is written: a key that nobody reads would be an error."""
    text = (Path(herd.__file__).parent / "store" / "known_models.toml").read_text(encoding="utf-8")
    assert len(FORMS) == len(re.findall(r"\{ ?name = ", text))
    assert len({s.repo for _, s, _, _ in FORMS}) == len(re.findall(r"^repo = ", text, re.MULTILINE))


@pytest.mark.parametrize(
    "wrong",
    [
        ('licence = "llama4"', 'licence = "none such"'),
        ('preset = "SCOUT"', 'preset = "NONE"'),
        ('preset = "SCOUT"\n', ""),
        ('name = "UD-IQ1_S", gb = 33.8, checked = "verified"', 'name = "UD-IQ1_S", gb = 33.8'),
        ('name = "UD-IQ1_S", gb = 33.8', 'name = "UD-IQ1_S", gb = -1.0'),
        ('checked = "verified"', 'checked = "surely"'),
        ('name = "UD-IQ1_S", gb', 'name = "UD-IQ1_S", GB'),
        ('also = ["llama4:scout"]', 'also = ["guard"]'),
        ('repo = "unsloth/', 'repo = "../'),
        ("[scout]", "[scout"),
    ],
)
def test_a_table_that_is_broken_is_told(wrong: tuple[str, str]) -> None:
    text = (Path(herd.__file__).parent / "store" / "known_models.toml").read_text(encoding="utf-8")
    assert wrong[0] in text
    with pytest.raises((BadFile, UsageError)):
        known_models.read(text.replace(*wrong, 1))
