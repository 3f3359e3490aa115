"""What holds exactly: one inner step is gradient descent, the surrogate lies above the loss, its minimum is known."""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float

from estimators import Euclidean, target_surrogate
from models.target_surrogates import supervised


def checks() -> dict[str, float]:
    """Return the largest deviations from closed forms, for logistic regression, in double precision."""
    with jax.enable_x64(True):
        found = supervised.task("cancer")
        inputs, batch = jnp.asarray(found.inputs, jnp.float64), {"label": found.labels}
        return _checks(inputs, lambda logits: found.loss(logits, batch))


def _checks(inputs: Float[Array, "n d"], loss) -> dict[str, float]:
    count, size = inputs.shape
    eta, weights = 4.0 * count, jr.normal(jr.key(0), (size,), jnp.float64)
    grad = jax.grad(loss)(inputs @ weights)
    plain = jax.grad(lambda w: loss(inputs @ w))(weights)
    zero = jnp.zeros(size, jnp.float64)
    inverse = jnp.linalg.pinv(inputs.T @ inputs)
    exact = target_surrogate(optax.stateless(lambda g, _: -eta * inverse @ g), eta, 1)
    minimum = step(exact, inputs, jax.grad(loss)(inputs @ zero), zero)
    once = step(target_surrogate(optax.sgd(0.3), eta, 1), inputs, grad, weights)
    return {
        "exact_one_step": float(jnp.max(jnp.abs(once - (weights - 0.3 * plain)))),
        "exact_projection_loss": float(loss(inputs @ minimum)),
        "exact_least_gap": float(jnp.min(gaps(inputs, loss, eta))),
    }


def gaps(inputs: Float[Array, "n d"], loss, eta: float, pairs: int = 200) -> Float[Array, " pairs"]:
    """Return how far the surrogate made at one random place lies above the loss at another, near or far."""
    ends = jr.normal(jr.key(1), (2, pairs, inputs.shape[1]), jnp.float64)
    near = jnp.logspace(-3, 0, pairs)[:, None]

    def gap(old: Array, new: Array) -> Array:
        value, grad = jax.value_and_grad(loss)(old)
        return value + jnp.vdot(grad, new - old) + Euclidean()(new, old) / eta - loss(new)

    return jax.vmap(gap)(ends[0] @ inputs.T, (ends[0] + near * ends[1]) @ inputs.T)


def step(transform: optax.GradientTransformationExtraArgs, inputs: Array, grad: Array, weights: Array) -> Array:
    """Return the weights after one outer step of a linear model."""
    moved, _ = transform.update(grad, transform.init(weights), weights, target_fn=lambda w: inputs @ w)
    return weights + moved
