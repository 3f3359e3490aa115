"""How large a network is: its parameters and the operations of a step, counted in the program and from sizes alone."""

import jax
import jax.numpy as jnp
import jax.random as jr

from models.pv_rnn.config import Config
from models.pv_rnn.networks import Network, width
from ppl.reports import costs

NUMBERS = 2
"""Observed in every step of the primitives."""


def describe(config: Config) -> dict[str, float]:
    """Print and return the number of parameters and the operations of a step, beside those that the sizes say."""
    network = config.network(NUMBERS)(jr.key(0))
    shared = sum(leaf.size for leaf in jax.tree.leaves(network))
    vectors = config.sequences * config.length * width(config.latents)
    found, expected = step_flops(network), flops_by_sizes(config)
    print(f"network: {shared:,} parameters ({by_sizes(config):,} by the paper's formulas); adaptive: {vectors:,}")
    print(f"one step of one sequence: {found:,} operations in matrix products ({expected:,} by the formulas)")
    return {"parameters": shared, "adaptive_parameters": vectors, "step_matmul_flops": found}


def step_flops(network: Network) -> int:
    """Count the matrix products of one step forward: both heads, the layers, the output."""

    def step(network, state, vector):
        laws = network.prior(state), network.posterior(state, vector)
        state = network.advance(state, [law.loc for law in laws[1]])
        return laws, state, network.read(state)

    return costs(step)(network, network.start(), jnp.zeros(width(network.latents))).matmul_flops


def weights_by_sizes(config: Config) -> tuple[int, int]:
    """Count matrix elements and biases: W_dd, W_zd, neighbours, the heads of location and scale, the output."""
    matrices, biases, last = 0, 0, len(config.units) - 1
    heads = 1 + (config.form == "adaptive")
    for k, (d, z) in enumerate(zip(config.units, config.latents, strict=True)):
        above = config.units[k + 1] if k < last else 0
        below = config.units[k - 1] if k and config.coupling == "bidirectional" else 0
        matrices += d * (d + z + above + below) + heads * 2 * z * d
        biases += d + heads * 2 * z
    outputs = config.code.outputs(NUMBERS)
    return matrices + outputs * config.units[0], biases + outputs


def by_sizes(config: Config) -> int:
    """Count the network's parameters."""
    return sum(weights_by_sizes(config))


def flops_by_sizes(config: Config) -> int:
    """Count a multiplication and an addition for every element of a matrix."""
    return 2 * weights_by_sizes(config)[0]
