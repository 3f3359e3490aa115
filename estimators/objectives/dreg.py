"""The importance-weighted bound with doubly reparameterised gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.guides import detached, require_exact, tangents_of
from estimators.objectives.particles import require_bound
from ppl import GenerativeFunction, assess, merge, simulate
from ppl._errors import boundary
from ppl.transforms.traits import density_of


@boundary
def dreg(model: GenerativeFunction, guide: GenerativeFunction, particles: int) -> Callable[..., jax.Array]:
    """Make the importance-weighted bound with doubly reparameterised gradients (Tucker et al. 2019, eq. 8).

    The value is that of [`iwelbo`][estimators.iwelbo]. With v_i = w_i / sum_k w_k, the gradient for the guide is

        sum_i v_i^2 (d log w_i / d z_i) (d z_i / d params),

    for the model sum_i v_i d log p(x, z_i). Both are unbiased: the score of a pathwise choice, charged with v_i, is
    reparameterised once more. Choices that are not pathwise keep their strategy; their scores are charged with what is
    left of the bound, L - v_i.

    Assumes pathwise choices (for the others it is `iwelbo`). Costs a second run of the densities, whose values the
    compiler shares with the first. The signal-to-noise ratio of the guide's gradient grows with K, while that of
    `iwelbo` falls.

    Args:
        model: Called as `model(params, *inputs)`; its density is exact.
        guide: Called as `guide(params, observed, *inputs)`; its density is exact, and only `params` is trained in it.
        particles: Number K of independent draws from the guide, at least 1; 1 gives `sticking_the_landing`.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        PPLError: `particles` is not a positive int.
        AddressError: The guide's and the observed choices together are not the model's.
        StrategyError: The density of guide or model is an estimate: assessed once more it would be another one.

    Example:
        >>> import jax, ppl
        >>> from estimators import dreg
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.normal(params, 0.5**0.5) @ "z"
        >>> grad = ppl.grad(dreg(model, guide, particles=4))
        >>> abs(round(float(grad(jax.random.key(0), 1.0, {"x": 2.0})), 5))
        0.0
    """
    require_bound("dreg", model, guide, particles)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        args = (params, observed, *inputs)
        require_exact("dreg", guide, *args)
        require_exact("dreg", model, params, *inputs)
        draw = _draw(model, guide, _not_pathwise(guide, args), args)
        choices, log_weights, scored = jax.vmap(lambda _: draw())(jnp.arange(particles))
        shares = jax.lax.stop_gradient(jax.nn.softmax(log_weights))
        bound = jax.lax.stop_gradient(jax.nn.logsumexp(log_weights - jnp.log(particles)))
        paths = jax.vmap(_path(model, guide, args))(choices, shares)
        return bound + jnp.sum(shares * tangents_of(paths)) - jnp.sum(shares * tangents_of(scored))

    return objective


def _draw(model: GenerativeFunction, guide: GenerativeFunction, others: list[str], args: tuple) -> Callable[[], tuple]:
    """Make what draws choices, with their log weight and the log density of those that are not pathwise."""
    params, observed, *inputs = args

    def draw() -> tuple[Any, jax.Array, jax.Array]:
        drawn = simulate(guide)(*args)
        log_joint, _ = assess(model)(merge(drawn.choices, observed), params, *inputs)
        return drawn.choices, log_joint - drawn.log_density, density_of(guide, drawn, others)

    return draw


def _path(model: GenerativeFunction, guide: GenerativeFunction, args: tuple) -> Callable[[Any, jax.Array], jax.Array]:
    """Make the log weight of choices that move by a share of their derivatives; the guide's parameters stand still."""
    params, observed, *inputs = args

    def path(choices: Any, share: jax.Array) -> jax.Array:
        moved = jax.tree.map(lambda leaf: _slowed(leaf, share), choices)
        log_joint, _ = assess(model)(merge(moved, observed), params, *inputs)
        log_prob, _ = assess(guide)(moved, detached(params), observed, *inputs)
        return log_joint - log_prob

    return path


def _not_pathwise(guide: GenerativeFunction, args: tuple) -> list[str]:
    """List the addresses at which a choice is not differentiated along its path."""
    found = guide.strategies(*args)
    return [name for name, ways in found.items() if any(getattr(way, "mode", None) != "path" for way in ways)]


def _slowed(leaf: jax.Array, share: jax.Array) -> jax.Array:
    """Multiply the derivatives of a value, not the value."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return jax.lax.stop_gradient(leaf) + share.astype(leaf.dtype) * tangents_of(leaf)
