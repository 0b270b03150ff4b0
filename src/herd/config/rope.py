"""Rules that stretch RoPE to longer contexts, as data: the frequencies that each makes, the factor on its rotations.

A rule takes the plain frequencies (radians a position, falling) to its own. Where a rule also scales attention, cosines
and sines are multiplied by `attention_factor`, on queries and keys alike. Sources: transformers' rotary functions, the
papers that they name, llama.cpp's loader.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from herd.config.checks import positive
from herd.errors import BadConfig, fail


@dataclass(frozen=True)
class RopeScaling:
    """The "llama3" rule: long wavelengths are stretched by `factor`, short ones kept, those between blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "high_freq_factor", "original_context"):
            positive(f"rope scaling {name}", getattr(self, name))
        if self.high_freq_factor < self.low_freq_factor:
            fail(BadConfig, "rope scaling", got=f"high {self.high_freq_factor} < low {self.low_freq_factor}")

    def scaled(self, freqs: Sequence[float], theta: float) -> tuple[float, ...]:
        """The frequencies of this rule."""
        low, high = self.low_freq_factor, self.high_freq_factor
        scaled = []
        for f in freqs:
            turns = self.original_context * f / (2.0 * math.pi)
            if turns > high:
                scaled.append(f)
            elif turns < low or high == low:
                scaled.append(f / self.factor)
            else:
                blend = (turns - low) / (high - low)
                scaled.append(f * ((1.0 - blend) / self.factor + blend))
        return tuple(scaled)


@dataclass(frozen=True)
class LinearScaling:
    """Every wavelength is stretched by `factor`."""

    factor: float

    def __post_init__(self) -> None:
        positive("rope scaling factor", self.factor)

    def scaled(self, freqs: Sequence[float], theta: float) -> tuple[float, ...]:
        """The frequencies of this rule."""
        return tuple(f / self.factor for f in freqs)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN: frequencies that turn over `beta_fast` times in the original context are kept, those under `beta_slow`
    times are stretched by `factor`, a straight ramp over the dimensions leads from the one to the other."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Whether the ramp's ends are whole dimensions."""
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        for name in ("factor", "original_context", "beta_fast", "beta_slow", "attention_factor"):
            positive(f"rope scaling {name}", getattr(self, name))

    def scaled(self, freqs: Sequence[float], theta: float) -> tuple[float, ...]:
        """The frequencies of this rule. Raises BadConfig for a base of 1, which has no wavelengths."""
        if theta == 1:
            fail(BadConfig, "rope_theta", got=theta, expected="another base than 1 under YaRN")
        size = 2 * len(freqs)
        low, high = (self._dimension(beta, size, theta) for beta in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        width = high - low or 0.001
        scaled = []
        for m, f in enumerate(freqs):
            stretched = min(max((m - low) / width, 0.0), 1.0)
            scaled.append(f * (1.0 - stretched + stretched / self.factor))
        return tuple(scaled)

    def _dimension(self, turns: float, size: int, theta: float) -> float:
        """The dimension whose frequency turns so often in the original context."""
        return size * math.log(self.original_context / (turns * 2.0 * math.pi)) / (2.0 * math.log(theta))


def yarn_attention(factor: float, mscale: float = 1.0) -> float:
    """The factor on attention that YaRN has for a stretch of `factor` unless a file says another."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


@dataclass(frozen=True)
class DynamicScaling:
    """The base grows with the length of a text beyond the model's context; up to it nothing is scaled. A longer text
    would give each of its positions other angles than its beginning had, so none is run."""

    factor: float

    def __post_init__(self) -> None:
        positive("rope scaling factor", self.factor)

    def scaled(self, freqs: Sequence[float], theta: float) -> tuple[float, ...]:
        """The frequencies as they are."""
        return tuple(freqs)


@dataclass(frozen=True)
class RopeDivisors:
    """One divisor a frequency, as GGUF's `rope_freqs.weight` holds them."""

    values: tuple[float, ...]
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        for value in self.values:
            positive("rope divisor", value)
        positive("rope attention_factor", self.attention_factor)

    def scaled(self, freqs: Sequence[float], theta: float) -> tuple[float, ...]:
        """The frequencies of this rule."""
        return tuple(f / d for f, d in zip(freqs, self.values, strict=True))


RopeRule = RopeScaling | LinearScaling | YarnScaling | DynamicScaling | RopeDivisors


def plain_freqs(theta: float, head_size: int) -> tuple[float, ...]:
    """H/2 angular frequencies in radians a position, unscaled."""
    return tuple(theta ** (-2.0 * m / head_size) for m in range(head_size // 2))


def attention_of(rule: RopeRule | None) -> float:
    """The factor on cosines and sines."""
    return rule.attention_factor if isinstance(rule, YarnScaling | RopeDivisors) else 1.0


def divisors_of(rule: RopeRule, theta: float, head_size: int) -> tuple[float, ...]:
    """What a rule divides each plain frequency by."""
    plain = plain_freqs(theta, head_size)
    return tuple(p / f for p, f in zip(plain, rule.scaled(plain, theta), strict=True))
