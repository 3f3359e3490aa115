"""Divergences of the posterior from the guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimators.objectives.checks import require_number
from estimators.objectives.particles import log_weights_of, require_bound
from ppl import GenerativeFunction, PPLError
from ppl._errors import boundary, user_source


@boundary
def f_divergence(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    f: Callable[[jax.Array], jax.Array],
    particles: int = 1,
    log_evidence: Any = None,
) -> Callable[..., jax.Array]:
    """Make D_f(p(z | x), q) = E_q f(p(z | x) / q(z)) (Csiszar 1967), to be MINIMISED.

    The posterior's density is p(x, z) / p(x). With `log_evidence` = log p(x) (0 where the model is normalised and
    nothing is observed) value and gradient are unbiased, with any strategies in the guide. Without it, p(x) is
    estimated by the K particles: biased by design, by O(1/K). Costs K runs. Variances: those of f(w), which for the
    forward divergence and chi square are infinite where the guide's tails are much lighter than the posterior's.

    It fits the guide: derivatives with respect to the model's parameters leave out that of log p(x).

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        f: A function of log t for a ratio t, elementwise; see `estimators.divergences`.
        particles: Number K of independent draws from the guide; at least 2 without `log_evidence`.
        log_evidence: log p(x), or None.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar.

    Raises:
        PPLError: `particles` is not an int of at least 1, or 2; `f` is no function; `log_evidence` is no number.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import divergences, f_divergence
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.bernoulli(0.3) @ "z"
        ...     ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.bernoulli(params, grad=ppl.enum()) @ "z"
        >>> distance = f_divergence(model, guide, divergences.total_variation, log_evidence=jnp.log(0.31))
        >>> exact = ppl.exact_gradient(distance)(0.5, {"x": 1})
        >>> round(float(exact.value), 4), round(float(exact.gradient), 4)
        (0.2742, -1.0)
    """
    require_bound("f_divergence", model, guide, particles, least=2 if log_evidence is None else 1)
    if log_evidence is not None:
        require_number("f_divergence", "log_evidence", log_evidence, "a finite number, or None", np.isfinite)
    _require_generator(f)
    drawn = log_weights_of(model, guide, particles)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        log_weights = drawn(params, observed, *inputs)
        if log_evidence is None:
            return jnp.mean(f(log_weights - jax.nn.logsumexp(log_weights) + jnp.log(particles)))
        return jnp.mean(f(log_weights - log_evidence))

    return objective


def _require_generator(f: Any) -> None:
    if not callable(f):
        raise PPLError(
            "`f_divergence` takes a function of the log ratio.",
            where=user_source(),
            got=repr(f),
            remedy="pass e.g. `estimators.divergences.jensen_shannon`",
        )
