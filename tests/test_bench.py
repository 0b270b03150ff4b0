"""`herd bench` on a tiny file: which figures it gives, that they hang together, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import TINY_TEXT, hf_folder
from herd.bench import Sweeps
from herd.checkpoint.open import open_checkpoint
from herd.cli import main
from herd.errors import UsageError
from herd.machine import probe
from herd.planning import work

FIXTURE = Path(__file__).parent / "fixtures/gguf/llama4-q4_k.gguf"


@pytest.fixture(autouse=True)
def small_probe(monkeypatch):
    monkeypatch.setattr(probe, "READ_BYTES", 1 << 22)


def test_figures_hang_together(capsys):
    told = ["bench", str(FIXTURE), "--prompts", "32,64", "--batch", "1,3", "--depths", "40", "--repeats", "1", "--json"]
    assert main([*told, "--threads", "1"]) == 0
    out = json.loads(capsys.readouterr().out)
    kinds = [(f["test"], f["tokens"], f["sequences"], f["depth"]) for f in out["figures"]]
    assert kinds == [
        ("prefill", 32, 1, 0), ("prefill", 64, 1, 0), ("decode", 16, 1, 16), ("decode", 16, 3, 16),
        ("decode", 16, 1, 40),
    ]  # fmt: skip
    read = out["loaded"]["limits"]["read_bytes_s"]
    for f in out["figures"]:
        assert f["tokens_s"] > 0
        assert f["share_of_read"] == pytest.approx(f["bytes_s"] / read)


def test_sweeps_are_clipped_to_what_the_context_holds(capsys, tmp_path):
    model = hf_folder(tmp_path / "small", replace(TINY_TEXT, max_context=64))
    words = ["bench", str(model), "--prompts", "32,64,128,4K", "--batch", "1", "--depths", "8,4096", "--repeats", "1"]
    assert main([*words, "--threads", "1", "--json"]) == 0
    said = capsys.readouterr()
    out = json.loads(said.out)
    assert [(f["test"], f["tokens"], f["depth"]) for f in out["figures"]] == [
        ("prefill", 32, 0), ("prefill", 64, 0), ("decode", 16, 16), ("decode", 16, 8), ("decode", 16, 48),
    ]  # fmt: skip
    notes = [
        "prompts 32, 64 instead of 32, 64, 128, 4096: the context holds 64 tokens",
        "depths 8, 48 instead of 8, 4096: the context holds 64 tokens",
    ]
    assert out["loaded"]["notes"] == said.err.splitlines() == notes


def test_the_usual_sweeps_fit_every_context_and_change_none_that_holds_them():
    for context in (32, 100, 512, 2048, 4096, 8192, 10 << 20):
        made = Sweeps().clipped(context)
        assert max(made.prompts) <= context and max(made.depths) + 16 <= context
        assert (made == Sweeps()) == (context >= 4096 + 16)
    with pytest.raises(UsageError, match="32 tokens or more"):
        Sweeps().clipped(31)


def test_a_count_that_is_none_is_a_usage_error(capsys):
    assert main(["bench", str(FIXTURE), "--batch", "1,x"]) == 2
    assert "'x' is not a count" in capsys.readouterr().err


def test_bytes_of_a_token_are_those_of_the_files_tensors():
    checkpoint = open_checkpoint(FIXTURE)
    c, w = checkpoint.config, checkpoint.load()
    all_experts = work.token_bytes(c, w, 10_000)
    one = work.token_bytes(c, w, 1)
    routed = sum(work.node_bytes(b.ffn.gate_up) + work.node_bytes(b.ffn.down) for b in w.blocks if b.ffn.kind == "moe")
    assert all_experts - one == pytest.approx(routed * (1 - c.experts_per_token / c.num_experts))
    checkpoint.close()


def test_attention_is_counted_chunk_by_chunk():
    checkpoint = open_checkpoint(FIXTURE)
    c = checkpoint.config
    layers = [(x.chunked, c.chunk) for x in c.layers]
    pairs = sum(p % n + 1 if chunked else p + 1 for p in range(5, 12) for chunked, n in layers)
    assert work.attention_ops(c, 5, 7) == 4 * c.num_heads * c.head_size * pairs
    checkpoint.close()
