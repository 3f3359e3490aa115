"""Tracing time against the number of choices: an ELBO of n separate choices in model and guide, value and gradient.

Run `python bench/trace_time.py`: prints CPU seconds of tracing and the number of Python calls made by it, for
n = 50 ... 400, and the exponent fitted to each. Calls do not depend on what else the machine does.
"""

import json
import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import ppl
from estimators import elbo
from ppl import gen, normal

SIZES = (50, 100, 200, 400)


def objective(n):
    """Return the ELBO of a chain of n normals with n separate choices in the guide."""

    @gen
    def model(params):
        state = 0.0
        for i in range(n):
            state = normal(0.5 * state, 1.0) @ f"z{i}"
        normal(state, 1.0) @ "x"

    @gen
    def guide(params, observed):
        for i in range(n):
            normal(params[i], 1.0) @ f"z{i}"

    return elbo(model, guide)


def trace(n):
    """Trace value and gradient once."""
    args = (jax.random.key(0), jnp.zeros(n), {"x": 1.0})
    return jax.jit(ppl.value_and_grad(objective(n))).trace(*args)


def seconds(n, repeats=3):
    """Return the least CPU time of some repeats."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        trace(n)
        times.append(time.process_time() - start)
    return min(times)


def calls(n):
    """Count the Python calls that tracing makes."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        trace(n)
    finally:
        sys.setprofile(None)
    return count


def exponent(values):
    """Fit log(value) = a + exponent * log(n)."""
    return float(np.polyfit(np.log(SIZES), np.log(values), 1)[0])


def main():
    """Print one JSON row."""
    trace(5)
    row = {"seconds": [seconds(n) for n in SIZES], "calls": [calls(n) for n in SIZES]}
    fitted = {name: exponent(values) for name, values in row.items()}
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    print(json.dumps({"sizes": SIZES, **row, "exponents": fitted, "versions": versions, "device": "cpu"}))


if __name__ == "__main__":
    main()
