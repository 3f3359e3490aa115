"""The bridge: a path from 0 that is observed once, at its end. What is learned can be compared with algebra."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree

import ppl
from estimators import elbo
from models.fractional_sde import linear
from models.fractional_sde.noise import fractional
from models.fractional_sde.process import Past, Sde, State, Steps, guided_past, guided_path, past, prior_path
from models.fractional_sde.process import steps_between as between
from models.fractional_sde.weights import Kind
from ppl import assess, gen, merge, normal, scale, simulate


@dataclass(frozen=True)
class BridgeConfig:
    """The paper's settings for its bridges."""

    hurst: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    theta: float = 0.0
    end: float = 0.0
    scale: float = 0.1
    """Standard deviation of the observation."""
    kind: Kind = "I"
    number: int = 5
    fastest: float = 20.0
    horizon: float = 6.0
    duration: float = 2.0
    steps_of_path: int = 200
    width: int = 1000
    lanes: int = 32
    """Paths in every step of training."""
    steps: int = 2000
    learning_rate: float = 1e-3
    draws: int = 10_000
    """Paths by which a fit is measured."""


class Task(eqx.Module):
    """What both programs are told: the equation, its steps, and the observation's standard deviation."""

    sde: Sde
    steps: Steps
    scale: float


class Control(eqx.Module):
    """The network: time, X and Y to u and, if it is asked to, log r; both 0 before training."""

    layers: eqx.nn.MLP
    ratio: bool = eqx.field(static=True)

    def __init__(self, number: int, width: int, key: Key[Array, ""], *, ratio: bool):
        layers = eqx.nn.MLP(3 + number, 2, width, 2, jnp.tanh, key=key)
        last = layers.layers[-1]
        still = jnp.zeros_like(last.weight), jnp.zeros_like(last.bias)
        self.layers = eqx.tree_at(lambda layers: (layers.layers[-1].weight, layers.layers[-1].bias), layers, still)
        self.ratio = ratio

    def __call__(self, t: Array, state: State, known: None) -> tuple[Float[Array, "1"], Float[Array, "1"]]:
        """Return u and log r."""
        inputs = jnp.concatenate([jnp.stack([jnp.sin(t), jnp.cos(t)]), state.x, state.y[0]])
        u, log_ratio = self.layers(inputs)
        return u[None], log_ratio[None] * self.ratio


class Guide(NamedTuple):
    """What is learned: the control and, if Y(0) is inferred, its guide."""

    control: Control
    past: Past | None


@gen
def model(params, task: Task):
    """Draw a path from X = 0, and observe its end."""
    noise = task.sde.noise
    xs = prior_path(task.sde, State(jnp.zeros(1), past(noise, 1)), task.steps)
    normal(xs[-1, 0], task.scale) @ "end"
    return xs[:, 0]


@gen
def guide(params: Guide, observed: dict, task: Task):
    """Push a path to where it was observed; return its Girsanov cost."""
    return push(task, params, None)


def push(task: Task, params: Guide, context: PyTree) -> Float[Array, ""]:
    """Draw Y(0) and a path by the guide."""
    start = State(jnp.zeros(1), guided_past(task.sde.noise, 1, params.past))
    return guided_path(task.sde, start, task.steps, params.control, context)


def girsanov(model: ppl.GenerativeFunction, guide: ppl.GenerativeFunction) -> Callable:
    """Make the paper's objective: E log p(observed | path) less the divergence 1/2 int |u|**2 dt of the paths.

    It replaces the densities of the steps by their mean over the noise, which the guide returns. Its value is that of
    `elbo` on average if r = 1; paths have to be drawn in any case, and with them `elbo` is far less noisy near the
    optimum, where log p - log q does not depend on the path any more.

    Args:
        model: Its choices of noise are at "dB".
        guide: Returns the divergence.
    """
    without_noise = scale(model, {"dB": 0.0})

    def objective(params, observed: dict, *inputs) -> Array:
        drawn = simulate(guide)(params, observed, *inputs)
        log_joint, _ = assess(without_noise)(merge(drawn.choices, observed), params, *inputs)
        others = {name: value for name, value in drawn.choices.items() if name != "dB"}
        log_q, _ = (
            assess(scale(guide, {"dB": 0.0}))(drawn.choices, params, observed, *inputs) if others else (0.0, None)
        )
        return log_joint - log_q - drawn.retval

    return objective


def task_of(config: BridgeConfig, hurst: float) -> Task:
    """Return the equation dX = -theta X dt + dBhat on equal steps."""
    grid = {"number": config.number, "fastest": config.fastest, "horizon": config.horizon}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The paper's grid is short of memory for type I; so is what it is compared to.
        noise = fractional(hurst, **grid, kind=config.kind)
    steps = between(np.linspace(0.0, config.duration, config.steps_of_path + 1), config.fastest)
    drift, diffusion = (lambda t, x: -config.theta * x), (lambda t, x: jnp.ones_like(x))
    return Task(Sde(drift, diffusion, noise), steps, config.scale)


def exact_posterior(config: BridgeConfig, task: Task) -> tuple[linear.Linear, linear.Posterior]:
    """Return the linear equation of the discretised path and what is exact for it."""
    system = linear.linear(task.sde.noise, task.steps, theta=config.theta)
    return system, linear.posterior(system, linear.observe_last(task.steps, config.end, config.scale))


def mean_of_paths(objective: Callable, config: BridgeConfig, task: Task) -> Callable:
    """Turn an objective into its mean over paths, as a function of the parameters."""
    observed = {"end": jnp.asarray(config.end)}
    return lambda params: jnp.mean(jax.vmap(lambda _: objective(params, observed, task))(jnp.arange(config.lanes)))


def fit(config: BridgeConfig, task: Task, key: Key[Array, ""], *, ratio: bool = True, infer_past: bool = True, **saves):
    """Learn a control: with or without a variance of its own, and with or without a guide of Y(0).

    Without either it is the paper's guide, trained by the paper's objective.
    """
    init_key, fit_key = jr.split(key)
    inferred = Past(1, config.number) if infer_past and task.sde.noise.stationary else None
    start = Guide(Control(config.number, config.width, init_key, ratio=ratio), inferred)
    objective = elbo(model, guide) if ratio else girsanov(model, guide)
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    mean = mean_of_paths(objective, config, task)
    return ppl.maximize(mean, start, None, optax.adam(rate), steps=config.steps, key=fit_key, **saves)


def measure(
    params: Guide, config: BridgeConfig, task: Task, key: Key[Array, ""]
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, "draws n"]]:
    """Draw log p - log q of paths, and the paths."""
    observed = {"end": jnp.asarray(config.end)}

    def one(key: Array) -> tuple[Array, Array]:
        drawn = guide.simulate(key, params, observed, task)
        log_joint, path = model.assess(key, merge(drawn.choices, observed), params, task)
        return log_joint - drawn.log_density, path

    values, paths = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))(jr.split(key, config.draws))
    return np.asarray(values, np.float64), np.asarray(paths, np.float64)
