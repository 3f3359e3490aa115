"""Floors: what an expert writes in JAX without a language, with the same estimator as the program of the same name.

No module here imports `ppl` or NumPyro, which a test holds up. Each has

- `SIZES`: the settings that are measured, and `TINY`, one for the tests;
- `setup(key, **size)`: parameters and data;
- `draw(key, params, data, **size)`: the noise of one estimate;
- `objective(params, drawn, data)`: a function whose value and gradient, given the noise, are the estimates;
- `matmul_flops(**size)`: operations of the matrix products in value and gradient, worked out on paper.
"""

import functools
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

LOG_2PI = float(np.log(2 * np.pi))


def estimator(floor: ModuleType, **size) -> Callable:
    """Return the floor's estimator: a function of (key, params, data) that returns value and gradient."""

    def value_and_grad(key, params, data):
        drawn = floor.draw(key, params, data, **size)
        return jax.value_and_grad(functools.partial(floor.objective, drawn=drawn, data=data))(params)

    return value_and_grad


def dense(key, num_in: int, num_out: int):
    """Draw the weight and bias of an affine map."""
    return jax.random.normal(key, (num_out, num_in)) / num_in**0.5, jnp.zeros(num_out)


def affine(layer, inputs):
    """Apply an affine map to a batch of rows (or to one)."""
    weight, bias = layer
    return inputs @ weight.T + bias


@jax.custom_jvp
def softplus(x):
    """Compute log(1 + exp(x)) in half the operations of `jax.nn.softplus`, which spends the rest on infinities."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


softplus.defjvps(lambda tangent, _, x: tangent * jax.nn.sigmoid(x))
