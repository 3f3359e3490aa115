"""Our programs beside hand-written JAX: operations, bytes, step time, tracing and compiling, as ratios.

Run `python -m bench.against_floors [NAME ...] [--quick]`: prints a JSON row for each workload and size. Floors are in
`bench/floors`, programs in `bench/programs`; both give value and gradient of the same estimator. `--quick` leaves the
timings out. A program that the library refuses has a row that says so.

- `counted`: operations, bytes and equations by `ppl.reports.costs`, loops as often as they run;
- `compiled`: XLA's own analysis of the compiled module, after fusion, loops counted ONCE;
- `step_time`: ours / floor of alternating runs: the median of the paired ratios and its 95 % interval from order
  statistics;
- `trace_and_compile`: CPU seconds with empty caches, medians of fresh runs.
"""

import argparse
import functools
import importlib
import json
import math
import platform
import statistics
import time

import jax
import numpy as np

import ppl
from bench.floors import estimator
from ppl.reports import costs
from ppl.reports.costs import analysis

WORKLOADS = (
    "vae",
    "iwelbo",
    "bernoulli_vae",
    "mixture",
    "hmm",
    "state_space",
    "state_space_steps",
    "many_choices",
    "logistic_regression",
    "eight_schools",
)
SEED = 0
NOTES = {
    "vae": "extra: the support test of the pixels, and what a derivative keeps of it",
    "iwelbo": "extra: the support test of the pixels, and what a derivative keeps of it",
    "bernoulli_vae": "score function, the same constant baseline on both sides; extra: the zeros whose derivative is "
    "the cost that a baseline is taken from, one key fold, support tests of pixels and latents",
    "state_space": "floor: all steps drawn and scored at once; extra: a key for each step (the same hash as one of the "
    "floor's numbers, counted as two words), errors divided by their scale before they are squared, so that scales of "
    "any size do (the floor divides the sum)",
    "state_space_steps": "floor: one scan draws and scores; ours is taken out of the loop",
    "many_choices": "floor: one array; comparable are draws, densities and derivatives; extra: a key for each choice, "
    "the observation apart, 200 choices to be traced as they are written",
    "mixture": "extra: the test for costs that are infinite where a probability is 0; the normal's constants are "
    "summed with the probabilities, not pulled out",
    "logistic_regression": "extra: one key fold, the support test of the labels, the prior's constants (they do not "
    "cancel with the guide's)",
    "eight_schools": "floor: one packed vector; extra: a key for each choice, tau apart from the other draws (another "
    "family: slices, pads), the support test of the half-Cauchy",
}


def pair(name, size):
    """Return our estimator and the floor's, and the arguments of both."""
    floor = importlib.import_module(f"bench.floors.{name}")
    program = importlib.import_module(f"bench.programs.{name}")
    params, data = floor.setup(jax.random.key(SEED), **size)
    args = (jax.random.key(SEED + 1), params, data)
    return ppl.value_and_grad(program.objective(**size)), estimator(floor, **size), args


def ratios(ours, floor):
    """Return two figures and their ratio."""
    return {"ours": ours, "floor": floor, "ratio": round(ours / floor, 4) if floor else None}


def counted(ours, floor, args, on_paper):
    """Count both by the jaxpr."""
    mine, theirs = costs(ours)(*args), costs(floor)(*args)
    names = ("flops", "bytes", "transcendentals", "random_words", "equations", "executed")
    row = {name: ratios(getattr(mine, name), getattr(theirs, name)) for name in names}
    row["matmul_flops"] = {"ours": mine.matmul_flops, "floor": theirs.matmul_flops, "on_paper": on_paper}
    row["approximate"] = sorted({*mine.approximate, *theirs.approximate})
    return row


def fresh_compilation(function, args):
    """Trace and compile with empty caches; return the compiled module and the CPU seconds of both parts."""
    jax.clear_caches()
    start = time.process_time()
    traced = jax.jit(lambda *args: function(*args)).trace(*args)
    middle = time.process_time()
    compiled = traced.lower().compile()
    return compiled, middle - start, time.process_time() - middle


