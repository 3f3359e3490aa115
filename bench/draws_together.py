"""Draws made together: n separate scalar normals with parameters of their own, value and gradient, against JAX.

`separate` is hand-written JAX with one generator call for each, as the library made them before it grouped draws;
`packed` is hand-written JAX with one call for all. Prints one JSON row: seconds to trace and compile, and to run.
`separate` takes minutes to compile at n = 100.

    python bench/draws_together.py [n]
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr

import ppl
from ppl import normal


def library(params):
    """Choose one by one."""
    return sum(jnp.sin(normal(p, 1.0 + 0.1 * p).sample()) for p in params)


def separate(key, params):
    """Draw one by one, with a key for each."""
    zs = [p + (1.0 + 0.1 * p) * jr.normal(jr.fold_in(key, i)) for i, p in enumerate(params)]
    return sum(map(jnp.sin, zs))


def packed(key, params):
    """Draw all at once."""
    return jnp.sin(params + (1.0 + 0.1 * params) * jr.normal(key, params.shape)).sum()


def measure(function, params, runs=50):
    """Return seconds to trace and compile, and per run."""
    key, start = jr.key(0), time.perf_counter()
    compiled = jax.jit(jax.value_and_grad(function, argnums=1)).lower(key, params).compile()
    compile_time, times = time.perf_counter() - start, []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(compiled(key, params))
        times.append(time.perf_counter() - start)
    return compile_time, statistics.median(times)


def main(n: int) -> dict:
    """Measure all three; a first choice pays for late imports."""
    ppl.seed(lambda: normal(0.0, 1.0).sample())(jr.key(0))
    row = {"bench": "draws_together", "n": n, "jax": jax.__version__, "device": jax.devices()[0].device_kind, "seed": 0}
    for name, function in {"library": ppl.expect(library), "separate": separate, "packed": packed}.items():
        row[f"{name}_compile_seconds"], row[f"{name}_seconds"] = measure(function, jnp.linspace(0.0, 1.0, n))
    return row


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)))
