"""Enumerated branches are evaluated at the values that take them; what lanes share in a branch stays one array."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import enum, leave_one_out, mvd, reinforce
from ppl import bernoulli, categorical, jaxprs, normal
from ppl.reports import costs

KEY = jr.key(2)
THETA = jnp.array([0.3, -0.4])


def flip(p, grad=None):
    return bernoulli(p, grad=enum() if grad is None else grad).sample()


# --- Exactness ---------------------------------------------------------------------------------------------------
# Each program is written once, on a function that makes its coins: an enumerated choice, or outcomes given by hand.


def taken_branch(theta, coin, x):
    b = coin(jax.nn.sigmoid(theta[0] * x))
    return lax.cond(b == 1, lambda t: jnp.sin(t * x) + 2.0, lambda t: t**2, theta[1])


def nested(theta, coin, x):
    def second(t):
        c = coin(jax.nn.sigmoid(t + x))
        return lax.cond(c == 1, lambda s: jnp.exp(s * x), lambda s: s - 1.0, t)

    b = coin(jax.nn.sigmoid(theta[0]))
    return lax.cond(b == 1, second, lambda t: 3.0 * t, theta[1])


def while_alive(theta, coin, x):
    def attempt(carry):
        state, total = carry
        state = jnp.tanh(state + theta[1] * x)
        b = coin(jax.nn.sigmoid(theta[0] + state))
        return b, (state, lax.cond(b == 1, lambda t: t + jnp.cos(state), lambda t: t, total))

    def step(carry, _):
        alive, rest = carry
        return lax.cond(alive == 1, attempt, lambda r: (jnp.int32(0), r), rest), None

    (_, (state, total)), _ = lax.scan(step, (jnp.int32(1), (x, 0.0)), None, length=3)
    return total**2 + state


def selected(theta, coin, x):
    b, c = coin(jax.nn.sigmoid(theta[0] * x)), coin(jax.nn.sigmoid(theta[1]))
    both = jnp.where((b == 1) & (c == 1), jnp.exp(theta[0] * x), jnp.sin(theta[1]))
    odd = jnp.where(b != c, theta[0] ** 2, x)
    return both * odd + jnp.where(b == 1, theta[1], 0.0)


def idle_nan(theta, coin, x):
    """The branch that is not taken divides by zero, and takes the logarithm of a negative number."""
    b = coin(jax.nn.sigmoid(theta[0] * x))
    safe = lax.cond(b == 1, lambda t: jnp.log(t[0] * x**2) + 1 / t[0], lambda t: t[1] / x, theta)
    return safe + jnp.where(b == 1, 1.0, jnp.sqrt(theta[0]))


PROGRAMS = {p.__name__: (p, count) for p, count in [(taken_branch, 1), (nested, 2), (while_alive, 3), (selected, 2)]}
PROGRAMS["idle_nan"] = idle_nan, 1
LANES = jnp.array([0.5, -1.2, 2.0])


def by_hand(program, count, theta, x):
    """Sum over all outcomes; coins that are not tossed do not count."""
    total = 0.0
    for bits in itertools.product((0, 1), repeat=count):
        total = total + _run(program, list(bits), theta, x)
    return total


def _run(program, bits, theta, x):
    weights, left = [], list(bits)

    def coin(p):
        b = left.pop(0)
        weights.append(p if b else 1 - p)
        return jnp.int32(b)

    with jax.disable_jit():
        value = program(theta, coin, x)
    unused = 0.5 ** len(left)  # Outcomes that differ in coins that are not tossed are one.
    return value * jnp.prod(jnp.stack(weights)) * unused


@pytest.mark.x64
@pytest.mark.parametrize("name", PROGRAMS)
def test_branches_are_summed_exactly(name):
    program, count = PROGRAMS[name]
    theta, lanes = jnp.asarray(THETA, float), jnp.asarray(LANES, float)
    theta = jnp.abs(theta) if name == "idle_nan" else theta

    def objective(theta):
        return jnp.sum(jax.vmap(lambda x: program(theta, flip, x))(lanes) * jnp.arange(1.0, 4.0))

    def mean(theta):
        return sum((i + 1.0) * by_hand(program, count, theta, x) for i, x in enumerate(lanes))

    value, gradient = ppl.value_and_grad(objective)(KEY, theta)
    np.testing.assert_allclose(value, mean(theta), rtol=1e-12)
    found = [(mean(theta + h) - mean(theta - h)) / 2e-5 for h in 1e-5 * np.eye(2)]
    np.testing.assert_allclose(gradient, found, rtol=1e-7, atol=1e-8)
    single, _ = ppl.value_and_grad(lambda t: program(t, flip, lanes[0]))(KEY, theta)
    np.testing.assert_allclose(single, by_hand(program, count, theta, lanes[0]), rtol=1e-12)


# --- Costs -------------------------------------------------------------------------------------------------------


def networks(count, size=16):
    return jr.normal(KEY, (count, size, size)) / 4


def flops(objective, *args):
    return costs(ppl.value_and_grad(objective))(KEY, *args).matmul_flops


def test_each_branch_of_an_enumerated_switch_is_evaluated_once():
    weights, xs = networks(4), jr.normal(jr.key(1), (8, 16))

    def objective(weights):
        def row(x):
            k = categorical(logits=x[:4], grad=enum()).sample()
            branches = [lambda x, w=w: jnp.sum(jnp.tanh(w @ x) ** 2) for w in weights]
            return lax.switch(k, branches, x) * normal(0.0, 1.0).log_prob(1.0 * k)

        return jnp.mean(jax.vmap(row)(xs))

    one = 2 * 8 * 16 * 16
    assert flops(objective, weights) <= 2 * 4 * one  # Value and derivative; all branches for all values: 16 of each.


def alive_loop(strategy, length):
    def objective(weights, xs):
        def row(x):
            def attempt(state):
                state = jnp.tanh(weights[0] @ state + x)
                b = bernoulli(jax.nn.sigmoid(state[0]), grad=strategy).sample()

                def look(state):
                    z = normal(weights[1] @ state, 1.0).sample()
                    return jnp.tanh(weights[2] @ z)

                return b, lax.cond(b == 1, look, lambda s: 0.0 * s, state)

            def step(carry, _):
                alive, state, total = carry
                alive, state = lax.cond(alive == 1, attempt, lambda s: (jnp.int32(0), s), state)
                return (alive, state, total + jnp.sum(state)), None

            return lax.scan(step, (jnp.int32(1), x, 0.0), None, length=length)[0][2] ** 2

        return jnp.mean(jax.vmap(row)(xs))

    return objective


@pytest.mark.parametrize("length", [3, 5])
def test_histories_that_have_ended_cost_nothing(length):
    weights, xs = networks(3), jr.normal(jr.key(1), (8, 16))
    sampled = flops(alive_loop(reinforce(), length), weights, xs)
    summed = flops(alive_loop(enum(), length), weights, xs)
    print(summed / sampled)  # .96 and .98; all histories would be 2.3 for 3 steps, 6.2 for 5.
    assert summed <= 1.0 * sampled


def test_demand_is_not_looked_for_without_enumeration():
    objective = alive_loop(reinforce(), 3)
    assert np.isfinite(ppl.expect(objective)(KEY, networks(3), jr.normal(KEY, (4, 16))))


# --- What lanes share --------------------------------------------------------------------------------------------


def test_weights_in_a_branch_are_one_matrix_for_all_lanes():
    weights, xs = networks(1)[0], jr.normal(jr.key(1), (8, 16))

    def row(x, weights):
        z = normal(x[0], 1.0).sample()
        draw = lambda x: jnp.tanh(weights @ x) * normal(jnp.zeros(16), 1.0).sample()
        return jnp.sum(lax.cond(z > 0, draw, lambda x: x, x))

    def shapes(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield tuple(sorted(var.aval.shape for var in eqn.invars))
            for inner in jaxprs.inner_bodies(eqn):
                yield from shapes(inner)

    program = ppl.seed(lambda weights: jnp.sum(jax.vmap(lambda x: row(x, weights))(xs)))
    found = [*shapes(jax.make_jaxpr(program)(KEY, weights).jaxpr)]
    assert found == [((8, 16), (16, 16))]


def in_branch(x, w, draw):
    """Let shared weights meet each kind of operation; in lanes that do not take the branch all are singular."""
    y = jnp.log(w[0] * x[0]) + jnp.sqrt(x[0]) * w[1] + w[2] / x[0] + x[0] ** w[3]
    rows = jnp.stack([jnp.log(x[0]), 1.0, x[0]]) @ w[:3]
    moved = jnp.concatenate([w[4:6][None] * 2.0, jnp.log(x[None])], axis=0).sum() + w[4:6][(x[1] > 0).astype(int)]
    alone = jnp.log(w[5]) + jnp.max(w) + jax.jit(lambda w, y: jnp.sum(w**2) * y)(w, y)
    return (y + rows + moved + alone) * draw()


@pytest.mark.x64
def test_derivatives_of_shared_operands_are_those_of_each_lane_by_itself():
    w = jnp.array([0.5, 1.5, -0.7, 0.8, 2.0, 0.9])
    xs = jnp.array([[0.5, 1.0], [-1.0, 1.0], [0.0, -2.0], [2.0, -1.0]])  # Two lanes take the branch.

    def row(x, w, draw):
        return lax.cond(x[0] > 0, lambda x, w: in_branch(x, w, draw), lambda x, w: w[0] * x[1], x, w)

    def objective(w):
        draw = lambda: bernoulli(0.5, grad=enum()).sample() + 0.5  # Its mean is 1.
        return jnp.sum(jax.vmap(lambda x: row(x, w, draw))(xs))

    def apart(w):
        return in_branch(xs[0], w, lambda: 1.0) + in_branch(xs[3], w, lambda: 1.0) + w[0] * (xs[1, 1] + xs[2, 1])

    value, gradient = ppl.value_and_grad(objective)(KEY, w)
    np.testing.assert_allclose(value, apart(w), rtol=1e-12)
    np.testing.assert_allclose(gradient, jax.grad(apart)(w), rtol=1e-11)
    drawn = ppl.seed(lambda w: jnp.sum(jax.vmap(lambda x: row(x, w, lambda: normal(1.0, 1e-9).sample()))(xs)))
    np.testing.assert_allclose(jax.grad(drawn, argnums=1)(KEY, w), jax.grad(apart)(w), rtol=1e-6)


@pytest.mark.parametrize("strategy", [reinforce(), mvd(), leave_one_out(2)], ids=str)
def test_other_strategies_agree_with_enumeration_in_branches(strategy):
    weights, xs = networks(3), jr.normal(jr.key(1), (8, 16))
    exact = ppl.grad(alive_loop(enum(), 2))
    sampled = ppl.grad(alive_loop(strategy, 2))
    keys = jr.split(KEY, 400)
    difference = jax.jit(jax.vmap(lambda key, k2: sampled(key, weights, xs) - exact(k2, weights, xs)))
    found = np.asarray(difference(keys, jr.split(jr.key(9), 400))).reshape(400, -1)
    z = found.mean(0) / (found.std(0) / np.sqrt(400) + 1e-12)
    assert np.abs(z).max() < 5.5
    assert found.std() > 0


# --- Classes -----------------------------------------------------------------------------------------------------


def test_coins_tossed_while_all_before_said_yes_have_one_more_class_than_steps():
    """What is drawn on a canvas of 400 pixels: the elements handled grow with the steps, not with 2**steps."""
    patches = jr.normal(KEY, (6, 400))

    def objective(logits):
        def step(carry, patch):
            alive, canvas = carry

            def attempt(canvas):
                b = bernoulli(logits=logits[0] + logits[1] * jnp.mean(canvas), grad=enum()).sample()
                return b, lax.cond(b == 1, lambda c: jnp.tanh(c + logits[2] * patch), lambda c: c, canvas)

            return lax.cond(alive == 1, attempt, lambda c: (jnp.int32(0), c), canvas), None

        def row(x):
            (_, canvas), _ = lax.scan(step, (jnp.int32(1), x * jnp.ones(400)), patches[:length])
            return jnp.sum(normal(0.3, 1.0).log_prob(canvas))

        return jnp.sum(jax.vmap(row)(jnp.array([0.1, -0.2])))

    def mean(logits):
        total = 0.0
        for x in (0.1, -0.2):
            canvas, reached = x * jnp.ones(400), 1.0
            for step in range(length):
                p = jax.nn.sigmoid(logits[0] + logits[1] * jnp.mean(canvas))
                total += reached * (1 - p) * jnp.sum(normal(0.3, 1.0).log_prob(canvas))
                canvas, reached = jnp.tanh(canvas + logits[2] * patches[step]), reached * p
            total += reached * jnp.sum(normal(0.3, 1.0).log_prob(canvas))
        return total

    logits, work = jnp.array([0.4, -0.7, 0.5]), {}
    for length in (3, 6):
        value, gradient = ppl.value_and_grad(objective)(KEY, logits)
        exact, exact_gradient = jax.value_and_grad(mean)(logits)
        np.testing.assert_allclose(value, exact, rtol=2e-5)
        np.testing.assert_allclose(gradient, exact_gradient, rtol=2e-4, atol=1e-3)
        work[length] = costs(ppl.value_and_grad(objective))(KEY, logits).flops
    print(work)
    assert work[6] <= 3.0 * work[3]  # Classes: 7 and 4; with a step for each: 2.6. Joint values: 64 and 8.


@pytest.mark.parametrize(("join", "classes"), [(jnp.multiply, 2), (jnp.add, 3), (lambda a, b: a + 2 * b, 4)])
def test_what_cannot_tell_joint_values_of_two_coins_apart_is_evaluated_once(join, classes):
    """Four joint values, two of `a b` and three of `a + b`: from two choices on, classes are worth while."""
    patch = jr.normal(KEY, (400,))
    cost = lambda p: jnp.sum(jnp.tanh(patch * join(flip(p), flip(p**2))))

    def mean(p):
        of = lambda a, b: jnp.sum(jnp.tanh(patch * join(a, b))) * jnp.where(a, p, 1 - p) * jnp.where(b, p**2, 1 - p**2)
        return sum(of(a, b) for a in (0, 1) for b in (0, 1))

    value, gradient = ppl.value_and_grad(cost)(KEY, 0.4)
    np.testing.assert_allclose((value, gradient), jax.value_and_grad(mean)(0.4), rtol=1e-4, atol=1e-5)
    work = costs(ppl.expect(cost))(KEY, 0.4).transcendentals
    assert classes * 400 <= work < (classes + 1) * 400
