"""Reweighted wake-sleep: one objective for the model, two for the guide, and one for both at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.checks import require_programs
from estimators.objectives.dreams import dreamt
from estimators.objectives.particles import require_bound
from estimators.objectives.weighted import guide_densities, weighted_particles
from ppl import GenerativeFunction, assess
from ppl._errors import boundary


@boundary
def wake_p(model: GenerativeFunction, guide: GenerativeFunction, particles: int) -> Callable[..., jax.Array]:
    """Make the wake phase of the model: sum_i v_i log p(x, z_i), v_i = w_i / sum_k w_k (Bornschein and Bengio 2015).

    The particles z_i and their weights are detached: the guide is not trained. The gradient estimates that of
    log p(x). Biased by design, by O(1/K): a ratio of means. It equals the model's gradient of `iwelbo`. At the
    sheet's two-point model with prior probability pi = .3 and guide .5 the mean for pi is, at K = 1, 0.9524 and in the
    limit 2.2581. Costs K runs; any strategies in the guide, as none is used.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        particles: Number K of independent draws from the guide, at least 1.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        PPLError: `particles` is not a positive int.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax, ppl
        >>> from estimators import wake_p
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(params, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(1.0, 1.0) @ "z")
        >>> ppl.grad(wake_p(model, guide, particles=5))(jax.random.key(0), 0.0, {"x": 2.0}).shape
        ()
    """
    require_bound("wake_p", model, guide, particles)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        _, log_joints, log_weights = weighted_particles(model, guide, particles, params, observed, *inputs)
        return jnp.sum(jax.nn.softmax(log_weights) * log_joints)

    return objective


@boundary
def wake_q(model: GenerativeFunction, guide: GenerativeFunction, particles: int) -> Callable[..., jax.Array]:
    """Make the wake phase of the guide: sum_i v_i log q(z_i), v_i = w_i / sum_k w_k (Bornschein and Bengio 2015).

    The particles z_i and their weights are detached, so the model is not trained. The gradient estimates that of
    minus KL(p(z | x), q). Biased by design, by O(1/K): at the sheet's two-point model and guide its mean is
    0 at K = 1, .5483871 at 2, .9120627 at 5, 1.0566248 at 20, and 1.0967742 in the limit. Costs K runs and K densities
    of the guide; any strategies in the guide, as none is used. No score of a path: low variance for discrete choices.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        particles: Number K of independent draws from the guide; with 1 the mean of the gradient is 0.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        PPLError: `particles` is not a positive int.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import wake_q
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.bernoulli(0.3) @ "z"
        ...     ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.bernoulli(params, grad=ppl.enum()) @ "z"
        >>> exact = ppl.exact_gradient(wake_q(model, guide, particles=2))(0.5, {"x": 1})
        >>> round(float(exact.gradient), 4)
        0.5484
    """
    require_bound("wake_q", model, guide, particles)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        choices, _, log_weights = weighted_particles(model, guide, particles, params, observed, *inputs)
        return jnp.sum(jax.nn.softmax(log_weights) * guide_densities(guide, choices, params, observed, *inputs))

    return objective


@boundary
def reweighted_wake_sleep(
    model: GenerativeFunction, guide: GenerativeFunction, particles: int
) -> Callable[..., jax.Array]:
    """Make both wake phases by the same particles: sum_i v_i (log p(x, z_i) + log q(z_i)) (Bornschein and Bengio 2015).

    The gradient is that of `wake_p` plus that of `wake_q`, with half of their draws: parameters of the model learn from
    the first, those of the guide from the second, and those of both from their sum. Biased by design, by O(1/K), as
    these are. Costs K runs and K densities of the guide; any strategies in the guide, as none is used.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        particles: Number K of independent draws from the guide, at least 1.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        PPLError: `particles` is not a positive int.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax, ppl
        >>> from estimators import reweighted_wake_sleep
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(params[0], 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params[1], 1.0) @ "z")
        >>> both = reweighted_wake_sleep(model, guide, particles=5)
        >>> [part.shape for part in ppl.grad(both)(jax.random.key(0), (0.0, 1.0), {"x": 2.0})]
        [(), ()]
    """
    require_bound("reweighted_wake_sleep", model, guide, particles)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        choices, log_joints, log_weights = weighted_particles(model, guide, particles, params, observed, *inputs)
        log_guides = guide_densities(guide, choices, params, observed, *inputs)
        return jnp.sum(jax.nn.softmax(log_weights) * (log_joints + log_guides))

    return objective


@boundary
def sleep_q(model: GenerativeFunction, guide: GenerativeFunction) -> Callable[..., jax.Array]:
    """Make the sleep phase of the guide: E log q(z; x), (z, x) dreamt by the model (Hinton et al. 1995, section 3).

    Unbiased, without weights, and no strategy is used: the dream is detached, so the model is not trained. It fits an
    amortised guide to p(z | x) on average over what the model would generate, not over what is observed: of
    `observed`, only addresses, shapes and dtypes are used. Costs one run of the model and one density of the guide.

    Args:
        model: Called as `model(params, *inputs)`; it can be simulated, and makes just the guide's choices and the
            observed ones.
        guide: Called as `guide(params, dreamt, *inputs)`.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        AddressError: The model makes no choice at an observed address, or other choices than the guide's.

    Example:
        >>> import jax, ppl
        >>> from estimators import sleep_q
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params * observed["x"], 0.7) @ "z")
        >>> ppl.grad(sleep_q(model, guide))(jax.random.key(0), 0.5, {"x": 2.0}).shape
        ()
    """
    require_programs("sleep_q", model=model, guide=guide)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        latent, seen = dreamt(model, params, observed, *inputs)
        return assess(guide)(latent, params, seen, *inputs)[0]

    return objective
