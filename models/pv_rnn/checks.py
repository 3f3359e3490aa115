"""Exact relations of the programs that every run repeats before it trains anything."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import ppl
from models.pv_rnn.generative import Parameters, divergences, free_energy, guide, meta_prior, model, of_sequences
from models.pv_rnn.networks import Network, Sizes, State, width
from models.report import Claim

SIZES = Sizes((3, 2), (2, 1), (2.0, 4.0))
EXACT = "derivation; bound: rounding in float32, 1e-6"


def exact() -> list[Claim]:
    """Check the leak, a posterior that is the prior, and the gradient of absent sequences."""
    errors = {
        "without input h_10 = (1 - 1 / 5)**10 = 0.1073741824": leak(),
        "with U = W and A = 0 the posterior's run is the prior's, and costs nothing": same_run(),
        "the adaptive vectors of absent sequences have no gradient": absent(),
    }
    return [Claim(claim, EXACT, -float(error), -1e-6) for claim, error in errors.items()]


def leak() -> float:
    """Return by how much a potential without input differs from its closed form after ten steps."""
    silent = jax.tree.map(jnp.zeros_like, Network(Sizes((1,), (1,), (5.0,)), 1, jr.key(0)))
    state = State((jnp.ones(1),), jnp.array(True))
    for _ in range(10):
        state = silent.advance(state, [jnp.zeros(1)])
    return abs(float(state.potentials[0][0]) - 0.1073741824)


def same_run() -> float:
    """Return the largest difference of latents, and divergence, where the posterior is the prior."""
    network = Network(SIZES, 2, jr.key(0))
    network = eqx.tree_at(lambda net: [layer.prior.bias for layer in net.layers], network, replace_fn=jnp.zeros_like)
    heads = lambda net: [layer.posterior for layer in net.layers]
    network = eqx.tree_at(heads, network, [layer.prior for layer in network.layers])
    params, start = Parameters(network, jnp.zeros((8, width(network.latents)))), network.start()
    drawn = guide.simulate(jr.key(1), params, {}, start, 8)
    free = model.simulate(jr.key(1), params, start, 8)
    differences = [np.abs(drawn[name] - free[name]).max() for name in ("z1", "z2")]
    return float(max(*differences, *(jnp.abs(kl).max() for kl in divergences(drawn.retval))))


def absent() -> float:
    """Return the largest gradient of a vector of a sequence that is not in the batch."""
    network = Network(SIZES, 2, jr.key(0))
    params = Parameters(network, jnp.zeros((3, 5, width(network.latents))))
    objective = free_energy(meta_prior(network.latents, 2, 5, (1.0, 1.0)))
    mean = lambda params, rows, x: jnp.mean(of_sequences(objective, params, rows, x))
    gradient = jax.jit(ppl.grad(mean))(jr.key(1), params, jnp.array([1]), jnp.full((1, 5, 2), 0.5)).adaptive
    return float(jnp.abs(gradient[jnp.array([0, 2])]).max())
