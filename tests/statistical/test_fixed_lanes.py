"""A cost of the element at a fixed index is charged to that lane alone: x[3] in place of all of x."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl

pytestmark = pytest.mark.x64

P = np.array([0.3, 0.5, 0.6, 0.2])


def flips(p):
    return jax.vmap(lambda q: ppl.bernoulli(q, grad=ppl.reinforce()).sample().astype(float))(p)


def moments(cost, charged):
    """Return mean gradient and one-run variance by hand: lane i pays `charged[i](x)` times its score."""
    outcomes = np.array(list(itertools.product((0, 1), repeat=len(P))), float)
    probs = np.prod(np.where(outcomes == 1, P, 1 - P), 1)
    scores = np.where(outcomes == 1, 1 / P, -1 / (1 - P))
    estimates = np.stack([[charged[i](x) for x in outcomes] for i in range(len(P))], 1) * scores
    truth = probs @ (np.array([cost(x) for x in outcomes])[:, None] * scores)
    return truth, probs @ (estimates - probs @ estimates) ** 2


nothing = lambda x: 0.0
PROGRAMS = {  # a cost of all lanes, and what each lane pays
    "one": (lambda x: jnp.exp(x[2]), [nothing, nothing, lambda x: np.exp(x[2]), nothing]),
    "from the end": (lambda x: jnp.exp(x[-1]), [nothing, nothing, nothing, lambda x: np.exp(x[3])]),
    "each": (
        lambda x: sum(jnp.exp(x[i] * (i + 1)) for i in range(4)),
        [lambda x, i=i: np.exp(x[i] * (i + 1)) for i in range(4)],
    ),
    "neighbours": (
        lambda x: sum(jnp.exp(x[i] * x[i + 1]) for i in range(3)),
        [
            lambda x: np.exp(x[0] * x[1]),
            lambda x: np.exp(x[0] * x[1]) + np.exp(x[1] * x[2]),
            lambda x: np.exp(x[1] * x[2]) + np.exp(x[2] * x[3]),
            lambda x: np.exp(x[2] * x[3]),
        ],
    ),
    "kept axis, spread": (
        lambda x: jnp.exp(x[1:2] * jnp.arange(3.0)).sum(),
        [nothing, lambda x: np.exp(x[1] * np.arange(3.0)).sum(), nothing, nothing],
    ),
    "reshaped": (
        lambda x: jnp.exp(x[1:2].reshape(()) + 1) * 2 + jnp.exp(lax.reshape(x[3:], (1, 1))[0, 0]),
        [nothing, lambda x: np.exp(x[1] + 1) * 2, nothing, lambda x: np.exp(x[3])],
    ),
    "a shifted array": (
        lambda x: jnp.exp(jnp.concatenate([jnp.zeros(1), x[:-1]])[1]) + jnp.exp(x[1:][2]),
        [lambda x: np.exp(x[0]), nothing, nothing, lambda x: np.exp(x[3])],
    ),
    "outside the array": (
        lambda x: jnp.exp(jnp.concatenate([jnp.zeros(1), x[:-1]])[0]) + jnp.exp(x[0]),
        [lambda x: np.exp(x[0]), nothing, nothing, nothing],
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_fixed_lane_pays_alone(name):
    cost, charged = PROGRAMS[name]
    exact = ppl.exact_gradient(lambda p: cost(flips(p)))(jnp.asarray(P))
    truth, variance = moments(lambda x: float(cost(jnp.asarray(x))), charged)
    np.testing.assert_allclose(exact.gradient, truth, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(exact.variance, variance, rtol=1e-10, atol=1e-12)


def meets_lanes(x):
    return jnp.exp(x * x[1]).sum() + jnp.exp(x[0] + x.sum())


def in_a_scan(x):
    return lax.scan(lambda c, y: (c + jnp.exp(y * x[1]) + x[2] ** 2, None), 0.0, x)[0]


def of_a_matrix(x):
    return jnp.exp(jnp.outer(x, x + 1)[2]).sum() + jnp.exp(x.reshape(2, 2)[1, 0] * x.reshape(2, 2)[:, 1].sum())


def randomly(seed):
    rng = np.random.RandomState(seed)
    terms = [(*rng.randint(0, 4, 3), rng.randint(1, 4), *rng.uniform(0.3, 1.0, 2)) for _ in range(4)]

    def cost(x):
        parts = [jnp.exp(a * x[i] * x[j]) + b * x[k : k + n].sum() ** 2 * x[i] for i, j, k, n, a, b in terms]
        return sum(parts) + jnp.tanh(x[terms[0][0]] * x).sum()

    return cost


@pytest.mark.parametrize("cost", [meets_lanes, in_a_scan, of_a_matrix, *map(randomly, range(6))])
def test_where_fixed_lanes_meet_others_the_mean_stays_and_nobody_pays_more(cost):
    value = jax.jit(cost)
    truth, plain = moments(lambda x: float(value(x)), [lambda x: float(value(x))] * 4)
    exact = ppl.exact_gradient(lambda p: cost(flips(p)))(jnp.asarray(P))
    np.testing.assert_allclose(exact.gradient, truth, rtol=1e-10, atol=1e-12)
    assert (exact.variance <= plain * (1 + 1e-10)).all()


def test_enumerated_lanes_at_fixed_indices():
    """Probabilities of lanes at fixed places, also where the index is of a choice summed in step."""
    flip = lambda p: jax.vmap(lambda q: ppl.bernoulli(q, grad=ppl.enum()).sample().astype(float))(p)
    for cost in (PROGRAMS["each"][0], PROGRAMS["neighbours"][0], meets_lanes, of_a_matrix):
        truth, _ = moments(lambda x, cost=cost: float(cost(jnp.asarray(x))), [nothing] * 4)
        exact = ppl.exact_gradient(lambda p, cost=cost: cost(flip(p)))(jnp.asarray(P))
        np.testing.assert_allclose(exact.gradient, truth, rtol=1e-10)
        np.testing.assert_allclose(exact.variance, 0, atol=1e-20)
