"""Checkpoints as they are published: each form of config.json gives transformers' logits, as a folder and as the GGUF
made of it, or is refused by its name.

Spellings are made here after public models; sizes are tiny, weights random, written by transformers, which reads the
same config.json.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpe_folder import SPECIALS, write_tokenizer
from herd.batch import packed
from herd.checkpoint import open_checkpoint
from herd.convert import convert
from herd.errors import BadConfig, UsageError
from herd.model import forward, place_weights
from herd.ops.native import NativeOps
from herd.text.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = np.arange(3, 43) * 7 % 128
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 128,
}  # fmt: skip
OLD = {"hidden_act": "silu", "initializer_range": 0.02, "use_cache": True, "tie_word_embeddings": False}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SIZES, **OLD}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **SIZES, **OLD, "num_key_value_heads": 1}
SCALED = {
    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 16,
    "rope_type": "llama3",
}  # fmt: skip
LLAMA3 = {
    **LLAMA, "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 100, "eos_token_id": 101,
    "max_position_embeddings": 8192, "num_key_value_heads": 1, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "rope_theta": 500000.0, "torch_dtype": "bfloat16", "transformers_version": "4.40.0.dev0",
}  # fmt: skip
LLAMA31 = {**LLAMA3, "eos_token_id": [101, 102, 103], "max_position_embeddings": 131072, "mlp_bias": False,
           "rope_scaling": SCALED}  # fmt: skip
TEXT4 = {
    "_attn_implementation_autoset": True, "attention_bias": False, "attention_chunk_size": 16,
    "attention_dropout": 0.0, "bos_token_id": 100, "eos_token_id": [101, 102], "for_llm_compressor": False,
    "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "interleave_moe_layer_step": 1, "intermediate_size": 64, "intermediate_size_mlp": 96,
    "max_position_embeddings": 4096, "model_type": "llama4_text", "no_rope_layers": [], "num_attention_heads": 2,
    "num_experts_per_tok": 1, "num_hidden_layers": 4, "num_key_value_heads": 1, "num_local_experts": 4,
    "output_router_logits": False, "pad_token_id": 105, "rms_norm_eps": 1e-05, "rope_scaling": SCALED,
    "rope_theta": 500000.0, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0, "torch_dtype": "bfloat16",
    "use_cache": True, "use_qk_norm": True, "vocab_size": 128,
}  # fmt: skip
VISION4 = {
    "attention_dropout": 0.0, "hidden_act": "gelu", "hidden_size": 64, "image_size": 28, "initializer_range": 0.02,
    "intermediate_size": 256, "model_type": "llama4_vision_model", "multi_modal_projector_bias": False,
    "norm_eps": 1e-05, "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 1, "patch_size": 14,
    "pixel_shuffle_ratio": 0.5, "projector_dropout": 0.0, "projector_input_dim": 64, "projector_output_dim": 64,
    "rope_theta": 10000, "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
    "vision_output_dim": 64,
}  # fmt: skip


def llama4(text: dict[str, Any], **top: Any) -> dict[str, Any]:
    """A whole Llama 4, image tokens inside its small vocabulary."""
    return {
        "architectures": ["Llama4ForConditionalGeneration"], "boi_token_index": 110, "eoi_token_index": 111,
        "image_token_index": 112, "model_type": "llama4", "text_config": text, "vision_config": VISION4,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.51.0.dev0", **top,
    }  # fmt: skip


def without(form: dict[str, Any], *keys: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in form.items() if key not in keys} | more


FORMS: dict[str, dict[str, Any]] = {
    "Llama 1": {
        **LLAMA, "architectures": ["LLaMAForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": -1,
        "max_sequence_length": 2048, "rms_norm_eps": 1e-06, "torch_dtype": "float16",
        "transformers_version": "4.27.0.dev0",
    },
    "Llama 2": {
        **LLAMA, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 4096, "num_key_value_heads": 2,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "torch_dtype": "float16",
    },
    "Llama 2, few heads of keys": {**LLAMA, "num_key_value_heads": 1, "rms_norm_eps": 1e-05, "pretraining_tp": 2},
    "Llama 3": LLAMA3,
    "Llama 3.1": LLAMA31,
    "Llama 3.2": {**LLAMA31, "head_dim": 32, "tie_word_embeddings": True, "rope_scaling": {**SCALED, "factor": 32.0}},
    "Llama 3.3, unsloth": {**LLAMA31, "pad_token_id": 105, "unsloth_version": "2024.11.11", "unsloth_fixed": True},
    "CodeLlama": {**LLAMA, "max_position_embeddings": 16384, "rope_theta": 1000000, "num_key_value_heads": 2},
    "Vicuna": {**LLAMA, "_name_or_path": "vicuna-7b-v1.5", "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6},
    "Vicuna, 16k": {**LLAMA, "rope_scaling": {"factor": 4.0, "type": "linear"}, "max_sequence_length": 16384},
    "TinyLlama": {**LLAMA, "attention_bias": False, "num_key_value_heads": 1, "rope_theta": 10000.0},
    "SmolLM2": {
        **LLAMA, "is_llama_config": True, "rope_interleaved": False, "rope_theta": 100000, "tie_word_embeddings": True,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "num_key_value_heads": 1, "pad_token_id": 2,
    },
    "R1 distilled": {**LLAMA31, "eos_token_id": 101, "head_dim": 32, "_name_or_path": "deepseek-ai/R1"},
    "Yi": {**LLAMA, "pad_token_id": 0, "rope_theta": 5000000.0, "num_key_value_heads": 1, "rms_norm_eps": 1e-05},
    "Hermes": {**LLAMA31, "eos_token_id": 101, "dtype": "bfloat16", "use_cache": False},
    "Tulu": without(LLAMA31, "torch_dtype", eos_token_id=101, vocab_size=136),
    "InternLM as a Llama": {**LLAMA, "attention_bias": True, "num_key_value_heads": 1, "rope_theta": 1000000},
    "biases throughout": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "yarn": {
        **LLAMA, "max_position_embeddings": 256,
        "rope_scaling": {"factor": 16.0, "finetuned": True, "original_max_position_embeddings": 16, "type": "yarn"},
    },
    "dynamic": {**LLAMA, "rope_scaling": {"factor": 2.0, "type": "dynamic"}},
    "transformers 5": without(
        LLAMA31, "rope_theta", "rope_scaling", "torch_dtype", dtype="bfloat16", head_dim=32,
        rope_parameters={**SCALED, "rope_theta": 500000.0},
    ),
    "transformers 5, plain RoPE": without(
        LLAMA, dtype="float32", rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}
    ),
    "sizes alone": {"model_type": "llama", **SIZES},
    "nulls": {
        **LLAMA, "head_dim": None, "num_key_value_heads": None, "rope_scaling": None, "pad_token_id": None,
        "bos_token_id": None, "eos_token_id": None, "pretraining_tp": None,
    },
    "heads wider than the model": {**LLAMA, "head_dim": 64},
    "swish": {**LLAMA, "hidden_act": "swish"},
    "Mistral v0.1": {
        **MISTRAL, "max_position_embeddings": 64, "sliding_window": 40, "rope_theta": 10000.0, "rms_norm_eps": 1e-05,
    },
    "Mistral v0.3": {
        **MISTRAL, "max_position_embeddings": 32768, "sliding_window": None, "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-05, "attention_dropout": 0.0,
    },
    "Mistral Nemo": {**MISTRAL, "head_dim": 64, "max_position_embeddings": 131072, "sliding_window": None},
    "Zephyr": {**MISTRAL, "max_position_embeddings": 32768, "sliding_window": 4096, "pad_token_id": 2},
    "Mistral, sizes alone": {"model_type": "mistral", **SIZES, "num_attention_heads": 8, "head_dim": 32},
    "Mistral, transformers 5": without(
        MISTRAL, dtype="bfloat16", sliding_window=None, head_dim=32,
        rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"},
    ),
    "Scout": llama4(TEXT4),
    "Scout, transformers 5": llama4(
        without(TEXT4, "rope_scaling", "rope_theta", "torch_dtype", "no_rope_layers", dtype="bfloat16",
                rope_parameters={**SCALED, "rope_theta": 500000.0}, no_rope_layers=[1, 1, 1, 0],
                moe_layers=[0, 1, 2, 3], layer_types=[*["chunked_attention"] * 3, "full_attention"],
                attn_scale=0.1, floor_scale=8192, attn_temperature_tuning=True),
    ),
    "Maverick": llama4({
        **TEXT4, "interleave_moe_layer_step": 2, "use_qk_norm": False, "rope_scaling": None, "num_local_experts": 8,
    }),
    "Guard 4": llama4({
        **TEXT4, "moe_layers": [], "num_local_experts": 0, "attention_chunk_size": None, "use_qk_norm": False,
        "attn_temperature_tuning": 0, "no_rope_layers": [1, 1, 1, 1], "intermediate_size": 96,
    }),
    "Scout, tied outside alone": llama4(TEXT4, tie_word_embeddings=True),
    "Scout, tied inside": llama4({**TEXT4, "tie_word_embeddings": True}),
    "Scout's text alone": {**TEXT4, "architectures": ["Llama4ForCausalLM"]},
    "Llama 4 with biases": {**TEXT4, "architectures": ["Llama4ForCausalLM"], "attention_bias": True},
    "Llama 4, tied": {**TEXT4, "architectures": ["Llama4ForCausalLM"], "tie_word_embeddings": True},
    "Llama 4, early temperature": {**TEXT4, "floor_scale": 8, "attn_scale": 0.3, "attn_temperature_tuning": 4},
    "Llama 4, keys with defaults left out": without(
        TEXT4, "intermediate_size_mlp", "no_rope_layers", "use_qk_norm", "interleave_moe_layer_step", "rms_norm_eps",
        "num_experts_per_tok", "rope_theta", "rope_scaling", "attention_bias", "max_position_embeddings",
    ),
}  # fmt: skip

NOT_GGUF = {
    "Maverick": "qk_norm", "Guard 4": "which layers have experts", "Llama 4 with biases": "attention_bias",
}  # fmt: skip
"""What llama.cpp's `llama4` has no key for, at these sizes."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Granite": ({**LLAMA, "model_type": "granite"}, "model_type: got granite"),
    "Granite called a Llama": ({**LLAMA, "residual_multiplier": 0.22}, "residual_multiplier"),
    "InternLM": ({**LLAMA, "model_type": "internlm", "bias": True}, "model_type: got internlm"),
    "InternLM called a Llama": ({**LLAMA, "bias": True}, "bias"),
    "Qwen": ({**LLAMA, "model_type": "qwen2"}, "model_type: got qwen2"),
    "Llama 3.2 with vision": ({"model_type": "mllama", "text_config": LLAMA}, "model_type: got mllama"),
    "Ministral": ({**MISTRAL, "model_type": "ministral3"}, "model_type: got ministral3"),
    "Mixtral": ({**MISTRAL, "model_type": "mixtral", "num_local_experts": 8}, "model_type: got mixtral"),
    "a Llama with a window": ({**LLAMA, "sliding_window": 16}, "sliding_window"),
    "a Llama of experts": ({**LLAMA, "num_local_experts": 8}, "num_local_experts"),
    "another RoPE": ({**LLAMA, "rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type: got su"),
    "no sizes": ({"model_type": "llama"}, "has no"),
    "Llama 4 with biases in its MLP": ({**TEXT4, "mlp_bias": True}, "mlp_bias"),
}


