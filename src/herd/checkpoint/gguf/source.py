"""A GGUF model as a source of weights: its config, and nodes that are views of the mapped file.

What it is: `config_from_gguf` and `GgufSource`, the `weights.Source` over an open file and, for models with vision, its
mmproj file. Everything is checked by names and shapes before the first node is handed out. What it is not: a copy; the
weights live as long as the mapping, which every view holds on to.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from herd.checkpoint.gguf.names import ATTENTION_BIASES, MLP_BIASES, ROPE_FREQS, gguf_names, other_name
from herd.checkpoint.walk import check_names, walk
from herd.config import MAX_WIDTH, Llama4Config, VisionConfig
from herd.config.gguf import from_gguf
from herd.containers.gguf import Gguf
from herd.errors import BadCheckpoint, BadConfig, HerdError, fail
from herd.weights import Array, Dense, Linear, Packed, Pair, is_vision

_IMAGE_TOKENS = {"image_start_id": "<|image_start|>", "image_end_id": "<|image_end|>", "patch_id": "<|patch|>"}


def config_from_gguf(reader: Gguf, mmproj: Gguf | None = None) -> Llama4Config:
    """The config of a file of architecture `llama4` or `llama`. Raises BadConfig or BadCheckpoint, naming the file."""
    reader.check_unchanged()
    table = reader.info("token_embd.weight")
    if len(table.shape) != 2:
        fail(BadCheckpoint, f"{reader.path}: tensor token_embd.weight", got=f"{len(table.shape)} axes", expected=2)
    divisors = None
    if ROPE_FREQS in reader.tensors:
        info = reader.info(ROPE_FREQS)
        if len(info.shape) != 1 or info.shape[0] > MAX_WIDTH:
            fail(BadCheckpoint, f"{reader.path}: tensor {ROPE_FREQS}", got=info.shape, expected="half a head")
        divisors = [float(d) for d in reader.decoded(ROPE_FREQS)]
    biases = _layer_biases(reader.tensors)
    try:
        config = from_gguf(
            reader.keys,
            vocab_size=table.shape[0],
            tied="output.weight" not in reader.tensors,
            rope_divisors=divisors,
            attention_bias=not biases.isdisjoint(ATTENTION_BIASES),
            mlp_bias=not biases.isdisjoint(MLP_BIASES),
        )
    except HerdError as e:
        raise type(e)(f"{reader.path}: {e}") from None
    except (TypeError, ValueError, OverflowError) as e:
        fail(BadConfig, f"{reader.path}: a key has a value of the wrong type ({e})")
    return config if mmproj is None else _with_vision(config, reader, mmproj)


def _layer_biases(tensors: Collection[str]) -> set[str]:
    """The kinds of bias that any layer of the text model has, as `names` calls them."""
    parts = (name.split(".", 2) for name in tensors if name.startswith("blk.") and name.endswith(".bias"))
    return {found[2] for found in parts if len(found) == 3}


def _with_vision(config: Llama4Config, reader: Gguf, mmproj: Gguf) -> Llama4Config:
    keys, path = mmproj.keys, mmproj.path
    if keys.get("general.architecture") != "clip":
        fail(BadConfig, f"{path}: general.architecture", got=keys.get("general.architecture"), expected="clip")
    projector = keys.get("clip.projector_type", keys.get("clip.vision.projector_type"))
    if projector != "llama4":
        fail(BadConfig, f"{path}: projector type", got=projector, expected="llama4")
    if not keys.get("clip.use_gelu", False):
        fail(BadConfig, f"{path}: clip.use_gelu", got=False, expected=True)
    for name in ("image_mean", "image_std"):
        values = keys.get(f"clip.vision.{name}")
        if values is not None and [float(v) for v in values] != [0.5, 0.5, 0.5]:
            fail(BadConfig, f"{path}: clip.vision.{name}", got=list(values), expected=[0.5, 0.5, 0.5])

    def need(name: str) -> Any:
        if f"clip.vision.{name}" not in keys:
            fail(BadConfig, f"{path}: no key clip.vision.{name}")
        return keys[f"clip.vision.{name}"]

    def rows(name: str) -> int:
        return mmproj.info(name).shape[0]

    try:
        vision = VisionConfig(
            image_size=need("image_size"),
            patch_size=need("patch_size"),
            width=need("embedding_length"),
            num_layers=need("block_count"),
            num_heads=need("attention.head_count"),
            mlp_width=need("feed_forward_length"),
            adapter_width=rows("mm.model.mlp.1.weight"),
            output_width=rows("mm.model.mlp.2.weight"),
            norm_eps=float(f"{float(need('attention.layer_norm_epsilon')):.6g}"),
            pixel_shuffle=need("projector.scale_factor"),
        )
    except HerdError as e:
        raise type(e)(f"{path}: {e}") from None
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as e:
        fail(BadConfig, f"{path}: a key has a value of the wrong type ({e})")
    tokens = reader.keys.get("tokenizer.ggml.tokens")
    ids = {t: i for i, t in enumerate(tokens) if t in _IMAGE_TOKENS.values()} if isinstance(tokens, list) else {}

    def token_id(field: str, default: int) -> int:
        value = ids.get(_IMAGE_TOKENS[field], keys.get(f"herd.{field}", default))
        if not isinstance(value, int) or not 0 <= value < config.vocab_size:
            fail(BadConfig, f"{path}: {field}", got=value, expected=f"below the vocabulary of {config.vocab_size}")
        return value

    return replace(
        config,
        vision=vision,
        image_start_id=token_id("image_start_id", config.image_start_id),
        image_end_id=token_id("image_end_id", config.image_end_id),
        patch_id=token_id("patch_id", config.patch_id),
    )


class GgufSource:
    """`weights.Source` over an open GGUF file, zero-copy: Dense for plain floats, Packed for quantised matrices, Pair
    for gate and up of experts. Raises BadCheckpoint at once when tensors are missing, left over or of another shape."""

    def __init__(self, reader: Gguf, config: Llama4Config, mmproj: Gguf | None = None) -> None:
        self._reader, self._mmproj = reader, mmproj
        self._absent = (ATTENTION_BIASES | MLP_BIASES) - _layer_biases(reader.tensors)
        if config.vision is not None and mmproj is None:
            fail(
                BadCheckpoint,
                f"{reader.path}: the config has vision, and GGUF keeps it in a second file",
                do="give its mmproj file too",
            )
        self._check(config)

    def vector(self, name: str, shape: tuple[int, ...]) -> Array:
        """A vector as the file holds it; decoded when it is quantised."""
        file, tensor = self._find(gguf_names(name)[0])
        info = file.info(tensor)
        array = file.decoded(tensor) if _is_packed(file, tensor) else file.array(tensor)
        if _without_ones(info.shape) != _without_ones(shape):
            self._wrong_shape(file, tensor, shape)
        return array.reshape(shape)

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """A matrix as a Dense or Packed node."""
        node = self._node(gguf_names(name + ".weight")[0], (outputs, inputs), name)
        if not bias:
            return node
        zero = self._is_absent(gguf_names(name + ".bias")[0])
        return replace(node, bias=np.zeros(outputs, np.float32) if zero else self.vector(name + ".bias", (outputs,)))

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """A stack [E, outputs, inputs] as the file holds it; a Pair of such for gate_up_proj."""
        names = gguf_names(name)
        shape = (num_experts, outputs // len(names), inputs)
        nodes = [self._node(tensor, shape, name) for tensor in names]
        return Pair(nodes[0], nodes[1], name) if len(nodes) == 2 else nodes[0]

    def _node(self, wanted: str, shape: tuple[int, ...], name: str) -> Dense | Packed:
        file, tensor = self._find(wanted)
        info = file.info(tensor)
        have = info.shape
        if wanted == "v.patch_embd.weight" and len(have) == 4:
            have = (have[0], have[1] * have[2] * have[3])  # the same numbers, as a convolution's kernel
        if have != shape:
            self._wrong_shape(file, tensor, shape)
        if _is_packed(file, tensor):
            return Packed(info.format, file.raw(tensor), shape, None, name)
        return Dense(file.array(tensor).reshape(shape), None, name)

    def _is_absent(self, tensor: str) -> bool:
        """Whether a tensor is a bias of a kind that no layer has."""
        return tensor.startswith("blk.") and tensor.split(".", 2)[2] in self._absent

    def _find(self, tensor: str) -> tuple[Gguf, str]:
        file = self._mmproj if self._mmproj is not None and tensor.startswith(("v.", "mm.")) else self._reader
        second = other_name(tensor)
        return file, second if tensor not in file.tensors and second in file.tensors else tensor

    def _wrong_shape(self, file: Gguf, tensor: str, shape: tuple[int, ...]) -> None:
        fail(
            BadCheckpoint,
            f"{file.path}: shape of tensor {tensor}",
            got=file.info(tensor).shape,
            expected=f"{shape} by the config",
        )

    def _check(self, config: Llama4Config) -> None:
        """Check all names and shapes, before anything is built."""
        wanted = [(name, w) for w in walk(config) for name in w.tensors]
        for file, vision in ((self._reader, False), (self._mmproj, True)):
            if file is None:
                continue
            names = [t for name, _ in wanted if is_vision(name) == vision for t in gguf_names(name)]
            found = {self._find(t)[1] for t in names if not self._is_absent(t)}
            do = "the file is not whole, or of another architecture than its keys say"
            check_names(file.path, found, file.tensors.keys() - {ROPE_FREQS}, do=do)
        for w in walk(config):
            if w.kind == "vector":
                self.vector(w.name, w.shape)
            elif w.kind == "matrix":
                self.matrix(w.name, *w.shape, bias=w.bias)
            else:
                self.experts(w.name, *w.shape)


def _is_packed(file: Gguf, tensor: str) -> bool:
    return file.info(tensor).format not in ("f32", "f16", "bf16")


def _without_ones(shape: Iterable[int]) -> list[int]:
    return [n for n in shape if n != 1]
