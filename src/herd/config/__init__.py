"""The shape of a model: one frozen `Llama4Config`, its vision part, and presets. Not weights, devices, files."""

from herd.config.checks import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from herd.config.presets import BEHEMOTH, CRIA, GUARD, MAVERICK, SCOUT, TINY
from herd.config.rope import DynamicScaling, LinearScaling, RopeDivisors, RopeScaling, YarnScaling
from herd.config.shape import LayerKind, Llama4Config, VisionConfig, is_dense_llama

__all__ = [
    "BEHEMOTH",
    "CRIA",
    "GUARD",
    "MAVERICK",
    "MAX_CONTEXT",
    "MAX_EXPERTS",
    "MAX_LAYERS",
    "MAX_VOCAB",
    "MAX_WIDTH",
    "SCOUT",
    "TINY",
    "DynamicScaling",
    "LayerKind",
    "LinearScaling",
    "Llama4Config",
    "RopeDivisors",
    "RopeScaling",
    "VisionConfig",
    "YarnScaling",
    "is_dense_llama",
]
