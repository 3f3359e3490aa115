"""Variance of score-function gradients against the number of lanes or steps: what each choice is charged with.

Run `python -m bench.credit_variance`: one JSON row for each program and size. `variance` is that of one element of the
gradient, with its standard error; `exact` that of the same program of size 1, by enumeration: they should be equal.
"""

import json
import platform
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl

LANES, STEPS = (10, 100, 1_000, 10_000), (4, 10, 100, 1_000)
WEIGHTS = np.array([[1.0, -0.5, 0.3], [0.4, 0.8, -1.0]])


def flip(p):
    """Toss a coin."""
    return ppl.bernoulli(p, grad=ppl.reinforce()).sample().astype(float)


def vmapped(theta):
    """A cost for each lane of a vmap."""
    return jax.vmap(lambda p: (flip(p) + 0.5) ** 2)(theta).sum()


def batched(theta):
    """A cost for each batch element of one choice."""
    return ((flip(theta) + 0.5) ** 2).sum()


def two_in_a_lane(theta):
    """Two choices and two costs in each lane."""
    lane = lambda p: (lambda a, b: (a + b) ** 2 + (b + 0.5) ** 2)(flip(p), flip(1 - p))
    return jax.vmap(lane)(theta).sum()


def matrix_product(theta):
    """Two choices in each lane that a matrix product mixes with one another, not with other lanes."""
    values = jax.vmap(lambda p: jnp.stack([flip(p), flip(1 - p)]))(theta)
    return (jnp.tanh(values @ jnp.asarray(WEIGHTS)) ** 2).sum()


def transposed(theta):
    """The same, with lanes last."""
    values = jax.vmap(lambda p: jnp.stack([flip(p), flip(1 - p)]), out_axes=1)(theta)
    return (jnp.tanh(jnp.asarray(WEIGHTS).T @ values) ** 2).sum()


def steps(theta):
    """Costs of steps, added up in the carry."""
    return lax.scan(lambda total, p: (total + (flip(p) + 0.5) ** 2, None), 0.0, theta)[0]


def stacked_steps(theta):
    """Values of steps, of which costs are made outside of the scan."""
    values = lax.scan(lambda carry, p: (carry, flip(p)), 0.0, theta)[1]
    return ((values + 0.5) ** 2).sum()


def two_scans(theta):
    """Choices in one scan, costs in another that adds them up: a guide and a model."""
    values = lax.scan(lambda carry, p: (carry, flip(p)), 0.0, theta)[1]
    return lax.scan(lambda total, value: (total + (value + 0.5) ** 2, None), 0.0, values)[0]


def neighbours(theta):
    """Choices in one scan, costs of neighbours in another: a mean-field guide and a Markov model."""
    values = lax.scan(lambda carry, p: (carry, flip(p)), 0.0, theta)[1]
    step = lambda carry, value: ((value, carry[1] + (value + 0.5 * carry[0] + 0.5) ** 2), None)
    return lax.scan(step, (0.0, 0.0), values)[0][1]


def shifted(theta):
    """The same, written on arrays."""
    values = batched_values(theta)
    return ((values + 0.5 * jnp.concatenate([jnp.zeros(1), values[:-1]]) + 0.5) ** 2).sum()


def batched_values(theta):
    """Toss all coins at once."""
    return flip(theta)


def scan_in_lanes(theta):
    """Lanes of scans of two steps."""
    pairs = jnp.stack([theta, 1 - theta], 1)
    return jax.vmap(steps)(pairs).sum()


PROGRAMS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "vmap": (vmapped, LANES),
    "batch": (batched, LANES),
    "two choices in a lane": (two_in_a_lane, LANES),
    "matrix product": (matrix_product, LANES),
    "matrix product, lanes last": (transposed, LANES),
    "scan in lanes": (scan_in_lanes, LANES),
    "scan": (steps, STEPS),
    "scan, costs outside": (stacked_steps, STEPS),
    "guide and model scans": (two_scans, STEPS),
    "neighbours": (neighbours, STEPS),
    "neighbours, arrays": (shifted, STEPS),
}


LAST = (steps, stacked_steps, two_scans, neighbours, shifted)
"""Programs of which the last element is looked at: nothing comes after it."""


def exact_variance(program: Callable) -> float:
    """Return the variance in the smallest program of the kind, by enumeration (of its last element)."""
    size = 2 if program in (neighbours, shifted) else 1
    return float(ppl.exact_gradient(program)(jnp.full(size, 0.4)).variance[-1])


def variance(program: Callable, size: int, draws: int = 400_000) -> tuple[float, float]:
    """Return the variance of the gradient (of its last element, in scans) and its standard error.

    Elements are alike, so that of lanes all are used: `draws` numbers in all.
    """
    last = program in LAST
    num_keys = max(200, draws // (1 if last else size))
    theta = jnp.full(size, 0.4)
    pick = lambda g: g[-1:] if last else g
    one = jax.jit(jax.vmap(lambda key: pick(ppl.grad(program)(key, theta))))
    chunk = max(1, min(num_keys, 2_000_000 // size))
    keys = jax.random.split(jax.random.key(0), num_keys)
    gradients = np.concatenate([np.asarray(one(keys[i : i + chunk])) for i in range(0, num_keys, chunk)]).ravel()
    squares = (gradients - gradients.mean()) ** 2
    return float(squares.mean()), float(squares.std() / np.sqrt(squares.size))


def main(names):
    """Print a row for each program and size."""
    for name in names or PROGRAMS:
        program, sizes = PROGRAMS[name]
        exact = exact_variance(program)
        for size in sizes:
            found, error = variance(program, size)
            row = {"program": name, "size": size, "variance": found, "standard_error": error, "exact": exact}
            versions = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.default_backend()}
            print(json.dumps({**row, "seed": 0, **versions}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
