"""Today's logits, embeddings and scores against the record of them (bits.json), to the bit, on every instruction set
and kind of cache that is here. What is not here is skipped by name. bits.py says how the record is made and renewed."""

import copy
import os
from pathlib import Path
from typing import Any

import bits
import numpy as np
import pytest

from helpers import hf_folder, weights
from herd import _native
from herd.config import TINY

RECORD = bits.record()
HERE = _native.isa_info()["available"]
SETS = sorted({*RECORD["digests"], *HERE})
FILE = Path(os.environ.get("HERD_SMOLLM2_GGUF", ""))
FEWER = 8
"""Prompts of SmolLM2 on the portable kernels, which take ten times as long as the others."""
RENEW = "tests/engine/bits.py --add"


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest) -> str:
    """One that this processor and the record have."""
    name: str = request.param
    if name not in HERE:
        pytest.skip(f"this processor or build has no {name}")
    if name not in RECORD["digests"]:
        pytest.skip(f"the record has no {name}: {RENEW} on this processor")
    return name


@pytest.fixture
def smollm2() -> Path:
    """The file that the record was made of."""
    if not FILE.is_file():
        pytest.skip("HERD_SMOLLM2_GGUF names no SmolLM2 GGUF file")
    if (found := bits.file_digest(FILE)) != RECORD["weights"]["smollm2"]:
        pytest.skip(f"{FILE.name} has the digest {found}, the record is of {RECORD['weights']['smollm2']}")
    return FILE


def same(found: Any, wanted: Any) -> None:
    """Assert it, and say what else has a part in the bits where they differ."""
    if found != wanted:
        wrong = [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]
        pytest.fail(f"bits differ at {wrong}; the record was made with {RECORD['made_with']}, here {bits.made_with()}")


def same_measures(found: Any, wanted: Any) -> None:
    same(found["embeddings"], wanted["embeddings"])
    assert found["scored_tokens"] == wanted["scored_tokens"]
    np.testing.assert_allclose(found["nll"], wanted["nll"], rtol=1e-12)  # sums of numpy in float64


def test_the_record_has_what_every_processor_of_its_family_can_compare() -> None:
    assert {"portable", "avx2"} <= set(RECORD["digests"])
    assert [len(RECORD["prompts"][model]) for model in ("tiny", "smollm2")] == [20, 20]
    for name, known in RECORD["digests"].items():
        assert set(known["tiny"]) == set(bits.TINY_KINDS), name
        assert set(known["smollm2"]) == set(bits.KV_TYPES), name


def test_tinys_random_weights_are_those_of_the_record() -> None:
    assert bits.weights_digest() == RECORD["weights"]["tiny"]


@pytest.mark.parametrize("kind", bits.TINY_KINDS)
def test_logits_of_tiny(isa: str, kind: str) -> None:
    same(bits.tiny(isa, kind, RECORD["prompts"]["tiny"]), RECORD["digests"][isa]["tiny"][kind])


def test_embeddings_and_scores_of_tiny(isa: str, tmp_path: Path) -> None:
    found = bits.measured(isa, hf_folder(tmp_path / "tiny", TINY), RECORD["texts"])
    same_measures(found, RECORD["digests"][isa]["tiny measured"])


@pytest.mark.slow
@pytest.mark.parametrize("kv", bits.KV_TYPES)
def test_logits_of_smollm2(isa: str, kv: str, smollm2: Path) -> None:
    count = FEWER if isa == "portable" else None
    found = bits.smollm2(isa, kv, RECORD["prompts"]["smollm2"][:count], smollm2)
    same(found, RECORD["digests"][isa]["smollm2"][kv][:count])


@pytest.mark.slow
def test_embeddings_and_scores_of_smollm2(isa: str, smollm2: Path) -> None:
    found = bits.measured(isa, smollm2, RECORD["texts"])
    same_measures(found, RECORD["digests"][isa]["smollm2 measured"])


def test_one_weight_that_is_one_bit_off_is_seen() -> None:
    model = copy.deepcopy(weights(TINY))
    w = model.blocks[2].o.w
    w[3, 5] = np.nextafter(w[3, 5], np.float32(9))
    found = bits.tiny("portable", "f32", RECORD["prompts"]["tiny"][:4], model)
    assert any(a != b for a, b in zip(found, RECORD["digests"]["portable"]["tiny"]["f32"], strict=False))


def test_what_differs_is_never_written_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "bits.json"
    monkeypatch.setattr(bits, "RECORD", copy)
    monkeypatch.setattr(bits, "now", lambda *_: {"tiny": {"f32": ["other"]}})
    bits.write(RECORD)
    before = copy.read_text()
    for flags in ([], ["--add"]):
        monkeypatch.setattr("sys.argv", ["bits.py", *flags])
        with pytest.raises(SystemExit, match="not written: tiny on "):
            bits.main()
        assert copy.read_text() == before
    monkeypatch.setattr("sys.argv", ["bits.py", "--replace"])
    bits.main()
    assert '"other"' in copy.read_text()
    assert "DIFFERS" in capsys.readouterr().out
