"""The strategies of the support matrix: how each makes a choice, and the law of what it makes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import loggamma

import ppl
from estimators import constant, implicit, leave_one_out, leave_one_out_lanes, mvd, reinforce
from tests.statistics import Draws

SCALE, RATE = 0.8, 2.0


@dataclasses.dataclass(frozen=True)
class all_values(ppl.Strategy):  # noqa: N801
    """A user's own strategy: the costs of all values of a finite support, weighed with their probabilities."""

    def estimate(self, key, d, k):
        """Return sum_v p(v) k(v)."""
        costs = [k(d.first_value + index) for index in range(d.num_values)]
        return (d.probabilities * jnp.stack(costs)).sum(0)


@dataclasses.dataclass(frozen=True)
class edge(ppl.Strategy):  # noqa: N801
    """A user's own strategy for uniform(0, high): d E k(x) = (k(high) - E k(x)) dhigh / high."""

    def estimate(self, key, d, k):
        """Return high (k(high) - k(x)) / high, the last factor detached."""
        high = d.params["high"]
        fixed = jax.lax.stop_gradient(high)
        return high * jax.lax.stop_gradient(k(fixed) - k(d.sample(key))) / fixed


@dataclasses.dataclass(frozen=True)
class Way:
    """A strategy, with the family on which the matrix shows it.

    Attributes:
        name: Column of the matrix.
        strategy: The strategy.
        family: "coin", "normal" or "gamma".
        predicate: The strategy of coins and dice that decide which branch is taken.
        dice: That of dice, where the predicate's is for coins alone.
        is_exact: Whether its noise is finite, so that its mean is found by enumeration.
    """

    name: str
    strategy: ppl.Strategy
    family: str = "coin"
    predicate: ppl.Strategy = reinforce()
    is_exact: bool = True
    dice: ppl.Strategy | None = None

    def __str__(self) -> str:
        return self.name

    def choice(self, u, strategy=None):
        """Prepare a choice of parameter u in (0, 1)."""
        strategy = self.strategy if strategy is None else strategy
        if self.family == "coin":
            return ppl.bernoulli(u, grad=strategy)
        if self.family == "normal":
            return ppl.normal(2 * u, SCALE, grad=strategy)
        return ppl.gamma(1.5 + u, RATE, grad=strategy)

    def prior(self):
        """Prepare the same choice in a model, without parameters."""
        return self.choice(0.3)

    def __call__(self, u):
        """Make an anonymous choice, as a float."""
        return self.choice(u).sample().astype(float)

    def coin(self, prob):
        """Make a choice of a predicate."""
        return ppl.bernoulli(prob, grad=self.predicate).sample()

    def die(self, u):
        """Make a choice among three branches."""
        strategy = self.predicate if self.dice is None else self.dice
        return ppl.categorical(jnp.stack([1 - u, u * u, u * (1 - u)]), grad=strategy).sample()

    @property
    def is_direct(self) -> bool:
        """Tell whether the strategy has a method `estimate`."""
        return self.strategy.mode == "direct"

    def with_predicate(self, strategy) -> "Way":
        """Return the same with another strategy for predicates."""
        return dataclasses.replace(self, predicate=strategy)


WAYS = [
    Way("pathwise", ppl.pathwise(), "normal", is_exact=False),
    Way("implicit", implicit(), "gamma", is_exact=False),
    Way("reinforce", reinforce()),
    Way("reinforce(constant)", reinforce(constant(0.7)), predicate=reinforce(constant(0.4))),
    Way("reinforce(leave_one_out_lanes)", reinforce(leave_one_out_lanes()), predicate=reinforce()),
    Way("enum", ppl.enum(), predicate=ppl.enum()),
    Way("mvd", mvd(), predicate=mvd()),
    Way("leave_one_out", leave_one_out(2), predicate=leave_one_out(2), is_exact=False),
    Way("a user's own", all_values(), predicate=all_values()),
]


@functools.cache
def _moments_rule(nodes: int = 5):
    """Return nodes, and the matrix that turns moments into weights: exact for polynomials of degree nodes - 1."""
    points = np.linspace(0.3, 3.0, nodes)
    return points, np.linalg.inv(np.vander(points, increasing=True).T)


@dataclasses.dataclass(frozen=True)
class Law:
    """The same calls on a tree of outcomes; costs are polynomials in continuous values of degree at most 4."""

    family: str
    draws: Draws

    def __call__(self, u):
        """Draw a value."""
        if self.family == "coin":
            return self.draws.coin(u)
        return self.draws.normal(2 * u, SCALE, nodes=4) if self.family == "normal" else self._gamma(1.5 + u)

    def _gamma(self, concentration):
        points, matrix = _moments_rule()
        moments = [concentration**0]
        for power in range(len(points) - 1):
            moments.append(moments[-1] * (concentration + power) / RATE)
        return self.draws([sum(a * m for a, m in zip(row, moments, strict=True)) for row in matrix], list(points))

    def fine(self, u):
        """Draw a value by a rule that is good for any smooth cost."""
        if self.family == "coin":
            return self.draws.coin(u)
        if self.family == "normal":
            return self.draws.normal(2 * u, SCALE, nodes=40)
        logs = np.arange(-18, 3.5, 0.25)
        weights = [np.exp(self._log_gamma(1.5 + u, log) + log) * 0.25 for log in logs]
        return self.draws(weights, list(np.exp(logs)))

    @staticmethod
    def _log_gamma(concentration, log):
        return concentration * math.log(RATE) + (concentration - 1) * log - RATE * np.exp(log) - loggamma(concentration)

    def log_prob(self, u, x):
        """Evaluate the log density of a value."""
        if self.family == "coin":
            return np.log(u if x else 1 - u)
        if self.family == "normal":
            return -0.5 * ((x - 2 * u) / SCALE) ** 2 - math.log(SCALE * math.sqrt(2 * math.pi))
        return self._log_gamma(1.5 + u, math.log(x))

    def coin(self, prob):
        """Draw a predicate."""
        return self.draws.coin(prob)

    def die(self, u):
        """Draw a branch."""
        return self.draws([1 - u, u * u, u * (1 - u)])
