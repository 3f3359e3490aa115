"""NUTS on `log_joint`: eight schools, beside a long run of another library (`bench/eight_schools_reference.py`)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from ppl import gen, half_cauchy, normal

blackjax = pytest.importorskip("blackjax")

REFERENCE = json.loads(Path(__file__).parent.joinpath("reference", "eight_schools.json").read_text())
Y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
CHAINS, DRAWS = 4, 4_000


@gen
def schools(sigma):
    mu = normal(0.0, 5.0) @ "mu"
    tau = half_cauchy(5.0) @ "tau"
    raw = normal(jnp.zeros(8), 1.0) @ "raw"
    theta = mu + tau * raw
    normal(theta, sigma) @ "y"
    return {"mu": mu, "log_tau": jnp.log(tau), "theta": theta}


@jax.jit
def sample(key):
    log_density, constrain = ppl.log_joint(schools, {"y": Y}, SIGMA)
    warm_key, run_key = jr.split(key)
    warmup = blackjax.window_adaptation(blackjax.nuts, log_density, target_acceptance_rate=0.95)
    (state, parameters), _ = warmup.run(warm_key, jnp.zeros(constrain.size), 1_000)
    kernel = blackjax.nuts(log_density, **parameters)

    def step(state, key):
        state, _ = kernel.step(key, state)
        return state, state.position

    _, positions = jax.lax.scan(step, state, jr.split(run_key, DRAWS))
    quantities = lambda x: ppl.assess(schools)(ppl.merge(constrain(x), {"y": Y}), SIGMA)[1]
    return jax.vmap(quantities)(positions)


def test_the_posterior_of_eight_schools():
    """Every mean within 3 combined standard errors of the reference (10 quantities: one in 40 runs would miss one)."""
    draws = jax.vmap(sample)(jr.split(jr.key(1), CHAINS))
    for name, reference in ((name, REFERENCE[name]) for name in draws):
        x = np.asarray(draws[name]).reshape(CHAINS, DRAWS, -1)
        effective = np.asarray(blackjax.diagnostics.effective_sample_size(x, chain_axis=0, sample_axis=1))
        error = np.hypot(x.std((0, 1)) / np.sqrt(effective), reference["error"])
        z = (x.mean((0, 1)) - np.ravel(reference["mean"])) / error
        assert (np.abs(z) < 3).all(), (name, z)
        assert (effective > 400).all(), (name, effective)
