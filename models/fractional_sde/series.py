"""A series that is observed with error: fractional Brownian motion whose Hurst index is to be found.

    o_i ~ Normal(mean + scale * Bhat(t_i), error),    of type II, with several steps between observations.

The guide pushes the path by the control that is exact for parameters of its own (`linear.posterior`): they are learned
beside those of the model, and the divergence of the two programs draws them together. Where they are equal the bound is
the evidence, and has no noise. The Hurst index may change in time, along a line.
"""

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import ppl
from estimators import elbo
from models.fractional_sde import exact, linear
from models.fractional_sde.noise import Noise, fractional, hurst_of
from models.fractional_sde.process import Sde, State, Steps, guided_path, prior_path, steps_between
from ppl import gen, normal


@dataclass(frozen=True)
class SeriesConfig:
    """The grid of rates reaches from the length of the series to a step."""

    number: int = 4
    fastest: float = 50.0
    duration: float = 1.0
    """Of the series, in the unit of time of the rates."""
    substeps: int = 4
    """Steps between two observations."""
    paths: int = 4
    """How many synthetic paths share a Hurst index."""
    steps: int = 300
    lanes: int = 4
    learning_rate: float = 0.03
    draws: int = 1000


class Prior(NamedTuple):
    """Raw Hurst index at the beginning and by how much it grows; mean, log scale and log error of the observations."""

    hurst: Float[Array, ""]
    slope: Float[Array, ""]
    mean: Float[Array, ""]
    log_scale: Float[Array, ""]
    log_error: Float[Array, ""]


class Params(NamedTuple):
    """What is learned: the model's parameters, and those whose exact control is the guide."""

    prior: Prior
    guide: Prior


class Grid(eqx.Module):
    """Times: observations end every so many equal steps, over the duration."""

    steps: Steps
    substeps: int = eqx.field(static=True)
    config: SeriesConfig = eqx.field(static=True)

    @property
    def middle(self) -> Float[Array, " n"]:
        """Return the middle of every step, as a share of the duration."""
        return (jnp.asarray(self.steps.start) + jnp.asarray(self.steps.length) / 2) / self.config.duration


def grid_of(number: int, config: SeriesConfig) -> Grid:
    """Return the times of so many observations."""
    times = np.linspace(0.0, config.duration, number * config.substeps + 1)
    return Grid(steps_between(times, config.fastest), config.substeps, config)


def hurst_in_time(prior: Prior, grid: Grid) -> Float[Array, " n"]:
    """Return the Hurst index of every step."""
    return hurst_of(prior.hurst + prior.slope * grid.middle)


def noise_of(prior: Prior, grid: Grid, *, changing: bool) -> Noise:
    """Return the noise, of a Hurst index that is constant or changes in time."""
    hurst = hurst_in_time(prior, grid) if changing else hurst_of(prior.hurst)
    config = grid.config
    return fractional(hurst, number=config.number, fastest=config.fastest, horizon=config.duration, kind="II")


def equation(prior: Prior, grid: Grid, changing: bool) -> Sde:
    """Return the equation dX = dBhat."""
    return Sde(lambda t, x: jnp.zeros_like(x), lambda t, x: jnp.ones_like(x), noise_of(prior, grid, changing=changing))


def still(grid: Grid) -> State:
    """Return the state at time 0."""
    return State(jnp.zeros(1), jnp.zeros((1, grid.config.number)))


@gen
def model(params: Params, grid: Grid, changing: bool):
    """Draw a path, and observe it with error; return what it is without."""
    prior = params.prior
    path = prior_path(equation(prior, grid, changing), still(grid), grid.steps)[grid.substeps - 1 :: grid.substeps, 0]
    level = prior.mean + jnp.exp(prior.log_scale) * path
    normal(level, jnp.exp(prior.log_error)) @ "observations"
    return level


@gen
def guide(params: Params, observed: dict, grid: Grid, changing: bool):
    """Push a path along the observations."""
    exact = exact_posterior(params.guide, observed["observations"], grid, changing)
    context = exact.control, jnp.asarray(grid.steps.length)
    sde = equation(params.prior, grid, changing)
    guided_path(sde, still(grid), grid.steps, linear.feedback, context)


