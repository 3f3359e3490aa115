"""AIR's hand-written estimators: those of one bound agree with one another, and with the program's."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from models.air import floor, floors
from models.air.networks import Networks
from models.air.objectives import objective_of, of_batch

MOST, KEYS = 3, 1_500
SMALL = Networks(12, 5, 3, 8, 8, jr.key(0))
IMAGES = jr.uniform(jr.key(1), (4, 12, 12))


def picked(params):
    """Return a few derivatives: a pixel's, that of another object, that of its size."""
    return jnp.stack([params.decoder.layers.out.bias[0], *params.attention.predict.out.bias[:2]])


def draws(gradient, keys=KEYS, seed=2):
    """Return independent draws of these derivatives."""
    found = jax.jit(jax.vmap(lambda key: picked(gradient(key))))(jr.split(jr.key(seed), keys))
    return np.asarray(found, np.float64)


def by_hand(objective):
    return lambda key: jax.grad(objective, argnums=1)(key, SMALL, IMAGES, MOST)


def assert_same_mean(first, second):
    error = np.sqrt(first.var(0) / len(first) + second.var(0) / len(second))
    print(first.mean(0), second.mean(0), error)
    assert (error > 0).all()
    assert (np.abs(first.mean(0) - second.mean(0)) < 4.5 * error).all()


@pytest.mark.parametrize(
    ("summed", "sampled"),
    [
        (floor.elbo_by_sum, floors.by_score(1, baseline=False)),
        (floor.elbo_by_sum, floors.by_score(1, baseline=True)),
        (floor.elbo_by_sum, floors.by_measures(1)),
        (floors.pairs_by_sum, floors.by_score(2, baseline=False)),
        (floors.pairs_by_sum, floors.by_score(2, baseline=True)),
        (floors.pairs_by_sum, floors.by_measures(2)),
    ],
    ids=["score", "lanes", "measures", "pairs-score", "pairs-lanes", "pairs-measures"],
)
def test_sampled_numbers_have_the_gradient_of_summed_ones(summed, sampled):
    assert_same_mean(draws(by_hand(summed)), draws(by_hand(sampled), seed=3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hand"),
    [
        ("mvd", floor.elbo_by_sum),
        ("iwelbo-reinforce_lanes", floors.pairs_by_sum),
        ("iwelbo-mvd", floors.pairs_by_sum),
        ("rws-reinforce", floors.wake),
    ],
)
def test_the_program_has_the_gradient_written_by_hand(name, hand):
    objective = of_batch(objective_of(name, MOST))
    assert_same_mean(draws(lambda key: ppl.grad(objective)(key, SMALL, IMAGES)), draws(by_hand(hand), seed=3))
