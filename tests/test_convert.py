"""Converted files mean the same: to transformers, to the gguf and tokenizers packages, to Herd; nothing half-written.

llama.cpp's view of the GGUF files is benchmarks/convert_check.py's, as it needs llama-cpp-python.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpe_folder import SPECIALS, TEMPLATE, write_tokenizer
from helpers import TINY_DENSE, TINY_TEXT, op_set
from herd import formats
from herd.batch import packed
from herd.checkpoint import RandomSource, open_checkpoint, save_hf
from herd.checkpoint.gguf.write import write_gguf
from herd.checkpoint.opened import GgufCheckpoint
from herd.config import TINY, Llama4Config
from herd.containers.gguf import open_gguf
from herd.convert import convert
from herd.errors import DoesNotFit, NotFound, UsageError
from herd.model import forward, place_weights
from herd.text import split_names
from sentencepiece_bytes import BYTES, START, model

FIXTURES = Path(__file__).parent / "fixtures" / "gguf"
IDS = list(range(1, 41))


TEXT, DENSE = replace(TINY_TEXT, norm_eps=1e-5), replace(TINY_DENSE, norm_eps=1e-5)


def logits(path: Path, ids: list[int] = IDS) -> np.ndarray:
    ops = op_set("torch")
    with open_checkpoint(path) as checkpoint:
        c = checkpoint.config
        weights = place_weights(ops, checkpoint.load())
        return ops.numpy(forward(ops, c, weights, np.array(ids), ops.place(packed([len(ids)], c.chunk))))


def close(a: np.ndarray, b: np.ndarray) -> None:
    """Equal but for the order of float32 sums: the model tests' bound, a few hundred roundings of 2^-24."""
    np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * float(b.std()))


