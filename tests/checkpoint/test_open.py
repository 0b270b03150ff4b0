"""One door for every checkpoint: what opens, what it says of itself, and the one line for everything else."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bpe_folder import SPECIALS, TEMPLATE, write_tokenizer
from gguf_bytes import gguf, tensor, text
from helpers import TINY_TEXT
from herd.checkpoint import RandomSource, open_checkpoint, save_hf
from herd.config import TINY
from herd.errors import BadCheckpoint, BadConfig, BadTokenizer, HerdError, NotFound

GGUF = Path(__file__).parent.parent / "fixtures" / "gguf" / "llama4-q4_0.gguf"
PICKLE = b"\x80\x04\x95" + bytes(100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT))


def with_tokenizer(path: Path, **config: object) -> Path:
    """A model with a tokenizer of 300 tokens and 320 rows."""
    files = write_tokenizer(path / "tokenizer")
    c = replace(TINY_TEXT, bos_id=297, eos_ids=(299,), **config)  # type: ignore[arg-type]
    return save_hf(path / "m", c, RandomSource(c), files=files)


def refused(path: Path | str, error: type[HerdError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        open_checkpoint(path).load()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def set_config(folder: Path, name: str = "config.json", **changes: object) -> None:
    path = folder / name
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **changes}))


# -- what opens ---------------------------------------------------------------------------------------------------


def test_a_folder_and_its_file_are_the_same_model(folder: Path) -> None:
    for path in (folder, str(folder), folder / "model.safetensors"):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.format == "safetensors"
            assert checkpoint.config.layers == TINY_TEXT.layers
            assert checkpoint.size_bytes == (folder / "model.safetensors").stat().st_size
            assert checkpoint.load().embed.w.shape == (320, 64)  # type: ignore[union-attr]


def test_a_gguf_file_and_a_folder_with_one(tmp_path: Path) -> None:
    shutil.copy(GGUF, tmp_path / "model.gguf")
    for path in (tmp_path, tmp_path / "model.gguf"):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.format == "gguf"
            assert checkpoint.size_bytes == GGUF.stat().st_size
            assert len(checkpoint.load().blocks) == checkpoint.config.num_layers
            checkpoint.check_finite()


def test_a_gguf_goes_by_its_first_bytes_not_its_name(tmp_path: Path) -> None:
    shutil.copy(GGUF, tmp_path / "0123abcd")
    assert open_checkpoint(tmp_path / "0123abcd").format == "gguf"


def test_vision_part_beside_a_gguf_is_taken_along(tmp_path: Path) -> None:
    from herd.checkpoint.gguf.write import write_gguf

    source = RandomSource(TINY)
    keys = {"tokenizer.ggml.model": "none"}
    write_gguf(tmp_path / "a.gguf", TINY, source, keys, "f16", mmproj=tmp_path / "mmproj-a.gguf")
    for path in (tmp_path, tmp_path / "a.gguf"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.config.vision == TINY.vision
        assert checkpoint.config.patch_id == TINY.patch_id
        assert checkpoint.load().vision is not None
    refused(tmp_path / "mmproj-a.gguf", BadCheckpoint, "vision part of a model")


def test_tokenizer_template_and_advice(tmp_path: Path) -> None:
    folder = with_tokenizer(tmp_path)
    set_config(folder, "generation_config.json", eos_token_id=[298, 299], temperature=0.6, top_p=0.9, do_sample=True)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.eos_ids == (299, 298)
    assert checkpoint.advice == {"temperature": 0.6, "top_p": 0.9}
    tokenizer = checkpoint.load_tokenizer()
    assert tokenizer.vocab_size == 300
    assert tokenizer.specials[SPECIALS[0]] == 297
    assert checkpoint.template == TEMPLATE
    assert checkpoint.load_tokenizer() is tokenizer


def test_of_several_chat_templates_the_newest_form_counts(tmp_path: Path) -> None:
    """chat_template.json is what processors of models with images were saved with, before the .jinja file."""
    folder = with_tokenizer(tmp_path)
    (folder / "chat_template.jinja").unlink()

    def template() -> str | None:
        with open_checkpoint(folder) as checkpoint:
            return checkpoint.load_tokenizer() and checkpoint.template

    assert template() is None
    set_config(folder, "chat_template.json", chat_template="of the processor")
    assert template() == "of the processor"
    set_config(folder, "tokenizer_config.json", chat_template="of the tokenizer")
    assert template() == "of the tokenizer"
    (folder / "chat_template.jinja").write_text("in a file")
    assert template() == "in a file"


def test_greedy_by_the_models_own_wish(folder: Path) -> None:
    set_config(folder, "generation_config.json", do_sample=False, temperature=0.7)
    assert open_checkpoint(folder).advice == {"temperature": 0.0}


def test_code_in_a_config_is_ignored_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('it ran')")
    set_config(folder, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    with caplog.at_level(logging.WARNING):
        open_checkpoint(folder).load()
    assert "auto_map" in caplog.text


# -- what does not ------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "no", NotFound, "does not exist")
    refused(tmp_path, NotFound, "holds no weights")


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, NotFound, r"has no config\.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
@pytest.mark.parametrize("content", [PICKLE, b"PK\x03\x04" + bytes(100), b"anything"])
def test_pickles_are_never_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, BadCheckpoint, "pickles only.*never unpickles")
    refused(tmp_path / name, BadCheckpoint, "never unpickles")


def test_metas_own_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}")
    (tmp_path / "consolidated.00.pth").write_bytes(b"PK\x03\x04" + bytes(100))
    refused(tmp_path, BadCheckpoint, "consolidated.00.pth: zip archive: got no end of a directory")
    refused(
        tmp_path / "consolidated.00.pth", BadCheckpoint, "read as a folder, with their params.json: name the folder"
    )


@pytest.mark.parametrize("content", [PICKLE, b"PK\x03\x04" + bytes(100), b"\x80\x02}q."])
def test_a_pickle_under_the_name_of_safetensors(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, BadCheckpoint, r"model\.safetensors: not safetensors: got a (Python pickle|zip archive)")


def test_a_gguf_under_the_name_of_safetensors_is_read_as_what_it_is(folder: Path) -> None:
    shutil.copy(GGUF, folder / "model.safetensors")
    refused(folder, BadCheckpoint, "a GGUF file")
    assert open_checkpoint(folder / "model.safetensors").format == "gguf"


def test_some_other_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", BadCheckpoint, "no checkpoint that Herd reads")


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "weights"])
def test_an_empty_file_is_called_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    refused(tmp_path / name, BadCheckpoint, f"{name} is empty; fetch it again")


@pytest.mark.parametrize(("kind", "words"), [("adapter", "an adapter, not a model; name"), ("imatrix", "--imatrix")])
def test_a_gguf_that_says_it_is_no_model(tmp_path: Path, kind: str, words: str) -> None:
    keys = [text("general.architecture", "llama"), text("general.type", kind)]
    (tmp_path / "a.gguf").write_bytes(gguf(keys, [tensor("blk.0.attn_q.weight.lora_a", (8,))], data=32))
    refused(tmp_path / "a.gguf", BadCheckpoint, words)


def test_an_adapter_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    refused(tmp_path, BadCheckpoint, "is an adapter")


def test_several_models_in_a_folder(tmp_path: Path, folder: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(GGUF, tmp_path / name)
    refused(tmp_path, BadCheckpoint, r"holds 2 GGUF models: got a\.gguf, b\.gguf")
    shutil.copy(GGUF, folder / "a.gguf")
    refused(folder, BadCheckpoint, "both safetensors and GGUF")
    (folder / "a.gguf").unlink()
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    refused(folder, BadCheckpoint, r"several safetensors files and no .*got a\.safetensors, b\.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen3"}, r"config\.json.*model_type: got qwen3, expected llama4"),
        ({"num_local_experts": 10**9}, r"config\.json: num_local_experts: got 1000000000"),
        ({"num_hidden_layers": 0}, r"config\.json: num_hidden_layers: got 0"),
        ({"rope_theta": 0}, r"config\.json: rope_theta: got 0"),
        ({"num_key_value_heads": 3}, r"config\.json: num_heads \(4\) must be a multiple"),
    ],
)
def test_wrong_architecture_and_hostile_numbers(folder: Path, changes: dict[str, object], words: str) -> None:
    set_config(folder, **changes)
    refused(folder, BadConfig, words)


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"{", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"a":' * 100_000, b"[" * 100_000, b'{"a": NaN}',
     b'{"model_type": "llama", "model_type": "llama4"}', b'{"a": 1' + b"0" * 10_000 + b"}",
     b'{"a":[' + b"1," * 300_000 + b"1]}"],
)  # fmt: skip
def test_hostile_config_json(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    refused(folder, BadConfig, r"config\.json")


def test_a_config_over_1_mib_is_not_read(folder: Path) -> None:
    (folder / "config.json").write_bytes(b" " * (2 << 20))
    refused(folder, BadConfig, "at most 1048576")


def test_a_config_that_is_a_link_out(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    refused(folder, BadCheckpoint, "leaves its folder")


def test_a_quantized_folder_says_how(folder: Path) -> None:
    set_config(folder, quantization_config={"quant_method": "aqlm"})
    refused(folder, BadCheckpoint, "is quantised: got aqlm")
    set_config(folder, quantization_config={"quant_method": "compressed-tensors"})
    refused(folder, BadCheckpoint, "format of compressed-tensors: got None, expected pack-quantized")


@pytest.mark.parametrize("value", ["hot", float("inf"), -1, [0.6], True])
def test_hostile_advice(folder: Path, value: object) -> None:
    set_config(folder, "generation_config.json", temperature=value)
    refused(folder, BadConfig, "generation_config|temperature")


def test_a_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    files = write_tokenizer(tmp_path / "tokenizer")
    for name, c in {
        "small": replace(TINY_TEXT, vocab_size=299 - len(SPECIALS)),  # added tokens alone may have no row
        "large": replace(TINY_TEXT, vocab_size=2000),
        "ids": replace(TINY_TEXT, vocab_size=330, eos_ids=(325,)),
    }.items():
        folder = save_hf(tmp_path / name, c, RandomSource(c), files=files)
        with pytest.raises(BadTokenizer, match="300") as caught:
            open_checkpoint(folder).load_tokenizer()
        assert str(caught.value).isprintable()


def test_no_tokenizer(folder: Path) -> None:
    with pytest.raises(NotFound, match="no tokenizer"):
        open_checkpoint(folder).load_tokenizer()


def test_loading_twice_gives_the_same_bytes(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    a, b = checkpoint.load(), checkpoint.load()
    assert np.array_equal(a.blocks[0].q.w, b.blocks[0].q.w)  # type: ignore[union-attr]
