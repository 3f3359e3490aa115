"""The oracle: exact mean and variance of an estimator whose noise is finite, by enumerating that noise."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from ppl import jaxprs
from ppl._errors import PPLError, StrategyError, boundary
from ppl.transforms.expect import check_results, estimator, prepare
from ppl.transforms.grad import select
from ppl.transforms.noise import ShapeNoise, Site, TableNoise
from ppl.transforms.programs import Program, name_of, stage_program

MAX_OUTCOMES = 2**20


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Exact:
    """Exact moments of an estimator.

    Attributes:
        value: Mean of `ppl.expect(f)`.
        gradient: Mean of `ppl.grad(f)`, in the structure of the argument.
        variance: Elementwise variance of one run of `ppl.grad(f)`.
    """

    value: Any
    gradient: Any
    variance: Any


def exact_gradient(function: Callable, argnums: int | tuple[int, ...] = 0) -> Callable[..., Exact]:
    """Return a function of `*args` that gives the exact mean and variance of an estimator.

    Every outcome of the noise that the estimator draws is evaluated, value and gradient, and weighted with its
    probability. Enumerated choices draw none; choices drawn for each value of an enumerated one count once for each.

    Args:
        function: A stochastic function that returns a scalar and whose noise is finite.
        argnums: Which argument (or arguments) to differentiate.

    Returns:
        A function that returns [`Exact`][].

    Raises:
        StrategyError: A choice draws noise that is not finite, or there are more than 2**20 outcomes.

    Example:
        >>> import ppl
        >>> cost = lambda p: (ppl.bernoulli(p, grad=ppl.reinforce()).sample() - 0.45) ** 2
        >>> exact = ppl.exact_gradient(cost)(0.3)
        >>> round(float(exact.gradient), 4), round(float(exact.variance), 4)
        (0.1, 0.3536)
    """

    @functools.wraps(function, updated=())
    @boundary
    def exact(*args: Any) -> Exact:
        selected = select(function, args, argnums)
        program = stage_program(function, args)
        aux = check_results(program, has_aux=False)
        program = prepare(program, aux)
        estimate = estimator(program, aux)
        sites = _noise_sites(program, estimate)
        outcomes = _count(function, sites)

        def run(number, values):
            traced, _ = jaxprs.split((tuple(selected.fill(values)), {}))
            counts = {at: site.num_values for at, site in sites.items()}
            noise = TableNoise(_tables(number, sites), counts, places=program.places)
            return program.staged.results(estimate(noise, traced)), noise.log_prob

        both = jax.value_and_grad(run, argnums=1, has_aux=True)
        one = lambda number: both(number, selected.values)
        (values, log_probs), gradients = jax.jit(lambda: _all(one, outcomes))()
        return _moments(name_of(function), selected, values, log_probs, gradients)

    return exact


def _noise_sites(program: Program, estimate: Callable) -> dict[tuple[int, ...], Site]:
    noise = ShapeNoise(program.places)
    jax.eval_shape(lambda *leaves: estimate(noise, leaves), *program.leaves)
    return noise.sites


def _count(function: Callable, sites: dict) -> int:
    log2 = sum(math.prod(site.shape) * math.log2(site.num_values) for site in sites.values())
    if log2 > math.log2(MAX_OUTCOMES) + 1e-9:
        raise StrategyError(
            f"The noise of `{name_of(function)}` has too many outcomes to enumerate.",
            expected=f"at most {MAX_OUTCOMES}",
            got=f"2**{log2:.1f}",
            remedy="make the program smaller: fewer lanes, steps or values",
        )
    return math.prod(site.num_values ** math.prod(site.shape) for site in sites.values())


def _tables(number, sites: dict) -> dict:
    """Read the number of an outcome as the values of all draws, in mixed radix."""
    tables, stride = {}, 1
    for location, site in sites.items():
        size = math.prod(site.shape)
        strides = np.array([stride * site.num_values**i for i in range(size)], np.int64).reshape(site.shape)
        tables[location] = ((number // strides.astype(np.int32)) % site.num_values).astype(jnp.int32)
        stride *= site.num_values**size
    return tables


def _all(one: Callable, outcomes: int):
    numbers = jnp.arange(outcomes, dtype=jnp.int32)
    return jax.vmap(one)(numbers) if outcomes <= 4096 else jax.lax.map(one, numbers, batch_size=4096)


def _moments(name: str, selected, values, log_probs, gradients) -> Exact:
    probs = jnp.exp(log_probs)
    total = float(probs.sum())
    if not abs(total - 1) < 1e-4:
        raise PPLError(
            f"The probabilities of all outcomes of `{name}` do not sum to 1.",
            expected="parameters that are probabilities",
            got=f"a total of {total}",
        )
    weigh = lambda x: jnp.tensordot(probs, jnp.where(probs.reshape((-1,) + (1,) * (x.ndim - 1)) > 0, x, 0), 1)
    means = [weigh(g) for g in gradients]
    variances = [weigh((g - mean) ** 2) for g, mean in zip(gradients, means, strict=True)]
    return Exact(weigh(values), selected.restore(means), selected.restore(variances))
