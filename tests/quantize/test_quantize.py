"""Whole runs over small random Llama 4 models: files, errors, resuming, comparison, budgets, faults."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import PATIENCE_S, TINY_TEXT, hf_folder, weights
from herd import _native, formats
from herd.checkpoint import open_checkpoint
from herd.checkpoint.pieces import expert_rows, matrix_pieces
from herd.checkpoint.walk import walk
from herd.config import TINY
from herd.errors import BadCheckpoint, DoesNotFit, UsageError
from herd.quantize import quantize
from herd.quantize.parts import parts_of

WIDE = replace(
    TINY_TEXT, width=512, expert_width=512, dense_width=768, num_layers=2, num_heads=4, num_kv_heads=2, head_size=128
)
TEXT = "The keeper wrote the weather down every evening. " * 40


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    yield
    _native.set_threads(0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("source") / "tiny", TINY)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("source") / "wide", WIDE)


def values(path: Path) -> dict[str, Any]:
    """Every tensor as float32, shaped as Hugging Face has it."""
    found: dict[str, Any] = {}
    with open_checkpoint(path) as checkpoint:
        source = checkpoint.source()
        for w in walk(checkpoint.config):
            if w.kind == "vector":
                found[w.name] = formats.to_float32(np.array(source.vector(w.name, w.shape)))
            elif w.kind == "experts":
                rows = expert_rows(source.experts(w.name, *w.shape), w.name, *w.shape)
                found[w.name] = np.concatenate([formats.to_float32(r) for r in rows]).reshape(w.shape)
            else:
                node = source.matrix(w.name, *w.shape, bias=w.bias)
                found[w.name] = np.concatenate([formats.to_float32(r) for r in matrix_pieces(node, w.name, *w.shape)])
    return found


def types(path: Path) -> dict[str, str]:
    with open_checkpoint(path) as checkpoint:
        source: Any = checkpoint.source()
        found = {}
        for part in parts_of(checkpoint.config):
            w = part.wanted
            node = source.experts(w.name, *w.shape) if w.kind == "experts" else source.matrix(w.name, *w.shape)
            node = (node.gate, node.up)[part.half or 0] if node.kind == "pair" else node
            found[part.tensor] = node.format if node.kind == "packed" else "float"
        return found


@pytest.mark.parametrize("target", ["out", "out.gguf"])
@pytest.mark.parametrize("type", ["q4_0", "q8_0", "iq4_nl"])
def test_every_matrix_holds_what_the_plain_encoder_makes_of_it(
    tiny: Path, tmp_path: Path, target: str, type: str
) -> None:
    made = quantize(tiny, tmp_path / target, type, pure=True, compare=False)
    before, after = values(tiny), values(tmp_path / target)
    assert before.keys() == after.keys()
    for part in parts_of(TINY):
        name = part.wanted.name
        a, b = before[name], after[name]
        if part.num_experts:
            a, b = a.swapaxes(1, 2), b.swapaxes(1, 2)
        plain = formats.decode(type, formats.encode(type, a), part.inputs)
        if type == "iq4_nl":
            assert np.square(b - a).sum() <= np.square(plain - a).sum() * (1 + 1e-3)
        else:
            np.testing.assert_array_equal(b, plain)
    for w in walk(TINY):
        if w.kind == "vector" or w.name.endswith(".router"):
            np.testing.assert_array_equal(before[w.name], after[w.name]) if "vision" not in w.name else None
    assert {t.format for t in made.tensors} == {type}
    errors = {t.name: t.relative_error for t in made.tensors}
    q = "model.layers.0.self_attn.q_proj"
    e = after[q].astype(np.float64) - before[q]
    assert errors[q + ".weight"] == pytest.approx(
        np.sqrt((e**2).sum() / (before[q].astype(np.float64) ** 2).sum()), 1e-3
    )
    assert made.worst()[0].relative_error == max(v for v in errors.values() if v is not None)


@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_tables_stay_at_six_bits_and_rows_that_do_not_fit_get_the_next_type(
    wide: Path, tmp_path: Path, target: str
) -> None:
    quantize(wide, tmp_path / target, "q4_k", compare=False)
    found = types(tmp_path / target)
    assert found["model.embed_tokens.weight"] == "q6_k"
    assert set(found.values()) == {"q4_k", "q6_k"}


def test_the_same_bytes_whatever_the_threads_and_a_repeat_is_refused(wide: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        quantize(wide, tmp_path / f"t{threads}", "q3_k", threads=threads, calibrate=TEXT, compare=False)
    one, three = (sorted((tmp_path / f"t{t}").glob("*.safetensors")) for t in (1, 3))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in three]
    with pytest.raises(UsageError, match="exists already"):
        quantize(wide, tmp_path / "t1", "q3_k", compare=False)


def test_quantizing_what_is_quantized_so_already_changes_no_bit(wide: Path, tmp_path: Path) -> None:
    first = quantize(wide, tmp_path / "a.gguf", "q5_k", pure=True, compare=False)
    again = quantize(tmp_path / "a.gguf", tmp_path / "b", "q5_k", pure=True, compare=False)
    back = quantize(tmp_path / "b", tmp_path / "c.gguf", "q5_k", pure=True, compare=False)
    a, c = values(tmp_path / "a.gguf"), values(tmp_path / "c.gguf")
    assert all((a[n] == c[n]).all() for n in a)
    assert first.worst()[0].relative_error and not any(t.relative_error for m in (again, back) for t in m.tensors)


def test_calibration_lowers_the_weighted_error_and_names_experts_it_missed(wide: Path, tmp_path: Path) -> None:
    made = quantize(wide, tmp_path / "out", "q4_k", calibrate="ab", compare=False)
    moe = [i for i, layer in enumerate(WIDE.layers) if layer.moe]
    assert made.unreached
    assert all(layer in moe and 0 <= e < WIDE.num_experts for layer, e in made.unreached)
    assert made.calibration_tokens == 3  # with the first token


def test_what_is_no_multiple_of_256_and_what_is_rounded_twice_are_told(tiny: Path, tmp_path: Path) -> None:
    made = quantize(tiny, tmp_path / "a.gguf", "q4_k", compare=False)
    became = [t.format for t in made.tensors]
    for wanted, own in (("q4_k", "q5_0"), ("q6_k", "q8_0")):
        line = f"{became.count(own)} tensors become {own}: their rows are no multiple of 256, which {wanted} needs"
        assert line in made.notes
    assert not any("quantised before" in note for note in made.notes)
    lower = quantize(tmp_path / "a.gguf", tmp_path / "c", "q4_0", pure=True, compare=False)
    assert any("were quantised before (q5_0, q8_0) and are again" in note for note in lower.notes)
    same = quantize(tmp_path / "a.gguf", tmp_path / "d", "q4_k", compare=False)
    assert not any("quantised before" in note for note in same.notes)


def test_an_interrupted_comparison_is_had_later_and_over_the_same_text(tiny: Path, tmp_path: Path) -> None:
    from herd.quantize import ComparisonInterrupted, compare

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "compare" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(ComparisonInterrupted) as caught:
        quantize(tiny, tmp_path / "a", "q4_0", calibrate=TEXT, progress=stop)
    made = caught.value.made
    assert made.comparison is None
    assert made.worst()[0].relative_error
    assert open_checkpoint(tmp_path / "a").verify()
    later = compare(tiny, tmp_path / "a")
    at_once = quantize(tiny, tmp_path / "b", "q4_0", calibrate=TEXT).comparison
    plain = quantize(tiny, tmp_path / "c", "q4_0").comparison
    assert later == at_once
    assert plain is not None
    assert (later.source_perplexity, later.num_tokens) == (plain.source_perplexity, plain.num_tokens)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a", "b", "c"]


def test_only_models_of_one_vocabulary_are_compared(wide: Path, tmp_path: Path) -> None:
    from herd.quantize import compare

    other = hf_folder(tmp_path / "other", replace(WIDE, vocab_size=384))
    with pytest.raises(UsageError, match=r"is not made of .*vocabulary: got 384, expected 320"):
        compare(wide, other)


def test_the_command_tells_how_to_compare_later(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from herd.cli import main

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    words = ["quantize", str(wide), str(tmp_path / "o")]
    with monkeypatch.context() as patch:
        patch.setattr("herd.quantize.compare_with", interrupted)
        assert main([*words, "--type", "q4_k", "--json", "-q"]) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["comparison"] is None
    assert f"herd quantize {wide} {tmp_path / 'o'} --only-compare" in err
    assert main([*words, "--only-compare", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["kl_mean"] > 0


@pytest.mark.parametrize("bits", [4.0, 5.2])
@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_a_mixture_stays_in_its_budget_and_uses_it(wide: Path, tmp_path: Path, target: str, bits: float) -> None:
    made = quantize(wide, tmp_path / target, bits=bits, calibrate=TEXT, compare=False)
    num_weights = sum(int(np.prod(v.shape)) for v in values(tmp_path / target).values())
    assert made.plan.num_bytes <= bits * num_weights / 8
    assert made.plan.num_bytes >= 0.9 * bits * num_weights / 8
    assert types(tmp_path / target) == made.plan.formats
    assert len(set(made.plan.formats.values())) > 1


def test_a_budget_that_nothing_fits_is_refused_before_anything_is_written(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match=r"smallest formats take [0-9,]+ bytes, [0-9,]+ are"):
        quantize(wide, tmp_path / "out", size_bytes=400_000)
    with pytest.raises(UsageError, match="give one of a type"):
        quantize(wide, tmp_path / "out", "q4_k", bits=4)
    with pytest.raises(UsageError, match="type to quantise to: got q9"):
        quantize(wide, tmp_path / "out", "q9")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_left(tmp_path: Path, target: str) -> None:
    from herd.checkpoint.hf.write import save_hf
    from herd.checkpoint.random_weights import random_model

    model = random_model(TINY_TEXT, 3)
    layer = next(i for i, kind in enumerate(TINY_TEXT.layers) if kind.moe)
    model.blocks[layer].ffn.down.w[1, 5, 7] = np.nan  # [E, I, O]
    save_hf(tmp_path / "bad", TINY_TEXT, model)
    expected = rf"layers\.{layer}\..*down_proj expert 1 row 7 column 5.*nan"
    with pytest.raises(BadCheckpoint, match=expected):
        quantize(tmp_path / "bad", tmp_path / target, "q4_0", compare=False)
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]


KILLED = """
import sys
from herd.quantize import quantize
def tell(phase, done, total):
    if phase == "encode" and done > total // 2:
        print("half", flush=True)
        sys.stdin.read()
