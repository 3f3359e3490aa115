"""Training: several fits at once, as lanes of one program, and what is measured of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import ppl
from estimators import elbo, iwelbo
from models.pv_rnn.codes import Code
from models.pv_rnn.generative import Parameters, divergences, free_energy, guide, meta_prior, model, of_sequences
from models.pv_rnn.networks import Encoder, Network, width
from ppl import simulate


class Fit(NamedTuple):
    """One fit to make.

    Attributes:
        data: What is observed, encoded.
        meta: The meta-prior of all layers.
    """

    data: Float[np.ndarray, "n steps ..."]
    meta: float


def optimizer_of(learning_rate: float, clip: float) -> optax.GradientTransformation:
    """Return Adam after a clip of the gradient's norm, lane by lane: no fit hears of the others."""
    single = optax.chain(optax.clip_by_global_norm(clip), optax.adam(learning_rate))
    return by_lane(single)


def by_lane(single: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let an optimizer work on every element of a leading axis for itself."""
    update = lambda grads, state, params=None: jax.vmap(single.update)(grads, state, params)
    return optax.GradientTransformation(jax.vmap(single.init), update)


def table(fits: Sequence[Fit], network: Callable[[Key[Array, ""]], Network], code: Code, key: Key[Array, ""]):
    """Return initial parameters with a table of adaptive vectors, all 0, for every fit; the networks start alike."""
    number, steps = fits[0].data.shape[:2]
    made = network(key)
    single = Parameters(made, jnp.zeros((number, steps, width(made.latents))), code)
    return spread(single, len(fits))


def amortised(
    fits: Sequence[Fit], network: Callable[[Key[Array, ""]], Network], code: Code, key: Key[Array, ""], hidden: int
):
    """Return initial parameters whose adaptive vectors come from an encoder: a variational RNN."""
    network_key, encoder_key = jr.fold_in(key, 0), jr.fold_in(key, 1)
    made = network(network_key)
    inputs = int(np.prod(fits[0].data.shape[2:]))
    return spread(Parameters(made, Encoder(inputs, hidden, sum(made.latents), encoder_key), code), len(fits))


def spread(params: Parameters, lanes: int) -> Parameters:
    """Repeat parameters along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), params)


def lane(params: Parameters, number: int) -> Parameters:
    """Return the parameters of one fit."""
    return jax.tree.map(lambda leaf: leaf[number], params)


def mean_objective(params: Parameters, rows: Array, x: Array, meta: Array | float, particles: int) -> Array:
    """Return the mean over sequences of the weighted objective, as a stochastic function.

    One flag chooses the bound: the paper's for one particle, else the importance-weighted one of `tempered`.
    """
    weights = weights_of(params, x, meta)
    if particles == 1:
        return jnp.mean(of_sequences(free_energy(weights), params, rows, x))
    objective = iwelbo(model, guide, particles, tempered(weights, meta))
    return meta * jnp.mean(of_sequences(objective, params, rows, x))


def weights_of(params: Parameters, x: Array, meta: Array | float) -> dict:
    """Return the weights of all choices of sequences `x`, with one meta-prior for all layers."""
    latents = params.network.latents
    return meta_prior(latents, x.shape[2], x.shape[1], [meta] * len(latents))


def tempered(weights: dict, meta: Array | float) -> dict:
    """Divide all weights by the meta-prior, which then is a temperature.

    Of the objective's two parts it is the likelihood that is weighted: w times the importance-weighted bound with these
    weights is the paper's objective for one particle, and goes to w log E_p p(x | z)**(1 / w) with their number: the
    objective's value for the best of all posteriors.
    """
    return {name: weight / meta for name, weight in weights.items()}


def train(
    params: Parameters,
    fits: Sequence[Fit],
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    *,
    steps: int,
    particles: int = 1,
    batch_size: int | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> ppl.Result:
    """Maximise the objectives of all fits at once; with a batch size, on as many sequences of each."""
    metas = jnp.array([fit.meta for fit in fits], jnp.float32)
    x = jnp.stack([fit.data for fit in fits], axis=1)  # sequences lead: batches are made of them
    rows = jnp.arange(len(x))

    def objective(params: Parameters, batch: tuple) -> Float[Array, ""]:
        rows, x = batch
        one = lambda params, x, meta: mean_objective(params, rows, x, meta, particles)
        return jnp.sum(jax.vmap(one, in_axes=(0, 1, 0))(params, x, metas))

    return ppl.maximize(
        objective,
        params,
        (rows, x),
        optimizer,
        steps=steps,
        key=key,
        batch_size=batch_size,
        checkpoint=checkpoint,
        resume=resume,
        chunk=min(1 + steps // 20, 1000),
    )


class Measured(NamedTuple):
    """What a fit makes of its own sequences.

    Attributes:
        error: Mean squared error of the outputs, under the posterior.
        divergence: KL(q, p) of a sequence, in nats.
        prior_scale: Mean standard deviation of the prior.
        outputs: Reconstructions.
        divergences: KL of every step, summed over latents.
    """

    error: float
    divergence: float
    prior_scale: float
    outputs: Float[np.ndarray, "n steps numbers"]
    divergences: Float[np.ndarray, "n steps"]


def reconstruct(params: Parameters, observed: Array, data: np.ndarray, key: Key[Array, ""]) -> Measured:
    """Run the guide over all sequences once, and measure."""

    def run(row, x):
        steps = simulate(guide)(params.of(row), {"x": x}, params.network.start(), x.shape[0]).retval
        outputs = params.code.mean(jax.vmap(params.network.read)(steps.states))
        scales = jnp.mean(jnp.concatenate([law.scale for law in steps.prior], axis=-1))
        return outputs, sum(jnp.sum(kl, axis=-1) for kl in divergences(steps)), scales

    runs = jax.jit(jax.vmap(ppl.seed(run)))
    outputs, costs, scales = map(
        np.asarray, runs(jr.split(key, len(data)), jnp.arange(len(data)), jnp.asarray(observed))
    )
    error = float(np.mean((outputs - data) ** 2))
    return Measured(error, float(costs.sum(1).mean()), float(scales.mean()), outputs, costs)


def generate(params: Parameters, number: int, length: int, key: Key[Array, ""]) -> Float[np.ndarray, "number steps x"]:
    """Let the model run freely from rest; return expected outputs."""
    free = lambda key: model.simulate(key, params, params.network.start(), length).retval
    return np.asarray(jax.jit(jax.vmap(free))(jr.split(key, number)))


def bounds(
    params: Parameters, x: np.ndarray, meta: float, key: Key[Array, ""], particles: int, runs: int = 100
) -> Float[np.ndarray, "2 n"]:
    """Estimate the tempered bounds of every training sequence by one particle and by several, from the same draws."""
    rows, weights = jnp.arange(len(x)), tempered(weights_of(params, x, meta), meta)
    single = elbo(model, guide, weights)

    def both(_):
        logs = jax.vmap(lambda _: of_sequences(single, params, rows, x))(jnp.arange(particles))
        return jnp.stack([jnp.mean(logs, axis=0), jax.nn.logsumexp(logs, axis=0) - jnp.log(particles)])

    draw = jax.jit(lambda keys: jax.lax.map(lambda key: ppl.seed(both)(key, 0), keys))
    return meta * np.asarray(draw(jr.split(key, runs)), np.float64).mean(0)
