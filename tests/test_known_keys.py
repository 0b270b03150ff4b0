"""Every key that transformers or gguf has for a Llama is on one list, and what is not computed is refused by name."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from helpers import TINY_DENSE, TINY_TEXT
from herd.checkpoint import RandomSource, open_checkpoint, save_hf
from herd.checkpoint.gguf.write import write_gguf
from herd.config import TINY, gguf_keys, hf_keys
from herd.config.gguf_keys import check_gguf
from herd.config.hf import from_hf, to_hf
from herd.config.hf_keys import check_hf
from herd.errors import BadConfig

LISTS = (hf_keys.READ, hf_keys.HARMLESS, hf_keys.NEUTRAL)


def test_no_key_stands_on_two_lists() -> None:
    both = {"partial_rotary_factor", "hidden_act"}
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert set(LISTS[a]) & set(LISTS[b]) <= both
    assert not set(hf_keys.READ_ROPE) & set(hf_keys.NEUTRAL_ROPE)
    for arch in (gguf_keys.READ, gguf_keys.READ_LLAMA4):
        assert not arch & gguf_keys.NEUTRAL.keys()
    assert not gguf_keys.HARMLESS & gguf_keys.NEUTRAL.keys()


def test_every_attribute_of_transformers_configs_is_on_a_list() -> None:
    transformers = pytest.importorskip("transformers")
    llama = {**transformers.LlamaConfig().to_dict(), "model_type": "llama"}
    llama4 = transformers.Llama4Config().to_dict()
    mistral = {**transformers.MistralConfig().to_dict(), "model_type": "mistral"}
    for data in (llama, mistral, llama4, llama4["text_config"]):
        assert check_hf(json.loads(json.dumps(data))) == []
    whole = vars(transformers.LlamaConfig()).keys() | vars(transformers.Llama4TextConfig()).keys()
    own = {key for key in whole if not key.startswith("_")} - {"ignore_keys_at_rope_validation"}
    assert sorted(own - set().union(*LISTS)) == []


def test_every_part_of_transformers_rope_parameters_is_on_a_list() -> None:
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    lists = hf_keys.READ_ROPE | hf_keys.NEUTRAL_ROPE.keys() | hf_keys.HARMLESS_ROPE
    assert sorted(utils.RopeParameters.__annotations__.keys() - lists) == []


DECODERS = (
    "mistral", "qwen2", "qwen3", "gemma", "gemma2", "granite", "cohere", "olmo", "olmo2", "phi3", "stablelm",
    "deepseek_v3", "ministral3", "smollm3", "nemotron", "exaone4", "gpt_oss", "glm4", "helium",
)  # fmt: skip
"""Families whose configs people rename to "llama": what they compute and a Llama does not is refused."""


def test_keys_of_other_decoders_are_known() -> None:
    """Each key of a family's config is on a list, or says by its name that it is about another architecture's parts."""
    transformers = pytest.importorskip("transformers")
    unknown: dict[str, set[str]] = {}
    for family in DECODERS:
        if family not in transformers.CONFIG_MAPPING:
            continue
        data = transformers.CONFIG_MAPPING[family]().to_dict()
        for key in data.keys() - set().union(*LISTS):
            unknown.setdefault(key, set()).add(family)
    assert unknown == {}


def dense(**changes: object) -> dict[str, Any]:
    return {**to_hf(TINY_DENSE), **changes}


def llama4(**changes: object) -> dict[str, Any]:
    return {**to_hf(TINY_TEXT), **changes}


OTHER = {  # a value of each key that changes what is computed
    "use_bias": True, "hidden_act": "gelu", "sliding_window": 16,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0,
    "attention_multiplier": 0.01, "partial_rotary_factor": 0.5, "rope_interleaved": True, "rope_interleave": True,
    "query_pre_attn_scalar": 224, "clip_qkv": 8.0, "logit_scale": 0.06, "scale_emb": 12, "scale_depth": 1.4,
    "use_sliding_window": True, "qk_layernorm": True, "is_encoder_decoder": True, "n_routed_experts": 64,
    "num_experts": 8, "rope_ratio": 2, "use_rope": False, "is_causal": False, "attention_out_bias": True,
    "position_embedding_type": "alibi",
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_a_key_that_changes_the_arithmetic_is_refused_by_its_name(key: str) -> None:
    for data in (dense(**{key: OTHER[key]}), llama4(**{key: OTHER[key]})):
        with pytest.raises(BadConfig, match=rf"\b{key}\b"):
            from_hf(data)


def test_every_such_key_is_refused_with_any_value_but_its_own() -> None:
    for key in hf_keys.NEUTRAL:
        for data in (dense(), llama4()):
            with pytest.raises(BadConfig, match=key):
                from_hf({**data, key: "of another kind"})
            for value in hf_keys.NEUTRAL[key]:
                from_hf({**data, key: value})
    with pytest.raises(BadConfig, match="mlp_bias"):
        from_hf(llama4(mlp_bias=True))
    for key in ("attention_bias", "mlp_bias"):
        with pytest.raises(BadConfig, match=key):
            from_hf(dense(model_type="mistral", **{key: True}))
    for key in hf_keys.DENSE:
        with pytest.raises(BadConfig, match=key):
            from_hf(dense(**{key: [0] if "layers" in key else 3}))


def test_values_that_change_nothing_load() -> None:
    for changes in ({"sliding_window": 1 << 20}, {"pruned_heads": {}}, {"layer_types": ["full_attention"] * 4}):
        assert from_hf(dense(**changes)) == from_hf(dense())
    for types in (["sliding_attention"] * 4, "full_attention", 7):
        with pytest.raises(BadConfig, match="layer_types"):
            from_hf(dense(layer_types=types))


def test_a_key_on_no_list_loads_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT))
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "frobnicate": 1, "torch_dtype": "float32"}))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            open_checkpoint(folder).close()
    told = [line for line in caplog.messages if "frobnicate" in line]
    assert len(told) == 1
    assert "torch_dtype" not in told[0]
    caplog.clear()
    written = write_gguf(tmp_path / "m.gguf", TINY_DENSE, RandomSource(TINY_DENSE), {"llama.frobnicate": 1, "x.y": 2})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            open_checkpoint(written.path).close()
    assert len([line for line in caplog.messages if "llama.frobnicate, x.y" in line]) == 1


def test_own_files_have_known_keys_only() -> None:
    for config in (TINY, TINY_TEXT, TINY_DENSE):
        assert check_hf(to_hf(config)) == []


@pytest.mark.parametrize("arch", ["llama", "llama4"])
def test_every_key_constant_of_gguf_is_on_a_list(arch: str) -> None:
    keys = pytest.importorskip("gguf.constants").Keys
    names = {
        value.format(arch=arch)
        for part in (
            keys.LLM,
            keys.Attention,
            keys.Attention.Indexer,
            keys.Rope,
            keys.General,
            keys.Tokenizer,
            keys.Split,
        )
        for constant, value in vars(part).items()
        if constant.isupper() and not {"{id}", "{dense}", "{name}"} & set(re.findall(r"{\w+}", value))
    }
    written = {name for name in names if "." in name}
    neutral = {**gguf_keys.NEUTRAL, **gguf_keys.NEUTRAL_LLAMA, **gguf_keys.NEUTRAL_LLAMA4}
    values = {name: neutral.get(name.removeprefix(f"{arch}."), (None,))[0] for name in written}
    assert check_gguf(values, arch) == []


def test_every_such_key_of_a_gguf_is_refused_with_another_value() -> None:
    for key in gguf_keys.NEUTRAL:
        for arch in ("llama", "llama4"):
            with pytest.raises(BadConfig, match=key):
                check_gguf({f"{arch}.{key}": 7.5}, arch)
    same = {"llama.rope.freq_base_swa": 5e5, "llama.rope.freq_base": 5e5, "llama.swiglu_clamp_exp": [0.0, 0.0]}
    assert check_gguf(same, "llama") == []
