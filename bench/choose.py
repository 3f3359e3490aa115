"""Which strategy? Bias, variance and time of each on three problems: the table of `docs/how_to_choose.md`.

Run `python -m bench.choose`: one JSON row for each strategy and problem; the page's table is written anew between its
markers. `python -m bench.choose --print` leaves the page alone.
"""

import json
import platform
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ppl
from bench.grids.strategies import COINS, NORMALS
from estimators import elbo

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how_to_choose.md"
MARKERS = "<!-- table: python -m bench.choose -->", "<!-- end of table -->"
DRAWS, TIMED = 2**15, 2**10


def two_point(strategy):
    """Return the ELBO of a coin: prior .3, likelihoods .8 and .1, guide at logit 0."""
    model = ppl.gen(lambda logit: ppl.bernoulli(0.1 + 0.7 * (ppl.bernoulli(0.3) @ "z")) @ "x")
    guide = ppl.gen(lambda logit, observed: ppl.bernoulli(logits=logit, grad=strategy) @ "z")
    return lambda logit: elbo(model, guide)(logit, {"x": 1})


def ten_coins(strategy):
    """Return a cost that mixes ten coins: the squared distance of their sum from 7, over 10."""
    return lambda logit: -((ppl.bernoulli(logits=jnp.full(10, logit), grad=strategy).sample().sum() - 7.0) ** 2) / 10.0


def gaussian(strategy):
    """Return the ELBO of z ~ N(0, 1), x ~ N(z, 1), x = 2, guide N(m, .8) at m = .5."""

    def model(loc):
        ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x"

    guide = ppl.gen(lambda loc, observed: ppl.normal(loc, 0.8, grad=strategy) @ "z")
    return lambda loc: elbo(ppl.gen(model), guide)(loc, {"x": 2.0})


def _binomial_gradient(logit: float) -> float:
    from math import comb

    p = 1 / (1 + np.exp(-logit))
    slope = lambda n: comb(10, n) * p**n * (1 - p) ** (10 - n) * (n - 10 * p)
    return sum(slope(n) * -((n - 7.0) ** 2) / 10 for n in range(11))


PROBLEMS = {  # name: (program, parameter, exact gradient, strategies)
    "one coin": (two_point, 0.0, 1.2321437 / 4, COINS),  # The sheet's number is the derivative in p; dp = dlogit / 4.
    "ten coins": (ten_coins, 0.4, _binomial_gradient(0.4), COINS),
    "one normal": (gaussian, 0.5, 1.0, NORMALS),
}


def seconds(function, *args) -> float:
    """Return the least time of five runs."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, strategy_name: str) -> dict:
    """Return bias (with its standard error), variance and time of one strategy on one problem."""
    program, parameter, exact, strategies = PROBLEMS[name]
    gradient = jax.jit(jax.vmap(ppl.grad(program(strategies[strategy_name])), (0, None)))
    keys = jax.random.split(jax.random.key(0), DRAWS)
    gradients = np.asarray(gradient(keys, parameter), np.float64)
    return {
        "problem": name,
        "strategy": strategy_name,
        "unbiased": strategies[strategy_name].unbiased,
        "bias": float(gradients.mean() - exact),
        "standard_error": float(gradients.std() / np.sqrt(DRAWS)),
        "variance": float(gradients.var()),
        "microseconds": 1e6 * seconds(gradient, keys[:TIMED], parameter) / TIMED,
        "exact": exact,
        "draws": DRAWS,
    }


def table(rows: list[dict]) -> str:
    """Return the rows as Markdown."""
    found = {(row["strategy"], row["problem"]): row for row in rows}
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    lines = ["| strategy | " + " | ".join(PROBLEMS) + " |", "|---" * (len(PROBLEMS) + 1) + "|"]
    for name in names:
        cells = [_cell(found.get((name, problem))) for problem in PROBLEMS]
        biased = any(not row["unbiased"] for row in rows if row["strategy"] == name)
        lines.append(f"| `{name}`{' (biased)' * biased} | " + " | ".join(cells) + " |")
    exact = ", ".join(f"{name} {problem[2]:.4f}" for name, problem in PROBLEMS.items())
    versions = f"jax {jax.__version__}, Python {platform.python_version()}, {jax.default_backend()}, float64"
    note = f"Exact gradients: {exact}. {DRAWS} draws; {versions}."
    return "\n".join([*lines, "", note])


def _cell(row) -> str:
    if row is None:
        return ""
    if row["variance"] < 1e-16:
        bias = f"{row['bias']:+.4f}"
    else:
        bias = f"{row['bias']:+.4f} ± {row['standard_error']:.4f}"
    return f"{bias}; {row['variance']:.3g}; {row['microseconds']:.2f}"


def rewrite(text: str, new: str) -> str:
    """Put a table between the markers of a page."""
    before, rest = text.split(MARKERS[0])
    return f"{before}{MARKERS[0]}\n\n{new}\n\n{MARKERS[1]}{rest.split(MARKERS[1])[1]}"


def main(arguments: list[str]) -> None:
    """Measure everything, and rewrite the page."""
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name, (_, _, _, strategies) in PROBLEMS.items():
        for strategy in strategies:
            rows.append(measure(name, strategy))
            print(json.dumps(rows[-1]), flush=True)
    if "--print" in arguments:
        print(table(rows))
    else:
        PAGE.write_text(rewrite(PAGE.read_text(), table(rows)))


if __name__ == "__main__":
    main(sys.argv[1:])
