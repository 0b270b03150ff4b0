"""Measures how long passes take: what a piece of a prompt, or a guess, may cost the sequences that wait for the pass.

    t(d decodes, p prompt rows, e proposed rows)  ~  plain_s(d) + p * row_s + e * extra_s      exponential averages

The time comes from the caller. Results never depend on it: how a prompt is cut changes no logits.
"""

SLOWER = 3.0
"""A step with prompt rows in it may take so many times one without: between two tokens, p99 at most 3x."""
LEAST = 16
"""Prompt rows beside decodes at least: about what a pass that is bound by reading weights computes for nothing."""
UNKNOWN = 64
WEIGHT = 0.2


class StepTimes:
    """Exponential averages of the times of passes."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}
        """Decodes of a pass -> its seconds."""
        self.row_s: float | None = None
        """Seconds that a prompt row adds; None: not known yet."""
        self.extra_s: float | None = None
        """Seconds that a proposed row adds; None: not known yet."""

    def plain_s(self, decodes: int) -> float | None:
        """Seconds of a pass of so many decodes alone, or of the nearest number of them that was seen; None: no pass
        yet."""
        if decodes in self._plain or not self._plain:
            return self._plain.get(decodes)
        return self._plain[min(self._plain, key=lambda d: abs(d - decodes))]

    def seen(self, seconds: float, decodes: int, prompt_rows: int, extra_rows: int = 0, head_rows: int = 0) -> None:
        """Count a pass that has run. head_rows: prompt rows whose logits were wanted. Each counts as another row; once
        the cost of a row is known, passes with such rows change no average."""
        plain = self.plain_s(decodes) if decodes else 0.0
        if prompt_rows == 0 and extra_rows == 0:
            self._plain[decodes] = _mean(self._plain.get(decodes), seconds)
        elif prompt_rows == 0 and plain is not None:
            self.extra_s = _mean(self.extra_s, max(seconds - plain, 0.0) / extra_rows)
        elif prompt_rows >= LEAST and extra_rows == 0 and (not head_rows or self.row_s is None):
            self.row_s = _mean(self.row_s, max(seconds - (plain or 0.0), 0.0) / (prompt_rows + head_rows))

    def beside(self, decodes: int) -> int:
        """The number of prompt rows that a step with so many decodes may hold."""
        plain = self.plain_s(decodes)
        if plain is None or self.row_s is None:
            return UNKNOWN
        if self.row_s <= 0.0:
            return 1 << 30
        return max(LEAST, int((SLOWER - 1.0) * plain / self.row_s))


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + WEIGHT * (new - old)