def exact_posterior(prior: Prior, values: Float[Array, " n"], grid: Grid, changing: bool = False) -> linear.Posterior:
    """Return the best control of the discretised path, and its log evidence, for given parameters of the prior."""
    scale, error = jnp.exp(prior.log_scale), jnp.exp(prior.log_error)
    system = linear.linear(noise_of(prior, grid, changing=changing), grid.steps)
    number = len(grid.steps.length)
    seen = jnp.arange(number) % grid.substeps == grid.substeps - 1
    centred = jnp.repeat((jnp.asarray(values) - prior.mean) / scale, grid.substeps)
    observed = linear.Observed(jnp.where(seen, centred, 0.0), jnp.where(seen, (scale / error) ** 2, 0.0))
    found = linear.posterior(system, observed)
    return found._replace(log_evidence=found.log_evidence - len(values) * prior.log_scale)


def start(*, scale: float, error: float) -> Params:
    """Begin with Brownian motion, in model and guide."""
    at = lambda value: jnp.asarray(value, jnp.result_type(float))
    prior = Prior(at(0.0), at(0.0), at(0.0), jnp.log(at(scale)), jnp.log(at(error)))
    return Params(prior, prior)


def of_series(params: Params, series: Float[Array, "m n"], grid: Grid, changing: bool) -> Float[Array, ""]:
    """Return one draw of the ELBO of independent series, as a stochastic function."""
    bound = elbo(model, guide)
    each = jax.vmap(lambda values: bound(params, {"observations": values}, grid, changing))
    return jnp.sum(each(series))


def fit(series: Float[np.ndarray, "m n"], begin: Params, grid: Grid, key: Key[Array, ""], learn: tuple[str, ...], **to):
    """Maximise the ELBO in some of the parameters, by name, of model and guide alike."""
    config, values, changing = grid.config, jnp.asarray(series), "slope" in learn
    one = lambda params: of_series(params, values, grid, changing)
    mean = lambda params: jnp.mean(jax.vmap(lambda _: one(params))(jnp.arange(config.lanes)))
    chosen = Prior(*(name in learn for name in Prior._fields))
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    trainable = Params(chosen, chosen)
    return ppl.maximize(mean, begin, None, optimizer, steps=config.steps, key=key, trainable=trainable, **to)


def measure(
    params: Params, series: Float[np.ndarray, "m n"], grid: Grid, key: Key[Array, ""], *, changing: bool = False
) -> Float[np.ndarray, " draws"]:
    """Draw the ELBO."""
    one = ppl.expect(lambda params: of_series(params, jnp.asarray(series), grid, changing))
    draws = jax.jit(lambda keys, params: jax.lax.map(lambda key: one(key, params), keys, batch_size=100))
    return np.asarray(draws(jr.split(key, grid.config.draws), params), np.float64)


def levels(
    params: Params, values: Float[np.ndarray, " n"], grid: Grid, key: Key[Array, ""], draws: int = 200
) -> Float[np.ndarray, "draws n"]:
    """Draw what a series would be without error, from the guide."""
    observed = {"observations": jnp.asarray(values)}

    def one(key: Array, params: Params) -> Array:
        drawn = guide.simulate(key, params, observed, grid, False)
        return model.assess(key, ppl.merge(drawn.choices, observed), params, grid, False)[1]

    many = jax.jit(lambda keys, params: jax.lax.map(lambda key: one(key, params), keys, batch_size=50))
    return np.asarray(
        many(jr.split(key, draws), params)
    )  # a constant, the exact control would be folded by XLA: slowly


def synthetic(hurst: float, error: float, shape: tuple[int, int], seed: int) -> Float[np.ndarray, "m number"]:
    """Draw m paths of exact fractional Brownian motion of type II at i / number, and observe them with error."""
    paths, number = shape
    random = np.random.default_rng(seed)
    times = np.arange(1, number + 1) / number
    factor = np.linalg.cholesky(exact.fbm_covariance(times, hurst, "II"))
    return random.normal(size=shape) @ factor.T + error * random.normal(size=shape)


def log_ranges(number: int) -> Float[np.ndarray, " number"]:
    """Return the last logarithms of (highest / lowest) of the S&P 500 of a day, up to the end of 2018 (arch)."""
    from arch.data import sp500

    data = sp500.load()
    return np.log(np.log(data["High"] / data["Low"])).to_numpy()[-number:]
