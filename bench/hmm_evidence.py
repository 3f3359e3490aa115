"""The evidence of a hidden Markov model: a marginal of a program beside what is written by hand.

    z_0 = 0,  z_t ~ categorical(A[z_{t-1}]),  y_t ~ N(loc[z_t], 1),  t = 1 .. T;  log p(y) and its gradient

Four floors import nothing of the library: the forward recursion in logarithms and in probabilities, rescaled in every
step (T steps of K^2 numbers each), the latter with its gradient written by hand (one product of two histories outside
of the loops: Baum et al. 1970), and the product of T matrices as a tree (T steps of K^3). One JSON row for each K and
T: operations and equations of value and gradient, counted; with `--time`, also seconds (least and median of interleaved
runs), seconds to trace and compile, and the program's least seconds divided by those of the best floor, of the better
of tree and recursion in logarithms, and of the best whose gradient is JAX's.

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
from jax import lax
from jax.nn import log_softmax, logsumexp, softmax

import ppl
from ppl import categorical, gen, marginal, normal
from ppl.reports.costs import costs

SIZES = [(k, steps) for k in (8, 16, 32, 64) for steps in (200, 1_000, 10_000)]
TREE_ELEMENTS = 2**23
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


def scaled(params, ys):
    """Return the evidence by the forward recursion in probabilities, which sum to 1 after each step."""
    densities, largest = _relative(emissions(params, ys))
    table = softmax(params["transition"])

    def step(alpha, density):
        alpha = (alpha @ table) * density
        total = alpha.sum()
        return alpha / total, total

    first = table[0] * densities[0]
    _, totals = lax.scan(step, first / first.sum(), densities[1:])
    return jnp.log(first.sum()) + jnp.log(totals).sum() + largest


def baum_welch(params, ys):
    """Return the same; its gradient is written by hand."""
    densities, largest = _relative(emissions(params, ys))
    return _log_total(softmax(params["transition"]), densities) + largest


def _relative(logs):
    largest = lax.stop_gradient(logs.max(axis=1))
    return jnp.exp(logs - largest[:, None]), largest.sum()


def _filtered(table, densities):
    def step(alpha, density):
        alpha = (alpha @ table) * density
        total = alpha.sum()
        return alpha / total, (alpha / total, total)

    start = jnp.zeros(len(table)).at[0].set(1.0)
    return start, *lax.scan(step, start, densities)[1]


@jax.custom_vjp
def _log_total(table, densities):
    return jnp.log(_filtered(table, densities)[2]).sum()


def _log_total_forward(table, densities):
    start, alphas, totals = _filtered(table, densities)
    return jnp.log(totals).sum(), (table, densities, start, alphas, totals)


def _log_total_backward(kept, cotangent):
    table, densities, start, alphas, totals = kept
    weights = densities / totals[:, None]
    step = lambda beta, weight: (table @ (weight * beta), beta)
    _, betas = lax.scan(step, jnp.ones(len(table)), weights, reverse=True)
    before = jnp.concatenate([start[None], alphas[:-1]])
    inflow = betas * (before @ table) / totals[:, None]
    return cotangent * (before.T @ (weights * betas)), cotangent * inflow


_log_total.defvjp(_log_total_forward, _log_total_backward)

RUNS = {"program": program, "forward": forward, "scaled": scaled, "baum_welch": baum_welch, "tree": tree}


def counted(name, params, ys):
    """Count value and gradient."""
    found = costs(jax.value_and_grad(RUNS[name]))(params, ys)
    keys = ("flops", "transcendentals", "equations", "executed")
    return {f"{name}_{key}": getattr(found, key) for key in keys}


def timed(names, params, ys, repeats):
    """Measure value and gradient in turns, and check that all agree."""
    compiled, row, values = {}, {}, {}
    for name in names:
        start = time.perf_counter()
        compiled[name] = jax.jit(jax.value_and_grad(RUNS[name])).lower(params, ys).compile()
        row[f"{name}_compile_s"] = round(time.perf_counter() - start, 3)
    seconds = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            jax.block_until_ready(compiled[name](params, ys))  # What ran before has left the cache to itself.
            start = time.perf_counter()
            values[name] = float(jax.block_until_ready(compiled[name](params, ys))[0])
            seconds[name].append(time.perf_counter() - start)
    spread = max(values.values()) - min(values.values())
    row.update({f"{name}_s": min(seconds[name]) for name in names})
    row.update({f"{name}_median_s": statistics.median(seconds[name]) for name in names})
    best = lambda floors: row["program_s"] / min(row[f"{name}_s"] for name in floors)
    ratios = {"ratio_to_best": best(names[1:]), "ratio_to_log_or_tree": best({"forward", "tree"} & {*names})}
    ratios["ratio_to_jax_gradients"] = best([name for name in names[1:] if name != "baum_welch"])
    rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
    return {**row, **rounded, "relative_spread": spread / abs(values["forward"])}


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
            row.update(timed(names, params, ys, repeats=max(9, min(100, 40_000 // steps))))
        versions = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.default_backend()}
        print(json.dumps({**row, "seed": 0, **versions}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
