"""The two programs of the objectives' tests, and the laws of their estimators in plain Python."""

import itertools
import math

import jax.numpy as jnp
import numpy as np

import ppl

OBSERVED = {"x": 1}
WEIGHT = {1: 0.24, 0: 0.07}  # of the sheet's T2P: p(z, x = 1)
POSTERIOR = 0.24 / 0.31


def two_point(strategy):
    """T2P: weights W(1) = .24, W(0) = .07; the guide's one parameter is q(z = 1)."""

    @ppl.gen
    def model(theta):
        z = ppl.bernoulli(0.3) @ "z"
        ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"

    @ppl.gen
    def guide(theta, observed):
        ppl.bernoulli(theta, grad=strategy()) @ "z"

    return model, guide


def gaussian(strategy):
    """GC: x = 2 is observed; the guide's parameters are loc and scale. The posterior is N(1, variance .5)."""

    @ppl.gen
    def model(params):
        z = ppl.normal(0.0, 1.0) @ "z"
        ppl.normal(z, 1.0) @ "x"

    @ppl.gen
    def guide(params, observed):
        ppl.normal(params[0], params[1], grad=strategy()) @ "z"

    return model, guide


GC = jnp.array([0.5, 0.8])


def law_of_particles(theta, particles, statistic):
    """Return E statistic(log weights, z) over the particles of the two-point guide: a sum over 2**K outcomes."""
    probs = [1 - theta, theta]
    total = 0.0
    for zs in itertools.product((0, 1), repeat=particles):
        log_weights = np.array([math.log(WEIGHT[z]) - math.log(probs[z]) for z in zs])
        total += math.prod(probs[z] for z in zs) * statistic(log_weights, np.array(zs))
    return total


def law_of_counts(theta, particles, statistic):
    """The same for statistics that do not depend on the order, with any number of particles.

    `statistic` takes the log weights of (0, 1) and their numbers.
    """
    log_weights = np.array([math.log(0.07) - math.log(1 - theta), math.log(0.24) - math.log(theta)])
    ones = np.arange(particles + 1)
    log_comb = [math.lgamma(particles + 1) - math.lgamma(k + 1) - math.lgamma(particles - k + 1) for k in ones]
    probs = np.exp(np.array(log_comb) + ones * math.log(theta) + (particles - ones) * math.log(1 - theta))
    return sum(p * statistic(log_weights, np.array([particles - k, k])) for k, p in zip(ones, probs, strict=True))


def derivative(function, at, step=1e-5):
    """Return a derivative by a central difference of order 4: about ten digits."""
    f = [function(at + i * step) for i in (-2, -1, 1, 2)]
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)
