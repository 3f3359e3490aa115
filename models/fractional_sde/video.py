"""The latent video model: a neural equation with learned memory moves content that stays the same."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import ppl
from estimators import elbo
from models import data
from models.fractional_sde import networks
from models.fractional_sde.movies import Movies, move
from models.fractional_sde.noise import Noise, brownian, fractional, hurst_of
from models.fractional_sde.process import Sde, State, Steps, guided_path, past, prior_path, steps_between
from models.fractional_sde.weights import Kind
from ppl import gen, normal


@dataclass(frozen=True)
class VideoConfig:
    """The paper's settings for stochastic moving MNIST."""

    side: int = 64
    frames: int = 25
    known: int = 20
    """Frames from which the others are predicted."""
    interval: float = 0.1
    substeps: int = 3
    pixel_scale: float = 0.5**0.5
    """The log density of a frame is minus the sum of squared errors, but for a constant."""
    dimension: int = 6
    number: int = 5
    fastest: float = 10.0
    kind: Kind = "II"
    features: int = 64
    content: int = 64
    width: int = 200
    convolutions: bool = True
    digits: int = 2
    speed: int = 4
    dataset: Literal["small", "mnist"] = "mnist"
    movies: int = 60_000
    held_out: int = 1_000
    batch_size: int = 32
    steps: int = 187_500
    """100 epochs."""
    learning_rate: float = 3e-4
    draws: int = 16
    """Predictions of each held-out movie."""


class Task(eqx.Module):
    """When frames are shown, and how the noise is made."""

    steps: Steps
    substeps: int = eqx.field(static=True)
    config: VideoConfig = eqx.field(static=True)
    memory: bool = eqx.field(static=True)
    """Whether the noise is fractional; else it is Brownian: the paper's baseline."""

    @property
    def frames(self) -> int:
        """Return the number of frames."""
        return len(self.steps.length) // self.substeps + 1


class Video(eqx.Module):
    """Everything that is learned."""

    start_loc: Float[Array, " d"]
    start_log_scale: Float[Array, " d"]
    hurst: Float[Array, ""]
    drift: networks.Drift
    diffusion: networks.Diffusion
    images: eqx.Module
    frames: eqx.Module
    content: networks.Content
    inference: networks.Inference
    control: networks.Control

    def __init__(self, config: VideoConfig, memory: bool, key: Key[Array, ""]):
        keys = jr.split(key, 7)
        dimension, features, width = config.dimension, config.features, config.width
        reads, draws = (
            (networks.ConvolutionalFrames, networks.ConvolutionalImages)
            if config.convolutions
            else (networks.DenseFrames, networks.DenseImages)
        )
        self.start_loc = self.start_log_scale = jnp.zeros(dimension)
        self.hurst = jnp.zeros(())
        self.drift = networks.Drift(networks.tanh_network(dimension, width, dimension, keys[0]))
        self.diffusion = networks.Diffusion(dimension, width, keys[1])
        self.images = draws(config.side, features, config.content, dimension, keys[2])
        self.frames = reads(config.side, features, keys[3])
        self.content = networks.Content(features, config.content, keys[4])
        self.inference = networks.Inference(features, dimension, keys[5])
        number = config.number if memory else 1
        self.control = networks.Control(dimension, number, features, width, keys[6], ratio=False)

    def features(self, shown: Float[Array, "t side side"]) -> Float[Array, "t f"]:
        """Read frames."""
        return jax.vmap(self.frames)(shown)


def task_of(config: VideoConfig, frames: int, *, memory: bool) -> Task:
    """Return the steps between so many frames."""
    times = config.interval * np.linspace(0.0, frames - 1, (frames - 1) * config.substeps + 1)
    return Task(steps_between(times, config.fastest), config.substeps, config, memory)


def noise_of(params: Video, task: Task) -> Noise:
    """Return noise of the learned Hurst index, best over the length of a whole movie; or Brownian motion."""
    config = task.config
    if not task.memory:
        return brownian()
    horizon = config.interval * (config.frames - 1)
    grid = {"number": config.number, "fastest": config.fastest, "horizon": horizon}
    return fractional(hurst_of(params.hurst), **grid, kind=config.kind)


def equation(params: Video, task: Task) -> Sde:
    """Return the neural equation, in the sense of Stratonovich."""
    return Sde(params.drift, params.diffusion, noise_of(params, task), "stratonovich")


@gen
def model(params: Video, shown: Float[Array, "t side side"], task: Task):
    """Draw a path and decode it, with the content of the frames that are shown. Return the frames without noise."""
    sde = equation(params, task)
    x = normal(params.start_loc, jnp.exp(params.start_log_scale)) @ "x0"
    xs = prior_path(sde, State(x, past(sde.noise, len(x))), task.steps)
    xs = jnp.concatenate([x[None], xs[task.substeps - 1 :: task.substeps]])
    content = params.content(params.features(shown))
    frames = jax.vmap(partial(params.images, content))(xs)
    normal(frames, task.config.pixel_scale) @ "frames"
    return frames


