"""A model's parameters by what they are for, as arithmetic on its config: the walk that loads a model, counted.

    embedding   the table that ids are looked up in      router   one row per routed expert
    attention   q, k, v, o and their biases              shared   the expert that every token goes through
    norms       all of the text model                    routed   the experts of which a token takes A of E
    head        width to vocabulary; 0 where it is the   dense    MLPs of layers without experts
                table                                    vision   tower, adapter, projector

What it is not: bytes (a type has its bits, `herd.formats`), or what a step reads (`work`).
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from math import prod
from typing import Any

from herd.config import Llama4Config
from herd.weights import Dense, Linear, build, is_vision


@dataclass(frozen=True)
class Parts:
    """Number of parameters by use; each is in exactly one."""

    embedding: int = 0
    attention: int = 0
    norms: int = 0
    router: int = 0
    shared: int = 0
    routed: int = 0
    dense: int = 0
    head: int = 0
    vision: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, f.name) for f in fields(self))

    @property
    def always(self) -> int:
        """What every token of text reads whatever the router says: all but the table (or its head, where that is the
        table), the routed experts and vision."""
        return self.attention + self.norms + self.router + self.shared + self.dense + (self.head or self.embedding)


def kind_of(name: str) -> str:
    """The field of Parts that a tensor belongs to, by its canonical name (`herd.weights.Source`)."""
    if is_vision(name):
        return "vision"
    if ".feed_forward." in name:
        part = name.split(".feed_forward.")[1].split(".")[0]
        return {"router": "router", "shared_expert": "shared", "experts": "routed"}.get(part, "dense")
    if ".self_attn." in name:
        return "attention"
    return {"model.embed_tokens": "embedding", "lm_head": "head"}.get(name.removesuffix(".weight"), "norms")


@lru_cache(maxsize=64)
def weights_by_kind(config: Llama4Config) -> Parts:
    """The parameters of a config by use; with tied embeddings `head` is 0."""
    counter = _Counter()
    build(config, counter)
    return Parts(**counter.sizes)


class _Counter:
    """A `Source` that counts, and gives nothing."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def _add(self, name: str, size: int) -> None:
        kind = kind_of(name)
        self.sizes[kind] = self.sizes.get(kind, 0) + size

    def vector(self, name: str, shape: tuple[int, ...]) -> Any:
        self._add(name, prod(shape))

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        self._add(name, outputs * (inputs + bias))
        return _NOTHING

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        self._add(name, num_experts * inputs * outputs)
        return _NOTHING


_NOTHING = Dense(None)
