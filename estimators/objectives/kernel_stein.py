"""Kernelised Stein discrepancy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimators.objectives.checks import require_number, require_particles, require_programs
from estimators.objectives.scores import vector_of
from ppl import GenerativeFunction, assess, merge, simulate
from ppl._errors import boundary


@boundary
def kernel_stein(
    model: GenerativeFunction, guide: GenerativeFunction, particles: int, bandwidth: Any = 1.0
) -> Callable[..., jax.Array]:
    """Make the squared kernelised Stein discrepancy as a U-statistic (Liu, Lee and Jordan 2016, eq. 14).

    To be MINIMISED. With s the score of the posterior and the kernel k = exp(-|z - z'|^2 / (2 h^2)), the mean over
    pairs of different particles of

        s(z) s(z') k + s(z) dk/dz' + s(z') dk/dz + tr d^2 k / dz dz'.

    Neither the normalising constant nor the density of the guide is needed: any program that can be run will do, a
    marginal, or one pushed through a network. Unbiased with any strategies in the guide; single values may be
    negative. Costs K runs, K scores and K^2 kernels. In many dimensions it is blind to modes, and the kernel flat.

    Args:
        model: Called as `model(params, *inputs)`; a prior known by its score will do. The posterior is positive on the
            whole space of the choices.
        guide: Called as `guide(params, observed, *inputs)`; continuous choices.
        particles: Number K of independent draws from the guide, at least 2.
        bandwidth: h, a positive number; it may be traced.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar: give it to `ppl.minimize`.

    Raises:
        PPLError: `particles` is not an int of at least 2, `bandwidth` is not a positive number, or a choice of the
            guide is discrete or made only sometimes.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax, ppl
        >>> from estimators import kernel_stein
        >>> model = ppl.gen(lambda params: ppl.normal(0.0, 1.0) @ "z")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params, 1.0) @ "z")
        >>> found = ppl.expect(kernel_stein(model, guide, particles=2000))(jax.random.key(0), 0.5, {})
        >>> bool(abs(found - 0.25 / 3**0.5) < 0.05)  # m^2 / sqrt(3) for N(m, 1) and N(0, 1)
        True
    """
    require_particles("kernel_stein", particles, least=2)
    require_number("kernel_stein", "bandwidth", bandwidth, "a positive number", lambda h: np.isfinite(h) and h > 0)
    require_programs("kernel_stein", model=model, guide=guide)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        def particle(_: Any) -> tuple[jax.Array, jax.Array]:
            z, restore = vector_of("kernel_stein", simulate(guide)(params, observed, *inputs).choices)
            log_joint = lambda z: assess(model)(merge(restore(z), observed), params, *inputs)[0]
            return z, jax.grad(log_joint)(z)

        z, scores = jax.vmap(particle)(jnp.arange(particles))
        return jnp.sum((1 - jnp.eye(particles)) * _stein_kernel(z, scores, bandwidth)) / (particles * (particles - 1))

    return objective


def _stein_kernel(z: jax.Array, scores: jax.Array, bandwidth: Any) -> jax.Array:
    """Return the Stein kernel of all pairs of rows."""
    gaps = (z[:, None, :] - z[None, :, :]) / bandwidth**2
    squares = jnp.sum(gaps**2, -1) * bandwidth**2
    kernel = jnp.exp(-squares / 2)
    along = jnp.sum(scores[:, None, :] * gaps, -1) - jnp.sum(scores[None, :, :] * gaps, -1)
    return kernel * (scores @ scores.T + along + z.shape[1] / bandwidth**2 - jnp.sum(gaps**2, -1))