def written(form: dict[str, Any], folder: Path) -> Any:
    """The model that transformers makes of a config.json, saved beside it; its logits."""
    path = folder / "config.json"
    path.write_text(json.dumps(with_true(form)))
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForImageTextToText if "text_config" in form else transformers.AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, values in model.named_parameters():
            values.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.15)
    model.save_pretrained(folder)
    path.write_text(json.dumps(form))
    text = getattr(model, "language_model", model)  # 5.24.0's whole Llama 4 fails where there is no image
    with torch.no_grad():
        return text(torch.tensor(IDS[None]), use_cache=False).logits[0].numpy()


def with_true(form: dict[str, Any]) -> dict[str, Any]:
    """A config.json with a flag where older files have a number, which transformers took once."""
    if "text_config" in form:
        return {**form, "text_config": with_true(form["text_config"])}
    key = "attn_temperature_tuning"
    return {**form, key: bool(form[key])} if key in form else form


@pytest.mark.parametrize("name", FORMS)
def test_a_published_form_gives_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    want = written(FORMS[name], tmp_path / "hf")
    paths = [tmp_path / "hf"]
    if name in NOT_GGUF:
        with pytest.raises(UsageError, match=f"GGUF cannot say {NOT_GGUF[name]}"):
            convert(paths[0], tmp_path / "m.gguf")
    else:
        paths.append(convert(paths[0], tmp_path / "m.gguf").path)
    ops = NativeOps(1)
    for path in paths:
        with open_checkpoint(path) as checkpoint:
            c = checkpoint.config
            assert len(IDS) <= c.max_context
            weights = place_weights(ops, checkpoint.load())
            got = ops.numpy(forward(ops, c, weights, IDS, ops.place(packed([len(IDS)], c.chunk))))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * float(want.std()))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_another_model_is_refused_by_the_name_of_what_differs(name: str, tmp_path: Path) -> None:
    form, says = REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(form))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadConfig, match=says):
        open_checkpoint(tmp_path)


