"""Runs that end early."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from ppl import normal
from ppl.training import Plateau, maximize, minimize

KEY = jr.key(0)


def loss(loc):
    return (loc - 3.0) ** 2 + 0.1 * normal(0.0, 1.0).sample()


def train(steps=400, **options):
    options = {"stop": Plateau(window=20, patience=3), "chunk": 20, "key": KEY} | options
    return minimize(loss, jnp.array(0.0), None, optax.sgd(0.05), steps=steps, **options)


def test_a_run_that_has_arrived_ends():
    fit = train()
    assert fit.steps == len(fit.history["value"]) < 400
    assert abs(fit.params - 3.0) < 0.01
    assert fit.history["value"][-60:].mean() < 0.1  # it waited until there was nothing left to gain


def test_it_is_the_beginning_of_the_whole_run():
    fit, whole = train(), train(stop=None)
    np.testing.assert_array_equal(fit.history["value"], whole.history["value"][: fit.steps])


def test_ascent_and_descent_stop_at_the_same_step():
    def gain(loc):
        return -loss(loc)

    fit = maximize(
        gain, jnp.array(0.0), None, optax.sgd(0.05), steps=400, key=KEY, stop=Plateau(window=20, patience=3), chunk=20
    )
    assert fit.steps == train().steps


def test_a_resumed_run_stops_where_the_uninterrupted_one_does(tmp_path):
    fit = train()
    train(steps=100, checkpoint=tmp_path)
    resumed = train(checkpoint=tmp_path, resume=True)
    again = train(checkpoint=tmp_path, resume=True)
    assert fit.steps == resumed.steps == again.steps
    assert fit.params.tobytes() == resumed.params.tobytes() == again.params.tobytes()


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        (np.arange(80.0), False),
        (np.arange(80.0)[::-1], True),
        (np.zeros(30), False),  # three windows: the first is better than none
        (np.zeros(40), True),
        (np.full(30, np.nan), True),
        (np.where(np.arange(80) % 2, np.nan, np.arange(80.0)), False),
    ],
    ids=["up", "down", "short", "level", "nan", "half nan"],
)
def test_plateau(values, stops):
    assert Plateau(window=10, patience=3)(values) is stops


def test_noise_alone_seldom_counts_as_progress():
    """Of 200 level runs of ten windows, those that go on must be few: each window passes with 5 % at most.

    A run of ten windows goes on only if of any three in a row after the first one improves: at the very least two
    of nine do, so by Markov's inequality for nine tries of 5 % under 9 * 0.05 / 2 = 22.5 %.
    """
    values = np.random.default_rng(0).normal(size=(200, 500))
    going_on = np.mean([not Plateau(window=50, patience=3)(run) for run in values])
    assert going_on < 0.225
