"""Scans joined so that a choice of one can be summed with the costs of another."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import elbo
from ppl import categorical, enum, gen, normal
from ppl.jaxprs import restage, scan_p
from ppl.passes import fuse

pytestmark = pytest.mark.x64

KEY = jr.key(0)
STATES = 3


@gen
def model(params):
    """Walk over the states and observe each with noise."""

    def step(z, _):
        z = categorical(logits=params["transition"][z]) @ "z"
        normal(params["locs"][z], 1.0) @ "y"
        return z, None

    lax.scan(step, 0, None, length=params["guide"].shape[0])


@gen
def markov(params, observed):
    """Walk with transitions of each step."""

    def step(z, logits):
        z = categorical(logits=logits[z], grad=enum()) @ "z"
        return z, None

    lax.scan(step, 0, params["guide"])


@gen
def mean_field(params, observed):
    """Draw each state by itself."""

    def step(carry, logits):
        categorical(logits=logits[0], grad=enum()) @ "z"
        return carry, None

    lax.scan(step, 0, params["guide"])


def bound(params, ys, guide):
    """Sum the ELBO over pairs of neighbours, in plain JAX."""
    log_p = jax.nn.log_softmax(params["transition"])
    marginal, total = jnp.eye(STATES)[0], 0.0
    for logits, y in zip(params["guide"], ys, strict=True):
        log_q = jax.nn.log_softmax(logits if guide is markov else jnp.broadcast_to(logits[0], logits.shape))
        pairs = marginal[:, None] * jnp.exp(log_q)
        emission = jax.scipy.stats.norm.logpdf(y, params["locs"])
        total = total + (pairs * (log_p + emission - log_q)).sum()
        marginal = pairs.sum(0)
    return total


def setup(length, seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "transition": rng.normal(size=(STATES, STATES)),
        "locs": rng.normal(size=STATES),
        "guide": rng.normal(size=(length, STATES, STATES)),
    }
    return jax.tree.map(jnp.asarray, params), jnp.asarray(rng.normal(size=length))


FORMS = {
    "plain": lambda objective: objective,
    "jit": jax.jit,
    "scan of scans": lambda objective: (
        lambda params, observed: lax.scan(
            lambda total, _: (total + objective(params, observed), None), 0.0, None, length=2
        )[0]
    ),
}


@pytest.mark.parametrize("guide", [markov, mean_field], ids=["markov", "mean field"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2, 30])
def test_guide_and_model_in_scans_of_their_own(guide, form, length):
    params, ys = setup(length)
    objective = FORMS[form](elbo(model, guide))
    value, gradient = ppl.value_and_grad(objective)(KEY, params, {"y": ys})
    expected = jax.value_and_grad(bound)(params, ys, guide)
    times = 2 if form == "scan of scans" else 1
    np.testing.assert_allclose(value, times * expected[0], rtol=1e-11)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, times * b, atol=1e-10), gradient, expected[1])


def test_lanes_of_sequences():
    pairs = [setup(12, seed) for seed in range(4)]
    params, ys = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    objective = lambda params: jax.vmap(lambda p, y: elbo(model, markov)(p, {"y": y}))(params, ys).sum()
    value, gradient = ppl.value_and_grad(objective)(KEY, params)
    expected = jax.value_and_grad(lambda p: sum(bound(*one, markov) for one in _rows(p, ys)))(params)
    np.testing.assert_allclose(value, expected[0], rtol=1e-11)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), gradient, expected[1])


def _rows(params, ys):
    return [(jax.tree.map(lambda leaf, i=i: leaf[i], params), ys[i]) for i in range(len(ys))]


def test_what_has_nothing_to_join_is_returned_as_it_is():
    flip = lambda grad: lambda p: lax.scan(lambda c, _: (c, ppl.bernoulli(p, grad=grad).sample()), 0, None, length=3)[1]
    accumulate = lambda xs: lax.scan(lambda c, x: (c + x, None), 0, xs)[0]
    other = restage(lambda p: accumulate(flip(ppl.reinforce())(p)), [0.3])
    assert fuse(other) is other
    joined = fuse(restage(lambda p: accumulate(flip(enum())(p)), [0.3]))
    assert [eqn.primitive for eqn in joined.eqns].count(scan_p) == 1


def test_a_scan_that_needs_the_end_of_the_first_stays_apart():
    def program(p):
        last, values = lax.scan(lambda c, _: (ppl.bernoulli(p, grad=enum()).sample(),) * 2, 0, None, length=3)
        return lax.scan(lambda c, x: (c * x, None), last, values)[0]

    body = restage(program, [0.3])
    assert fuse(body) is body


def test_steps_whose_costs_lie_outside_are_lanes():
    """Forty independent steps: their values leave the scan, and each has a cost of its own."""

    def program(logits):
        flip = lambda _, p: (None, ppl.bernoulli(logits=p, grad=enum()).sample().astype(float))
        values = lax.scan(flip, None, logits)[1]
        return jnp.sum((values + jnp.arange(40)) ** 2)

    logits = jnp.linspace(-1, 1, 40)
    mean = lambda logits: (jax.nn.sigmoid(logits) * (1 + 2 * jnp.arange(40)) + jnp.arange(40) ** 2).sum()
    value, gradient = ppl.value_and_grad(program)(KEY, logits)
    np.testing.assert_allclose(value, mean(logits), rtol=1e-12)
    np.testing.assert_allclose(gradient, jax.grad(mean)(logits), rtol=1e-10)


@gen
def emitting(params):
    """Walk over the states in a scan, and observe all of them at once outside of it."""
    step = lambda z, _: (categorical(logits=params["transition"][z]) @ "z",) * 2
    zs = lax.scan(step, 0, None, length=params["guide"].shape[0])[1]
    jax.vmap(lambda z: normal(params["locs"][z], 1.0) @ "y")(zs)


@pytest.mark.parametrize("length", [1, 2, 30])
def test_costs_of_a_chain_outside_of_its_scan(length):
    params, ys = setup(length)
    value, gradient = ppl.value_and_grad(elbo(emitting, markov))(KEY, params, {"y": ys})
    expected = jax.value_and_grad(bound)(params, ys, markov)
    np.testing.assert_allclose(value, expected[0], rtol=1e-11)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), gradient, expected[1])


def walk(logits, length, cost):
    """Return a cost of the values of a chain of two states."""
    step = lambda z, x: (ppl.bernoulli(logits=logits * (z - 0.5) + x, grad=enum()).sample().astype(float),) * 2
    last, values = lax.scan(step, 0.0, jnp.linspace(-1, 1, length))
    return cost(last, values)


COSTS = {
    "each": lambda last, values: ((values + 0.5) ** 3).sum(),
    "end": lambda last, values: (last + 0.5) ** 3,
    "each and end": lambda last, values: ((values + 0.5) ** 3).sum() + last**2,
    "neighbours": lambda last, values: ((values[1:] + 2 * values[:-1] + 0.3) ** 2).sum(),
    "all": lambda last, values: values.sum() ** 2,
}


@pytest.mark.parametrize("name", COSTS)
def test_chains_give_the_enumerated_mean_whatever_leaves_the_scan(name):
    length, rows = 5, np.array(np.meshgrid(*[[0.0, 1.0]] * 5, indexing="ij")).reshape(5, -1).T

    def mean(logits):
        def one(row):
            before = jnp.concatenate([jnp.zeros(1), row[:-1]])
            u = logits * (before - 0.5) + jnp.linspace(-1, 1, length)
            log_prob = (row * jax.nn.log_sigmoid(u) + (1 - row) * jax.nn.log_sigmoid(-u)).sum()
            return jnp.exp(log_prob) * COSTS[name](row[-1], row)

        return jax.vmap(one)(rows).sum()

    value, gradient = ppl.value_and_grad(lambda logits: walk(logits, length, COSTS[name]))(KEY, 0.7)
    expected = jax.value_and_grad(mean)(0.7)
    np.testing.assert_allclose(value, expected[0], rtol=1e-11)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-9)


def test_an_auxiliary_result_that_mixes_steps_has_its_mean():
    """The costs keep steps apart, the auxiliary result does not: the marginals of single steps would not do."""
    both = lambda logits: walk(logits, 5, lambda last, values: (((values + 0.5) ** 3).sum(), values.sum() ** 2))
    alone = lambda logits: walk(logits, 5, COSTS["all"])
    value, mean = ppl.expect(both, has_aux=True)(KEY, 0.7)
    np.testing.assert_allclose(value, ppl.expect(lambda logits: walk(logits, 5, COSTS["each"]))(KEY, 0.7), rtol=1e-11)
    np.testing.assert_allclose(mean, ppl.expect(alone)(KEY, 0.7), rtol=1e-11)


def test_a_long_chain_with_costs_outside_is_not_written_out():
    value = ppl.expect(lambda logits: walk(logits, 2000, COSTS["each"]))(KEY, 0.7)
    assert np.isfinite(value)
