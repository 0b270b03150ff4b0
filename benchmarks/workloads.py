"""The table of benchmarks/peer.py as data: what is run, on which model, and how far ahead of the peer it should be."""

from dataclasses import dataclass

SLICES = {
    # name: arguments of make_slice.py
    "scout-q4_k": ("--shape", "scout", "--quant", "q4_k"),
    "scout-q8_0": ("--shape", "scout", "--quant", "q8_0"),
    "attention-q4_k": ("--shape", "attention", "--quant", "q4_k", "--vocab", "4096"),
    "attention-q4_0": ("--shape", "attention", "--quant", "q4_0", "--vocab", "4096"),
    "small-q4_0": ("--shape", "small", "--quant", "q4_0", "--vocab", "8192"),
    "small-q8_0": ("--shape", "small", "--quant", "q8_0"),
    "small-bf16": ("--shape", "small", "--quant", "bf16"),
}
SIZES = {
    "scout-q4_k": 6.2e9,
    "scout-q8_0": 11.7e9,
    "attention-q4_k": 0.6e9,
    "attention-q4_0": 0.6e9,
    "small-q4_0": 0.4e9,
    "small-q8_0": 0.7e9,
    "small-bf16": 1.3e9,
}
"""Bytes, about: the disk is asked before one is made."""
MODELS = ("attention-q4_k", "attention-q4_0", "scout-q4_k", "scout-q8_0", "small-q4_0", "smollm2")
"""In the order they are run: the attention slice fills deep caches fastest, and the Scout slice takes them over."""
ATTENTION = {"scout": "wide", "attention": "wide", "small": "small", "smollm2": "smollm2"}
"""Models whose caches are of one shape share the peer's saved ones."""
NO_REPACK = {"scout-q8_0"}
"""The peer has nothing to repack these into."""


@dataclass(frozen=True)
class Workload:
    name: str
    models: tuple[str, ...]
    """More than one: the row is of the file that the peer is fastest on."""
    op: str
    """prefill, decode, many (sequences that decode together), busy (share of the quiet speed), load, million."""
    target: float
    """Ours over the peer's, at least."""
    probe: str
    """The limit that it runs into."""
    count: int = 0
    """Tokens of a run; of `many`, steps."""
    depth: int = 0
    """Positions already in the cache."""
    sequences: int = 1
    piece: int = 512
    """Rows a pass: of ours, and the peer's ubatch."""
    rounds: int = 20
    """20 where memory-bound, else 5."""

    @property
    def tokens(self):
        return self.count * self.sequences


READ, INT8, BF16 = "read_GB/s", "int8_TOP/s", "bf16_TFLOP/s"
SCOUT, SCOUT8, ATTENTIVE, SMALL, SMOLLM2 = (
    ("scout-q4_k",),
    ("scout-q8_0",),
    ("attention-q4_k", "attention-q4_0"),
    ("small-q4_0",),
    ("smollm2",),
)
WORKLOADS = (
    Workload("prefill512", SCOUT, "prefill", 1.35, INT8, count=512, rounds=5),
    Workload("prefill2048", SCOUT, "prefill", 1.35, INT8, count=2048, piece=2048, rounds=3),
    Workload("prefill512_q8", SCOUT8, "prefill", 3.0, INT8, count=512, rounds=4),
    Workload("decode1", SCOUT, "decode", 1.0, READ, count=16),
    Workload("decode1_q8", SCOUT8, "decode", 1.0, READ, count=16),
    Workload("decode8", SCOUT, "many", 2.0, READ, count=4, sequences=8, rounds=10),
    Workload("decode32", SCOUT, "many", 2.5, INT8, count=3, sequences=32, rounds=7),
    Workload("decode_at_8000", SCOUT, "decode", 1.8, READ, count=8, depth=8000),
    Workload("decode_at_16000", SCOUT, "decode", 2.2, READ, count=8, depth=16000),
    Workload("decode_at_16384", SCOUT, "decode", 1.6, READ, count=8, depth=16384),
    Workload("attention_decode_8000", ATTENTIVE, "decode", 2.5, READ, count=16, depth=8000),
    Workload("attention_decode_16384", ATTENTIVE, "decode", 4.0, READ, count=16, depth=16384),
    Workload("attention_prefill_8000", ATTENTIVE, "prefill", 4.0, BF16, count=512, depth=8000, rounds=3),
    Workload("attention_prefill_16384", ATTENTIVE, "prefill", 5.0, BF16, count=512, depth=16384, rounds=3),
    Workload("small_prefill512", SMALL, "prefill", 2.5, INT8, count=512, rounds=9),
    Workload("small_decode_8000", SMALL, "decode", 2.0, READ, count=32, depth=8000),
    Workload("smollm2_prefill512", SMOLLM2, "prefill", 5.0, INT8, count=512, rounds=7),
    Workload("smollm2_decode", SMOLLM2, "decode", 2.0, READ, count=64),
    Workload("busy", SMOLLM2, "busy", 2.0, READ, count=64, rounds=5),
    Workload("load", SCOUT, "load", 0.0, READ, rounds=3),
    Workload("million", SCOUT, "million", 0.5, READ, count=4, depth=1 << 20, rounds=5),
)
"""The figures of the issue. `busy` asks for 60% where the peer keeps 30%; `load`, `million`: see peer.py."""
