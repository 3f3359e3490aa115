"""AIR: what each strategy and objective costs, how noisy its gradient is, and what it has learnt after the same time.

Run `python -m bench.air [NAME ...] [--budget SECONDS] [--out FILE]`: prints a JSON row for each estimator, and writes
them to `runs/air_strategies.json`. The setting is that of the program's preset `default`: 32 x 32 canvases of 0 to 2
digits, batches of 64, at most three objects looked for. A name is a strategy for presence, of the ELBO, or
`BOUND-STRATEGY`; `plain` is the score function written by hand in JAX, an image's total cost on all its tosses.

- `step`: CPU milliseconds of value and gradient, ours and that of the hand-written floor of the same estimator
  (`models/air/floor.py`, `floors.py`), and the median of the paired ratios of alternating runs with its 95 % interval;
- `flops`: of the matrix products, ours and the floor's, by `ppl.reports.costs`;
- `noise`: at weights after 400 steps of `enum` and one batch: the variance of the gradient, summed over all weights,
  with its standard error, `relative` to the squared norm of the mean gradient (from the same draws, its own noise
  taken off), and `presence`, the variance for the bias of the logit of another object;
- `trained`: Adam from the same initial weights for the same CPU time: steps, share of held-out canvases counted right
  with its standard error, and held-out ELBO (presence summed out).
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import ppl
from bench.against_floors import order_interval, ratios
from models.air import floor, floors
from models.air.objectives import objective_of, of_batch
from models.air.program import SMALL, accuracy, canvases, look
from models.air.scale import initial
from ppl.reports import costs

CONFIG = SMALL(images=5_000, learning_rate=1e-3)
MOST = CONFIG.steps_of_guide
SEED, WARM_STEPS, DRAWS, PAIRS = 0, 400, 100, 15
OUT = Path("runs") / "air_strategies.json"
FLOORS = {
    "plain": floor.elbo_by_score,
    "reinforce": floor.elbo_by_score,
    "reinforce_lanes": floors.by_score(1, baseline=True),
    "enum": floor.elbo_by_sum,
    "mvd": floors.by_measures(1),
    "enum_where_reinforce": None,
    "iwelbo-reinforce": floors.by_score(2, baseline=False),
    "iwelbo-reinforce_lanes": floors.by_score(2, baseline=True),
    "iwelbo-enum": floors.pairs_by_sum,
    "iwelbo-mvd": floors.by_measures(2),
    "rws-reinforce": floors.wake,
    "rws-enum": None,
}


def gradient_of(name: str) -> Callable:
    """Return value and gradient as a function of (key, params, images)."""
    return by_hand(FLOORS["plain"]) if name == "plain" else ppl.value_and_grad(of_batch(objective_of(name, MOST)))


def by_hand(objective: Callable) -> Callable:
    """Return value and gradient of a floor as a function of (key, params, images)."""
    return lambda key, params, images: jax.value_and_grad(objective, argnums=1)(key, params, images, MOST)


def timed(function: Callable, *args) -> tuple[float, object]:
    """Return CPU seconds of one run, and what came out."""
    start = time.process_time()
    out = jax.block_until_ready(function(*args))
    return time.process_time() - start, out


def step_times(ours: Callable, theirs: Callable | None, *args) -> dict:
    """Compare CPU times in pairs, in alternating order."""
    both = [function for function in (ours, theirs) if function is not None]
    for function in both:
        timed(function, *args)
    times = [[0.0] * len(both) for _ in range(PAIRS)]
    for i, row in enumerate(times):
        for which in range(len(both)) if i % 2 else reversed(range(len(both))):
            row[which] = timed(both[which], *args)[0]
    found = dict(zip(("ours_ms", "floor_ms"), (np.median(times, axis=0) * 1e3).round(3).tolist(), strict=False))
    if theirs is None:
        return found
    sample = [mine / other for mine, other in times]
    return found | {"ratio": float(np.median(sample)), "interval": order_interval(sample)}


def noise(function: Callable, params, images) -> dict:
    """Return the variance of a gradient, from independent draws."""
    draws = [function(key, params, images)[1] for key in jr.split(jr.key(SEED + 2), DRAWS)]
    flat = np.stack([np.concatenate([np.ravel(x) for x in jax.tree.leaves(draw)]) for draw in draws]).astype(np.float64)
    presence = np.array([float(draw.attention.predict.out.bias[0]) for draw in draws])
    mean = flat.mean(0)
    each = ((flat - mean) ** 2).sum(1) * DRAWS / (DRAWS - 1)
    total = each.mean()
    return {
        "variance": total,
        "standard_error": each.std(ddof=1) / math.sqrt(DRAWS),
        "relative": total / max((mean**2).sum() - total / DRAWS, 0.0),
        "presence": presence.var(ddof=1),
        "presence_error": ((presence - presence.mean()) ** 2).std(ddof=1) / math.sqrt(DRAWS),
    }


def train(function: Callable, params, images: np.ndarray, steps: int):
    """Fit by minibatches; the same rows for every estimator."""
    optimizer, random = optax.adam(CONFIG.learning_rate), np.random.default_rng(SEED)
    climb = jax.jit(lambda gradient, *old: ppl.ascend(lambda *_: gradient, optimizer)(jr.key(0), *old))
    state = optimizer.init(eqx.filter(params, eqx.is_inexact_array))
    for key in jr.split(jr.key(SEED + 3), steps):
        batch = images[random.integers(0, len(images), CONFIG.batch_size)]
        params, state = climb(function(key, params, batch)[1], params, state)
    return params


def judge(params, test, held_out_bound: Callable) -> dict:
    """Return accuracy and bound on held-out canvases."""
    share = accuracy(np.asarray(look(params, jnp.asarray(test.images), MOST, jr.key(SEED + 4))[0]), test.counts)
    error = math.sqrt(share * (1 - share) / len(test.counts))
    bound = float(held_out_bound(jr.key(SEED + 5), params, jnp.asarray(test.images)))
    return {"accuracy": share, "standard_error": error, "held_out_elbo": bound}


def compiled(function: Callable, *args) -> Callable:
    """Compile a function of (key, params, images)."""
    return jax.jit(function).lower(*args).compile()


def row_of(name: str, start, warm, train_images, test, held_out_bound: Callable, budget: float) -> dict:
    """Measure one estimator."""
    args = jr.key(SEED + 1), warm, train_images[: CONFIG.batch_size]
    ours, hand = gradient_of(name), FLOORS[name] and by_hand(FLOORS[name])
    theirs = None if hand is None or name == "plain" else compiled(hand, *args)
    mine = compiled(ours, *args)
    row = {"name": name, "step": step_times(mine, theirs, *args)}
    if theirs is not None:
        row["flops"] = ratios(*(costs(f)(*args).matmul_flops for f in (ours, hand)))
    row["noise"] = noise(mine, warm, args[2])
    steps = max(1, int(budget * 1e3 / row["step"]["ours_ms"]))
    row["trained"] = {"steps": steps} | judge(train(mine, start, train_images, steps), test, held_out_bound)
    return row


def environment(budget: float) -> dict:
    """Return what a reader needs to repeat the rows."""
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    device = jax.devices()[0].device_kind
    return {"versions": versions, "device": device, "seed": SEED, "budget_cpu_s": budget, "config": str(CONFIG)}


def main() -> None:
    """Print a row for each estimator, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FLOORS)}; all by default")
    parser.add_argument("--budget", type=float, default=20.0, help="CPU seconds of gradients in a fit")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    training, test = canvases(CONFIG)
    start = initial(CONFIG, jr.key(SEED))
    held_out_bound = jax.jit(ppl.expect(of_batch(objective_of("enum", MOST))))
    enum = compiled(gradient_of("enum"), jr.key(0), start, training.images[: CONFIG.batch_size])
    warm = train(enum, start, training.images, WARM_STEPS)
    measure = partial(row_of, start=start, warm=warm, train_images=training.images, test=test)
    report = {**environment(options.budget), "rows": []}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.names or FLOORS:
        report["rows"].append(measure(name, held_out_bound=held_out_bound, budget=options.budget))
        print(json.dumps(report["rows"][-1]), flush=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
