"""The thermodynamic variational objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from estimators.objectives.particles import log_weights_of, require_bound
from ppl import GenerativeFunction, PPLError
from ppl._errors import boundary, user_source


@boundary
def thermodynamic(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    particles: int,
    betas: Sequence[float] = (0.0, 0.5, 1.0),
    side: Literal["left", "right"] = "left",
) -> Callable[..., jax.Array]:
    """Make the thermodynamic objective (Masrani, Le and Wood 2019, eq. 6), to be maximised.

    log p(x) is the integral over b from 0 to 1 of E_b log w, where E_b is the mean under the path from the guide to
    the posterior, q^(1 - b) p^b, and w = p(x, z) / q(z). As E_b log w increases, its sum over bins with left ends is
    a lower bound, at one bin the ELBO; with right ends it is an upper one. E_b is estimated with K particles of the
    guide and weights w^b / sum w^b.

    Biased by design where b > 0, by O(1/K), since these are ratios of means: at K = 1 both sides are the ELBO. As an
    estimate of its mean with K particles the gradient is unbiased, with any strategies in the guide. Costs K runs.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        particles: Number K of independent draws from the guide, at least 1.
        betas: Ends of the bins, increasing from 0 to 1.
        side: "left" for the lower bound, "right" for the upper one.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar.

    Raises:
        PPLError: `particles` is not a positive int, the ends of the bins do not increase from 0 to 1, or `side` is
            neither "left" nor "right".
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import thermodynamic
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.bernoulli(0.3) @ "z"
        ...     ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.bernoulli(params, grad=ppl.enum()) @ "z"
        >>> value = ppl.exact_gradient(thermodynamic(model, guide, particles=1))(0.5, {"x": 1}).value
        >>> round(float(value), 4)
        -1.35
    """
    require_bound("thermodynamic", model, guide, particles)
    widths, at = _bins(betas, side)
    drawn = log_weights_of(model, guide, particles)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        log_weights = drawn(params, observed, *inputs)
        shares = jax.nn.softmax(jnp.asarray(at, log_weights.dtype)[:, None] * log_weights, axis=1)
        return jnp.sum(jnp.asarray(widths, log_weights.dtype)[:, None] * shares * log_weights)

    return objective


def _bins(betas: Sequence[float], side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the widths of the bins, and where each is evaluated."""
    ends = np.asarray(betas, float)
    if ends.ndim != 1 or len(ends) < 2 or ends[0] != 0 or ends[-1] != 1 or (np.diff(ends) <= 0).any():
        _refuse("bins", "numbers that increase from 0 to 1", betas)
    if side not in ("left", "right"):
        _refuse("`side`", '"left" or "right"', side)
    return np.diff(ends), ends[:-1] if side == "left" else ends[1:]


def _refuse(what: str, expected: str, got: Any) -> None:
    raise PPLError(
        f"`thermodynamic` takes other {what}.",
        where=user_source(),
        expected=expected,
        got=repr(got),
        remedy="leave them out for the default: `betas=(0.0, 0.5, 1.0), side='left'`",
    )
