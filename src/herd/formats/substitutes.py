"""What stands in for a format whose blocks do not divide a row: blocks of 32, at least as fine. llama.cpp chooses the
same."""

from herd.formats import get

SUBSTITUTES = {
    "q2_k": "iq4_nl",
    "q3_k": "iq4_nl",
    "iq4_xs": "iq4_nl",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}
"""Formats of 256 weights a block -> of 32."""


def fitting(format: str, inputs: int) -> str | None:
    """`format`, or its substitute where rows of `inputs` weights are no whole number of its blocks; None: there is
    none."""
    for name in (format, SUBSTITUTES.get(format)):
        if name is not None and get(name).fits(inputs):
            return name
    return None


def why_not(format: str) -> str:
    """Why a format was not taken, after the number of tensors that have another."""
    return f"their rows are no multiple of {get(format).block}, which {format} needs"
