"""Kinds of weight, the tree that they form, and the one walk that builds it.

What it is: data and names. `build(config, source)` is the only place that knows which tensors a model has and how
they are called (Hugging Face's names are the canonical ones); loading, random weights, counting and writing are all
a `Source` given to it. What it is not: arithmetic, files.

Array conventions, so that the core needs no torch: a numpy array of float32 or float16 is that; **uint16 holds
bfloat16 bits**. Under torch the same nodes hold tensors.

Source of names and shapes: transformers' Llama 4 checkpoints (model card and converter, April 2025).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from herd.config import Llama4Config, VisionConfig

Array: TypeAlias = Any
"""numpy array or torch tensor, by op set."""
Made = TypeVar("Made")


class WeightNode:
    """Base of the tree's nodes: frozen, and equal to itself alone. What an op set makes of a node (native handles) is
    kept in its __dict__ for as long as the node lives; `dataclasses.replace` makes a new one. Copies and pickles begin
    without."""

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Dense(WeightNode):
    """w[O, I] in float32, float16 or bfloat16, row-major as files hold linear layers; bias[O] or None."""

    w: Array
    bias: Array | None = None
    name: str = ""
    kind: Literal["dense"] = "dense"


@dataclass(frozen=True, eq=False)
class Experts(WeightNode):
    """w[E, I, O], input-major as Hugging Face holds routed experts (FSDP refuses a transposed view)."""

    w: Array
    name: str = ""
    kind: Literal["experts"] = "experts"


@dataclass(frozen=True, eq=False)
class Packed(WeightNode):
    """A quantised matrix [O, I], or one per expert [E, O, I], in the byte layout of `herd.formats`.

    codes: uint8, by layout: "rows" [..., O, row_bytes], each row a whole number of blocks, as files have it; "strips"
    [..., ceil(O / 16), 16 * row_bytes], as `herd.formats.strips` has it and kernels like it.
    """

    format: str
    codes: Array
    shape: tuple[int, ...]
    bias: Array | None = None
    name: str = ""
    layout: Literal["rows", "strips"] = "rows"
    kind: Literal["packed"] = "packed"


@dataclass(frozen=True, eq=False)
class Pair(WeightNode):
    """gate [E, F, D] and up [E, F, D] apart, as GGUF holds them; `Experts` holds them joined along the output axis."""

    gate: "Linear"
    up: "Linear"
    name: str = ""
    kind: Literal["pair"] = "pair"


@dataclass(frozen=True, eq=False)
class LoRA(WeightNode):
    """base + scale * up[O, r] @ down[r, I]; over experts down[E, r, I], up[E, O, r]."""

    base: "Linear"
    down: Array
    up: Array
    scale: float
    name: str = ""
    kind: Literal["lora"] = "lora"


Linear: TypeAlias = Dense | Experts | Packed | Pair | LoRA
"""Anything that `linear`, `grouped` or `embed` of an op set takes. An expert stack is Experts, or Packed or Dense
with three axes (output-major), or a Pair of such."""


def fold(
    node: Any,
    *,
    dense: Callable[[Dense], Made] | None = None,
    experts: Callable[[Experts], Made] | None = None,
    packed: Callable[[Packed], Made] | None = None,
    pair: Callable[[Pair], Made] | None = None,
    lora: Callable[[LoRA], Made] | None = None,
    other: Callable[[Any], Made] | None = None,
) -> Made:
    """Call the function for a node's kind and return its result; `other` takes kinds that have none. Outside of op sets
    kinds of weight are told apart by this alone, so that a new kind has one place."""
    by_kind: dict[str, Callable[[Any], Made] | None] = {
        "dense": dense, "experts": experts, "packed": packed, "pair": pair, "lora": lora
    }  # fmt: skip
    made = by_kind.get(getattr(node, "kind", "")) or other
    assert made is not None, f"nothing is made of {type(node).__name__}"
    return made(node)


def name_of(node: Linear) -> str:
    """The canonical name of a matrix or stack, also under an adapter."""
    return fold(node, lora=lambda w: w.name or name_of(w.base), other=lambda w: str(w.name))


def apart(node: Linear) -> tuple[Linear, ...]:
    """Gate and up of a Pair; any other node alone."""
    return fold(node, pair=lambda w: (w.gate, w.up), other=lambda w: (w,))


def shape_of(node: Linear) -> tuple[int, ...]:
    """Output-major: [O, I] of a matrix, [E, O, I] of a stack, whatever order its array has."""

    def joined(w: Pair) -> tuple[int, ...]:
        *front, outputs, inputs = shape_of(w.gate)
        return (*front, 2 * outputs, inputs)

    return fold(
        node,
        dense=lambda w: tuple(w.w.shape),
        experts=lambda w: (w.w.shape[0], w.w.shape[2], w.w.shape[1]),
        packed=lambda w: tuple(w.shape),
        pair=joined,
        lora=lambda w: shape_of(w.base),
    )


def is_packed_as(node: Any, format: str, shape: tuple[int, ...]) -> bool:
    """Whether a node's codes are in this format and shape already."""
    return fold(node, packed=lambda w: w.format == format and tuple(w.shape) == shape, other=lambda _: False)


