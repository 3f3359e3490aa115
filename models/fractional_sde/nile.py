"""The annual flow of the Nile: increments of noise with memory, observed without error.

    flow_i = mean + scale * (Bhat(t_i) - Bhat(t_{i-1})),    t_i = i / 100.

An observation without error fixes one direction of the Brownian path within its year. So the program draws the rest of
the path as latents, observes the flow, and lets it complete the path. Over a year the path is represented by its first
Legendre coefficients, independent standard normal numbers, in terms of which all processes Y move exactly, but for the
coefficients left out; with a step of 1/100 the fourth adds 1e-5 of the variance.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import ppl
from estimators import elbo
from models.fractional_sde import exact
from models.fractional_sde.noise import Noise, fractional, hurst_of
from models.fractional_sde.process import Past, guided_past, past
from ppl import gen, normal


@dataclass(frozen=True)
class NileConfig:
    """The grid of rates covers what the step of 1/100 can tell apart."""

    number: int = 5
    fastest: float = 100.0
    horizon: float = 1.0
    coefficients: int = 3
    steps: int = 2000
    lanes: int = 4
    learning_rate: float = 0.02
    draws: int = 4000


class Prior(NamedTuple):
    """Mean and log scale of the flow, in its own mean and standard deviation, and the raw Hurst index."""

    mean: Float[Array, ""]
    log_scale: Float[Array, ""]
    hurst: Float[Array, ""]


class Rest(NamedTuple):
    """A normal guide of what a year's flow leaves open, independent in every coefficient."""

    loc: Float[Array, "n j"]
    log_scale: Float[Array, "n j"]


class Params(NamedTuple):
    """What is learned: the prior, and the guides of Y(0) and of the path within each year."""

    prior: Prior
    past: Past
    rest: Rest


def flows() -> Float[np.ndarray, "100"]:
    """Return the flow of the Nile at Aswan, 1871 to 1970, in 10**8 cubic metres (statsmodels)."""
    from statsmodels.datasets import nile

    return np.asarray(nile.load_pandas().data["volume"], np.float64)


def responses(rates: Float[np.ndarray, " k"], step: float, coefficients: int) -> Float[np.ndarray, "k j"]:
    """Integrate exp(-rate (step - s)) times the normalised Legendre polynomials on a step, by Gauss's rule."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    decays = np.exp(-rates[:, None] * step * (1 - nodes) / 2)
    polynomials = np.polynomial.legendre.legvander(nodes, coefficients - 1) * np.sqrt(2 * np.arange(coefficients) + 1)
    return decays @ (polynomials * weights[:, None]) / 2 * np.sqrt(step)


def grid_of(config: NileConfig) -> dict:
    """Return the grid of rates and the horizon, as `noise.fractional` takes them."""
    return {"number": config.number, "fastest": config.fastest, "horizon": config.horizon}


def noise_of(prior: Prior, config: NileConfig) -> Noise:
    """Return the noise of type I at the learned Hurst index."""
    return fractional(hurst_of(prior.hurst), **grid_of(config), kind="I")


@gen
def model(params: Params, config: NileConfig, years: int):
    """Draw Y(0) and, year by year, the rest of the path and the flow."""
    noise, prior = noise_of(params.prior, config), params.prior
    step = config.horizon / years
    moves = jnp.asarray(responses(np.asarray(noise.rates), step, config.coefficients))
    decay, lost = jnp.exp(-noise.gammas * step), jnp.expm1(-noise.gammas * step)
    toward = noise.weights @ moves  # how the increment of Bhat follows from the year's coefficients
    length = jnp.linalg.norm(toward)
    scale = jnp.exp(prior.log_scale)

    def year(y: Array, _: None) -> tuple[Array, None]:
        rest = normal(jnp.zeros(config.coefficients), 1.0) @ "rest"
        expected = prior.mean + scale * (y @ (noise.weights * lost))
        flow = normal(expected, scale * length) @ "flow"
        along = (flow - expected) / (scale * length)
        unit = toward / length
        return y * decay + moves @ (rest + unit * (along - unit @ rest)), None

    jax.lax.scan(year, past(noise, 1)[0], None, length=years)


@gen
def guide(params: Params, observed: dict, config: NileConfig, years: int):
    """Propose Y(0) and the rest of each year's path."""
    guided_past(noise_of(params.prior, config), 1, params.past)
    jax.lax.scan(lambda _, at: (None, normal(at.loc, jnp.exp(at.log_scale)) @ "rest"), None, params.rest)


def start(config: NileConfig, years: int) -> Params:
    """Return Brownian motion with the data's mean and spread, and guides that are the prior."""
    spread = 0.5 * jnp.log(years / config.horizon)
    shape = years, config.coefficients
    prior = Prior(jnp.zeros(()), spread, jnp.zeros(()))
    return Params(prior, Past(1, config.number), Rest(jnp.zeros(shape), jnp.zeros(shape)))


def fit(values: Float[np.ndarray, " n"], config: NileConfig, key: Key[Array, ""], *, learn_hurst: bool, **saves):
    """Maximise the ELBO of standardised flows; with or without the Hurst index, which otherwise stays 1/2."""
    flow = jnp.asarray((values - values.mean()) / values.std())
    bound = elbo(model, guide)
    one = lambda params: bound(params, {"flow": flow}, config, len(values))
    mean = lambda params: jnp.mean(jax.vmap(lambda _: one(params))(jnp.arange(config.lanes)))
    begin = start(config, len(values))
    trained = jax.tree.map(lambda _: True, begin)
    trained = trained._replace(prior=trained.prior._replace(hurst=learn_hurst))
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimizer = optax.adam(rate, b2=0.99)
    return ppl.maximize(mean, begin, None, optimizer, steps=config.steps, key=key, trainable=trained, **saves)


def measure(
    params: Params, values: Float[np.ndarray, " n"], config: NileConfig, key: Key[Array, ""]
) -> Float[np.ndarray, " draws"]:
    """Draw the ELBO of the flows, in their own units."""
    flow = jnp.asarray((values - values.mean()) / values.std())
    one = ppl.expect(lambda params: elbo(model, guide)(params, {"flow": flow}, config, len(values)))
    draws = jax.jit(lambda keys, params: jax.lax.map(lambda key: one(key, params), keys, batch_size=500))
    return np.asarray(draws(jr.split(key, config.draws), params), np.float64) - len(values) * np.log(values.std())


def exact_evidence(prior: Prior, values: Float[np.ndarray, " n"], config: NileConfig) -> float:
    """Return the log evidence of the flows at given parameters, of the noise in continuous time."""
    times = config.horizon * np.arange(1, len(values) + 1) / len(values)
    covariance = exact.increments(exact.approximate_covariance(noise_of(prior, config), times))
    scale, mean = values.std() * np.exp(float(prior.log_scale)), values.mean() + values.std() * float(prior.mean)
    return exact.log_evidence(values, scale**2 * covariance, mean)
