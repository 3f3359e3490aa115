"""Chains of enumerated choices in scans: exact, with nothing in the loop but the probability of each state."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from ppl import bernoulli, categorical, enum, jaxprs
from ppl.reports import costs

pytestmark = pytest.mark.x64

KEY = jr.key(0)
STATES, STEPS = 3, 4
XS = np.linspace(0.5, 1.5, STEPS)
HISTORIES = np.array(list(itertools.product(range(STATES), repeat=STEPS)))


def params_of(seed=0, lanes=()):
    keys = jr.split(jr.key(seed), 4)
    return {
        "shared": jr.normal(keys[0], (STATES, STATES)),
        "each": jr.normal(keys[1], (STEPS, *lanes, STATES, STATES)),
        "pair": jr.normal(keys[2], (STATES, STATES)),
        "one": jr.normal(keys[3], (STATES,)),
    }


def cost(params, before, z, x):
    return params["pair"][before, z] * x + jnp.sin(params["one"][z])


def program(params, start, reverse=False):
    """Choose every state given the last one, add costs of both."""

    def step(before, inputs):
        logits, x = inputs
        z = categorical(logits=(logits + params["shared"])[before], grad=enum()).sample()
        return z, cost(params, before, z, x)

    return lax.scan(step, start, (params["each"], XS), reverse=reverse)[1].sum()


def homogeneous(params, start):
    """Choose every state with the same probabilities."""

    def step(before, x):
        z = categorical(logits=params["shared"][before], grad=enum()).sample()
        return z, cost(params, before, z, x)

    return lax.scan(step, start, XS)[1].sum()


def by_histories(params, start, logits=None, reverse=False):
    """Sum over all histories."""
    logits = params["each"] + params["shared"] if logits is None else logits
    xs = XS
    if reverse:
        logits, xs = logits[::-1], XS[::-1]
    before = jnp.concatenate([jnp.full((len(HISTORIES), 1), start), HISTORIES[:, :-1]], axis=1)
    steps = np.arange(STEPS)
    log_p = jax.nn.log_softmax(logits)[steps, before, HISTORIES].sum(1)
    return (jnp.exp(log_p) * cost(params, before, HISTORIES, xs).sum(1)).sum()


def bodies(function, *args):
    """List the bodies of all scans in the estimator."""
    jaxpr = jax.make_jaxpr(ppl.expect(function))(KEY, *args)
    return [jaxprs.read_scan(eqn).body for eqn in jaxpr.eqns if eqn.primitive is jaxprs.scan_p]


def names(body):
    return {eqn.primitive.name for eqn in body.eqns}


def agree(ours, exact, params):
    np.testing.assert_allclose(ours(params), exact(params), rtol=1e-12)
    gradients = jax.grad(ours)(params), jax.grad(exact)(params)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12), *gradients)
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape), params)
    second = [jax.jvp(jax.grad(f), (params,), (direction,))[1] for f in (ours, exact)]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10), *second)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients[0])) > 1e-3


@pytest.mark.parametrize("reverse", [False, True])
def test_a_known_start_leaves_one_product_in_the_loop(reverse):
    run = lambda params: program(params, 0, reverse)
    ours = lambda params: ppl.expect(run)(KEY, params)
    agree(ours, lambda params: by_histories(params, 0, reverse=reverse), params_of())
    (body,) = bodies(run, params_of())
    assert names(body) == {"dot_general"}


@pytest.mark.parametrize("start", [0, 2])
def test_a_start_that_is_known_only_when_it_runs(start):
    ours = lambda params: ppl.expect(program)(KEY, params, jnp.int32(start))
    agree(ours, lambda params: by_histories(params, start), params_of(1))
    (body,) = bodies(program, params_of(1), jnp.int32(start))
    assert names(body) == {"dot_general"}


def test_a_start_outside_of_the_states_reads_what_indexing_reads():
    agree(
        lambda params: ppl.expect(lambda params: program(params, -1))(KEY, params),
        lambda params: by_histories(params, STATES - 1),
        params_of(2),
    )


def test_the_same_probabilities_in_all_steps_are_computed_once():
    run = lambda params: homogeneous(params, 1)
    exact = lambda params: by_histories(params, 1, jnp.broadcast_to(params["shared"], params["each"].shape))
    agree(lambda params: ppl.expect(run)(KEY, params), exact, params_of(3))
    exps = [e for e in jax.make_jaxpr(ppl.expect(run))(KEY, params_of(3)).eqns if e.primitive.name == "exp"]
    assert exps
    assert all(eqn.outvars[0].aval.size <= STATES**2 for eqn in exps)


def test_a_sum_in_the_carry_leaves_the_loop():
    def run(params):
        def step(carry, inputs):
            (before, total), (logits, x) = carry, inputs
            z = categorical(logits=(logits + params["shared"])[before], grad=enum()).sample()
            return (z, total + cost(params, before, z, x)), None

        return lax.scan(step, (0, params["one"][1]), (params["each"], XS))[0][1]

    agree(
        lambda params: ppl.expect(run)(KEY, params),
        lambda params: by_histories(params, 0) + params["one"][1],
        params_of(4),
    )
    (body,) = bodies(run, params_of(4))
    assert names(body) == {"dot_general"}


def test_the_last_state_is_used_after_the_loop():
    def run(params):
        def step(before, inputs):
            logits, x = inputs
            z = categorical(logits=(logits + params["shared"])[before], grad=enum()).sample()
            return z, cost(params, before, z, x)

        last, costs = lax.scan(step, 0, (params["each"], XS))
        return costs.sum() + jnp.exp(params["one"])[last]

    def exact(params):
        before = np.concatenate([np.zeros((len(HISTORIES), 1), int), HISTORIES[:, :-1]], axis=1)
        log_p = jax.nn.log_softmax(params["each"] + params["shared"])[np.arange(STEPS), before, HISTORIES].sum(1)
        return by_histories(params, 0) + (jnp.exp(log_p) * jnp.exp(params["one"])[HISTORIES[:, -1]]).sum()

    agree(lambda params: ppl.expect(run)(KEY, params), exact, params_of(5))


def test_stacked_states_are_used_after_the_loop():
    def run(params):
        def step(before, logits):
            z = categorical(logits=(logits + params["shared"])[before], grad=enum()).sample()
            return z, z

        return (jnp.exp(params["one"])[lax.scan(step, 0, params["each"])[1]] * XS).sum()

    def exact(params):
        before = np.concatenate([np.zeros((len(HISTORIES), 1), int), HISTORIES[:, :-1]], axis=1)
        log_p = jax.nn.log_softmax(params["each"] + params["shared"])[np.arange(STEPS), before, HISTORIES].sum(1)
        return (jnp.exp(log_p) * (jnp.exp(params["one"])[HISTORIES] * XS).sum(1)).sum()

    agree(lambda params: ppl.expect(run)(KEY, params), exact, params_of(6))


@pytest.mark.parametrize("inside", [False, True], ids=["scan in vmap", "vmap in scan"])
def test_lanes_are_chains_of_their_own(inside):
    params = params_of(7, lanes=(2,))

    def lane(params, each):
        return program({**params, "each": each}, 0)

    def mapped(params):
        return jax.vmap(lane, in_axes=(None, 1))(params, params["each"]).sum()

    def scanned(params):
        def one(before, logits, x):
            z = categorical(logits=(logits + params["shared"])[before], grad=enum()).sample()
            return z, cost(params, before, z, x)

        step = lambda before, inputs: jax.vmap(one, in_axes=(0, 0, None))(before, *inputs)
        return lax.scan(step, jnp.zeros(2, jnp.int32), (params["each"], XS))[1].sum()

    exact = lambda params: sum(by_histories({**params, "each": params["each"][:, i]}, 0) for i in range(2))
    agree(lambda params: ppl.expect(scanned if inside else mapped)(KEY, params), exact, params)


def test_a_chain_in_a_loop_and_under_jit():
    def run(params):
        def outer(total, scale):
            return total + scale * jax.jit(program)(params, 0), None

        return lax.scan(outer, 0.0, jnp.array([0.5, 2.0]))[0]

    agree(
        lambda params: jax.jit(ppl.expect(run))(KEY, params), lambda params: 2.5 * by_histories(params, 0), params_of(8)
    )


def test_what_cannot_happen_may_be_infinite():
    """Impossible states have infinite costs: neither they nor their derivatives are NaN."""
    forbidden = jnp.array([[True, True, False], [True, True, False], [True, True, True]])

    def run(params):
        def step(before, inputs):
            logits, x = inputs
            logits = jnp.where(forbidden, logits, -jnp.inf)
            z = categorical(logits=logits[before], grad=enum()).sample()
            return z, jnp.where(forbidden, params["pair"], -jnp.inf)[before, z] * x + jnp.log(2.0 - z) * (before == 2)

        return lax.scan(step, 0, (params["each"], XS))[1].sum()

    def exact(params):
        marginal, total = jnp.array([1.0, 0.0]), 0.0
        for logits, x in zip(params["each"], XS, strict=True):
            matrix = jax.nn.softmax(logits[:2, :2])
            total += (marginal[:, None] * matrix * params["pair"][:2, :2]).sum() * x
            marginal = marginal @ matrix
        return total

    ours, params = lambda params: ppl.expect(run)(KEY, params), params_of(9)
    np.testing.assert_allclose(ours(params), exact(params), rtol=1e-12)
    gradients = jax.grad(ours)(params), jax.grad(exact)(params)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12), *gradients)


def test_a_chain_that_depends_on_another_enumerated_choice_stays_exact():
    def run(params):
        coin = bernoulli(logits=params["one"][0], grad=enum()).sample()

        def step(before, inputs):
            logits, x = inputs
            z = categorical(logits=(1.0 + coin) * logits[before], grad=enum()).sample()
            return z, cost(params, before, z, x)

        return lax.scan(step, 0, (params["each"], XS))[1].sum()

    def exact(params):
        head = jax.nn.sigmoid(params["one"][0])
        parts = [by_histories(params, 0, factor * params["each"]) for factor in (1.0, 2.0)]
        return (1 - head) * parts[0] + head * parts[1]

    agree(lambda params: ppl.expect(run)(KEY, params), exact, params_of(10))


def test_noise_of_another_choice_in_a_step_is_that_of_the_plain_loop():
    """A pathwise choice given the state keeps the loop; its mean is that of its location."""

    def run(params):
        def step(before, inputs):
            logits, x = inputs
            z = categorical(logits=(logits + params["shared"])[before], grad=enum()).sample()
            return z, ppl.normal(cost(params, before, z, x), 0.0 + 1e-12).sample()

        return lax.scan(step, 0, (params["each"], XS))[1].sum()

    ours = ppl.expect(run)(KEY, params_of(11))
    np.testing.assert_allclose(ours, by_histories(params_of(11), 0), rtol=1e-9)


def test_the_program_does_not_grow_with_its_length():
    def count(steps):
        params = {**params_of(12), "each": jnp.zeros((steps, STATES, STATES))}

        def run(params):
            step = lambda before, logits: (
                z := categorical(logits=logits[before], grad=enum()).sample(),
                params["pair"][before, z],
            )
            return lax.scan(step, 0, params["each"])[1].sum()

        return costs(ppl.value_and_grad(run))(KEY, params)

    short, long = count(10), count(1000)
    assert short.equations == long.equations
    assert 80 < long.flops / short.flops < 120