@dataclass(frozen=True, eq=False)
class Norm(WeightNode):
    """RMS norm when bias is None, LayerNorm otherwise."""

    w: Array
    bias: Array | None
    eps: float
    name: str = ""
    kind: Literal["norm"] = "norm"


@dataclass(frozen=True, eq=False)
class Mlp(WeightNode):
    """gate None: down(gelu(up x)), exact erf GELU; else down(silu(gate x) * up x)."""

    gate: Linear | None
    up: Linear
    down: Linear
    kind: Literal["mlp"] = "mlp"


@dataclass(frozen=True, eq=False)
class Moe(WeightNode):
    """Routed experts and the shared one. gate_up: Experts [E, D, 2F] (gate columns first) or Pair; down: [E, F, D]."""

    router: Linear
    gate_up: Linear
    down: Linear
    shared: Mlp
    kind: Literal["moe"] = "moe"


@dataclass(frozen=True, eq=False)
class Block(WeightNode):
    """One layer, of text or vision."""

    norm1: Norm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    norm2: Norm
    ffn: Mlp | Moe
    kind: Literal["block"] = "block"


@dataclass(frozen=True, eq=False)
class Vision(WeightNode):
    """Tower, adapter and projector."""

    patch: Linear
    class_U: Array
    places_MU: Array
    pre: Norm
    blocks: tuple[Block, ...]
    post: Norm
    fc1: Linear
    fc2: Linear
    project: Linear
    kind: Literal["vision"] = "vision"


@dataclass(frozen=True, eq=False)
class Model(WeightNode):
    """A whole model. With tied embeddings `head` is the node of `embed`."""

    embed: Linear
    blocks: tuple[Block, ...]
    norm: Norm
    head: Linear
    vision: Vision | None = None
    kind: Literal["model"] = "model"


CLASS_NAME, PLACES_NAME = "vision_model.class_embedding", "vision_model.positional_embedding_vlm"
"""Names of the two arrays of `Vision` that are no node."""


def is_vision(name: str) -> bool:
    """Whether a canonical name is one of the vision part."""
    return name.startswith(("vision_model.", "multi_modal_projector."))


class Source(Protocol):
    """A source of weights. Names are canonical: Hugging Face's of a text-only or vision part, without `language_model.`
    and without `.weight`."""

    def vector(self, name: str, shape: tuple[int, ...]) -> Array:
        """A small array of any rank: norm weight, bias, class embedding; `name` is the full tensor name."""

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """The matrix `name`.weight [outputs, inputs] and, when asked for, `name`.bias."""

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """The stack `name` [E, inputs, outputs]; the first half of the outputs of gate_up_proj is the gate."""


