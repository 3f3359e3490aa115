"""Loops that disappear: a state-space model with its guide, both written as scans, against hand-written JAX.

    z_0 = 0,  z_t ~ N(z_{t-1}, 1),  x_t ~ N(z_t, 1/2);  guide z_t ~ N(loc_t, scale_t),  t = 1 .. T

The floors import nothing of the library and use the same estimator (pathwise, log q at the drawn value). Prints one
JSON row: seconds for value and gradient, the median of several runs, and seconds to trace and compile.

    python bench/loop_fission.py [T]
"""

import json
import math
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

import ppl
from estimators import elbo
from ppl import gen, normal


@gen
def model(params):
    def step(z, _):
        z = normal(z, 1.0) @ "z"
        normal(z, 0.5) @ "x"
        return z, None

    lax.scan(step, 0.0, None, length=params[0].shape[0])


@gen
def guide(params, observed):
    lax.scan(lambda _, p: (None, normal(p[0], jnp.exp(p[1])) @ "z"), None, params)


def log_normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)


def step_by_step(key, params, observed):
    """Draw and score guide and model in one loop."""

    def step(carry, inputs):
        previous, total = carry
        t, loc, log_scale, x = inputs
        scale = jnp.exp(log_scale)
        z = loc + scale * jr.normal(jr.fold_in(key, t))
        cost = log_normal(z, previous, 1.0) + log_normal(x, z, 0.5) - log_normal(z, loc, scale)
        return (z, total + cost), None

    steps = jnp.arange(len(observed))
    return lax.scan(step, (jnp.float32(0.0), jnp.float32(0.0)), (steps, *params, observed))[0][1]


def with_arrays(key, params, observed):
    """Draw and score all steps at once."""
    loc, scale = params[0], jnp.exp(params[1])
    z = loc + scale * jr.normal(key, loc.shape)
    previous = jnp.concatenate([jnp.zeros(1), z[:-1]])
    return jnp.sum(log_normal(z, previous, 1.0) + log_normal(observed, z, 0.5) - log_normal(z, loc, scale))


def measure(function, *args, runs=50):
    """Return seconds per run, and seconds to trace and compile."""
    start = time.perf_counter()
    compiled = jax.jit(jax.value_and_grad(function, argnums=1)).lower(*args).compile()
    compile_time, times = time.perf_counter() - start, []
    jax.block_until_ready(compiled(*args))
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times), compile_time


def main(length: int) -> dict:
    """Measure all three; a first choice pays for late imports."""
    ppl.seed(lambda: normal(0.0, 1.0).sample())(jr.key(0))
    key, observed = jr.key(0), jr.normal(jr.key(1), (length,))
    params = (0.1 * observed, jnp.full(length, -0.5))
    objective = elbo(model, guide)
    ours = ppl.expect(lambda params, observed: objective(params, {"x": observed}))
    functions = {"library": ours, "step_by_step": step_by_step, "with_arrays": with_arrays}
    row = {"bench": "loop_fission", "length": length, "jax": jax.__version__, "device": jax.devices()[0].device_kind}
    for name, function in functions.items():
        row[f"{name}_seconds"], row[f"{name}_compile_seconds"] = measure(function, key, params, observed)
    row["speedup_over_step_by_step"] = row["step_by_step_seconds"] / row["library_seconds"]
    row["slowdown_from_arrays"] = row["library_seconds"] / row["with_arrays_seconds"]
    return row


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)))
