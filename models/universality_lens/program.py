"""The Universality Lens: Feder, Urbanke and Fogel 2025, arXiv:2506.07661. A theory, made executable.

A Bayesian mixture over a huge class pays for what it does not know: its regret under log loss is at most n e less the
log of the prior weight of the hypotheses within a divergence e of the truth. Simple truths have large weights, so the
size of the class does not matter. Here:

- coins, Gaussians and regressions, whose regrets, Gibbs bounds and balls are known exactly (`learners.py`);
- compression of real text by a mixture of Markov sources, a program whose order is enumerated (`text.py`);
- digits with wrong labels: networks of growing width, whose posterior is sampled by Langevin steps, beside the point
  estimate (`width.py`);
- beyond the paper: certified code lengths of any program (`estimators.codelength_bound`), and the weights of balls of
  real networks by splitting (`balls.py`), which make its bound a number.

The paper has no experiments, so there are no figures of its own to be reproduced.
"""

import dataclasses
import math

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float

import ppl
from estimators import codelength_bound, elbo
from models.registry import Context, Preset, Program
from models.report import Outcome
from models.universality_lens import balls, claims, learners, pictures, scale, text, width

COINS = (0.01, 0.2, 0.5)
TOSSES = (1, 3, 10, 30, 100, 300, 1000)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is compressed, which networks are sampled, and how long."""

    characters: int = 40_000
    orders: int = 9
    dirichlet: float = 0.05
    widths: tuple[int, ...] = (4, 16, 64, 256)
    train: int = 200
    wrong: float = 0.2
    """Share of training labels that are drawn at random."""
    langevin: width.Langevin = width.Langevin(step=0.005)
    point_steps: int = 2000
    guide_steps: int = 3000
    code_width: int = 16
    """Of the network whose code length is bounded."""
    block: int = 50
    ball_widths: tuple[int, ...] = (4, 16, 64)
    ball_levels: int = 12
    population: int = 500
    largest: scale.Scale | None = None
    """The scale of `full`: one step is run, nothing is trained."""


def run(context: Context) -> Outcome:
    """Bound, compress, sample, and draw."""
    config = context.config
    if config.largest is not None:
        return Outcome(scale.one_step(config.largest, context.key))
    context.announce("coins")
    metrics = coins(context)
    context.announce("compress text")
    metrics |= compress(config, context)
    train, test = width.split(config.train, config.wrong)
    found, mixtures = networks(config, context, train, test)
    metrics |= found
    metrics |= code(config, context, train)
    context.announce("weights of balls")
    metrics |= weigh(config, context, train, mixtures)
    return Outcome(metrics, claims.claims(metrics, config))


def coins(context: Context) -> dict[str, float]:
    """Compare exact regrets with both bounds."""
    rows = {(t, n): (learners.coin_regret(t, n), *learners.coin_bounds(t, n)) for t in COINS for n in TOSSES}
    pictures.coins(context.out / "coins.png", rows)
    slack = min(min(gibbs - regret, ball - gibbs) for regret, gibbs, ball in rows.values())
    return {"coin_least_slack": slack, "coin_regret_1000": rows[0.2, 1000][0], "coin_gibbs_1000": rows[0.2, 1000][1]}


def compress(config: Config, context: Context) -> dict[str, float]:
    """Compress text by each order alone, and by mixtures of the first orders; in bits per character."""
    symbols = text.read(config.characters)
    seen = text.seen(symbols, range(config.orders))
    program = text.source(config.dirichlet)
    logs = text.log_probs(program, symbols, seen)
    mixtures = [learners.mixture(logs[: k + 1], np.full(k + 1, 1 / (k + 1))) for k in range(config.orders)]
    certified = codelength_bound(
        program, text.any_order, jnp.asarray(logs), {"text": symbols}, seen, key=context.key, samples=2
    )
    bits = lambda nats: float(-nats / math.log(2) / len(symbols))
    singles = [bits(nats) for nats in logs]
    pictures.text(context.out / "text.png", singles, [bits(nats) for nats in mixtures])
    return {
        "text_characters": len(symbols),
        "text_best_order": int(np.argmin(singles)),
        "text_best": min(singles),
        "text_largest_order": singles[-1],
        "text_mixture": bits(mixtures[-1]),
        "text_overhead_nats": float(logs.max() - mixtures[-1]),
        "text_certified": certified.bits / len(symbols),
        "text_certified_error": certified.error,
    }


def networks(config: Config, context: Context, train: width.Labelled, test: width.Labelled) -> tuple[dict, dict]:
    """Compare mixtures, single samples and point estimates of every width on clean labels."""
    metrics, mixtures = {}, {}
    for size in config.widths:
        context.announce(f"sample networks of width {size}")
        program, (sample_key, point_key) = width.network(size), jr.split(jr.fold_in(context.key, size))
        sampled = width.sample(program, train, config.langevin, sample_key)
        mixtures[size] = np.asarray(width.all_predictions(sampled, jnp.asarray(train.images)), np.float64)
        found = width.losses(width.all_predictions(sampled, jnp.asarray(test.images)), test.labels)
        point = width.most_likely(program, train, size, config.point_steps, point_key)
        alone = width.losses(width.log_predictions(point, jnp.asarray(test.images))[None], test.labels)
        metrics |= {
            f"width_{size}_mixture": found.mixture,
            f"width_{size}_single": found.single,
            f"width_{size}_point": alone.mixture,
            f"width_{size}_accuracy": found.accuracy,
            f"width_{size}_point_accuracy": alone.accuracy,
        }
    pictures.widths(context.out / "widths.png", config.widths, metrics)
    return metrics, mixtures


def code(config: Config, context: Context, train: width.Labelled) -> dict[str, float]:
    """Bound the code length of the labels by a mean-field guide, beside a code that predicts block by block."""
    context.announce("certify a code length")
    program, images = width.network(config.code_width), jnp.asarray(train.images)
    guide, start = ppl.guides.mean_field(program, train.observed, images)
    fit_key, bound_key, code_key = jr.split(jr.fold_in(context.key, 10_007), 3)
    objective = lambda params: elbo(program, guide)(params, train.observed, images)
    rate = optax.cosine_decay_schedule(0.02, config.guide_steps)
    fit = ppl.maximize(objective, start, None, optax.adam(rate), steps=config.guide_steps, key=fit_key)
    bounds = {
        count: codelength_bound(
            program, guide, fit.params, train.observed, images, key=bound_key, particles=count, samples=200
        )
        for count in (1, 30)
    }
    predicted = width.prequential(program, train, config.langevin, config.block, code_key)
    return {
        "code_bound": bounds[1].nats,
        "code_bound_error": bounds[1].error,
        "code_bound_30": bounds[30].nats,
        "code_bound_30_error": bounds[30].error,
        "code_predictive": predicted,
        "code_uniform": len(train) * math.log(width.CLASSES),
    }


def weigh(config: Config, context: Context, train: width.Labelled, mixtures: dict) -> dict[str, float]:
    """Weigh the balls around the mixture of the widest networks, under the priors of several widths."""
    truth = mean_of(mixtures[config.widths[-1]])
    images, found, metrics = jnp.asarray(train.images), {}, {}
    for size in config.ball_widths:
        number = size * (width.PIXELS + width.CLASSES)
        divergence = lambda vector, size=size: mean_divergence(truth, vector, size, images)
        found[size] = balls.ball_weights(
            divergence,
            number,
            jr.fold_in(context.key, 20_011 + size),
            population=config.population,
            levels=config.ball_levels,
        )
        metrics[f"ball_bound_{size}"] = found[size].bound(len(train))
    pictures.balls(context.out / "balls.png", found, len(train))
    return metrics


def mean_of(log_predictions: Float[np.ndarray, "m n 10"]) -> Float[Array, "n 10"]:
    """Return the log of the mean probabilities."""
    mean = np.logaddexp.reduce(log_predictions, axis=0) - np.log(len(log_predictions))
    return jnp.asarray(mean, jnp.float32)


def mean_divergence(truth: Float[Array, "n 10"], vector: Float[Array, " k"], size: int, images: Array) -> Array:
    """Return the mean divergence of a network's classes from the truth's, over images."""
    inner = vector[: size * width.PIXELS].reshape(width.PIXELS, size)
    outer = vector[size * width.PIXELS :].reshape(size, width.CLASSES)
    logs = width.log_predictions({"inner": inner, "outer": outer}, images)
    return jnp.mean(jnp.sum(jnp.exp(truth) * (truth - logs), axis=-1))


QUICK = Config(
    characters=8_000,
    orders=6,
    widths=(16, 64),
    train=100,
    langevin=width.Langevin(step=0.01, steps=2000, every=50),
    point_steps=2000,
    guide_steps=1000,
    ball_widths=(16,),
    ball_levels=4,
    population=200,
)
PROGRAM = Program(
    name="universality_lens",
    title="The Universality Lens: Why Even Highly Over-Parametrized Models Learn Well",
    paper="Feder, Urbanke & Fogel, 2025, arXiv:2506.07661",
    data="descriptions of data sets and 8 x 8 digits, both from scikit-learn",
    presets={
        "quick": Preset(QUICK, "1 min, estimated from 92 s on a busy machine"),
        "default": Preset(Config(), "3 min"),
        "full": Preset(Config(largest=scale.Scale()), "one step"),
    },
    run=run,
)
