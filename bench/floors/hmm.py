"""A hidden Markov model with a Markov guide: K states, 200 steps, the additive cost summed exactly in O(T K^2).

With the guide's marginal alpha_t(j) of a step, the ELBO is the sum over t of
sum_j alpha_{t-1}(j) sum_k q_t(k | j) (log p(k | j) + log p(y_t | k) - log q_t(k | j)).
"""

import jax
import jax.numpy as jnp
from jax.nn import log_softmax

from bench.floors import LOG_2PI

SIZES = ({"states": 8}, {"states": 64})
TINY = {"states": 3, "steps": 4}


def setup(key, states, steps=200):
    """Return the model's transition logits and locations and the guide's transition logits; the observations."""
    keys = jax.random.split(key, 4)
    params = {
        "transition": jax.random.normal(keys[0], (states, states)),
        "locs": jax.random.normal(keys[1], (states,)),
        "guide": jax.random.normal(keys[2], (steps, states, states)),
    }
    return params, jax.random.normal(keys[3], (steps,))


def draw(key, params, data, **_):
    """Draw nothing."""
    return ()


def objective(params, drawn, data):
    """Return the exact ELBO; the first step starts from state 0."""
    log_guide = log_softmax(params["guide"])
    guide = jnp.exp(log_guide)
    log_emission = -0.5 * (data[:, None] - params["locs"]) ** 2 - 0.5 * LOG_2PI
    costs = log_softmax(params["transition"]) + log_emission[:, None, :] - log_guide
    expected = jnp.sum(guide * costs, axis=-1)
    first = jnp.zeros(log_emission.shape[1]).at[0].set(1.0)

    def step(marginal, inputs):
        transition, cost = inputs
        return marginal @ transition, marginal @ cost

    return jnp.sum(jax.lax.scan(step, first, (guide, expected))[1])


def matmul_flops(states, steps=200):
    """Count a product with the transition and one with the costs in a step, three times."""
    return 3 * 2 * steps * (states * states + states)
