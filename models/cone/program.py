"""Probabilistic programming with programmable variational inference: Becker et al., PLDI 2024, figure 2 and table 4.

A point (x, y) has a wide normal prior, and its squared distance from the origin is observed with noise. The posterior
is a ring. Five objectives are compared, as in the paper: ELBO and IWELBO(5) with a normal guide whose coordinates are
independent; HVI, IWHVI(5) and DIWHVI(5, 5) with a guide that draws an angle and goes a learned distance in its
direction. The angle is auxiliary: the density of (x, y) is an integral over it, which these objectives bound by
sampling angles from a uniform reverse program.

Beyond the paper, that integral is approached in three ways: by quadrature, by a reverse program that is learned, and by
many particles. The guide then is nearly the posterior: its ELBO can be -5.32325, and log p(z = 5) is -5.32323.

What differs from the paper: the authors' step counts and step sizes are not known; here it is Adam with a cosine
decay, on means of many draws.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import ppl
from estimators import diwhvi, elbo, hvi, iwelbo, iwhvi
from models.cone import pictures
from models.cone.angles import Toward
from models.cone.claims import claims, summarise, table
from models.registry import Context, Preset, Program
from models.report import Outcome
from ppl import choice, gen, marginal, normal, reinforce, uniform

OBSERVED = {"z": 5.0}


@dataclass(frozen=True)
class Config:
    """How each objective is fitted and measured."""

    steps: int = 3000
    lanes: int = 32
    """Draws of the objective in every step."""
    learning_rate: float = 0.02
    draws: int = 100_000
    """Draws by which a fitted objective is measured."""
    points: int = 600
    """Of the quadrature over the angle."""
    particles: int = 5000
    """Of the marginal with many particles."""


class Normal(NamedTuple):
    """Means and log standard deviations of x and y."""

    loc: Float[Array, "2"]
    log_scale: Float[Array, "2"]


class Ring(NamedTuple):
    """The radius of a ring, log standard deviations of x and y around it, log concentration of the reverse."""

    radius: Float[Array, ""]
    log_scale: Float[Array, "2"]
    log_concentration: Float[Array, ""]


@gen
def model(params):
    """Draw a point, and observe its squared distance from the origin with noise that grows with it."""
    x = normal(0.0, 10.0) @ "x"
    y = normal(0.0, 10.0) @ "y"
    square = x**2 + y**2
    normal(square, 0.1 + square / 100) @ "z"


@gen
def mean_field(params: Normal, observed: dict):
    """Propose both coordinates independently."""
    scale = jnp.exp(params.log_scale)
    normal(params.loc[0], scale[0]) @ "x"
    normal(params.loc[1], scale[1]) @ "y"


@gen
def ring(params: Ring, observed: dict):
    """Propose a direction, then a point around the place at the learned distance in it."""
    angle = 2 * math.pi * (uniform(0.0, 1.0) @ "u")
    scale = jnp.exp(params.log_scale)
    normal(params.radius * jnp.cos(angle), scale[0]) @ "x"
    normal(params.radius * jnp.sin(angle), scale[1]) @ "y"


@gen
def anywhere(kept: dict, params: Ring, observed: dict):
    """Propose the direction of a point: any."""
    uniform(0.0, 1.0) @ "u"


@gen
def toward(kept: dict, params: Ring, observed: dict):
    """Propose the direction of a point: about that in which it lies."""
    point = jnp.stack([kept["x"], kept["y"]])
    choice(Toward(point, jnp.exp(params.log_concentration)), grad=reinforce()) @ "u"


class Fit(NamedTuple):
    """An objective and its title, a start for its parameters, its guide, and the value in the paper's table."""

    title: str
    objective: Callable
    start: Normal | Ring
    guide: ppl.GenerativeFunction
    paper: float | None = None


