"""Is it unbiased? Every strategy in every construct under every objective, against the exact gradient.

Run `python -m bench.grid [--quick] [WORD ...]` (words pick cells by their names). One JSON row for each cell: the
z-score of each element of the gradient's mean over independent keys, against a truth that plain arithmetic has found
(`bench.grids.constructs.law`: enumeration of coins, Gauss's rule for normal choices), and the smallest bias that would
have been found, (4.5 + 2) standard errors over the gradient's norm. The last row sums up: cells, largest |z|, largest
detectable bias, and the Kolmogorov-Smirnov test of all z against a normal. Biased strategies are shown, not judged.
Exits with 1 if an unbiased cell has |z| of 4.5 or more, or fails to be exact where it has no noise.
"""

import functools
import json
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import ppl
from bench.grids.constructs import CONSTRUCTS, OBSERVED, law, programs
from bench.grids.objectives import OBJECTIVES
from bench.grids.strategies import STRATEGIES

THETA = np.array([-1.2, 1.5])
Z_MAX = 4.5
QUICK = {"constructs": ("plain", "scan"), "objectives": ("elbo",), "draws": 2**11}


@functools.cache
def truth(law_name: str, objective: str, kind: str) -> np.ndarray:
    """Return the exact gradient."""
    exact = OBJECTIVES[objective][1]
    return np.asarray(jax.jit(jax.grad(lambda theta: exact(*law(law_name, kind, theta))))(jnp.asarray(THETA)))


def draw(construct: str, objective: str, entry, draws: int, seed: int) -> np.ndarray:
    """Return independent gradients, shape (draws, 2)."""
    made = OBJECTIVES[objective][0](*programs(construct, entry.kind, entry.strategy))
    gradient = lambda key: ppl.grad(made)(key, jnp.asarray(THETA), {"x": OBSERVED})
    return np.asarray(jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(seed), draws)), np.float64)


def run_cell(name: str, construct: str, objective: str, draws: int = 2**14, seed: int = 0) -> dict:
    """Run a cell, and return its row."""
    entry = STRATEGIES[name]
    row = {"strategy": name, "construct": construct, "objective": objective, "biased": entry.biased}
    wanted = truth(CONSTRUCTS[construct][1], objective, entry.kind)
    try:
        gradients = draw(construct, objective, entry, draws, seed)
    except (ppl.StrategyError, ppl.UnsoundGradientError) as error:
        return {**row, "refused": error.what}
    error = gradients.std(0) / np.sqrt(draws)
    off = gradients.mean(0) - wanted
    noisy = error > 1e-9 * np.linalg.norm(wanted)
    return {
        **row,
        "z": [float(z) for z in off[noisy] / error[noisy]],
        "exact": bool((np.abs(off[~noisy]) < 1e-6 * np.linalg.norm(wanted)).all()),
        "detectable": float((Z_MAX + 2) * error.max() / np.linalg.norm(wanted)),
        "bias": float(np.linalg.norm(off) / np.linalg.norm(wanted)),
        "variance": float(gradients.var(0).sum()),
        "draws": draws,
        "seed": seed,
    }


def summarise(rows: list[dict]) -> dict:
    """Sum up the unbiased cells."""
    judged = [row for row in rows if not row["biased"] and "refused" not in row]
    z = np.array([z for row in judged for z in row["z"]])
    test = stats.kstest(z, "norm") if len(z) else None
    return {
        "cells": len(rows),
        "judged": len(judged),
        "biased by name": sum(row["biased"] for row in rows),
        "refused": sum("refused" in row for row in rows),
        "inexact": [f"{r['strategy']} | {r['construct']} | {r['objective']}" for r in judged if not r["exact"]],
        "z scores": len(z),
        "largest |z|": float(np.abs(z).max(initial=0)),
        "largest detectable bias": max((row["detectable"] for row in judged), default=0.0),
        "median detectable bias": float(np.median([row["detectable"] for row in judged])) if judged else 0.0,
        "KS statistic": float(test.statistic) if test else None,
        "KS p": float(test.pvalue) if test else None,
    }


def cells(words=(), constructs=tuple(CONSTRUCTS), objectives=tuple(OBJECTIVES)):
    """List the cells whose names contain all words."""
    for name in STRATEGIES:
        for construct in constructs:
            for objective in objectives:
                if all(word in f"{name} | {construct} | {objective}" for word in words):
                    yield name, construct, objective


def main(arguments: list[str]) -> int:
    """Print a row for each cell and one for all."""
    jax.config.update("jax_enable_x64", True)
    quick, words = "--quick" in arguments, [word for word in arguments if word != "--quick"]
    some = {key: value for key, value in QUICK.items() if quick and key != "draws"}
    rows = []
    for number, cell in enumerate(cells(words, **some)):
        rows.append(run_cell(*cell, draws=QUICK["draws"] if quick else 2**14, seed=number))
        print(json.dumps(rows[-1]), flush=True)
    total = summarise(rows)
    versions = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.default_backend()}
    print(json.dumps({**total, **versions}), flush=True)
    return int(total["largest |z|"] >= Z_MAX or bool(total["inexact"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
