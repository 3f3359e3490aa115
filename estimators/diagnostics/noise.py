"""Signal and noise of a gradient, and its bias where that can be counted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimators.diagnostics.probes import require_draws
from ppl import enum, exact_gradient, grad, gradient_variance, with_grad
from ppl._errors import boundary


@dataclasses.dataclass(frozen=True)
class SignalToNoise:
    """Signal and noise of one run of `ppl.grad(f)`.

    Attributes:
        elementwise: |mean| / standard deviation of each element, in the structure of the argument; inf without noise.
        overall: Norm of the mean over the root of the summed variances.
        by_choice: The same with one choice's (or group's) share of the variance in place of all of it, by address: the
            smallest ratio names the choice to improve.
        samples: Number of runs.
    """

    elementwise: Any
    overall: float
    by_choice: dict[str, float]
    samples: int

    def __str__(self) -> str:
        rows = [f"  {name}: {ratio:.3g}" for name, ratio in sorted(self.by_choice.items(), key=lambda row: row[1])]
        runs = "one run is enough" if self.overall >= 1 else f"{math.ceil(1 / self.overall**2)} runs for a ratio of 1"
        return "\n".join([f"Signal to noise {self.overall:.3g} ({self.samples} runs; {runs}); of each choice:", *rows])

    __repr__ = __str__


@boundary
def signal_to_noise(function: Callable, argnums: int = 0) -> Callable[..., SignalToNoise]:
    """Return a function of `(key, *args, samples=1000)` that gives the signal-to-noise ratio of `ppl.grad(function)`.

    |E g| / sd g (Rainforth et al. 2018), and for each choice the same with its share of the variance, Sobol's total
    index as in `ppl.gradient_variance`. The square root of a mean of squares: below 1, averaging n runs multiplies it
    by sqrt(n). The mean itself is estimated: ratios below 2 / sqrt(samples) are not told from 0.

    Args:
        function: A stochastic function that returns a scalar.
        argnums: Which argument, counted after the key, to differentiate.

    Returns:
        A function that returns [`SignalToNoise`][estimators.diagnostics.SignalToNoise].

    Raises:
        PPLError: `samples` is not an int of at least 2; or whatever `ppl.grad` raises.

    Example:
        >>> import jax, ppl
        >>> from estimators import signal_to_noise
        >>> cost = lambda loc: ppl.normal(loc, 1.0).sample("z") ** 2  # 2 (loc + noise): ratio |loc|
        >>> round(signal_to_noise(cost)(jax.random.key(0), 3.0, samples=4000).overall)
        3
    """

    @boundary
    def measured(key: jax.Array, *args: Any, samples: int = 1000) -> SignalToNoise:
        require_draws("signal_to_noise", "samples", samples, 2)
        mean_key, share_key = jax.random.split(key)
        run = jax.jit(jax.vmap(lambda key: grad(function, argnums)(key, *args)))
        draws = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), run(jax.random.split(mean_key, samples)))
        means, spreads = (jax.tree.map(lambda leaf, f=f: f(leaf, 0), draws) for f in (np.mean, np.std))
        norm = lambda tree: math.sqrt(sum(float(np.sum(leaf**2)) for leaf in jax.tree.leaves(tree)))
        signal, noise = norm(means), norm(spreads)
        shares = gradient_variance(function, argnums, show_progress=False)(share_key, *args, samples=samples).shares
        by_choice = {row.address: _ratio(signal, noise * math.sqrt(max(row.total.value, 0.0))) for row in shares}
        elementwise = jax.tree.map(_ratios, means, spreads)
        return SignalToNoise(elementwise, _ratio(signal, noise), by_choice, samples)

    return measured


def _ratio(signal: float, noise: float) -> float:
    return signal / noise if noise > 0 else math.inf


def _ratios(means: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    return np.where(spreads > 0, np.abs(means) / np.where(spreads > 0, spreads, 1), np.inf)


@dataclasses.dataclass(frozen=True)
class Bias:
    """The exact bias of an estimator.

    Attributes:
        gradient: Mean of `ppl.grad(f)`, in the structure of the argument.
        truth: The derivative of the mean.
        bias: Their difference.
        standard_deviation: Of one run.
    """

    gradient: Any
    truth: Any
    bias: Any
    standard_deviation: Any

    @property
    def largest(self) -> float:
        """Largest bias of an element, in absolute value."""
        return max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(self.bias))

    def __str__(self) -> str:
        return f"mean {self.gradient}, truth {self.truth}, bias {self.bias}, sd of one run {self.standard_deviation}"


@boundary
def bias(function: Callable, argnums: int = 0) -> Callable[..., Bias]:
    """Return a function of `*args` that gives the exact bias of `ppl.grad(function)`, without any noise.

    Every outcome of the noise is counted by `ppl.exact_gradient`, once with the strategies of the program, once with
    all choices enumerated. For programs all of whose choices have finite supports, as small as those oracles ask.

    Args:
        function: A stochastic function that returns a scalar.
        argnums: Which argument to differentiate.

    Returns:
        A function that returns [`Bias`][estimators.diagnostics.Bias].

    Raises:
        StrategyError: A choice has no finite support, or there are too many outcomes.

    Example:
        >>> import ppl
        >>> from estimators import bias, dropped, reinforce
        >>> cost = lambda strategy: lambda p: (ppl.bernoulli(p, grad=strategy).sample() - 0.45) ** 2
        >>> round(bias(cost(dropped()))(0.3).largest, 4), round(bias(cost(reinforce()))(0.3).largest, 4)
        (0.1, 0.0)
    """

    @boundary
    def measured(*args: Any) -> Bias:
        found = exact_gradient(function, argnums)(*args)
        truth = exact_gradient(with_grad(function, {"*": enum()}), argnums)(*args).gradient
        difference = jax.tree.map(lambda one, other: one - other, found.gradient, truth)
        return Bias(found.gradient, truth, difference, jax.tree.map(jnp.sqrt, found.variance))

    return measured