def test_a_window_ends_the_context_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where keys are left out, by transformers' defaults."""
    windows = {"Mistral v0.1": 40, "Zephyr": 4096, "Mistral, sizes alone": 4096}
    for name in (name for name, form in FORMS.items() if form["model_type"] == "mistral"):
        folder = tmp_path / name
        folder.mkdir()
        written(FORMS[name], folder)
        config = transformers.AutoConfig.from_pretrained(folder)
        caplog.clear()
        with open_checkpoint(folder) as checkpoint:
            most = min(config.max_position_embeddings, config.sliding_window or config.max_position_embeddings)
            assert checkpoint.config.max_context == most == windows.get(name, most)
        assert any("looks back over" in line for line in caplog.messages) == (name in windows)


# -- tokenizers -------------------------------------------------------------------------------------------------------

BOS, END, TURN = SPECIALS
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": TURN}
ADDED = {"special": True, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
OBJECT = {"__type": "AddedToken", "content": BOS, **ADDED}
TOKENIZERS: dict[str, tuple[str, dict[str, Any] | None, dict[str, Any]]] = {
    # name -> how texts are split, tokenizer_config.json, special_tokens_map.json
    "Llama 3": ("llama-bpe", {**FAST, "model_input_names": ["input_ids"], "model_max_length": 8192}, {}),
    "Llama 4": ("llama4", {**FAST, "clean_up_tokenization_spaces": False, "processor_class": "Llama4Processor"}, {}),
    "transformers 5": ("llama-bpe", {**FAST, "tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}, {}),
    "tokens as objects": ("llama-bpe", {**FAST, "bos_token": OBJECT, "pad_token": {**OBJECT, "content": END}}, {}),
    "a map beside it": ("llama-bpe", without(FAST, "bos_token"), {"bos_token": OBJECT, "eos_token": TURN}),
    "many templates": ("llama-bpe", {**FAST, "chat_template": [{"name": "default", "template": "{{ 1 }}"}]}, {}),
    "SmolLM2": ("smollm", {**FAST, "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}, {}),
    "Mistral Nemo": ("tekken", {**FAST, "add_bos_token": True, "add_prefix_space": False}, {}),
    "R1 distilled": ("llama-bpe", {**FAST, "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}, {}),
    "Hermes": ("llama-bpe", {**FAST, "eos_token": END, "padding_side": "left", "extra_special_tokens": {}}, {}),
}  # fmt: skip
WORDS = [
    "the quick brown fox",
    " 12 times  in 2024;\n\nit's na\u00efve",
    "",
    f"a{TURN}b {BOS}",
    "  x",
    "\u65e5\U0001fae0",
]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_published_tokenizer_gives_the_ids_of_transformers(name: str, tmp_path: Path) -> None:
    split, settings, named = TOKENIZERS[name]
    write_tokenizer(tmp_path, split)
    for file, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", named)):
        (tmp_path / file).unlink(missing_ok=True)
        if content:
            (tmp_path / file).write_text(json.dumps(content))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA3))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_hf_folder(tmp_path)
    first = [ours.bos_id] if ours.add_bos else []
    for text in WORDS:
        assert [*first, *ours.for_author().encode(text)] == theirs(text).input_ids, text
    assert theirs.eos_token_id in ours.eos_ids
