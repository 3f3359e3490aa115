"""Intervals: what little is known of a value's size, to tell that it stays inside a support or away from a pole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

INF = math.inf


@dataclasses.dataclass(frozen=True)
class Interval:
    """All numbers between two ends, which may be left out (`low_open`, `high_open`)."""

    low: float = -INF
    high: float = INF
    low_open: bool = True
    high_open: bool = True

    def inside(self, other: Interval) -> bool:
        """Tell whether all of it lies in the other, edges included."""
        return other.low <= self.low and self.high <= other.high

    def before(self, other: Interval) -> bool:
        """Tell whether all of it is less than all of the other."""
        return self.high < other.low or (self.high == other.low and (self.high_open or other.low_open))

    @property
    def bounded(self) -> bool:
        """Tell whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def first(self) -> float:
        """The least float in it."""
        return math.nextafter(self.low, INF) if self.low_open else self.low

    @property
    def last(self) -> float:
        """The largest float in it."""
        return math.nextafter(self.high, -INF) if self.high_open else self.high

    @property
    def positive(self) -> bool:
        """Tell whether all numbers are above 0."""
        return self.low > 0 or (self.low == 0 and self.low_open)

    @property
    def negative(self) -> bool:
        """Tell whether all numbers are below 0."""
        return self.high < 0 or (self.high == 0 and self.high_open)

    @property
    def nonzero(self) -> bool:
        """Tell whether 0 is left out."""
        return self.positive or self.negative


ANY = Interval()
POSITIVE = Interval(0.0, INF)
NONNEGATIVE = Interval(0.0, INF, low_open=False)
UNIT = Interval(0.0, 1.0)
SIGNED_UNIT = Interval(-1.0, 1.0, False, False)


def point(value: float) -> Interval:
    """Return the interval of one number."""
    return Interval(value, value, False, False) if math.isfinite(value) else ANY


def closed(low: float, high: float) -> Interval:
    """Return an interval with its ends."""
    return Interval(low, high, False, False)


def hull(parts: list[Interval]) -> Interval:
    """Return the smallest interval that holds all of these."""
    low, high = min(part.low for part in parts), max(part.high for part in parts)
    return Interval(
        low,
        high,
        all(part.low_open for part in parts if part.low == low),
        all(part.high_open for part in parts if part.high == high),
    )


def neg(x: Interval) -> Interval:
    """Return -x."""
    return Interval(-x.high, -x.low, x.high_open, x.low_open)


def add(x: Interval, y: Interval) -> Interval:
    """Return x + y."""
    return Interval(x.low + y.low, x.high + y.high, x.low_open or y.low_open, x.high_open or y.high_open)


def mul(x: Interval, y: Interval) -> Interval:
    """Return x * y; where both keep their sign, 0 is left out if both leave it out."""
    corners = [_times(a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    low, high = min(corners), max(corners)
    apart = x.nonzero and y.nonzero
    return Interval(low, high, apart and low == 0, apart and high == 0)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b  # The ends at infinity are not reached.


def inverse(x: Interval) -> Interval:
    """Return 1 / x, of which nothing is known unless x keeps its sign."""
    if x.positive:
        return Interval(0.0 if x.high == INF else 1 / x.high, INF if x.low == 0 else 1 / x.low, x.high_open, x.low_open)
    return neg(inverse(neg(x))) if x.negative else ANY


def power(x: Interval, exponent: int) -> Interval:
    """Return x to a constant integer."""
    if exponent < 0:
        return inverse(power(x, -exponent))
    if exponent % 2 == 0:
        top = max(abs(x.low), abs(x.high))
        bottom = 0.0 if x.low <= 0 <= x.high else min(abs(x.low), abs(x.high))
        return Interval(_raise(bottom, exponent), _raise(top, exponent), x.nonzero, False)
    return monotone(lambda end: math.copysign(_raise(abs(end), exponent), end))(x)


def _raise(base: float, exponent: float) -> float:
    try:
        return base**exponent
    except OverflowError:
        return INF


def absolute(x: Interval) -> Interval:
    """Return |x|."""
    if x.low >= 0:
        return x
    return neg(x) if x.high <= 0 else Interval(0.0, max(-x.low, x.high), False, False)


def monotone(function: Callable[[float], float]) -> Callable[[Interval], Interval]:
    """Return the image under an increasing function."""
    return lambda x: Interval(function(x.low), function(x.high), x.low_open, x.high_open)


def maximum(x: Interval, y: Interval) -> Interval:
    """Return max(x, y)."""
    if x.low == y.low:
        low_open = x.low_open or y.low_open
    else:
        low_open = x.low_open if x.low > y.low else y.low_open
    return Interval(max(x.low, y.low), max(x.high, y.high), low_open, x.high_open and y.high_open)


def minimum(x: Interval, y: Interval) -> Interval:
    """Return min(x, y)."""
    return neg(maximum(neg(x), neg(y)))


def _exp(x: float) -> float:
    return INF if x > 700 else math.exp(x)


def _logistic(x: float) -> float:
    return 1.0 if x > 36 else 0.0 if x < -700 else 1 / (1 + math.exp(-x))


def _log(x: float) -> float:
    return -INF if x <= 0 else math.log(x)


exp, exp2 = monotone(_exp), monotone(lambda x: _exp(x * math.log(2)))
softplus = monotone(lambda x: x if x > 36 else math.log1p(_exp(x)))
expm1 = monotone(lambda x: _exp(x) - 1)
logistic, tanh = monotone(_logistic), monotone(math.tanh)
log, log1p = monotone(_log), monotone(lambda x: _log(1 + x))
sqrt = monotone(lambda x: math.sqrt(x) if x > 0 else 0.0)