# -- logits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-f32", "llama-q4_0", "llama-q6_k", "llama4-bf16", "llama4-q4_1", "llama4-q4_k"])
def test_a_folder_made_of_a_gguf_gives_the_same_logits_in_transformers(tmp_path: Path, name: str) -> None:
    """The GGUF files were quantised by llama.cpp; rope, experts and row orders must all come out right."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    done = convert(FIXTURES / f"{name}.gguf", tmp_path / "hf", "f32")
    assert done.num_bytes == sum(p.stat().st_size for p in (tmp_path / "hf").iterdir())
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor([IDS])).logits[0].numpy()
    close(theirs, logits(FIXTURES / f"{name}.gguf"))


@pytest.mark.parametrize("config", [TEXT, DENSE], ids=["llama4", "llama"])
@pytest.mark.parametrize("shard_bytes", [10**9, 300_000])
def test_a_gguf_made_of_a_folder_gives_the_same_logits(tmp_path: Path, config: Llama4Config, shard_bytes: int) -> None:
    save_hf(tmp_path / "hf", config, RandomSource(config, 4), shard_bytes=shard_bytes)
    convert(tmp_path / "hf", tmp_path / "m.gguf")
    assert open_gguf(tmp_path / "m.gguf").info("blk.0.attn_q.weight").format == "f32"
    close(logits(tmp_path / "m.gguf"), logits(tmp_path / "hf"))


def test_there_and_back_is_bit_for_bit(tmp_path: Path) -> None:
    save_hf(tmp_path / "hf", TINY, RandomSource(TINY, 4, "bfloat16"), "bfloat16")
    convert(tmp_path / "hf", tmp_path / "m.gguf", "f32")
    assert (tmp_path / "mmproj-m.gguf").exists()
    convert(tmp_path / "m.gguf", tmp_path / "back", "bf16")
    a, b = (open_checkpoint(tmp_path / name) for name in ("hf", "back"))
    assert a.config.layers == b.config.layers
    assert a.config.vision == b.config.vision
    same_bytes(tmp_path / "hf" / "model.safetensors", tmp_path / "back" / "model.safetensors")


def same_bytes(a: Path, b: Path) -> None:
    from herd.containers.safetensors import SafeFile

    left, right = SafeFile(a), SafeFile(b)
    assert left.entries.keys() == right.entries.keys()
    for name in left.entries:
        assert np.array_equal(left.array(name), right.array(name)), name


@pytest.mark.parametrize("kind", sorted(set(formats.WRITTEN) - {"f32", "f16", "bf16"}))
def test_quantized_matrices_are_what_the_format_makes_of_them(tmp_path: Path, kind: str) -> None:
    config = replace(TEXT, width=256, expert_width=256, dense_width=256, head_size=64)
    save_hf(tmp_path / "hf", config, RandomSource(config, 4))
    done = convert(tmp_path / "hf", tmp_path / "m.gguf", kind)
    assert not any("fit" in note for note in done.notes)
    hf, gguf = open_checkpoint(tmp_path / "hf").source(), open_gguf(tmp_path / "m.gguf")
    D, F = config.width, config.expert_width
    up = hf.matrix("model.layers.0.feed_forward.up_proj", config.dense_width, D).w  # type: ignore[union-attr]
    experts = hf.experts("model.layers.1.feed_forward.experts.gate_up_proj", 4, D, 2 * F).w  # type: ignore[union-attr]
    for name, values in {
        "blk.0.ffn_up.weight": up,
        "blk.1.ffn_gate_exps.weight": experts[:, :, :F].swapaxes(1, 2),
        "blk.1.ffn_up_exps.weight": experts[:, :, F:].swapaxes(1, 2),
    }.items():
        assert np.array_equal(gguf.raw(name), formats.encode(kind, values)), name


def test_rows_that_fill_no_block_are_told(tmp_path: Path) -> None:
    save_hf(tmp_path / "hf", TEXT, RandomSource(TEXT, 4))
    done = convert(tmp_path / "hf", tmp_path / "m.gguf", "q4_k")
    assert any("became q5_0: their rows are no multiple of 256, which q4_k needs" in n for n in done.notes)


def test_without_a_type_every_tensor_stays_what_it_is(tmp_path: Path) -> None:
    mixed = {"blk.1.ffn_gate_exps.weight": "q8_0", "blk.1.attn_v.weight": "f16", "token_embd.weight": "q8_0"}
    write_gguf(tmp_path / "a.gguf", TEXT, RandomSource(TEXT, 4), {}, "q4_0", types=mixed)
    made = convert(tmp_path / "a.gguf", tmp_path / "b.gguf")
    a, b = open_gguf(tmp_path / "a.gguf"), open_gguf(tmp_path / "b.gguf")
    assert {name: a.info(name).format for name in mixed} == mixed
    assert all(np.array_equal(a.raw(name), b.raw(name)) for name in a.tensors)
    assert made.type == "q4_0"
    assert not any("tensors" in note for note in made.notes)


def test_a_smaller_type_never_makes_a_larger_file(tmp_path: Path) -> None:
    """Rows of 96: no type of 256 weights fits, and what stands in for one may be larger than what is there."""
    config = replace(DENSE, width=96, dense_width=224, num_layers=1)
    kinds = sorted((n for n in formats.WRITTEN if formats.get(n).packed), key=lambda name: formats.get(name).bits)
    save_hf(tmp_path / "hf", config, RandomSource(config, 4))
    sizes = {k: convert(tmp_path / "hf", tmp_path / f"{k}.gguf", k).num_bytes for k in kinds}
    for i, kind in enumerate(kinds):
        for smaller in (k for k in kinds[:i] if formats.get(k).block > 32):
            made = convert(tmp_path / f"{kind}.gguf", tmp_path / "again.gguf", smaller, overwrite=True)
            assert made.num_bytes <= sizes[kind], (kind, smaller)
            own = open_gguf(tmp_path / f"{kind}.gguf").info("blk.0.attn_q.weight").format
            new = open_gguf(tmp_path / "again.gguf").info("blk.0.attn_q.weight").format
            assert any("quantised before" in note for note in made.notes) == (own != new), (kind, smaller)
            assert any(f"tensors stay {own}" in note for note in made.notes) == (own == new), (kind, smaller)


@pytest.mark.parametrize("name", ["llama-q4_0", "llama4-q8_0"])
def test_gguf_to_gguf_of_its_own_type_copies_codes(tmp_path: Path, name: str) -> None:
    done = convert(FIXTURES / f"{name}.gguf", tmp_path / "m.gguf")
    assert done.type == name.rpartition("-")[2]
    old, new = open_gguf(FIXTURES / f"{name}.gguf"), open_gguf(tmp_path / "m.gguf")
    for tensor in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "blk.1.ffn_up_exps.weight"):
        if tensor in old.tensors:
            assert np.array_equal(old.raw(tensor), new.raw(tensor)), tensor


def test_types_by_default(tmp_path: Path) -> None:
    save_hf(tmp_path / "hf", TEXT, RandomSource(TEXT, 4, "float16"), "float16")
    assert convert(tmp_path / "hf", tmp_path / "a").type == "f16"
    assert convert(tmp_path / "hf", tmp_path / "a.gguf").type == "f16"
    assert convert(FIXTURES / "llama-q4_0.gguf", tmp_path / "b").type == "bf16"


# -- tokenizers ---------------------------------------------------------------------------------------------------

SAMPLES = [
    "the quick brown fox",
    "It's 12345 o'clock!\n\n  naïve\tcafé 日本 \U0001f600",
    "  a  b   c\r\n",
    "DON'T we'LL 1,000.5",
]


@pytest.fixture(params=["llama4", "llama-bpe", "smollm", "gpt-2"])
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_tokenizer(path: Path, split: str) -> Path:
    files = write_tokenizer(path / "tokenizer", split)
    c = replace(TEXT, bos_id=297, eos_ids=(298, 299))
    return save_hf(path / "hf", c, RandomSource(c), files=files)


def test_tokenizer_goes_to_gguf_and_back(tmp_path: Path, split: str) -> None:
    Theirs = pytest.importorskip("tokenizers").Tokenizer

    folder = with_tokenizer(tmp_path, split)
    convert(folder, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    theirs = [Theirs.from_file(str(f / "tokenizer.json")) for f in (folder, tmp_path / "back")]
    ours = [open_checkpoint(p).load_tokenizer() for p in (folder, tmp_path / "m.gguf", tmp_path / "back")]
    for text in SAMPLES:
        expected = theirs[0].encode(text, add_special_tokens=False).ids
        assert theirs[1].encode(text, add_special_tokens=False).ids == expected
        assert [t.encode(text) for t in ours] == [expected] * 3
        assert theirs[1].decode(expected) == theirs[0].decode(expected) == text
    joined = SAMPLES[0].join(SPECIALS)
    assert theirs[1].encode(joined).ids == theirs[0].encode(joined).ids
    for t in ours:
        assert {t.specials[s] for s in SPECIALS} == {297, 298, 299}
        assert (t.bos_id, t.template, t.add_bos) == (297, TEMPLATE, split.startswith("llama"))
        assert t.eos_ids == ours[0].eos_ids
    assert open_checkpoint(tmp_path / "back").config.eos_ids == (298, 299)


def test_the_gguf_package_reads_our_tokenizer_keys(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    convert(with_tokenizer(tmp_path, "llama4"), tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    get: Any = lambda name: fields[name].contents()  # noqa: E731
    assert get("tokenizer.ggml.model") == "gpt2"
    assert get("tokenizer.ggml.pre") == "llama4"
    assert get("tokenizer.ggml.tokens")[297:301] == [*SPECIALS, "[PAD300]"]
    assert get("tokenizer.ggml.token_type")[296:301] == [1, 3, 3, 3, 5]
    assert len(get("tokenizer.ggml.tokens")) == TEXT.vocab_size
    assert [get(f"tokenizer.ggml.{n}_token_id") for n in ("bos", "eos", "eot")] == [297, 298, 299]


def test_transformers_reads_the_tokenizer_of_a_converted_folder(tmp_path: Path, split: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = with_tokenizer(tmp_path, split)
    convert(folder, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    a, b = (transformers.AutoTokenizer.from_pretrained(p) for p in (folder, tmp_path / "back"))
    for text in SAMPLES:
        assert a(text).input_ids == b(text).input_ids
    assert (b.bos_token_id, b.chat_template) == (297, TEMPLATE)


def test_chat_templates_with_names_go_along(tmp_path: Path) -> None:
    """From a folder within, as transformers saves them, to a folder, a GGUF, and back; gguf and transformers agree."""
    gguf, transformers = pytest.importorskip("gguf"), pytest.importorskip("transformers")
    folder = with_tokenizer(tmp_path, "llama4")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    want = {"default": TEMPLATE, "tool_use": "{{ tools }}"}
    assert transformers.AutoTokenizer.from_pretrained(folder).chat_template == want
    for source, target in ((folder, "copy"), (folder, "m.gguf"), (tmp_path / "m.gguf", "back")):
        convert(source, tmp_path / target)
        tokenizer = open_checkpoint(tmp_path / target).load_tokenizer()
        assert {"default": tokenizer.template, **tokenizer.templates} == want
        if target != "m.gguf":
            assert transformers.AutoTokenizer.from_pretrained(tmp_path / target).chat_template == want
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.chat_templates"].contents() == ["tool_use"]
    assert fields["tokenizer.chat_template.tool_use"].contents() == "{{ tools }}"


def test_a_vocabulary_of_sentencepiece_goes_to_gguf_and_to_tokenizer_json(tmp_path: Path) -> None:
    gguf, transformers = pytest.importorskip("gguf"), pytest.importorskip("transformers")
    words = ["\u2581", "a", "b", "c", "\u2581a", "ab", "\u2581ab", "abc"]
    (tmp_path / "files").mkdir()
    pieces = [*START, *BYTES, *((word, float(-n), 1) for n, word in enumerate(words)), ("<sep>", 0.0, 4)]
    (tmp_path / "files" / "tokenizer.model").write_bytes(model(pieces))
    (tmp_path / "files" / "added_tokens.json").write_text(json.dumps({"[PAD]": len(pieces)}))
    c = replace(TEXT, bos_id=1, eos_ids=(2,))
    folder = save_hf(tmp_path / "hf", c, RandomSource(c), files=sorted((tmp_path / "files").iterdir()))
    assert not [note for note in convert(folder, tmp_path / "m.gguf").notes if "takes" not in note]
    convert(tmp_path / "m.gguf", tmp_path / "back")
    ours = [open_checkpoint(p).load_tokenizer() for p in (folder, tmp_path / "m.gguf", tmp_path / "back")]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in ("abc", " abcab  a", "caf\u00e9 [PAD]a", "\u65e5\n", "", "<s>"):
        ids = ours[0].encode(text)
        assert [t.encode(text) for t in ours] == [ids] * 3
        if "<s>" not in text:
            assert theirs(text).input_ids == [1, *ids]
            assert theirs.decode(ids) == ours[2].decode(ids) == text.replace("]a", "] a")
    assert [(t.bos_id, t.add_bos, 2 in t.eos_ids) for t in ours] == [(1, True, True)] * 3
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    get: Any = lambda name: fields[f"tokenizer.ggml.{name}"].contents()  # noqa: E731
    assert (get("model"), get("add_space_prefix"), get("unknown_token_id")) == ("llama", True, 0)
    assert get("token_type")[:5] == [2, 3, 3, 6, 6] and get("token_type")[len(pieces) - 1 :][:3] == [4, 4, 5]
    assert get("scores")[259:262] == [0.0, -1.0, -2.0]


def test_advice_and_licence_come_along(tmp_path: Path) -> None:
    folder = with_tokenizer(tmp_path, "llama4")
    (folder / "generation_config.json").write_text('{"temperature": 0.25, "top_p": 0.5, "top_k": 7}')
    convert(folder, tmp_path / "m.gguf")
    assert open_checkpoint(tmp_path / "m.gguf").advice == {"temperature": 0.25, "top_p": 0.5, "top_k": 7}
    convert(tmp_path / "m.gguf", tmp_path / "back")
    assert open_checkpoint(tmp_path / "back").advice == {"temperature": 0.25, "top_p": 0.5, "top_k": 7}


def test_a_folder_without_tokenizer_is_told(tmp_path: Path) -> None:
    save_hf(tmp_path / "hf", TEXT, RandomSource(TEXT))
    done = convert(tmp_path / "hf", tmp_path / "m.gguf")
    assert any("no tokenizer" in note for note in done.notes)
    with pytest.raises(NotFound, match="no tokenizer"):
        open_checkpoint(tmp_path / "m.gguf").load_tokenizer()


def test_ignore_merges_is_written_as_gguf_has_it_and_told_where_it_cannot(tmp_path: Path) -> None:
    folder = with_tokenizer(tmp_path, "llama4")
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text())
    cases = {("llama4", False): "gpt-4o", ("llama-bpe", False): "smaug-bpe", ("gpt-2", True): "gpt-2"}
    for (split, whole_pieces), pre in cases.items():
        for odd in (False, True):
            file = {**whole, "pre_tokenizer": split_names.to_pre_tokenizer(split)}
            vocab = dict(file["model"]["vocab"])
            if odd:  # a token that no merge makes, in the place of one that some make
                last = file["model"]["merges"][-1]
                vocab = {"qzzq" if text == "".join(last) else text: i for text, i in vocab.items()}
            merges = file["model"]["merges"][: -1 if odd else None]
            file["model"] = {**file["model"], "vocab": vocab, "merges": merges, "ignore_merges": whole_pieces}
            path.write_text(json.dumps(file))
            notes = [
                note for note in convert(folder, tmp_path / "m.gguf", overwrite=True).notes if "ignore_merges" in note
            ]
            ours = [open_checkpoint(p).load_tokenizer() for p in (folder, tmp_path / "m.gguf")]
            assert open_gguf(tmp_path / "m.gguf").keys["tokenizer.ggml.pre"] == pre
            lost = whole_pieces and odd
            assert ([t.encode("qzzq x") for t in ours].count(ours[0].encode("qzzq x")) == 1) == lost
            assert len(notes) == lost and all("gpt-2" in note and "1 tokens" in note for note in notes)


# -- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_a_target_that_exists_is_kept_unless_told(tmp_path: Path, target: str) -> None:
    source = FIXTURES / "llama-q4_0.gguf"
    convert(source, tmp_path / target)
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="exists"):
        convert(source, tmp_path / target)
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before
    convert(source, tmp_path / target, overwrite=True)
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) != before
    assert [p.name for p in tmp_path.iterdir()] == [target]


@pytest.mark.parametrize(("target", "kind"), [("out", "q4_0"), ("out", "f64"), ("out.gguf", "iq3_s")])
def test_unknown_types(tmp_path: Path, target: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f"got {kind}"):
        convert(FIXTURES / "llama-f32.gguf", tmp_path / target, kind)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_too_little_disk(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 10**5, 10**5))
    with pytest.raises(DoesNotFit, match=r"needs .* GB on the disk, 0\.00 GB are free"):
        convert(FIXTURES / "llama-f32.gguf", tmp_path / target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_an_interruption_leaves_nothing(tmp_path: Path, target: str) -> None:
    def interrupt(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(FIXTURES / "llama-f32.gguf", tmp_path / target, progress=interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_progress_names_every_tensor_and_how_much_is_left(tmp_path: Path, target: str) -> None:
    seen: list[tuple[str, int, int]] = []
    convert(FIXTURES / "llama4-f32.gguf", tmp_path / target, progress=lambda *told: seen.append(told))
    names, done, totals = zip(*seen, strict=True)
    assert len(names) == len(set(names)) > 30
    assert "model.layers.1.feed_forward.experts.gate_up_proj" in names
    assert sorted(set(done)) == list(done)
    assert set(totals) == {done[-1]}


def test_a_name_with_dots_stays_whole(tmp_path: Path) -> None:
    source = tmp_path / "Tiny-3.1-8B"
    convert(FIXTURES / "llama-f32.gguf", source)
    convert(source, tmp_path / "out.gguf")
    with open_checkpoint(tmp_path / "out.gguf") as made:
        assert isinstance(made, GgufCheckpoint)
        assert made.reader.keys["general.name"] == "Tiny-3.1-8B"


MEASURE = """
import sys, tracemalloc
from pathlib import Path
from herd.convert import convert
import herd.checkpoint.gguf.write
tracemalloc.start()
convert(sys.argv[1], sys.argv[2], sys.argv[3])
print(tracemalloc.get_traced_memory()[1] >> 20)
"""


@pytest.mark.parametrize(
    ("source", "target", "kind"), [("hf", "a.gguf", "q8_0"), ("hf", "b", "bf16"), ("source.gguf", "c", "f32")]
)
def test_memory_stays_bounded(large: Path, source: str, target: str, kind: str) -> None:
    """80 MB of tensors, the largest 32 MB in float32, pass through well under the size of the largest."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, large / source, large / target, kind],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 28


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(TEXT, num_layers=2, width=256, vocab_size=32768, expert_width=1024, dense_width=512)
    path = tmp_path_factory.mktemp("large")
    save_hf(path / "hf", config, RandomSource(config))
    convert(path / "hf", path / "source.gguf", "q8_0")
    return path
