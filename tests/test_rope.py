"""RoPE scaled as files say it gives transformers' logits: from a folder, through GGUF and back, over both op sets.

One tiny random Llama is saved by transformers; each case rewrites the keys of its config.json and is read by both. Its
weights are large, and its text is four times as long as the original context, so that another rule, a dropped factor
or a swapped key is far outside of the tolerance (`test_each_case_is_told_from_no_scaling` holds that).
"""

import functools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import herd
from helpers import OP_SETS, TINY_DENSE, hf_folder, op_set
from herd.batch import packed
from herd.checkpoint import open_checkpoint
from herd.config import DynamicScaling, LinearScaling, Llama4Config, RopeDivisors, RopeScaling, YarnScaling
from herd.config.gguf import from_gguf
from herd.config.hf import from_hf, to_hf
from herd.convert import convert
from herd.errors import BadConfig, UsageError
from herd.model import forward, place_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONTEXT, ORIGINAL = 256, 64
IDS = np.random.default_rng(5).integers(0, 96, CONTEXT)
BASE = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": CONTEXT,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "short_factor": [1.0 + m / 4 for m in range(16)], "factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip

SCALED: dict[str, dict[str, Any]] = {
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "linear by its old name": {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "linear below 1": {"rope_scaling": {"type": "linear", "factor": 0.5}},
    "llama3": {"rope_scaling": LLAMA3},
    "yarn": {"rope_scaling": YARN},
    "yarn by its old name": {"rope_scaling": {**YARN, "type": "yarn", "finetuned": True}},
    "yarn, attention_factor": {"rope_scaling": {**YARN, "attention_factor": 1.5}},
    "yarn, attention_factor 1": {"rope_scaling": {**YARN, "attention_factor": 1.0}},
    "yarn, mscale": {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.9}},
    "yarn, mscale alone": {"rope_scaling": {**YARN, "mscale": 0.7}},
    "yarn, mscale of no effect": {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0}},
    "yarn, betas": {"rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 0.25}},
    "yarn, betas in one dimension": {"rope_scaling": {**YARN, "beta_fast": 4, "beta_slow": 4, "truncate": False}},
    "yarn, betas the wrong way": {"rope_scaling": {**YARN, "beta_fast": 1, "beta_slow": 8}},
    "yarn, not truncated": {"rope_scaling": {**YARN, "truncate": False, "beta_fast": 5.0}},
    "yarn, no original length": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "yarn, original length outside": {
        "rope_scaling": {"type": "yarn", "factor": 4.0}, "original_max_position_embeddings": ORIGINAL // 2,
    },
    "yarn, factor of null": {"rope_scaling": {**YARN, "factor": None}},
    "yarn of factor 1 with attention": {"rope_scaling": {**YARN, "factor": 1.0, "attention_factor": 1.25}},
    "longrope, one list": {"rope_scaling": {**LONG, "long_factor": LONG["short_factor"]}},
    "longrope, attention_factor": {
        "rope_scaling": {**LONG, "long_factor": LONG["short_factor"], "attention_factor": 0.8}
    },
    "longrope up to its original length": {
        "rope_scaling": {**LONG, "long_factor": [9.0] * 16, "original_max_position_embeddings": CONTEXT}
    },
    "rope_parameters": {"rope_parameters": {**YARN, "rope_theta": 50000.0}},
    "rope_parameters beside rope_theta": {
        "rope_parameters": {"rope_type": "linear", "factor": 3.0}, "rope_theta": 777.0,
    },
    "rope_scaling before rope_parameters": {
        "rope_scaling": {"type": "linear", "factor": 3.0}, "rope_parameters": {**YARN, "rope_theta": 50000.0},
    },
    "another base": {"rope_theta": 500.0},
}  # fmt: skip
PLAIN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "nulls": {"rope_scaling": None, "rope_parameters": None},
    "default": {"rope_scaling": {"rope_type": "default"}},
    "linear of factor 1": {"rope_scaling": {"type": "linear", "factor": 1}},
    "yarn of factor 1": {"rope_scaling": {**YARN, "factor": 1.0}},
    "llama3 of factor 1": {"rope_scaling": {**LLAMA3, "factor": 1.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
}
CASES = SCALED | PLAIN


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as transformers saves it."""
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**BASE, initializer_range=0.25))
    folder = tmp_path_factory.mktemp("rope") / "saved"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return written(saved, tmp_path / "hf", CASES[request.param])


def written(saved: Path, folder: Path, keys: dict[str, Any]) -> Path:
    """The model with these keys in place of those about RoPE."""
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps({**config, **keys}))
    return folder


@functools.cache
def theirs(folder: Path) -> Any:
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor(IDS[None])).logits[0].numpy()


def ours(path: Path, ops_name: str) -> Any:
    ops = op_set(ops_name)
    with open_checkpoint(path) as checkpoint:
        c = checkpoint.config
        weights = place_weights(ops, checkpoint.load())
        return ops.numpy(forward(ops, c, weights, IDS, ops.place(packed([len(IDS)], c.chunk))))


def close(got: Any, want: Any) -> None:
    """transformers has angles in float32: at position 255 they are off by up to 255 * 2^-24 radians in each layer."""
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-3 * float(want.std()))


@pytest.mark.parametrize("folder", CASES, indirect=True)
def test_logits_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    want = theirs(folder)
    convert(folder, tmp_path / "m.gguf", "f32")
    convert(tmp_path / "m.gguf", tmp_path / "back", "f32")
    for ops_name in OP_SETS:
        close(ours(folder, ops_name), want)
        close(ours(tmp_path / "m.gguf", ops_name), want)
    close(ours(tmp_path / "back", "native"), want)
    close(theirs(tmp_path / "back"), want)


@pytest.mark.parametrize("folder", SCALED, indirect=True)
def test_each_case_is_told_from_no_scaling(folder: Path, saved: Path) -> None:
    plain, scaled = theirs(saved), theirs(folder)
    assert np.abs(scaled - plain).max() > 0.02 * plain.std()


def test_plain_cases_scale_nothing(saved: Path, tmp_path: Path) -> None:
    for name, keys in PLAIN.items():
        config = open_checkpoint(written(saved, tmp_path / name, keys)).config
        assert config.rope_freqs() == open_checkpoint(saved).config.rope_freqs(), name


@pytest.mark.parametrize("kind", ["full_attention", "chunked_attention"])
def test_rope_parameters_of_one_kind_of_layer_count(kind: str) -> None:
    data = {**BASE, "model_type": "llama", "rope_parameters": {kind: {**YARN, "rope_theta": 5e4}}}
    flat = {**BASE, "model_type": "llama", "rope_parameters": {**YARN, "rope_theta": 5e4}}
    assert from_hf(data) == from_hf(flat)
    both = {"full_attention": YARN, "chunked_attention": YARN}
    assert from_hf({**data, "rope_parameters": both}).rope_scaling == from_hf(flat).rope_scaling


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_type": "su", "factor": 4.0}, "rope_type: got su"),
        ({"type": "ntk", "factor": 4.0}, "rope_type: got ntk"),
        ({"rope_type": "mrope"}, "rope_type: got mrope"),
        ({"factor": 4.0}, "has a factor .4.0. and no rope_type"),
        ({"type": "linear"}, "factor"),
        ({"type": "linear", "factor": 0}, "factor"),
        ({**YARN, "attention_factor": 0.0}, "attention_factor"),
        ({**YARN, "attn_factor": 2.0}, "rope_scaling attn_factor"),
        ({**YARN, "extrapolation_factor": 0.5}, "rope_scaling extrapolation_factor"),
        ({**YARN, "truncate": "no"}, "truncate"),
        ({**YARN, "beta_fast": "x"}, "beta_fast"),
        ({**YARN, "llama_4_scaling_beta": 0.1}, "llama_4_scaling_beta"),
        ({"rope_type": "default", "mrope_section": [1, 2]}, "mrope_section"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"type": "dynamic", "alpha": 1000.0, "factor": 1.0}, "alpha"),
        ({**LONG, "long_factor": [9.0] * 16}, "beyond 64 tokens"),
        ({**LONG, "long_factor": LONG["short_factor"][:3], "short_factor": LONG["short_factor"][:3]}, "divisors"),
        ({"full_attention": YARN, "chunked_attention": {**YARN, "factor": 2.0}}, "differs by kind of layer"),
        ({"full_attention": [1]}, "an object"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(rope: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words) as caught:
        from_hf({**BASE, "model_type": "llama", "rope_scaling": rope})
    assert "\n" not in str(caught.value)


# -- what a GGUF says ---------------------------------------------------------------------------------------------


def gguf(**rope: Any) -> Llama4Config:
    keys = {
        "general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 48,
        "llama.attention.head_count": 3, "llama.attention.head_count_kv": 1, "llama.attention.key_length": 32,
        "llama.attention.value_length": 32, "llama.feed_forward_length": 64, "llama.context_length": CONTEXT,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    divisors = rope.pop("divisors", None)
    keys |= {f"llama.rope.{name}": value for name, value in rope.items()}
    return from_gguf(keys, vocab_size=96, tied=True, rope_divisors=divisors)


def rotary(rope: dict[str, Any] | None) -> tuple[Any, float]:
    """Frequencies and factor of transformers."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    made = LlamaRotaryEmbedding(transformers.LlamaConfig(**BASE, rope_scaling=rope))
    return made.inv_freq.double().numpy(), made.attention_scaling


YARN_KEYS = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": ORIGINAL}


@pytest.mark.parametrize(
    ("keys", "rope", "attention"),
    [
        ({"scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}, 1.0),
        ({"scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}, 1.0),
        ({"scaling.factor": 4.0, "scale_linear": 8.0}, {"rope_type": "linear", "factor": 4.0}, 1.0),
        ({"scaling.type": "linear", "scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}, 1.0),
        ({"scaling.type": "linear"}, None, 1.0),
        ({"scale_linear": 1.0}, None, 1.0),
        ({"scaling.factor": 0.0}, None, 1.0),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None, 1.0),
        ({"scaling.attn_factor": 1.5}, None, 1.5),
        ({"scaling.type": "none", "scaling.attn_factor": 1.5}, None, 1.5),
        (YARN_KEYS, YARN, 1.0),
        ({**YARN_KEYS, "scaling.finetuned": True}, YARN, 1.0),
        ({**YARN_KEYS, "scaling.attn_factor": 1.5}, YARN, 1.5),
        ({**YARN_KEYS, "scaling.yarn_ext_factor": 1.0}, YARN, 1.0),
        ({**YARN_KEYS, "scaling.yarn_attn_factor": 0.1 * np.log(4.0) + 1.0}, YARN, 1.0),
        ({**YARN_KEYS, "scaling.yarn_log_multiplier": 0.0}, YARN, 1.0),
        ({**YARN_KEYS, "scaling.yarn_beta_fast": 8.0, "scaling.yarn_beta_slow": 0.5},
         {**YARN, "beta_fast": 8.0, "beta_slow": 0.5}, 1.0),
        ({"scaling.type": "yarn", "scaling.factor": 4.0}, {**YARN, "original_max_position_embeddings": CONTEXT}, 1.0),
    ],
)  # fmt: skip
def test_keys_of_a_gguf_mean_what_they_mean_to_llama_cpp(
    keys: dict[str, Any], rope: dict[str, Any] | None, attention: float
) -> None:
    freqs, factor = rotary(rope)
    config = gguf(**keys)
    np.testing.assert_allclose(config.rope_freqs(), freqs, rtol=1e-6)
    assert config.rope_attention == pytest.approx(factor * attention, rel=1e-6)


@pytest.mark.parametrize("keys", [{"scale_linear": 4.0}, YARN_KEYS, {"scaling.attn_factor": 1.5}])
def test_divisors_come_on_top_of_the_keys(keys: dict[str, Any]) -> None:
    divisors = [1.0] * 6 + [3.0] * 10
    alone, both = gguf(**keys), gguf(**keys, divisors=divisors)
    np.testing.assert_allclose(both.rope_freqs(), np.array(alone.rope_freqs()) / divisors, rtol=1e-9)
    assert both.rope_attention == alone.rope_attention
    again = from_hf(json.loads(json.dumps(to_hf(both))))
    np.testing.assert_allclose(again.rope_freqs(), both.rope_freqs(), rtol=1e-9)
    assert again.rope_attention == both.rope_attention


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"scaling.type": "longrope"}, "rope.scaling.type: got longrope"),
        ({**YARN_KEYS, "scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor"),
        ({**YARN_KEYS, "scaling.yarn_attn_factor": 2.0}, "yarn_attn_factor"),
        ({"scaling.yarn_attn_factor": 2.0}, "yarn_attn_factor"),
        ({**YARN_KEYS, "scaling.yarn_log_multiplier": 1.0}, "yarn_log_multiplier"),
        ({**YARN_KEYS, "scaling.attn_factor": 0.0}, "attn_factor"),
        ({"scaling.factor": float("nan")}, "scaling.factor"),
        ({"scaling.factor": -2.0}, "scaling.factor"),
        ({"scaling.alpha": 1000.0}, "scaling.alpha"),
        ({"freq_base_swa": 5000.0}, "freq_base_swa"),
        ({"dimension_sections": [1, 2, 3, 4]}, "dimension_sections"),
    ],
)
def test_what_a_gguf_says_and_is_not_computed_is_refused_by_name(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        gguf(**keys)


# -- written ------------------------------------------------------------------------------------------------------


def rules() -> Iterator[Any]:
    yield from (LinearScaling(4.0), YarnScaling(4.0, 64, attention_factor=1.2), RopeScaling(8.0, 1.0, 4.0, 64))
    yield from (YarnScaling(4.0, 64, 8.0, 0.5, False, 1.2), DynamicScaling(4.0))
    yield RopeDivisors(tuple(1.0 + m for m in range(16)), 0.7)


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: type(rule).__name__)
def test_a_rule_is_read_as_it_was_written(rule: Any) -> None:
    config = Llama4Config(2, 48, 3, 1, 32, 96, 64, rope_theta=10000.0, rope_scaling=rule, max_context=CONTEXT)
    assert from_hf(json.loads(json.dumps(to_hf(config)))).rope_scaling == rule


def test_dynamic_scaling_ends_at_the_models_context(saved: Path, tmp_path: Path) -> None:
    """Beyond it every angle changes with the length of the text, which pages of a cache cannot follow."""
    done = convert(written(saved, tmp_path / "hf", PLAIN["dynamic"]), tmp_path / "m.gguf", "f32")
    assert any("dynamic" in note and "256" in note for note in done.notes)
    config = replace(TINY_DENSE, rope_scaling=DynamicScaling(4.0))
    folder = hf_folder(tmp_path / "m", config)
    with herd.load(folder, context=config.max_context, force=True) as model:
        assert model.context == config.max_context
    with pytest.raises(UsageError, match="RoPE scaling is dynamic"):
        herd.load(folder, context=config.max_context + 1, force=True)
