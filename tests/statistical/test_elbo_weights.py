"""`elbo(weights=...)`: log p and log q of the choices that match are multiplied alike, exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from estimators import elbo, iwelbo
from ppl import bernoulli, enum, gen, marginal, normal, reinforce

pytestmark = pytest.mark.x64

X = jnp.array([0.4, -1.2, 0.9])
LANES = jnp.array([0.5, 2.0, 0.0])


@gen
def model(theta):
    top = bernoulli(0.3) @ "top"

    def lane(shift):
        z = bernoulli(jnp.where(top == 1, 0.8, 0.1)) @ "z"
        normal(z + shift, 1.0) @ "x"

    jax.vmap(lane)(jnp.arange(3.0))


@gen
def guide(theta, observed):
    bernoulli(logits=theta, grad=reinforce()) @ "top"
    jax.vmap(lambda x: bernoulli(logits=theta * x, grad=reinforce()) @ "z")(observed["x"])


def by_hand(theta, top_weight, z_weight, x_weight):
    """Enumerate."""
    flip = lambda value, p: value * jnp.log(p) + (1 - value) * jnp.log1p(-p)
    total = 0.0
    for top, *z in itertools.product((0, 1), repeat=4):
        z = jnp.array(z)
        q_top, q_z = flip(top, jax.nn.sigmoid(theta)), flip(z, jax.nn.sigmoid(theta * X))
        p_top, p_z = flip(top, 0.3), flip(z, jnp.where(top == 1, 0.8, 0.1))
        p_x = -0.5 * (X - z - jnp.arange(3.0)) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
        cost = top_weight * (p_top - q_top) + (z_weight * (p_z - q_z)).sum() + (x_weight * p_x).sum()
        total += jnp.exp(q_top + q_z.sum()) * cost
    return total


WEIGHTS = {
    "none": (None, (1.0, 1.0, 1.0)),
    "one": ({"top": 0.5}, (0.5, 1.0, 1.0)),
    "zero": ({"z": 0.0}, (1.0, 0.0, 1.0)),
    "lanes": ({"z": LANES}, (1.0, LANES, 1.0)),
    "observed": ({"x": LANES}, (1.0, 1.0, LANES)),
    "all": ({"*": 0.25}, (0.25, 0.25, 0.25)),
    "the last one counts": ({"*": 0.25, "z": LANES}, (0.25, LANES, 0.25)),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("strategy", [reinforce(), enum()], ids=["reinforce", "enum"])
def test_weights_multiply_both_densities(name, strategy):
    weights, wanted = WEIGHTS[name]
    objective = elbo(model, ppl.with_grad(guide, {"*": strategy}), weights)
    found = ppl.exact_gradient(objective)(0.4, {"x": X})
    value, gradient = jax.value_and_grad(by_hand)(0.4, *wanted)
    assert abs(found.value - value) < 1e-10
    assert abs(found.gradient - gradient) < 1e-10
    if isinstance(strategy, enum):
        assert found.variance < 1e-20


def test_weights_over_steps():
    @gen
    def chain(theta):
        jax.lax.scan(lambda z, _: (bernoulli(jnp.where(z == 1, 0.8, 0.3)) @ "z",) * 2, 1, None, length=3)

    @gen
    def steps(theta, observed):
        jax.lax.scan(lambda _, t: (None, bernoulli(logits=theta * t, grad=reinforce()) @ "z"), None, jnp.arange(3.0))

    def by_hand(theta):
        flip = lambda value, p: value * jnp.log(p) + (1 - value) * jnp.log1p(-p)
        total = 0.0
        for z in itertools.product((0, 1), repeat=3):
            z = jnp.array(z)
            q = flip(z, jax.nn.sigmoid(theta * jnp.arange(3.0)))
            p = flip(z, jnp.where(jnp.array([1, z[0], z[1]]) == 1, 0.8, 0.3))
            total += jnp.exp(q.sum()) * (LANES * (p - q)).sum()
        return total

    found = ppl.exact_gradient(elbo(chain, steps, {"z": LANES}))(0.4, {})
    assert np.allclose((found.value, found.gradient), jax.value_and_grad(by_hand)(0.4), rtol=0, atol=1e-10)


def test_weights_of_a_stochastic_density():
    @gen
    def pair(theta):
        u = bernoulli(logits=theta, grad=reinforce()) @ "u"
        bernoulli(jnp.where(u == 1, 0.9, 0.2), grad=reinforce()) @ "top"

    inner = marginal(pair, "top", method=ppl.methods.exact())
    single = gen(lambda theta: bernoulli(0.3) @ "top")
    found = ppl.exact_gradient(elbo(single, gen(lambda theta, observed: inner.inline(theta)), {"top": 0.5}))(0.4, {})
    q = lambda theta: 0.2 + 0.7 * jax.nn.sigmoid(theta)
    cost = lambda q: 0.5 * (q * (jnp.log(0.3) - jnp.log(q)) + (1 - q) * (jnp.log(0.7) - jnp.log1p(-q)))
    value, gradient = jax.value_and_grad(lambda theta: cost(q(theta)))(0.4)
    assert abs(found.value - value) < 1e-10
    assert abs(found.gradient - gradient) < 1e-10


def test_weights_that_fit_nothing():
    with pytest.raises(ppl.AddressError, match='No choice matches "zz"'):
        ppl.expect(elbo(model, guide, {"zz": 1.0}))(jax.random.key(0), 0.4, {"x": X})
    with pytest.raises(ppl.AddressError, match="does not fit"):
        ppl.expect(elbo(model, guide, {"z": jnp.ones(2)}))(jax.random.key(0), 0.4, {"x": X})
    with pytest.raises(ppl.PPLError, match="by glob"):
        elbo(model, guide, 0.5)


def test_weights_of_several_particles():
    """Enumerate pairs of particles: log of the mean of the exponentials of their weighted costs."""

    @gen
    def two(theta):
        z = jax.vmap(lambda _: bernoulli(0.3) @ "z")(jnp.arange(2))
        normal(jnp.sum(z * 1.0), 1.0) @ "x"

    @gen
    def guess(theta, observed):
        jax.vmap(lambda _: bernoulli(logits=theta, grad=reinforce()) @ "z")(jnp.arange(2))

    z_weights, x_weight, x = jnp.array([0.5, 1.5]), 0.25, 0.7

    def by_hand(theta):
        states = jnp.array([*itertools.product((0, 1), repeat=2)])
        flips = lambda p: states * jnp.log(p) + (1 - states) * jnp.log1p(-p)
        log_q, log_p = flips(jax.nn.sigmoid(theta)), flips(0.3)
        log_x = -0.5 * (x - states.sum(1)) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
        cost, chance = ((log_p - log_q) * z_weights).sum(1) + x_weight * log_x, jnp.exp(log_q.sum(1))
        pairs = jnp.logaddexp(cost[:, None], cost) - jnp.log(2)
        return (chance[:, None] * chance * pairs).sum()

    objective = iwelbo(two, guess, 2, {"z": z_weights, "x": x_weight})
    found = ppl.exact_gradient(objective)(0.4, {"x": x})
    value, gradient = jax.value_and_grad(by_hand)(0.4)
    assert abs(found.value - value) < 1e-10
    assert abs(found.gradient - gradient) < 1e-10
    one = ppl.exact_gradient(iwelbo(two, guess, 1, {"x": x_weight}))(0.4, {"x": x})
    assert abs(one.value - ppl.exact_gradient(elbo(two, guess, {"x": x_weight}))(0.4, {"x": x}).value) < 1e-10
