"""The bound of an annealed path from the guide to the posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from estimators.objectives.checks import require_number, require_programs
from estimators.objectives.guides import require_exact
from estimators.objectives.scores import require_real, vector_of
from ppl import GenerativeFunction, PPLError, assess, merge, normal, simulate
from ppl._errors import boundary, user_source


@boundary
def annealed(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    steps: int,
    step_size: Any,
    persistence: Any = 0.9,
) -> Callable[..., jax.Array]:
    """Make the bound of uncorrected Hamiltonian annealing (Geffner and Domke 2021; Zhang et al. 2021).

    A draw z_0 of the guide is moved by leapfrog steps of Hamiltonian dynamics for the densities q^(1 - b) p^b,
    b = 1/K, ..., 1, between which the momentum is partly drawn anew, r' = g r + sqrt(1 - g^2) e. Without a Metropolis
    correction everything is differentiable, and

        E log p(x, z_K) - log q(z_0) + sum_k log N(r_k) - log N(r'_k)

    (r'_k before the k-th leapfrog step, r_k after it) is a lower bound of log p(x), for any step size. With no steps it
    is the ELBO. Unbiased as that bound. Costs 2 K scores of model and guide; the bound grows with K if the step size
    is small enough, and falls if it is too large: train it.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`; continuous choices on the whole line or space, with an
            exact density, and pathwise or by score.
        steps: Number K of leapfrog steps, at least 0.
        step_size: A positive number, or a function of `params` that returns one.
        persistence: g, in [0, 1), or a function of `params`; 0 draws the momentum anew in every step.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        PPLError: `steps` is no int of at least 0, `step_size` or `persistence` no number that fits, or a support of the
            guide has edges.
        AddressError: The guide's and the observed choices together are not the model's.
        StrategyError: The density of the guide is an estimate.

    Example:
        >>> import jax, ppl
        >>> from estimators import annealed
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params, 0.8) @ "z")
        >>> bound = annealed(model, guide, steps=8, step_size=0.3)
        >>> ppl.grad(bound)(jax.random.key(0), 0.5, {"x": 2.0}).shape
        ()
    """
    require_programs("annealed", model=model, guide=guide)
    _require_path(steps, step_size, persistence)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        args = (params, observed, *inputs)
        require_exact("annealed", guide, *args)
        require_real("annealed", guide, args)
        drawn = simulate(guide)(*args)
        z, restore = vector_of("annealed", drawn.choices)
        log_q = lambda z: assess(guide)(restore(z), *args)[0]
        log_p = lambda z: assess(model)(merge(restore(z), observed), params, *inputs)[0]
        if steps == 0:
            return log_p(z) - drawn.log_density
        size, kept = (number(params) if callable(number) else number for number in (step_size, persistence))
        z, gain = _transitions(log_q, log_p, z, steps, size, kept)
        return log_p(z) - drawn.log_density + gain

    return objective


def _require_path(steps: Any, step_size: Any, persistence: Any) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise PPLError(
            "`annealed` takes a number of steps.",
            where=user_source(),
            expected="an int of at least 0",
            got=repr(steps),
            remedy="give the number of leapfrog steps; 0 is the ELBO",
        )
    if not callable(step_size):
        require_number("annealed", "step_size", step_size, "a positive number", lambda h: np.isfinite(h) and h > 0)
    if not callable(persistence):
        require_number("annealed", "persistence", persistence, "a number in [0, 1)", lambda g: 0 <= g < 1)


def _transitions(log_q: Callable, log_p: Callable, z: jax.Array, steps: int, size: Any, kept: Any):
    """Move a draw to the posterior; return it, and the log ratio of all momenta."""

    def move(carry, beta):
        z, momentum, gain = carry
        noise = normal(jnp.zeros_like(z), 1.0).sample("momentum")
        before = kept * momentum + jnp.sqrt(1 - jnp.asarray(kept, z.dtype) ** 2) * noise
        score = jax.grad(lambda z: (1 - beta) * log_q(z) + beta * log_p(z))
        half = before + size / 2 * score(z)
        z = z + size * half
        after = half + size / 2 * score(z)
        return (z, after, gain + jnp.sum(before**2 - after**2) / 2), None

    first = normal(jnp.zeros_like(z), 1.0).sample("first momentum")
    betas = jnp.arange(1, steps + 1, dtype=z.dtype) / steps
    (z, _, gain), _ = lax.scan(move, (z, first, jnp.zeros((), z.dtype)), betas)
    return z, gain
