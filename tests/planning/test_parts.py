"""Parameters by use: published sums, and the same totals as counting while loading."""

import subprocess
import sys
from dataclasses import replace

import pytest

from herd.config import BEHEMOTH, CRIA, GUARD, MAVERICK, SCOUT, TINY, Llama4Config
from herd.planning.parts import Parts, kind_of, weights_by_kind
from herd.weights import count

TABLE = 202_048 * 5120
EXPERT = 3 * 5120 * 8192
ATTENTION = 48 * 62_914_560
NORMS = 48 * 10_240 + 5120
VISION = 811_115_008 + 39_845_888 + 20_971_520
BIASED = replace(TINY, num_experts=0, moe_interleave=0, nope_interval=0, chunk=None, use_qk_norm=False, vision=None,
                 temperature_tuning=False, attention_bias=True, mlp_bias=True)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SCOUT, Parts(TABLE, ATTENTION, NORMS, 48 * 5120 * 16, 48 * EXPERT, 48 * 16 * EXPERT, 0, TABLE, VISION)),
        (MAVERICK, Parts(TABLE, ATTENTION, NORMS, 24 * 5120 * 128, 24 * EXPERT, 24 * 128 * EXPERT,
                         24 * 251_658_240, TABLE, VISION)),
        (GUARD, Parts(TABLE, ATTENTION, NORMS, dense=48 * EXPERT, head=TABLE, vision=VISION)),
    ],
)  # fmt: skip
def test_the_published_sums(config: Llama4Config, expected: Parts) -> None:
    assert weights_by_kind(config) == expected


def test_the_published_totals() -> None:
    assert weights_by_kind(SCOUT).total == 108_641_793_536
    assert weights_by_kind(MAVERICK).total == 401_583_781_376
    assert weights_by_kind(GUARD).total == 12_001_097_216


@pytest.mark.parametrize("config", [SCOUT, MAVERICK, GUARD, BEHEMOTH, CRIA, TINY, BIASED])
def test_the_parts_are_those_of_a_load(config: Llama4Config) -> None:
    parts, counts = weights_by_kind(config), count(config)
    assert parts.total == counts.total
    assert (parts.vision, parts.routed, parts.embedding) == (counts.vision, counts.routed, counts.embedding)
    taken = parts.routed * config.experts_per_token // config.num_experts if config.num_experts else 0
    unread = 0 if config.tied_embeddings else parts.embedding
    assert parts.always + taken == counts.active - unread


def test_what_every_token_reads_of_scout() -> None:
    """The published 16.14 billion without the table, of which one of sixteen experts."""
    parts = weights_by_kind(SCOUT)
    assert parts.always + parts.routed // 16 == 17_172_894_720 - TABLE


@pytest.mark.parametrize(
    ("name", "kind"),
    [("model.layers.3.feed_forward.shared_expert.up_proj", "shared"), ("model.layers.3.feed_forward.up_proj", "dense"),
     ("model.layers.3.feed_forward.up_proj.bias", "dense"), ("model.norm.weight", "norms"),
     ("model.embed_tokens.weight", "embedding"), ("vision_model.model.layers.0.self_attn.q_proj", "vision")],
)  # fmt: skip
def test_kinds_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_counting_loads_no_numbers() -> None:
    """A plan answers at once: neither numpy nor torch is imported for it."""
    asked = "[m for m in ('numpy', 'torch') if m in sys.modules]"
    code = f"import sys, herd.planning.parts, herd.planning.memory; print({asked})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