def build(c: Llama4Config, source: Source) -> Model:
    """Walk the model once, in file order, asking `source` for each tensor."""
    D, H = c.width, c.head_size

    def rms(name: str) -> Norm:
        return Norm(source.vector(name + ".weight", (D,)), None, c.norm_eps, name)

    def mlp(prefix: str, width: int, bias: bool = False) -> Mlp:
        gate = source.matrix(prefix + "gate_proj", width, D, bias=bias)
        up = source.matrix(prefix + "up_proj", width, D, bias=bias)
        return Mlp(gate, up, source.matrix(prefix + "down_proj", D, width, bias=bias))

    embed = source.matrix("model.embed_tokens", c.vocab_size, D)
    blocks = []
    for i, layer in enumerate(c.layers):
        p = f"model.layers.{i}."
        norm1 = rms(p + "input_layernorm")
        has_bias = c.attention_bias
        q = source.matrix(p + "self_attn.q_proj", c.num_heads * H, D, bias=has_bias)
        k = source.matrix(p + "self_attn.k_proj", c.num_kv_heads * H, D, bias=has_bias)
        v = source.matrix(p + "self_attn.v_proj", c.num_kv_heads * H, D, bias=has_bias)
        o = source.matrix(p + "self_attn.o_proj", D, c.num_heads * H, bias=has_bias)
        norm2 = rms(p + "post_attention_layernorm")
        # A dense Llama calls its MLP `mlp`, Llama 4 `feed_forward`: a source of such files translates.
        f = p + "feed_forward."
        ffn: Mlp | Moe
        if layer.moe:
            E, F = c.num_experts, c.expert_width
            ffn = Moe(
                source.matrix(f + "router", E, D),
                source.experts(f + "experts.gate_up_proj", E, D, 2 * F),
                source.experts(f + "experts.down_proj", E, F, D),
                mlp(f + "shared_expert.", F),
            )
        else:
            ffn = mlp(f, c.dense_width, c.mlp_bias)
        blocks.append(Block(norm1, q, k, v, o, norm2, ffn))
    norm = rms("model.norm")
    head = embed if c.tied_embeddings else source.matrix("lm_head", c.vocab_size, D)
    return Model(embed, tuple(blocks), norm, head, _vision(c, c.vision, source) if c.vision else None)


def _vision(c: Llama4Config, v: VisionConfig, source: Source) -> Vision:
    U = v.width

    def ln(name: str) -> Norm:
        return Norm(source.vector(name + ".weight", (U,)), source.vector(name + ".bias", (U,)), v.norm_eps, name)

    patch = source.matrix("vision_model.patch_embedding.linear", U, 3 * v.patch_size**2)
    class_U = source.vector(CLASS_NAME, (U,))
    places_MU = source.vector(PLACES_NAME, (v.num_patches, U))
    pre = ln("vision_model.layernorm_pre")
    blocks = []
    for j in range(v.num_layers):
        p = f"vision_model.model.layers.{j}."
        norm1 = ln(p + "input_layernorm")
        q, k, vv, o = (source.matrix(f"{p}self_attn.{x}_proj", U, U, bias=True) for x in "qkvo")
        norm2 = ln(p + "post_attention_layernorm")
        up = source.matrix(p + "mlp.fc1", v.mlp_width, U, bias=True)
        blocks.append(
            Block(norm1, q, k, vv, o, norm2, Mlp(None, up, source.matrix(p + "mlp.fc2", U, v.mlp_width, bias=True)))
        )
    return Vision(
        patch,
        class_U,
        places_MU,
        pre,
        tuple(blocks),
        ln("vision_model.layernorm_post"),
        source.matrix("vision_model.vision_adapter.mlp.fc1", v.adapter_width, U * v.pixel_shuffle**2),
        source.matrix("vision_model.vision_adapter.mlp.fc2", v.output_width, v.adapter_width),
        source.matrix("multi_modal_projector.linear_1", c.width, v.output_width),
    )


# -- counting -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParameterCounts:
    """Number of parameters by use. `active`: read for one token (all dense parts, A of the E experts, both embedding
    tables)."""

    text: int
    vision: int
    routed: int
    """The part of `text` in routed experts."""
    embedding: int
    """The part of `text` in the input table alone."""
    active: int

    @property
    def total(self) -> int:
        """Text and vision together."""
        return self.text + self.vision


@dataclass
class _Counter:
    text: int = 0
    vision: int = 0
    routed: int = 0
    embedding: int = 0
    sizes: dict[str, int] = field(default_factory=dict)

    def _add(self, name: str, size: int) -> None:
        self.sizes[name] = size
        if is_vision(name):
            self.vision += size
            return
        self.text += size
        if ".experts." in name:
            self.routed += size
        if name == "model.embed_tokens":
            self.embedding = size

    def vector(self, name: str, shape: tuple[int, ...]) -> Array:
        size = 1
        for n in shape:
            size *= n
        self._add(name, size)
        return None

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        self._add(name, outputs * inputs)
        if bias:
            self._add(name + ".bias", outputs)
        return Dense(None, None, name)

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        self._add(name, num_experts * inputs * outputs)
        return Experts(None, name)


def count(c: Llama4Config) -> ParameterCounts:
    """Number of parameters of a config, counted by the same walk that loads it."""
    counter = _Counter()
    build(c, counter)
    routed_active = counter.routed * c.experts_per_token // c.num_experts if c.num_experts else 0
    active = counter.text - counter.routed + routed_active
    return ParameterCounts(counter.text, counter.vision, counter.routed, counter.embedding, active)
