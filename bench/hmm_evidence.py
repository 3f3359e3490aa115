"""The evidence of a hidden Markov model: a marginal of a program beside what is written by hand.

    z_0 = 0,  z_t ~ categorical(A[z_{t-1}]),  y_t ~ N(loc[z_t], 1),  t = 1 .. T;  log p(y) and its gradient

Two floors import nothing of the library: the forward recursion (T steps of K^2 numbers) and the product of T matrices
as a tree (T steps of K^3). One JSON row for each K and T: operations and equations of value and
gradient, counted; with `--time`, also seconds (medians of interleaved runs) and seconds to trace and compile.

    python -m bench.hmm_evidence [--time] [K T]
"""

import json
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.nn import log_softmax, logsumexp

import ppl
from ppl import categorical, gen, marginal, normal
from ppl.reports.costs import costs

SIZES = [(k, steps) for k in (8, 64) for steps in (200, 10_000)]
TREE_ELEMENTS = 2**27
"""Largest number of elements of all matrices for which the tree is run: it holds them several times."""


@gen
def hmm(params, steps):
    """Observe a chain of hidden states."""

    def step(z, _):
        z = categorical(logits=params["transition"][z]) @ "z"
        normal(params["loc"][z], 1.0) @ "y"
        return z, None

    jax.lax.scan(step, 0, None, length=steps)


evidence = marginal(hmm, keep="y", method=ppl.methods.exact())


def program(params, ys):
    """Return the evidence as the density of a marginal."""
    return evidence.log_density({"y": ys}, params, len(ys))


def emissions(params, ys):
    """Return the log density of each observation in each state."""
    return -0.5 * (ys[:, None] - params["loc"]) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


def forward(params, ys):
    """Return the evidence by the forward recursion in logarithms."""
    transition, emission = log_softmax(params["transition"]), emissions(params, ys)
    step = lambda alpha, log_p: (logsumexp(alpha[:, None] + transition, axis=0) + log_p, None)
    alpha, _ = jax.lax.scan(step, transition[0] + emission[0], emission[1:])
    return logsumexp(alpha)


def tree(params, ys):
    """Return the evidence as a product of matrices, each half of which is a product."""
    transition, emission = log_softmax(params["transition"]), emissions(params, ys)
    multiply = lambda a, b: logsumexp(a[..., :, :, None] + b[..., None, :, :], axis=-2)
    matrices = transition + emission[:, None, :]
    while len(matrices) > 1:
        pairs = len(matrices) // 2
        joined = multiply(matrices[0 : 2 * pairs : 2], matrices[1 : 2 * pairs : 2])
        matrices = jnp.concatenate([joined, matrices[2 * pairs :]])
    return logsumexp(matrices[0, 0])


RUNS = {"program": program, "forward": forward, "tree": tree}


def counted(name, params, ys):
    """Count value and gradient."""
    found = costs(jax.value_and_grad(RUNS[name]))(params, ys)
    keys = ("flops", "transcendentals", "equations", "executed")
    return {f"{name}_{key}": getattr(found, key) for key in keys}


def timed(names, params, ys, repeats=7):
    """Measure value and gradient in turns, and check that all agree."""
    compiled, row, values = {}, {}, {}
    for name in names:
        start = time.perf_counter()
        compiled[name] = jax.jit(jax.value_and_grad(RUNS[name])).lower(params, ys).compile()
        row[f"{name}_compile_s"] = time.perf_counter() - start
    seconds = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            start = time.perf_counter()
            values[name] = float(jax.block_until_ready(compiled[name](params, ys))[0])
            seconds[name].append(time.perf_counter() - start)
    spread = max(values.values()) - min(values.values())
    row.update({f"{name}_s": statistics.median(seconds[name]) for name in names})
    return {**row, "relative_spread": spread / abs(values["forward"])}


def main(arguments):
    """Print a row for each size."""
    numbers = [int(argument) for argument in arguments if argument != "--time"]
    for k, steps in [tuple(numbers)] if numbers else SIZES:
        keys = jr.split(jr.key(0), 3)
        params = {"transition": jr.normal(keys[0], (k, k)), "loc": jr.normal(keys[1], (k,))}
        ys = jr.normal(keys[2], (steps,))
        names = [name for name in RUNS if name != "tree" or steps * k**3 <= TREE_ELEMENTS]
        row = {"states": k, "steps": steps}
        for name in names:
            row.update(counted(name, params, ys))
        if "--time" in arguments:
            row.update(timed(names, params, ys))
        versions = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.default_backend()}
        print(json.dumps({**row, "seed": 0, **versions}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
