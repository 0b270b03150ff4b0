"""A vision part is found by the names that people's folders have; one that is not used is told, never dropped."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import TINY_DENSE
from herd.checkpoint import RandomSource, open_checkpoint
from herd.checkpoint.gguf.vision_parts import models_of, parts_for
from herd.checkpoint.gguf.write import write_gguf
from herd.config import TINY
from herd.convert import convert
from herd.errors import BadCheckpoint, BadConfig, UsageError

NO_VOCABULARY = {"tokenizer.ggml.model": "none"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.gguf and its vision part, and text.gguf, of another width, without one."""
    folder = tmp_path_factory.mktemp("made")
    write_gguf(folder / "tiny.gguf", TINY, RandomSource(TINY), NO_VOCABULARY, mmproj=folder / "mmproj-tiny.gguf")
    text = replace(TINY_DENSE, width=96)
    write_gguf(folder / "text.gguf", text, RandomSource(text), NO_VOCABULARY)
    return folder


def lay(made: Path, folder: Path, *names: str) -> Path:
    """Files of these names in a folder: models, and vision parts by name."""
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(made / ("mmproj-tiny.gguf" if "mmproj" in name.lower() else "tiny.gguf"), folder / name)
    return folder


SCOUT = "Llama-4-Scout-17B-16E-Instruct"
GUARD = "Llama-Guard-4-12B"
FOLDERS = {
    "one of three forms": (
        f"{SCOUT}-Q4_K_M.gguf",
        [f"{SCOUT}-Q4_K_M.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"],
        "mmproj-F16.gguf",
    ),
    "BF16 before F32": ("m.gguf", ["m.gguf", "mmproj-F32.gguf", "mmproj-BF16.gguf"], "mmproj-BF16.gguf"),
    "F32 before quantised": ("m.gguf", ["m.gguf", "mmproj-Q8_0.gguf", "mmproj-F32.gguf"], "mmproj-F32.gguf"),
    "several quantisations": (
        f"{SCOUT}-UD-IQ1_S.gguf",
        [f"{SCOUT}-UD-IQ1_S.gguf", f"{SCOUT}-Q8_0.gguf", f"mmproj-{SCOUT}-f16.gguf", f"mmproj-{SCOUT}-f32.gguf"],
        f"mmproj-{SCOUT}-f16.gguf",
    ),
    "two models": (
        f"{SCOUT}-Q4_0.gguf",
        [f"{SCOUT}-Q4_0.gguf", f"{GUARD}-Q4_0.gguf", f"mmproj-{GUARD}-f16.gguf", f"mmproj-{SCOUT}-f32.gguf"],
        f"mmproj-{SCOUT}-f32.gguf",
    ),
    "split": (
        f"{SCOUT}-Q4_K_M-00001-of-00002.gguf",
        [f"{SCOUT}-Q4_K_M-00001-of-00002.gguf", f"{SCOUT}-Q4_K_M-00002-of-00002.gguf", f"mmproj-{SCOUT}-f16.gguf"],
        f"mmproj-{SCOUT}-f16.gguf",
    ),
    "the whole name": (
        "a-q4_k_m.gguf", ["a-q4_k_m.gguf", "mmproj-a-q4_k_m.gguf", "mmproj-F16.gguf"], "mmproj-a-q4_k_m.gguf",
    ),
    "behind the name": ("a.Q4_0.gguf", ["a.Q4_0.gguf", "b.gguf", "a.mmproj-f16.gguf"], "a.mmproj-f16.gguf"),
    "the longer name": (
        "a-b-q4_0.gguf", ["a-b-q4_0.gguf", "mmproj-a-f16.gguf", "mmproj-a-b-f32.gguf"], "mmproj-a-b-f32.gguf",
    ),
    "no form in its name": ("a.gguf", ["a.gguf", "b.gguf", "mmproj.gguf"], "mmproj.gguf"),
    "of no model": ("a.gguf", ["a.gguf", "b.gguf", "mmproj-model-f16.gguf"], "mmproj-model-f16.gguf"),
    "another name beside the only model": ("a.gguf", ["a.gguf", "mmproj-x.gguf"], "mmproj-x.gguf"),
    "another model's": ("a.gguf", ["a.gguf", "b.gguf", "mmproj-b.gguf"], None),
    "no prefix of words": ("ab-q4_0.gguf", ["ab-q4_0.gguf", "c.gguf", "mmproj-a-f16.gguf"], None),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_the_part_that_belongs_to_a_model_is_found(case: str) -> None:
    model, names, wanted = FOLDERS[case]
    for order in (sorted(names), sorted(names, reverse=True)):
        assert next(iter(parts_for(model, order)), None) == wanted


def test_two_that_nothing_tells_apart_are_named() -> None:
    with pytest.raises(BadCheckpoint, match=r"mmproj-f16\.gguf, mmproj-model-f16\.gguf.*--mmproj"):
        parts_for("a.gguf", ["a.gguf", "mmproj-f16.gguf", "mmproj-model-f16.gguf"])


def test_vision_parts_are_no_models() -> None:
    assert models_of(["a.gguf", "mmproj-a.gguf", "A.MMPROJ-f16.gguf"]) == ["a.gguf"]


def test_a_folder_as_people_have_it_opens_with_vision(made: Path, tmp_path: Path) -> None:
    folder = lay(made, tmp_path / "m", "s-Q4_0.gguf", "s-Q8_0.gguf", "mmproj-F32.gguf", "mmproj-F16.gguf")
    for name in ("s-Q4_0.gguf", "s-Q8_0.gguf"):
        with open_checkpoint(folder / name) as checkpoint:
            assert checkpoint.config.vision == TINY.vision
            assert [f.path.name for f in checkpoint.mapped] == [name, "mmproj-F16.gguf"]
            assert checkpoint.unused == []


def test_a_part_that_is_not_used_is_told(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = lay(made, tmp_path / "m", "a.gguf", "b.gguf", "mmproj-c.gguf")
    with caplog.at_level(logging.WARNING), open_checkpoint(folder / "a.gguf") as checkpoint:
        assert checkpoint.config.vision is None
    assert any("mmproj-c.gguf is not used" in line and "--mmproj" in line for line in caplog.messages)


def test_a_part_of_another_width_or_kind_is_told_and_not_used(made: Path, tmp_path: Path) -> None:
    folder = lay(made, tmp_path / "m", "mmproj-F16.gguf")
    shutil.copy(made / "text.gguf", folder / "text.gguf")
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.config.vision is None
        assert "made for a width of 64, the model's is 96" in checkpoint.unused[0]
    other = lay(made, tmp_path / "n", "a.gguf", "mmproj-F16.gguf")
    part = other / "mmproj-F16.gguf"
    part.write_bytes(part.read_bytes().replace(b"llama4", b"llava5"))
    with open_checkpoint(other) as checkpoint:
        assert "projector is llava5" in checkpoint.unused[0]
    with pytest.raises(BadConfig, match="projector type: got llava5"):
        open_checkpoint(other / "a.gguf", mmproj=part)


def test_a_damaged_part_is_told(made: Path, tmp_path: Path) -> None:
    folder = lay(made, tmp_path / "m", "a.gguf")
    (folder / "mmproj-a.gguf").write_bytes(b"GGUF")
    with open_checkpoint(folder) as checkpoint:
        assert "mmproj-a.gguf is not used" in checkpoint.unused[0]


def test_a_part_can_be_named(made: Path, tmp_path: Path) -> None:
    folder = lay(made, tmp_path / "m", "a.gguf", "b.gguf", "mmproj-c.gguf")
    with open_checkpoint(folder / "a.gguf", mmproj=folder / "mmproj-c.gguf") as checkpoint:
        assert checkpoint.config.vision == TINY.vision
    with pytest.raises(BadConfig, match="expected clip"):
        open_checkpoint(folder / "a.gguf", mmproj=folder / "b.gguf")


def test_a_part_of_what_is_no_gguf_is_refused(made: Path, tmp_path: Path) -> None:
    convert(made / "tiny.gguf", tmp_path / "hf")
    with pytest.raises(UsageError, match="is no GGUF"):
        open_checkpoint(tmp_path / "hf", mmproj=made / "mmproj-tiny.gguf")


@pytest.mark.parametrize("target", ["out.gguf", "out"])
def test_convert_takes_the_part_along_or_says_that_it_does_not(made: Path, tmp_path: Path, target: str) -> None:
    folder = lay(made, tmp_path / "m", "a.gguf", "b.gguf", "mmproj-c.gguf")
    done = convert(folder / "a.gguf", tmp_path / target)
    assert any("mmproj-c.gguf is not used" in note for note in done.notes)
    done = convert(folder / "a.gguf", tmp_path / f"seeing-{target}", mmproj=folder / "mmproj-c.gguf")
    assert not any("not used" in note for note in done.notes)
    with open_checkpoint(done.path) as checkpoint:
        assert checkpoint.config.vision == TINY.vision
