"""config.json in every spelling, hostile numbers, and the sums that the published models are known by."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.config import BEHEMOTH, CRIA, GUARD, MAVERICK, SCOUT, TINY, Llama4Config, RopeDivisors, RopeScaling
from herd.config.hf import from_hf, to_hf
from herd.errors import BadConfig
from herd.weights import count

# The keys that matter of Scout's published config.json (model card and public mirrors, April 2025).
SCOUT_TEXT = {
    "model_type": "llama4_text",
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "bos_token_id": 200000,
    "eos_token_id": [200001, 200007, 200008],
    "pad_token_id": 200018,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "interleave_moe_layer_step": 1,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "max_position_embeddings": 10485760,
    "no_rope_layers": [],
    "num_attention_heads": 40,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "num_local_experts": 16,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 1.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_qk_norm": True,
    "vocab_size": 202048,
}
SCOUT_JSON = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "model_type": "llama4",
    "boi_token_index": 200080,
    "eoi_token_index": 200081,
    "image_token_index": 200092,
    "text_config": SCOUT_TEXT,
    "vision_config": {
        "model_type": "llama4_vision_model",
        "hidden_act": "gelu",
        "hidden_size": 1408,
        "image_size": 336,
        "intermediate_size": 5632,
        "norm_eps": 1e-05,
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 34,
        "patch_size": 14,
        "pixel_shuffle_ratio": 0.5,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "rope_theta": 10000,
        "vision_output_dim": 4096,
    },
}


def with_text(**changes: object) -> dict[str, object]:
    return {**SCOUT_JSON, "text_config": {**SCOUT_TEXT, **changes}}


def same_model(a: Llama4Config, b: Llama4Config) -> bool:
    """Equal as functions: patterns may be given by list or by interval."""
    plain = {"moe_interleave": 0, "nope_interval": 0, "assumed": ()}
    patterns = {"moe_pattern": None, "rope_pattern": None, "chunk_pattern": None}
    return a.layers == b.layers and replace(a, **plain, **patterns) == replace(b, **plain, **patterns)


def test_published_scout_is_the_preset() -> None:
    assert same_model(from_hf(SCOUT_JSON), SCOUT)


def test_published_maverick_is_the_preset() -> None:
    changes = {"num_local_experts": 128, "interleave_moe_layer_step": 2, "use_qk_norm": False, "rope_scaling": None}
    assert same_model(from_hf(with_text(**changes, max_position_embeddings=1048576)), MAVERICK)


def test_parameter_counts_of_the_releases() -> None:
    assert count(SCOUT).total == 108_641_793_536
    assert count(MAVERICK).total == 401_583_781_376
    assert count(GUARD).total == 12_001_097_216
    assert count(SCOUT).active == 17_172_894_720
    assert count(MAVERICK).active == 17_184_691_200


def test_behemoth_says_what_it_assumes() -> None:
    assert 1.9e12 < count(BEHEMOTH).total < 2.1e12
    assert 280e9 < count(BEHEMOTH).active < 295e9
    assert "num_layers" in BEHEMOTH.assumed
    assert not SCOUT.assumed


def test_v5_spelling_means_the_same() -> None:
    rope = {**SCOUT_TEXT["rope_scaling"], "rope_theta": 500000.0}
    text = {k: v for k, v in SCOUT_TEXT.items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")}
    data = {**SCOUT_JSON, "text_config": {**text, "rope_parameters": rope, "dtype": "bfloat16"}}
    assert from_hf(data) == from_hf(SCOUT_JSON)


def test_old_rope_type_key_is_read() -> None:
    rope = {k: v for k, v in SCOUT_TEXT["rope_scaling"].items() if k != "rope_type"}
    assert from_hf(with_text(rope_scaling={**rope, "type": "llama3"})).rope_scaling == SCOUT.rope_scaling


def test_text_only_config_has_no_vision() -> None:
    assert same_model(from_hf(SCOUT_TEXT), replace(SCOUT, vision=None))


def test_empty_lists_mean_different_things() -> None:
    assert [i for i, x in enumerate(from_hf(with_text(no_rope_layers=[])).layers) if not x.rope][:2] == [
        3,
        7,
    ]
    assert not any(x.moe for x in from_hf(with_text(moe_layers=[])).layers)
    assert all(x.moe for x in from_hf(with_text(moe_layers=None)).layers)


def test_lists_win_over_intervals() -> None:
    c = from_hf(with_text(moe_layers=[1, 5], no_rope_layers=[1] * 47 + [0]))
    assert [i for i, x in enumerate(c.layers) if x.moe] == [1, 5]
    assert [i for i, x in enumerate(c.layers) if not x.rope] == [47]


def test_null_chunk_is_full_attention_and_null_interval_is_rope_everywhere() -> None:
    c = from_hf(with_text(attention_chunk_size=None, no_rope_layer_interval=None))
    assert c.chunk is None
    assert not any(x.chunked for x in c.layers)
    assert all(x.rope for x in c.layers)


def test_temperature_may_be_a_number_and_is_on_when_absent() -> None:
    assert from_hf(with_text(attn_temperature_tuning=4)).temperature_tuning
    assert from_hf(SCOUT_JSON).temperature_tuning
    assert not from_hf(with_text(attn_temperature_tuning=0)).temperature_tuning


@pytest.mark.parametrize("preset", [SCOUT, MAVERICK, CRIA, TINY], ids=["scout", "maverick", "cria", "tiny"])
def test_to_hf_and_back(preset: Llama4Config) -> None:
    data = json.loads(json.dumps(to_hf(preset)))
    assert same_model(from_hf(data), preset)


def test_guard_goes_to_hf_with_a_chunk_longer_than_any_text() -> None:
    back = from_hf(to_hf(GUARD))
    assert back.chunk == GUARD.max_context
    assert not any(x.moe for x in back.layers)


def test_dense_llama_to_hf_and_back() -> None:
    dense = Llama4Config(4, 64, 4, 2, 32, 320, 160, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), tied_embeddings=True)
    data = to_hf(dense)
    assert data["model_type"] == "llama"
    assert from_hf(data) == dense


@pytest.mark.parametrize("scaling", [None, SCOUT.rope_scaling, RopeScaling(8.0, 1.0, 4.0, 8192)])
def test_rope_frequencies_are_those_of_transformers(scaling: RopeScaling | None) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    c = replace(SCOUT, rope_scaling=scaling)
    rope = {"rope_theta": c.rope_theta, "rope_type": "default"}
    if scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=5120, num_attention_heads=40, head_dim=128, rope_parameters=rope)
    ).inv_freq
    ours = torch.tensor(c.rope_freqs(), dtype=torch.float64)
    torch.testing.assert_close(ours, theirs.double(), rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    "scaling", [SCOUT.rope_scaling, RopeScaling(8.0, 1.0, 4.0, 8192), RopeScaling(4.0, 1.0, 1.0, 64)]
)
def test_divisors_find_their_scaling_again(scaling: RopeScaling) -> None:
    c = replace(SCOUT, rope_scaling=scaling)
    plain = replace(c, rope_scaling=None).rope_freqs()
    divisors = RopeDivisors(tuple(p / f for p, f in zip(plain, c.rope_freqs(), strict=True)))
    back = from_hf(to_hf(replace(c, rope_scaling=divisors)))
    assert back.rope_freqs() == pytest.approx(c.rope_freqs(), rel=1e-5)


BAD_TEXT = {
    "num_local_experts": [-1, 10**9, 2.5, "16"],
    "num_hidden_layers": [0, -1, 10**9, None, "48", True],
    "num_attention_heads": [0, 7, 10**9],
    "num_key_value_heads": [0, 3, -8],
    "hidden_size": [0, 2**40, "x"],
    "head_dim": [127, -2, "x"],
    "vocab_size": [0, -5, 2**62],
    "rope_theta": [0, -1.0, float("nan"), float("inf"), "big", 10**400],
    "rms_norm_eps": [0, -1e-5, float("nan"), 5, "small"],
    "rope_scaling": ["llama3", [1], {"rope_type": "yarn"}, {"rope_type": "llama3"}],
    "attention_chunk_size": [0, -1, 1.5, "8192"],
    "no_rope_layers": [[1], ["a"] * 48, 5, [[1]] * 48],
    "moe_layers": [5, [48], [-1], ["a"], {"a": 1}],
    "layer_types": [["full_attention"], ["sliding_attention"] * 48, [[]] * 48, 7],
    "interleave_moe_layer_step": [-1, "1"],
    "num_experts_per_tok": [0, 17, "1"],
    "attn_scale": [float("nan"), -1.0, "0.1"],
    "floor_scale": [0, float("nan"), float("inf"), "x"],
    "hidden_act": ["gelu"],
    "attention_bias": ["yes", 0.5, []],
    "mlp_bias": [True],
    "eos_token_id": [-1, ["a"], 2**70],
    "intermediate_size": [0, None],
    "max_position_embeddings": [0, 2**63],
    "use_qk_norm": ["false", []],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD_TEXT.items() for v in values])
def test_hostile_numbers_are_one_line_of_bad_config(key: str, value: object) -> None:
    with pytest.raises(BadConfig) as caught:
        from_hf(with_text(**{key: value}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", 13),
        ("num_attention_heads", 15),
        ("pixel_shuffle_ratio", 0),
        ("pixel_shuffle_ratio", 1e-300),
        ("hidden_size", None),
        ("rope_parameters", []),
        ("norm_eps", 0),
        ("num_hidden_layers", 10**12),
    ],
)
def test_hostile_vision_numbers(key: str, value: object) -> None:
    with pytest.raises(BadConfig):
        from_hf({**SCOUT_JSON, "vision_config": {**SCOUT_JSON["vision_config"], key: value}})


@pytest.mark.parametrize("kind", ["mllama", "qwen3", None, 7, ["llama"]])
def test_another_architecture_is_refused_by_name(kind: object) -> None:
    with pytest.raises(BadConfig, match="model_type"):
        from_hf({**SCOUT_JSON, "model_type": kind})


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=4), x, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(SCOUT_TEXT)), JUNK, max_size=3),
    st.dictionaries(st.sampled_from(sorted(SCOUT_JSON["vision_config"])), JUNK, max_size=2),
)
def test_any_values_give_a_config_or_a_typed_error(text: dict[str, object], vision: dict[str, object]) -> None:
    data = {**with_text(**text), "vision_config": {**SCOUT_JSON["vision_config"], **vision}}
    for candidate in (data, *({**data["text_config"], "model_type": kind} for kind in ("llama", "mistral"))):
        with contextlib.suppress(BadConfig):  # anything else is a failure
            assert from_hf(candidate).num_layers >= 1
