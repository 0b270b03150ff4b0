"""How long passes take, measured as they run: what a prompt's piece may cost those who wait for their next token.

    t(d decodes, p prompt rows)  ~  decode_s + p * row_s          both exponential averages

The time comes from the caller. Results never depend on it: how a prompt is cut changes no logits.
"""

SLOWER = 3.0
"""A step with prompt rows in it may take so many times one without : between two tokens, p99 at most 3x."""
LEAST = 16
"""Prompt rows beside decodes at least: about what a pass that is bound by reading weights computes for nothing."""
UNKNOWN = 64
WEIGHT = 0.2


class Pace:
    """Averages of passes."""

    def __init__(self) -> None:
        self.decode_s: float | None = None
        """A pass of decodes alone."""
        self.row_s: float | None = None
        """What a prompt row adds."""

    def seen(self, seconds: float, decodes: int, prompt_rows: int) -> None:
        """One pass has run."""
        if prompt_rows == 0:
            self.decode_s = _mean(self.decode_s, seconds)
        elif prompt_rows >= LEAST:
            base = (self.decode_s or 0.0) if decodes else 0.0
            self.row_s = _mean(self.row_s, max(seconds - base, 0.0) / prompt_rows)

    def beside(self) -> int:
        """Prompt rows that a step with decodes may hold."""
        if self.decode_s is None or self.row_s is None:
            return UNKNOWN
        if self.row_s <= 0.0:
            return 1 << 30
        return max(LEAST, int((SLOWER - 1.0) * self.decode_s / self.row_s))


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + WEIGHT * (new - old)