def compile_times(ours, floor, args, repeats):
    """Compile both in turn, so many times."""
    runs = [[fresh_compilation(function, args)[1:] for function in (ours, floor)] for _ in range(repeats)]
    trace, compile_, both = (
        [statistics.median(part(run[which]) for run in runs) for which in (0, 1)]
        for part in (lambda times: times[0], lambda times: times[1], sum)
    )
    return {"trace": ratios(*trace), "compile": ratios(*compile_), "both": ratios(*both), "runs": repeats}


def seconds(compiled, args, loops):
    """Time some runs, one after the other."""
    start = time.perf_counter()
    for _ in range(loops):
        out = compiled(*args)
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / loops


def order_interval(sample, level=0.95):
    """Return the interval of the median between order statistics: no assumption on the distribution."""
    ordered, n = sorted(sample), len(sample)
    tail, rank = 0.0, 0
    while tail + math.comb(n, rank) / 2**n <= (1 - level) / 2:
        tail += math.comb(n, rank) / 2**n
        rank += 1
    rank = max(rank - 1, 0)
    return ordered[rank], ordered[n - 1 - rank]


def step_time(ours, floor, args, pairs, least=2e-3):
    """Compare run times in pairs, in alternating order."""
    both = (ours, floor)
    for compiled in both:
        seconds(compiled, args, 2)
    loops = max(1, math.ceil(least / min(seconds(compiled, args, 3) for compiled in both)))
    times = []
    for i in range(pairs):
        order = both if i % 2 else both[::-1]
        found = {id(compiled): seconds(compiled, args, loops) for compiled in order}
        times.append([found[id(compiled)] for compiled in both])
    sample = [mine / theirs for mine, theirs in times]
    low, high = order_interval(sample)
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    row = {"ratio": statistics.median(sample), "interval": [low, high], "ours": medians[0], "floor": medians[1]}
    return {**{name: np.round(value, 7).tolist() for name, value in row.items()}, "pairs": pairs, "loops": loops}


def compiled_rows(ours, floor, args, quick, pairs, repeats):
    """Compile both; compare XLA's analysis and, unless in a hurry, the times."""
    mine, theirs = (fresh_compilation(function, args)[0] for function in (ours, floor))
    found = [analysis(compiled) for compiled in (mine, theirs)]
    names = ("flops", "bytes", "transcendentals")
    row = {"compiled": {name: ratios(*(getattr(one, name) for one in found)) for name in names}}
    if not quick:
        row["step_time"] = step_time(mine, theirs, args, pairs)
        row["trace_and_compile"] = compile_times(ours, floor, args, repeats)
    return row


@functools.cache
def environment():
    """Return what a reader needs to repeat a row."""
    versions = {name: importlib.import_module(name).__version__ for name in ("jax", "numpyro", "numpy")}
    device = jax.devices()[0]
    return {
        "versions": {**versions, "python": platform.python_version()},
        "device": str(device.device_kind),
        "seed": SEED,
    }


def row_of(name, size, quick=False, pairs=21, repeats=3):
    """Compare one workload at one size."""
    ours, floor, args = pair(name, size)
    row = {"workload": name, "size": size, "note": NOTES.get(name, "")}
    on_paper = importlib.import_module(f"bench.floors.{name}").matmul_flops(**size)
    try:
        row |= {"status": "compared", "counted": counted(ours, floor, args, on_paper)}
    except ppl.StrategyError as error:
        row |= {"status": "refused", "reason": str(error).splitlines()[0], "floor": costs(floor)(*args).flops}
        return {**row, **environment()}
    return {**row, **compiled_rows(ours, floor, args, quick, pairs, repeats), **environment()}


def main():
    """Print a row for each workload and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads; all by default")
    parser.add_argument("--quick", action="store_true", help="leave the timings out")
    parser.add_argument("--pairs", type=int, default=21, help="paired runs for the step time")
    parser.add_argument("--repeats", type=int, default=3, help="fresh compilations")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    for name in options.names or WORKLOADS:
        for size in importlib.import_module(f"bench.floors.{name}").SIZES:
            print(json.dumps(row_of(name, size, options.quick, options.pairs, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
