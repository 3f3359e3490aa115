"""Divergences of two distributions in closed form: NumPyro's, and those of finite families."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from ppl.primitives import View


def closed_divergence(q: View, p: View) -> jax.Array | None:
    """Return KL(q, p) of two choices, summed over lanes and batch, or None if there is no closed form."""
    if q.shape != p.shape or q.event_shape != p.event_shape:
        return None
    if q.spec.family.enumerable and p.spec.family.enumerable:
        return _of_finite(q, p)
    from numpyro.distributions import kl_divergence  # importing NumPyro takes long

    try:
        value = kl_divergence(q.spec.numpyro(q.params), p.spec.numpyro(p.params))
    except NotImplementedError:  # this is how NumPyro says that a pair has no closed form
        return None
    return jnp.sum(jnp.broadcast_to(value, q.shape))


def _of_finite(q: View, p: View) -> jax.Array | None:
    sizes = [one.spec.num_values([param.shape for param in one.params]) for one in (q, p)]
    if sizes[0] != sizes[1] or q.spec.first_value() != p.spec.first_value():
        return None
    ours, theirs = (one.spec.probabilities(one.params) for one in (q, p))
    cost = xlogy(ours, ours) - xlogy(ours, theirs)
    return jnp.sum(jnp.broadcast_to(cost.sum(0), q.shape))