quantize(sys.argv[1], sys.argv[2], "q4_k", compare=False, progress=tell)
"""


@pytest.mark.parametrize("target", ["out", "out.gguf"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_killed_is_taken_up_and_gives_the_same_bytes(
    wide: Path, tmp_path: Path, how: int, target: str
) -> None:
    """Killed at a few points here; tests/faults kills it at many, or at every one."""
    out, whole = tmp_path / target, tmp_path / target.replace("out", "whole")
    quantize(wide, whole, "q4_k", compare=False)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, wide, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    time.sleep(0.05)
    child.send_signal(how)
    child.wait(PATIENCE_S)
    assert not out.exists()
    with pytest.raises(UsageError, match="the unfinished run there was another one"):
        quantize(wide, out, "q6_k", compare=False)
    made = quantize(wide, out, "q4_k", compare=False)
    files = sorted(p.name for p in whole.glob("*.safetensors")) if whole.is_dir() else [""]
    assert files
    assert all((whole / name).read_bytes() == (out / name).read_bytes() for name in files)
    assert any(t.relative_error is None for t in made.tensors)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([out.name, whole.name])


def test_a_gguf_begun_anew_forgets_the_unfinished_run(wide: Path, tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        if phase == "encode" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(wide, tmp_path / "out.gguf", "q4_k", compare=False, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == [".out.gguf.packing"]
    made = quantize(wide, tmp_path / "out.gguf", "q6_k", compare=False, resume=False)
    assert all(t.relative_error is not None for t in made.tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_two_runs_at_one_gguf_do_not_mix(wide: Path, tmp_path: Path) -> None:
    refused = []

    def tell(phase: str, done: int, total: int) -> None:
        if phase == "encode" and not refused:
            with pytest.raises(UsageError, match="is being written by another process") as caught:
                quantize(wide, tmp_path / "out.gguf", "q4_k", compare=False)
            refused.append(caught)

    quantize(wide, tmp_path / "out.gguf", "q4_k", compare=False, progress=tell)
    assert refused
    assert open_checkpoint(tmp_path / "out.gguf").verify() is False


def test_no_room_for_the_comparison_leaves_the_target_and_says_so(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    made = quantize(wide, tmp_path / "out", "q4_k")
    assert made.comparison is None
    assert "not compared" in made.notes[-1]
    assert "No space left on device" in made.notes[-1]
    assert open_checkpoint(tmp_path / "out").verify()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_a_full_disk_is_told_and_leaves_nothing(
    wide: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = __import__("shutil").disk_usage(tmp_path)
    monkeypatch.setattr("herd.disk.atomic.shutil.disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(DoesNotFit, match="GB on the disk"):
        quantize(wide, tmp_path / target, "q4_k", compare=False)
    assert not list(tmp_path.iterdir())


def test_calibration_that_memory_cannot_hold_is_refused(wide: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for module in ("weighing", "comparing"):
        monkeypatch.setattr(f"herd.quantize.{module}.available_bytes", lambda: 1_000_000)
    with pytest.raises(DoesNotFit, match="calibration runs the source"):
        quantize(wide, tmp_path / "out", "q4_k", calibrate=TEXT)
    made = quantize(wide, tmp_path / "out", "q4_k")
    assert made.comparison is None
    assert "not compared" in made.notes[-1]


@pytest.mark.parametrize("target", ["out", "out.gguf"])
def test_finer_types_are_nearer_to_the_source(wide: Path, tmp_path: Path, target: str) -> None:
    found = {}
    for type in ("q3_k", "q6_k"):
        made = quantize(wide, tmp_path / f"{type}{target}", type, pure=True)
        assert made.comparison is not None
        found[type] = made.comparison
    assert 0 < found["q6_k"].kl_mean < found["q3_k"].kl_mean / 4
    assert found["q6_k"].same_top >= found["q3_k"].same_top
    assert found["q6_k"].source_perplexity == found["q3_k"].source_perplexity


def test_the_comparison_is_the_textbook_sum(tiny: Path, tmp_path: Path) -> None:
    """Against logits of another path: ops.torch on the values that the file holds."""
    pytest.importorskip("torch")
    from helpers import op_set
    from herd.batch import packed
    from herd.model import forward, place_weights
    from herd.quantize.comparing import package_files
    from herd.text.tokenizer import Tokenizer

    source = hf_folder(tmp_path / "text", TINY_TEXT)
    made = quantize(source, tmp_path / "out", "q8_0", pure=True)
    assert made.comparison is not None
    text = package_files("herd.quantize").joinpath("held_out.txt").read_text("utf-8")
    tokenizer = Tokenizer.from_hf_folder(source)
    ids = [tokenizer.bos_id, *tokenizer.encode(text)[: min(512, TINY_TEXT.max_context) - 1]]
    ops = op_set("torch")
    model = place_weights(ops, weights(TINY_TEXT))
    out = ops.numpy(forward(ops, TINY_TEXT, model, np.array(ids), ops.place(packed([len(ids)], TINY_TEXT.chunk))))
    logs = out.astype(np.float64) - np.log(np.exp(out.astype(np.float64)).sum(1, keepdims=True))
    first = np.exp(-logs[np.arange(len(ids) - 1), ids[1:]].mean())
    assert made.comparison.source_perplexity == pytest.approx(first, rel=0.2)  # other windows, a like text
    assert abs(made.comparison.perplexity_ratio - 1) < 0.02
    assert made.comparison.kl_mean < 0.01


def test_the_command_reports_as_json(wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from herd.cli import main

    assert main(["quantize", str(wide), str(tmp_path / "o"), "--type", "q4_k", "--no-compare", "--json", "-q"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["herd"] == "quantize"
    assert data["plan"]["formats"]["model.layers.0.self_attn.q_proj.weight"] == "q4_k"
    assert 0 < data["bits_a_weight"] < 8
    assert main(["quantize", str(wide), str(tmp_path / "o"), "--size", "12 lightyears"]) == 2
    assert "12 lightyears" in capsys.readouterr().err
