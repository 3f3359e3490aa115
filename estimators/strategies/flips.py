"""What strategies for coins share: logits, whichever parameter the choice was given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

NOT_A_COIN = "it is for bernoulli"


def logits_of(d) -> jax.Array:
    """Return the logits of a bernoulli choice over all of its elements; probabilities 0 and 1 are kept finite.

    The derivative with respect to a probability p is 1 / (p (1 - p)) times that with respect to the logit.
    """
    if "logits" in d.params:
        return jnp.broadcast_to(d.params["logits"], d.shape)
    probs = jnp.broadcast_to(d.params["probs"], d.shape)
    tiny = jnp.finfo(probs.dtype).tiny
    fixed = jnp.clip(lax.stop_gradient(probs), tiny, 1 - jnp.finfo(probs.dtype).epsneg)
    value = jnp.log(fixed) - jnp.log1p(-fixed)
    return value + (probs - lax.stop_gradient(probs)) / (fixed * (1 - fixed))


def uniform(key, d) -> jax.Array:
    """Draw one uniform number for each element."""
    return jax.random.uniform(key, d.shape, jnp.result_type(float))
