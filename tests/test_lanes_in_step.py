"""Lanes of enumerated choices that a cost mixes: what is computed before they are mixed is computed lane by lane."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from estimators import enum, iwelbo, pathwise, reinforce
from ppl import bernoulli, categorical, gen, normal
from ppl.analysis import plan as planning
from ppl.reports import costs

K = 3


def lanes(p, k=K):
    """Make a vector of independent tosses."""
    return jax.vmap(lambda _: bernoulli(p, grad=enum()).sample())(jnp.arange(k))


def by_hand(function, p, k=K):
    """Sum a function of k tosses over all their joint values."""
    weighted = lambda x: likely(x, p) * function(x, p)
    return jnp.sum(jax.vmap(weighted)(jnp.array(list(itertools.product([0, 1], repeat=k)))))


def likely(x, p):
    """Return the probability of tosses."""
    return jnp.prod(jnp.where(x == 1, p, 1 - p))


LATE = {
    "sum": lambda x, p: jnp.sum(jnp.sin(x + p)) ** 2,
    "mean of exponentials": lambda x, p: jnp.log(jnp.mean(jnp.exp(x * p))),
    "logsumexp": lambda x, p: jax.nn.logsumexp(jnp.where(x == 1, p, jnp.sin(p))),
    "softmax": lambda x, p: jnp.sum(jax.nn.softmax(p * x) * jnp.cos(x + p)),
    "reversed": lambda x, p: jnp.sum(x * x[::-1] * p),
    "shifted": lambda x, p: jnp.sum(jnp.sin(p + x[1:] + 2 * x[:-1]) ** 2),
    "cumulated": lambda x, p: jnp.sum(jnp.cumsum(x * p) ** 2),
    "sorted": lambda x, p: jnp.sum(jnp.sort(x * p) * jnp.arange(len(x))),
    "outer": lambda x, p: jnp.sum(jnp.tanh(jnp.outer(x, 1 - x) * p)),
    "matrix": lambda x, p: jnp.sum(jnp.cos(jnp.arange(12.0).reshape(4, 3) @ (x * p))),
    "indexed": lambda x, p: x[0] * jnp.exp(p * x[2]) + x[1],
    "a lane decides for all": lambda x, p: jnp.sum(jnp.where(x[0] == 1, jnp.sin(x * p), p)),
    "one lane decides for the next": lambda x, p: jnp.prod(jnp.where(jnp.roll(x, 1) == 1, jnp.exp(x * p), 2.0)),
    "any decides": lambda x, p: jnp.sum(jnp.where(x.any(), jnp.cos(x + p), 3 * p)),
    "a sum where a lane allows": lambda x, p: jnp.sum(jnp.where(x == 1, jnp.sum(x * p) ** 2, jnp.sum(x - p))),
    "selected, then mixed, then selected": lambda x, p: jnp.sum(
        jnp.where(x == 1, jnp.max(jnp.where(x == 1, jnp.sin(p), x - p)), jnp.cos(p))
    ),
    "added up and mixed": lambda x, p: (lambda total: total + total**2)(jnp.sum(jnp.sin(x * p))),
    "reshaped": lambda x, p: jnp.sum(jnp.sin(x.reshape(1, -1, 1) * p) ** 2) * jnp.sum(x),
    "under jit": lambda x, p: jax.jit(lambda x: jnp.log(jnp.sum(jnp.exp(jnp.sin(x * p)))))(x),
    "mixed in jit, used outside": lambda x, p: jnp.sum(jax.jit(lambda x: (x * p, jnp.sum(x)))(x)[0]) * jnp.sum(x),
    "one jit, two results": lambda x, p: (lambda a, b: jnp.sum(jnp.sin(a) * b * x))(
        *jax.jit(lambda x: (x * p, x.sum()))(x)
    ),
    "in a scan": lambda x, p: jax.lax.scan(lambda c, v: (jnp.tanh(c + v * p), None), 0.1, x)[0],
    "in a cond": lambda x, p: jax.lax.cond(x[0] == 1, lambda: jnp.sum(x * p), lambda: jnp.prod(x + p)),
    "under checkpoint": lambda x, p: jax.checkpoint(lambda x: jnp.prod(jnp.sin(x + p)))(x),
    "gathered": lambda x, p: jnp.prod(jnp.array([0.3, 1.7])[x] + p),
    "large, lane by lane": lambda x, p: jax.nn.logsumexp(jnp.sum(jnp.sin(x[:, None] * p + jnp.arange(300.0)), axis=1)),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", LATE)
def test_it_is_the_sum_over_joint_values(name):
    function = LATE[name]
    ours = lambda p: function(lanes(p), p)
    value, gradient = ppl.value_and_grad(ours)(jr.key(0), 0.3)
    expected, derivative = jax.value_and_grad(lambda p: by_hand(function, p))(0.3)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(gradient, derivative, rtol=1e-9)


@pytest.mark.x64
@pytest.mark.parametrize("name", LATE)
def test_chains_of_choices_within_lanes(name):
    """Each lane has two tosses, the second depends on the first; and a third is seen by all lanes."""
    function = LATE[name]

    def ours(p):
        shared = bernoulli(0.5 * p, grad=enum()).sample()

        def lane(_):
            first = bernoulli(p, grad=enum()).sample()
            second = bernoulli(jnp.where(first == 1, 0.9 * p, 0.2 + 0.1 * shared), grad=enum()).sample()
            return first, second

        first, second = jax.vmap(lane)(jnp.arange(K))
        return function(second, p) + jnp.sum(first * second) * shared + jnp.sum(first) ** 2 * p

    def expected(p):
        def weighted(joint):
            shared, first, second = joint[0], joint[1 : 1 + K], joint[1 + K :]
            q = jnp.where(first == 1, 0.9 * p, 0.2 + 0.1 * shared)
            weight = likely(shared, 0.5 * p) * likely(first, p) * likely(second, q)
            return weight * (function(second, p) + jnp.sum(first * second) * shared + jnp.sum(first) ** 2 * p)

        return jnp.sum(jax.vmap(weighted)(jnp.array(list(itertools.product([0, 1], repeat=1 + 2 * K)))))

    value, gradient = ppl.value_and_grad(ours)(jr.key(0), 0.4)
    wanted, derivative = jax.value_and_grad(expected)(0.4)
    np.testing.assert_allclose(value, wanted, rtol=1e-10)
    np.testing.assert_allclose(gradient, derivative, rtol=1e-9)


@pytest.mark.x64
def test_a_choice_whose_parameters_mix_lanes():
    """Its probability has all joint values of the lanes, whatever else its costs look at."""

    def ours(p):
        first = lanes(p)
        last = bernoulli(jax.nn.sigmoid(jnp.sum(first) * p - 1.0), grad=enum()).sample()
        both = lanes(jnp.where(last == 1, p, 0.3), 2)
        return jnp.exp(last * p) + jnp.prod(1.0 + both) * last + jnp.sum(first)

    def expected(p):
        def weighted(joint):
            first, last, both = joint[:K], joint[K], joint[K + 1 :]
            chance = jax.nn.sigmoid(jnp.sum(first) * p - 1.0)
            weight = likely(first, p) * likely(last, chance) * likely(both, jnp.where(last == 1, p, 0.3))
            return weight * (jnp.exp(last * p) + jnp.prod(1.0 + both) * last + jnp.sum(first))

        return jnp.sum(jax.vmap(weighted)(jnp.array(list(itertools.product([0, 1], repeat=K + 3)))))

    found, wanted = ppl.value_and_grad(ours)(jr.key(0), 0.4), jax.value_and_grad(expected)(0.4)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


# --- Particles ---------------------------------------------------------------------------------------------------


def scene(strategies):
    """Make a model with everything in a lane: branches, a loop, several kinds of choices."""

    @gen
    def model(params):
        kind = categorical(jnp.array([0.2, 0.5, 0.3])) @ "kind"
        on = bernoulli(jnp.array([0.1, 0.6, 0.8])[kind]) @ "on"
        z = normal(1.0 * kind, 1.0) @ "z"
        shift = jax.lax.cond(on == 1, lambda: normal(z, 0.5) @ "shift", lambda: 0.0)
        normal(params["w"] * (z + shift), 1.0) @ "x"

    @gen
    def guide(params, observed):
        kind = categorical(logits=params["kind"], grad=strategies[0]) @ "kind"
        on = bernoulli(logits=params["on"] + kind, grad=strategies[1]) @ "on"
        z = normal(params["z"] * kind, 0.7, grad=strategies[2]) @ "z"
        jax.lax.cond(on == 1, lambda: normal(z * params["z"], 0.6) @ "shift", lambda: 0.0)

    return model, guide


PARAMS = {"w": 0.8, "kind": jnp.array([0.1, -0.2, 0.3]), "on": 0.2, "z": 0.9}


def joint_instead(monkeypatch):
    """Mix lanes from the start."""
    monkeypatch.setattr(planning, "_in_step", lambda *_: frozenset())


@pytest.mark.x64
@pytest.mark.parametrize("particles", [2, 3])
@pytest.mark.parametrize("batch", [None, 2])
def test_particles_agree_with_those_mixed_from_the_start(particles, batch, monkeypatch):
    """Pathwise noise is the same, so that every number is."""
    model, guide = scene([enum(), enum(), pathwise()])
    bound = iwelbo(model, guide, particles=particles)
    if batch is None:
        objective = lambda params: bound(params, {"x": 1.3})
    else:
        objective = lambda params: jnp.mean(jax.vmap(lambda x: bound(params, {"x": x}))(jnp.linspace(0.5, 2.0, batch)))
    run = lambda: ppl.value_and_grad(objective)(jr.key(2), PARAMS)
    in_step = run()
    joint_instead(monkeypatch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), in_step, run())


@pytest.mark.parametrize("which", range(3))
def test_scores_below_choices_in_step_are_unbiased(which):
    """The enumerated choice stands above, below or beside one with a score function: z-tests against all summed out."""
    strategies = [[enum(), reinforce(), pathwise()], [reinforce(), enum(), pathwise()], [enum(), enum(), reinforce()]]
    exact = iwelbo(*scene([enum(), enum(), pathwise()]), particles=2)
    mixed = iwelbo(*scene(strategies[which]), particles=2)
    gradient = lambda f: lambda key: jax.grad(ppl.expect(lambda p: f(p, {"x": 1.3})), argnums=1)(key, PARAMS)
    sample = lambda f, n, seed: jax.jit(jax.vmap(gradient(f)))(jr.split(jr.key(seed), n))
    ours, theirs = sample(mixed, 20_000, 1), sample(exact, 20_000, 2)
    for leaf in PARAMS:
        a, b = (np.asarray(found[leaf]).reshape(20_000, -1) for found in (ours, theirs))
        z = (a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        assert np.abs(z).max() < 4, (leaf, z)


def test_what_is_lane_by_lane_costs_so():
    """The expensive part of a particle is evaluated once for each particle and value, not for each joint value."""

    def objective(w, particles):
        def particle(_):
            on = bernoulli(0.3, grad=enum()).sample()
            return jnp.sum(jnp.tanh(w @ (w * (1.0 + on))))

        return jax.nn.logsumexp(jax.vmap(particle)(jnp.arange(particles)))

    w = jnp.ones((16, 16))
    of = lambda k: costs(ppl.expect(lambda w: objective(w, k)))(jr.key(0), w).matmul_flops
    flops = [of(k) for k in (1, 2, 4)]
    assert flops[1] <= 2 * flops[0]
    assert flops[2] <= 4 * flops[0]