@gen
def guide(params: Video, observed: dict, shown: Float[Array, "t side side"], task: Task):
    """Read the frames; propose where the path begins, and push it from frame to frame."""
    sde = equation(params, task)
    context, loc, log_scale = params.inference(params.features(observed["frames"]))
    x = normal(loc, jnp.exp(log_scale)) @ "x0"
    start = State(x, past(sde.noise, len(x)))
    guided_path(sde, start, task.steps, params.control, _between(context, task.substeps))


def _between(context: Float[Array, "t c"], substeps: int) -> Float[Array, "n c"]:
    """Interpolate linearly to where steps begin."""
    share = jnp.arange(substeps)[:, None] / substeps
    rows = context[:-1, None] * (1 - share) + context[1:, None] * share
    return rows.reshape(-1, context.shape[-1])


def of_movie(task: Task):
    """Return the ELBO of one movie, as a stochastic function of `(params, movie)`."""
    bound = elbo(model, guide)
    return lambda params, movie: bound(params, {"frames": movie}, movie, task)


def of_batch(task: Task):
    """Return the mean ELBO of a batch."""
    one = of_movie(task)
    return lambda params, movies: jnp.mean(jax.vmap(partial(one, params))(movies))


def fit(config: VideoConfig, movies: Movies, key: Key[Array, ""], *, memory: bool, **saves) -> ppl.Result:
    """Maximise the mean ELBO of minibatches."""
    init_key, fit_key = jr.split(key)
    task = task_of(config, config.frames, memory=memory)
    optimizer = optax.adam(config.learning_rate)
    chunk = min(1 + config.steps // 20, 1000)
    return ppl.maximize(
        of_batch(task), Video(config, memory, init_key), jnp.asarray(movies, jnp.result_type(float)), optimizer,
        steps=config.steps, batch_size=config.batch_size, key=fit_key, chunk=chunk, **saves,
    )  # fmt: skip


def predict(params: Video, movie: Float[Array, "t side side"], config: VideoConfig, memory: bool) -> Array:
    """Infer a path from the first frames, let it go on as the prior does, and decode it: a stochastic function."""
    known, whole = (task_of(config, frames, memory=memory) for frames in (config.known, config.frames))
    shown = movie[: config.known]
    drawn = ppl.simulate(guide)(params, {"frames": shown}, shown, known)
    to_come = len(whole.steps.length) - len(known.steps.length)
    noise = drawn["dB"]
    seen = jnp.arange(len(whole.steps.length)) < len(noise)
    padded = jnp.concatenate([noise, jnp.zeros((to_come, noise.shape[1]))])
    given = {**drawn.choices, "dB": ppl.Masked(padded, jnp.broadcast_to(seen[:, None], padded.shape))}
    trace, _ = ppl.generate(model)(given, params, shown, whole)
    return trace.retval


def predictions(
    params: Video, movies: Movies, config: VideoConfig, key: Key[Array, ""], *, memory: bool
) -> Float[np.ndarray, "n draws t side side"]:
    """Draw the frames of each movie several times, of which the first ones are known."""
    one = ppl.seed(lambda movie: predict(params, movie, config, memory))
    many = jax.jit(lambda keys, movie: jax.vmap(one, (0, None))(keys, movie))
    keys = jr.split(key, (len(movies), config.draws))
    return np.stack(
        [np.asarray(many(*each)) for each in zip(keys, jnp.asarray(movies, jnp.result_type(float)), strict=True)]
    )


def movies_of(config: VideoConfig) -> tuple[Movies, Movies]:
    """Return the movies to train on, and those held out, which show other digits."""
    train, test = small_digits() if config.dataset == "small" else mnist_digits()
    make = partial(move, side=config.side, frames=config.frames, fastest=config.speed, digits=config.digits)
    return make(train, config.movies, seed=0), make(test, config.held_out, seed=1)


def small_digits() -> tuple[Float[np.ndarray, "n 8 8"], Float[np.ndarray, "m 8 8"]]:
    """Return the 8 x 8 digits of scikit-learn: the first 1,500, and the rest."""
    from sklearn.datasets import load_digits

    images = np.asarray(load_digits().images, np.float32) / 16
    return images[:1500], images[1500:]


def mnist_digits() -> tuple[Float[np.ndarray, "n 32 32"], Float[np.ndarray, "m 32 32"]]:
    """Return the digits of MNIST with a margin of two pixels, as 32 x 32."""
    found = data.mnist()
    pad = lambda images: np.pad(images.astype(np.float32) / 255, ((0, 0), (2, 2), (2, 2)))
    return pad(found.train), pad(found.test)


def squared_error(frames: Array, movies: Movies, known: int) -> Float[np.ndarray, " n"]:
    """Return the mean squared error per pixel of the frames that were not known, by movie."""
    gap = np.asarray(frames, np.float64)[:, known:] - movies[:, known:]
    return np.mean(gap**2, axis=(1, 2, 3))


def copied(movies: Movies, known: int) -> Movies:
    """Predict that nothing moves any more: every frame to come is the last known one."""
    return np.concatenate([movies[:, :known], np.repeat(movies[:, known - 1 : known], movies.shape[1] - known, 1)], 1)
