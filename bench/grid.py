"""Is it unbiased? Every strategy in every construct under every objective, against the exact gradient.

Run `python -m bench.grid [--quick] [--resume=FILE] [WORD ...]` (words pick cells by their names; rows that stand in a
file, the output of a run that was cut off, are taken from there). One JSON row for each cell: the
z-score of each element of the gradient's mean over independent keys, against a truth that plain arithmetic has found
(`bench.grids.laws`, `.expectations`: enumeration of coins, Gauss's rule for normal choices), and the smallest bias that
would have been found, (4.5 + 2) standard errors over the gradient's norm: 2 % of it, or what 16 times as many draws
find. The last row sums up: cells, largest |z|,
smallest and largest detectable bias, and the Kolmogorov-Smirnov test of all z against a normal. Biased strategies are
shown, not judged.
Exits with 1 if an unbiased cell has |z| of 4.5 or more, or fails to be exact where it has no noise.
"""

import functools
import itertools
import json
import math
import platform
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import ppl
from bench.grids.constructs import CONSTRUCTS, programs
from bench.grids.laws import Law
from bench.grids.objectives import OBJECTIVES
from bench.grids.strategies import STRATEGIES

THETA = np.array([-1.2, 1.5])
Z_MAX, POWER, MAX_CHUNKS = 4.5, 0.02, 16
QUICK = {"constructs": ("plain", "scan"), "objectives": ("elbo",), "draws": 2**11}


@functools.cache
def truth(law_name: str, objective: str, kind: str) -> np.ndarray:
    """Return the exact gradient."""
    exact, law = OBJECTIVES[objective].exact, Law(law_name, kind)
    return np.asarray(jax.jit(jax.grad(lambda theta: exact(law, theta)))(jnp.asarray(THETA)))


def draw(construct: str, objective: str, entry, draws: int, seed: int, error: float) -> np.ndarray:
    """Return independent gradients, shape (n, 2): `draws` of them, or as many times more as the standard error asks."""
    made = OBJECTIVES[objective].make(*programs(construct, entry.kind, entry.strategy))
    observed = {"x": jnp.asarray(CONSTRUCTS[construct][2])}
    gradient = lambda key: ppl.grad(made)(key, jnp.asarray(THETA), observed)
    run = jax.jit(jax.vmap(gradient))
    keys = lambda chunk: jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), draws)
    chunks = [np.asarray(run(keys(0)), np.float64)]
    wanted = (chunks[0].std(0).max() / error) ** 2 / draws
    chunks += [np.asarray(run(keys(chunk)), np.float64) for chunk in range(1, min(math.ceil(wanted), MAX_CHUNKS))]
    return np.concatenate(chunks)


def run_cell(name: str, construct: str, objective: str, draws: int = 2**14, seed: int = 0) -> dict:
    """Run a cell, and return its row."""
    entry = STRATEGIES[name]
    row = {"strategy": name, "construct": construct, "objective": objective, "biased": entry.biased}
    wanted = truth(CONSTRUCTS[construct][1], objective, entry.kind)
    try:
        goal = POWER * np.linalg.norm(wanted) / (Z_MAX + 2)
        gradients = draw(construct, objective, entry, draws, seed, goal)
    except (ppl.StrategyError, ppl.UnsoundGradientError) as error:
        return {**row, "refused": error.what}
    error = gradients.std(0) / np.sqrt(len(gradients))
    off = gradients.mean(0) - wanted
    noisy = error > 1e-9 * np.linalg.norm(wanted)
    return {
        **row,
        "z": [float(z) for z in off[noisy] / error[noisy]],
        "exact": bool((np.abs(off[~noisy]) < 1e-6 * np.linalg.norm(wanted)).all()),
        "detectable": float((Z_MAX + 2) * error.max() / np.linalg.norm(wanted)),
        "bias": float(np.linalg.norm(off) / np.linalg.norm(wanted)),
        "variance": float(gradients.var(0).sum()),
        "draws": len(gradients),
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
        "smallest detectable bias": min((row["detectable"] for row in judged if row["z"]), default=0.0),
        "largest detectable bias": max((row["detectable"] for row in judged), default=0.0),
        "median detectable bias": float(np.median([row["detectable"] for row in judged])) if judged else 0.0,
        "KS statistic": float(test.statistic) if test else None,
        "KS p": float(test.pvalue) if test else None,
    }


def cells(words=(), constructs=tuple(CONSTRUCTS), objectives=tuple(OBJECTIVES)):
    """List the cells whose names contain all words.

    Every strategy in every construct under the main bounds; under each other objective that has a meaning for its
    choices, every unbiased strategy in one construct, another one for the next strategy and the next objective.
    """
    for (row, (name, entry)), (column, objective) in itertools.product(
        enumerate(STRATEGIES.items()), enumerate(objectives)
    ):
        given = OBJECTIVES[objective]
        one = (given.constructs[(row + column) % len(given.constructs)],)
        if entry.kind not in given.kinds or (entry.biased and not given.everywhere):
            continue
        for construct in given.constructs if given.everywhere else one:
            if construct in constructs and all(word in f"{name} | {construct} | {objective}" for word in words):
                yield name, construct, objective


def kept(arguments: list[str]) -> dict[tuple, dict]:
    """Return the rows of earlier runs, by cell, from the files given as `--resume=FILE`."""
    files = [one.partition("=")[2] for one in arguments if one.startswith("--resume=")]
    rows = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    return {(row["strategy"], row["construct"], row["objective"]): row for row in rows if "strategy" in row}


def main(arguments: list[str]) -> int:
    """Print a row for each cell and one for all."""
    jax.config.update("jax_enable_x64", True)
    quick, words = "--quick" in arguments, [word for word in arguments if not word.startswith("--")]
    some = {key: value for key, value in QUICK.items() if quick and key != "draws"}
    rows, earlier = [], kept(arguments)
    for number, cell in enumerate(cells(words, **some)):
        found = earlier.get(cell) or run_cell(*cell, draws=QUICK["draws"] if quick else 2**14, seed=number)
        rows.append(found)
        print(json.dumps(rows[-1]), flush=True)
    total = summarise(rows)
    versions = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.default_backend()}
    print(json.dumps({**total, **versions}), flush=True)
    return int(total["largest |z|"] >= Z_MAX or bool(total["inexact"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