def fits(config: Config) -> dict[str, Fit]:
    """List the objectives: the paper's five, and three of the marginal guide."""
    normal_start = Normal(jnp.array([2.0, 0.5]), jnp.full(2, -2.0))
    ring_start = Ring(jnp.array(2.0), jnp.full(2, -2.0), jnp.array(3.0))
    on_ring = lambda title, objective, paper=None: Fit(title, objective, ring_start, ring, paper)
    integrated = marginal(ring, keep=("x", "y"), method=ppl.methods.quadrature(config.points))
    return {
        "elbo": Fit("ELBO", elbo(model, mean_field), normal_start, mean_field, -8.08),
        "iwelbo_5": Fit("IWELBO(5)", iwelbo(model, mean_field, 5), normal_start, mean_field, -7.79),
        "hvi": on_ring("HVI", hvi(model, ring, anywhere), -9.75),
        "iwhvi_5": on_ring("IWHVI(5)", iwhvi(model, ring, anywhere, 5), -8.18),
        "diwhvi_5_5": on_ring("DIWHVI(5, 5)", diwhvi(model, ring, anywhere, 5, 5), -7.33),
        "quadrature": on_ring("ELBO, angle integrated", elbo(model, integrated)),
        "learned_reverse": on_ring("HVI, learned reverse", hvi(model, ring, toward)),
    }


def train(fit: Fit, config: Config, key: Key[Array, ""], **saves) -> ppl.Result:
    """Maximise the mean of many draws of the objective."""
    mean = lambda params: jnp.mean(draws_of(fit.objective, params, config.lanes))
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    return ppl.maximize(mean, fit.start, None, optax.adam(rate), steps=config.steps, key=key, **saves)


def draws_of(objective: Callable, params: Normal | Ring, number: int) -> Float[Array, " number"]:
    """Draw the objective independently, as a stochastic function."""
    return jax.vmap(lambda _: objective(params, OBSERVED))(jnp.arange(number))


def measure(
    objective: Callable, params: Normal | Ring, key: Key[Array, ""], draws: int, at_once: int = 1000
) -> Float[np.ndarray, " draws"]:
    """Draw the objective, a thousand at a time."""
    batch = ppl.seed(lambda params: draws_of(objective, params, at_once))
    batches = jax.jit(lambda keys, params: jax.lax.map(lambda key: batch(key, params), keys))
    return np.asarray(batches(jr.split(key, -(-draws // at_once)), params), np.float64).ravel()[:draws]


def samples_of(fit: Fit, params: Normal | Ring, key: Key[Array, ""], number: int = 1000) -> Float[np.ndarray, "n 2"]:
    """Draw points from a guide."""
    traces = jax.jit(jax.vmap(lambda key: fit.guide.simulate(key, params, OBSERVED).choices))(jr.split(key, number))
    return np.stack([traces["x"], traces["y"]], axis=-1)


def posterior(x: Array, y: Array) -> Array:
    """Return the log density of a point and the observation."""
    return model.log_density({"x": x, "y": y, **OBSERVED}, None)


def run(context: Context) -> Outcome:
    """Fit each objective from one start, measure it, and draw samples of the guides."""
    config = context.config
    listed, measured, samples, fitted = fits(config), {}, {}, {}
    keys = zip(*(jr.split(key, len(listed)) for key in jr.split(context.key, 3)), strict=True)
    for (name, fit), (fit_key, measure_key, sample_key) in zip(listed.items(), keys, strict=True):
        context.announce(f"fit and measure {name}")
        files = context.checkpoint / name
        fitted[name] = train(fit, config, fit_key, checkpoint=files, resume=context.resume).params
        measured[name] = summarise(measure(fit.objective, fitted[name], measure_key, config.draws))
        samples[name] = samples_of(fit, fitted[name], sample_key)

    many = f"iwhvi_{config.particles}"
    context.announce(f"measure {many} of the guide fitted by quadrature")
    bound = iwhvi(model, ring, anywhere, config.particles)
    draws = measure(bound, fitted["quadrature"], jr.fold_in(context.key, 3), config.draws // 10, at_once=100)
    measured[many] = summarise(draws)

    paper = {name: fit.paper for name, fit in listed.items()}
    print(table(measured, paper))
    captions = {name: f"{fit.title}: {measured[name][0]:.2f}" for name, fit in listed.items()}
    pictures.draw(context.out / "guides.png", posterior, samples, captions)
    metrics = {name: mean for name, (mean, _) in measured.items()}
    metrics |= {f"{name}_error": error for name, (_, error) in measured.items()}
    return Outcome(metrics, claims(measured, paper))


PROGRAM = Program(
    name="cone",
    title="Probabilistic Programming with Programmable Variational Inference: the posterior on a ring",
    paper="Becker, Lew, Wang, Ghavami, Huot, Rinard & Mansinghka, PLDI 2024, arXiv:2406.15742",
    data="one number",
    presets={
        "quick": Preset(Config(steps=600, learning_rate=0.05, draws=20_000), "45 s"),
        "default": Preset(Config(), "1 min"),
    },
    run=run,
)
