"""Size of the program and time to compile it, for short and for very long loops.

Run `python -m bench.compile_growth`: a JSON row for each program, with the equations of the traced value and gradient
at 50 and at 50,000 steps (they should be equal) and the ratio of CPU seconds to trace and compile (medians of 5 runs,
taken in turn).
"""

import json
import platform
import statistics
import time

import jax
import jax.numpy as jnp
from jax import lax

import ppl
from bench.programs import state_space
from estimators import elbo
from ppl.reports import costs

SHORT, LONG, REPEATS = 50, 50_000, 5
KEY = jax.random.key(0)


def walk(length):
    """Return a random walk with score functions, and costs of every step."""

    def program(drift):
        def step(carry, _):
            state, total = carry
            state = ppl.normal(0.9 * state + drift, 1.0, grad=ppl.reinforce()).sample()
            return (state, total + jnp.tanh(state) ** 2), None

        return lax.scan(step, (0.0, 0.0), None, length=length)[0][1]

    return program, (jnp.asarray(0.1),)


def chain(length):
    """Return a chain of enumerated states, and costs of neighbours."""

    def program(logits):
        def step(carry, _):
            state, total = carry
            after = ppl.categorical(logits=logits[state], grad=ppl.enum()).sample()
            return (after, total + jnp.sin(1.0 * state + after)), None

        return lax.scan(step, (jnp.int32(0), 0.0), None, length=length)[0][1]

    return program, (jnp.zeros((4, 4)),)


def mean_field(length):
    """Return the ELBO of a random walk under a mean-field guide, both written as scans."""
    params = {"loc": jnp.zeros(length), "log_scale": jnp.zeros(length), "log_step": 0.0, "log_noise": 0.0}
    bound = elbo(state_space.model, state_space.guide)
    return lambda params: bound(params, {"y": jnp.zeros(length)}), (params,)


PROGRAMS = {"walk": walk, "chain": chain, "mean field": mean_field}


def seconds(program, args):
    """Trace and compile with empty caches."""
    jax.clear_caches()
    start = time.process_time()
    jax.jit(ppl.value_and_grad(program)).lower(KEY, *args).compile()
    return time.process_time() - start


def main():
    """Print the rows."""
    for name, make in PROGRAMS.items():
        pairs = [make(length) for length in (SHORT, LONG)]
        equations = [costs(ppl.value_and_grad(program))(KEY, *args).equations for program, args in pairs]
        runs = [[seconds(*pair) for pair in pairs] for _ in range(REPEATS)]
        short, long = (statistics.median(column) for column in zip(*runs, strict=True))
        row = {"program": name, "steps": [SHORT, LONG], "equations": equations, "compile_ratio": round(long / short, 3)}
        versions = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.default_backend()}
        print(
            json.dumps({**row, "seconds": [round(short, 3), round(long, 3)], "repeats": REPEATS, **versions}),
            flush=True,
        )


if __name__ == "__main__":
    main()
