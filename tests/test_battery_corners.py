"""The second half of the battery of the mutation test: corners that mutants showed.

Each test was written for a change of the code that no other test noticed. Programs have exact answers here, too.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import leave_one_out, leave_one_out_lanes, mvd, reinforce
from ppl import gen, normal
from ppl.reports import costs
from tests import test_passes as passes
from tests.cases import THETA
from tests.statistical.test_strategies import flips
from tests.statistics import enumerate_law
from tests.test_battery import KEY, W3, c, density, example, log_normal, model

pytestmark = pytest.mark.x64


def mean_by_outcomes(law, size, p):
    """Sum a function of coins over all outcomes, as a function of their common probability."""
    rows = list(itertools.product((0.0, 1.0), repeat=size))
    return sum(law(np.array(bits)) * p ** sum(bits) * (1 - p) ** (size - sum(bits)) for bits in rows)


def backwards(p, flip):
    """Histories: every step reads the weighted sum of the steps after it."""
    final, ys = lax.scan(lambda s, w: (s + w * flip(p), s * s), 0.1, jnp.asarray(W3), reverse=True)
    return final**2 + (ys * jnp.array([1.0, 2.0, 5.0])).sum()


def backwards_law(b):
    sums = 0.1 + np.cumsum((W3 * b)[::-1])
    return sums[-1] ** 2 + 5 * 0.1**2 + 2 * sums[0] ** 2 + sums[1] ** 2


def rows_and_columns(p, flip):
    """Every step looks at a row and at a column of the same choices."""
    x = flip(jnp.full((2, 2), p))
    step = lambda total, pair: (total + (pair[0] @ jnp.array([1.0, 3.0]) + pair[1] @ jnp.array([2.0, -5.0])) ** 2, None)
    return lax.scan(step, 0.0, (x, x.T))[0]


def rows_and_columns_law(b):
    x = b.reshape(2, 2)
    return ((x @ [1.0, 3.0] + x.T @ [2.0, -5.0]) ** 2).sum()


def each_beside_all(p, flip):
    """Every step looks at its own lane and at the sum of all."""
    x = flip(jnp.full(3, p))
    total = jnp.asarray(W3) @ x
    return lax.scan(lambda carry, own: (carry + (own + 2 * total) ** 2, None), 0.0, x)[0]


CORNERS = {
    "histories backwards": (backwards, backwards_law, 3),
    "divided by a choice": (
        lambda p, flip: 1 / (1 + flip(p)) + 2 / (1 + flip(p)),
        lambda b: (np.r_[1, 2] / (1 + b)).sum(),
        2,
    ),
    "selected by a choice": (
        lambda p, flip: (lambda x, y: jnp.where(x > 0.5, c(y), 2.0 * y))(flip(p), flip(p)),
        lambda b: c(b[1]) if b[0] else 2.0 * b[1],
        2,
    ),
    "softplus": (lambda p, flip: jax.nn.softplus(flip(p) - 0.3), lambda b: np.log1p(np.exp(b[0] - 0.3)), 1),
    "rows and columns in steps": (rows_and_columns, rows_and_columns_law, 4),
    "each beside all, in steps": (each_beside_all, lambda b: ((b + 2 * W3 @ b) ** 2).sum(), 3),
    "vector": (lambda p, flip: (jnp.array([1.0, 2.0]) * flip(p) ** 2)[1], lambda b: 2.0 * b[0], 1),
}


@pytest.mark.parametrize("strategy", [reinforce(), ppl.enum(), mvd()], ids=str)
@pytest.mark.parametrize("name", CORNERS)
def test_means_of_corners(name, strategy):
    program, law, size = CORNERS[name]
    exact = ppl.exact_gradient(lambda p: program(p, flips(strategy)))(0.3)
    np.testing.assert_allclose(exact.value, mean_by_outcomes(law, size, 0.3), rtol=1e-10)
    slope = (mean_by_outcomes(law, size, 0.3 + 1e-5) - mean_by_outcomes(law, size, 0.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(exact.gradient, slope, rtol=1e-7)


@pytest.mark.parametrize("strategy", [reinforce(), ppl.enum()], ids=str)
def test_stacked_states_of_a_recurrence(strategy):
    """Each step's result depends on this step's choice and on those before it, through a carry that is no sum."""

    def program(theta):
        def step(state, _):
            state = flips(strategy)(theta[0] * (0.5 + 0.2 * state)) + 0.5 * state**2
            return state, state

        return ((jnp.array([1.0, 2.0, 0.5]) * lax.scan(step, 0.0, None, 3)[1] + theta[1]) ** 2).sum()

    def law(draws, theta):
        state, total = 0.0, 0.0
        for weight in (1.0, 2.0, 0.5):
            state = draws.coin(theta[0] * (0.5 + 0.2 * state)) + 0.5 * state**2
            total = total + (weight * state + theta[1]) ** 2
        return total

    value, gradient = enumerate_law(law, THETA)
    exact = ppl.exact_gradient(program)(jnp.asarray(THETA))
    np.testing.assert_allclose(exact.value, value, rtol=1e-10)
    np.testing.assert_allclose(exact.gradient, gradient, rtol=1e-10)


def test_lanes_are_baselines_within_each_step():
    def program(p):
        def step(carry, w):
            angle, total = carry
            x = jax.vmap(flips(reinforce(leave_one_out_lanes())))(jnp.full(2, p * jnp.cos(angle)))
            return (jnp.sin(angle + 1), total + w * ((x + 0.5) ** 2).sum()), None

        return lax.scan(step, (0.1, 0.0), jnp.array([1.0, 2.0]))[0][1]

    exact = ppl.exact_gradient(program)(0.3)
    np.testing.assert_allclose(exact.gradient, 4 * (np.cos(0.1) + 2 * np.cos(np.sin(1.1))), rtol=1e-10)


def test_loops_beside_a_checkpoint_are_taken_apart():
    def program(x):
        y = jax.checkpoint(lambda u: normal(u, 1.0).sample())(x)
        return lax.scan(lambda carry, z: (carry, normal(z, 1.0).sample()), y, jnp.arange(3.0))[1].sum()

    assert passes.count(passes.vectorise(passes.staged(program, 0.3)), passes.jaxprs.scan_p) == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_carries_to_which_every_step_adds_the_same(reverse):
    def program(p):
        step = lambda carry, x: ((carry[0] + p, carry[1] - p), (normal(x, 0.0).sample() * carry[0], carry[1], p))
        (up, down), (ys, zs, ps) = lax.scan(step, (0.5, p), jnp.array([1.0, 2.0, 4.0]), reverse=reverse)
        return up, down, ys, zs, ps

    up, down, ys, zs, ps = ppl.seed(program)(KEY, 0.3)
    counts = np.array([2.0, 1.0, 0.0]) if reverse else np.arange(3.0)
    np.testing.assert_allclose([up, down], [1.4, -0.6], rtol=1e-9)
    np.testing.assert_allclose(ys, np.array([1.0, 2.0, 4.0]) * (0.5 + 0.3 * counts), rtol=1e-9)
    np.testing.assert_allclose(zs, 0.3 - 0.3 * counts, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ps, [0.3] * 3, rtol=1e-9)


def test_checks_are_for_lanes_that_take_the_branch():
    lane = lambda s: lax.cond(s > 0, lambda: normal(0.0, s).log_prob(0.3), lambda: 0.0)
    with ppl.checks():
        assert np.isfinite(ppl.seed(lambda: jax.vmap(lane)(jnp.array([1.0, -1.0])).sum())(KEY))
        with pytest.raises((ppl.SupportError, RuntimeError)):
            jax.block_until_ready(
                ppl.seed(lambda s: lane(s * s - 2))(KEY, 2.0) + ppl.seed(lambda: normal(0.0, -1.0).log_prob(0.3))(KEY)
            )


def test_all_values_of_other_families_are_summed():
    binomial = lambda p: (ppl.binomial(3, p, grad=ppl.enum()).sample() + 1.0) ** 2
    value, gradient = ppl.value_and_grad(binomial)(KEY, 0.3)
    np.testing.assert_allclose([value, gradient], [1.9**2 + 3 * 0.21, 2 * 1.9 * 3 + 3 * 0.4], rtol=1e-9)
    mixed = lambda a: ppl.beta_binomial(a, 2.0, 3, grad=ppl.enum()).sample() * 1.0
    np.testing.assert_allclose(ppl.value_and_grad(mixed)(KEY, 1.5), [4.5 / 3.5, 6 / 3.5**2], rtol=1e-6)
    uniform = lambda p: p * ppl.discrete_uniform(2, 4, grad=ppl.enum()).sample() ** 2
    np.testing.assert_allclose(ppl.value_and_grad(uniform)(KEY, 0.3), [0.3 * 29 / 3, 29 / 3], rtol=1e-6)


def test_vectors_that_some_lanes_make():
    lane = lambda m, x: lax.cond(
        x > 0,
        lambda: ppl.multivariate_normal(m * jnp.ones(3), jnp.eye(3), grad=leave_one_out()).sample().sum(),
        lambda: 0.0,
    )
    program = lambda m: jax.vmap(lambda x: lane(m, x))(jnp.array([1.0, -1.0])).sum()
    assert np.isfinite(ppl.grad(program)(KEY, 0.3))


def test_parameters_that_leave_a_moving_support_where_it_is():
    scored = lambda t: ppl.pareto(1.0, t, grad=ppl.reinforce()).sample()
    assert np.isfinite(ppl.grad(scored)(KEY, 3.0))
    with pytest.raises(ppl.UnsoundGradientError):
        ppl.grad(lambda t: ppl.pareto(t, 3.0, grad=ppl.reinforce()).sample())(KEY, 1.0)


def test_nested_calls_keep_their_densities():
    """Also of minibatches, deeper in, and in lanes with any axis in front."""
    given, log_density = example(1)
    outer = gen(lambda t: model(t) @ "o")
    np.testing.assert_allclose(outer.log_density({"o": given}, 0.4), log_density, rtol=1e-9)
    inner = gen(lambda x: (normal(x, 1.0) @ "z").sum())
    lanes = gen(lambda x: jax.vmap(lambda row: inner(row) @ "in", in_axes=1)(x).sum())
    x, z = np.arange(6.0).reshape(2, 3), np.ones((3, 2))
    expected = log_normal(z, x.T, 1.0).sum()
    np.testing.assert_allclose(lanes.log_density({"in": {"z": z}}, jnp.asarray(x)), expected, rtol=1e-6)


def test_parameters_beside_scanned_ones_let_a_choice_leave_its_loop():
    def program(p):
        return lax.scan(lambda c, x: (c + normal(p * x, 1.0).sample(), None), 0.0, jnp.arange(3.0))[0]

    assert passes.count(passes.vectorise(passes.staged(program, 0.3)), passes.jaxprs.scan_p) == 0


@gen
def leaf(j, i):
    normal(1.0 * j + i, 1.0) @ "t"


@gen
def branch(i):
    normal(1.0 * i, 1.0) @ "m"
    ppl.subsample(3, 1, leaf)(i) @ "inner"


def test_minibatches_inside_minibatches_weigh_each_level():
    """2 of 4 and, in each, 1 of 3: densities inside count twice, those further inside six times."""
    program = gen(lambda: ppl.subsample(4, 2, branch)() @ "outer")
    outer, inner = np.array([2, 1]), np.array([[1], [0]])
    m, t = np.array([1.1, 1.7]), np.array([[3.2], [1.6]])
    choices = {"outer": {"indices": outer, "m": m, "inner": {"indices": inner, "t": t}}}
    log_normal = lambda z: -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    indices = -np.log(12) - 2 * 2 * np.log(3)
    inside = 2 * log_normal(m - outer).sum() + 6 * log_normal(t - inner - outer[:, None]).sum()
    np.testing.assert_allclose(program.log_density(choices), indices + inside, rtol=1e-5)


def test_two_choices_of_a_step_are_charged_for_what_leaves_the_loop():
    """Their parameters depend on the state, so they stay in the loop; all costs are outside."""
    weights = np.array([1.0, -2.0])

    def program(theta):
        def step(state, _):
            a = flips(reinforce())(theta[0] * (0.5 + 0.2 * state**2))
            b = flips(reinforce())(theta[1] * (0.4 + 0.1 * state**2))
            state = a + 0.5 * state - b
            return state, (a * state, b + state)

        final, (ys, zs) = lax.scan(step, 0.3, None, 2)
        return (ys + jnp.asarray(weights)) @ (zs + 0.5) ** 2 + final**2

    def law(draws, theta):
        state, total = 0.3, 0.0
        for weight in weights:
            a = draws.coin(theta[0] * (0.5 + 0.2 * state**2))
            b = draws.coin(theta[1] * (0.4 + 0.1 * state**2))
            state = a + 0.5 * state - b
            total = total + (a * state + weight) * (b + state + 0.5) ** 2
        return total + state**2

    assert_exact(program, law)


def assert_exact(program, law, variance=None):
    """Compare the exact mean of an estimator, and of its gradient, with those of a law in plain Python."""
    value, gradient = enumerate_law(law, THETA)
    exact = ppl.exact_gradient(program)(jnp.asarray(THETA))
    np.testing.assert_allclose(exact.value, value, rtol=1e-10)
    np.testing.assert_allclose(exact.gradient, gradient, rtol=1e-10, atol=1e-12)
    if variance is not None:
        np.testing.assert_allclose(exact.variance, variance, atol=1e-20)


def test_a_chain_beside_choices_of_its_own_kind():
    """Hidden states that leave their scan, and outside of it a coin that depends on another: all are summed over."""

    def program(theta):
        flip = flips(ppl.enum())

        def step(state, _):
            state = flip(theta[0] * (0.5 + 0.4 * state))
            return state, state

        states = lax.scan(step, 0.0, None, 3)[1]
        coin = flip(theta[1] * (0.3 + 0.6 * flip(theta[0])))
        return c(states, jnp.asarray(W3)).sum() + (coin + 0.5) ** 2

    def law(draws, theta):
        state, total = 0.0, 0.0
        for weight in W3:
            state = draws.coin(theta[0] * (0.5 + 0.4 * state))
            total = total + c(state, weight)
        return total + (draws.coin(theta[1] * (0.3 + 0.6 * draws.coin(theta[0]))) + 0.5) ** 2

    assert_exact(program, law, variance=0.0)


# Hidden states that leave their scan, one at each step, and what reads them outside: (states, coin, scored coin, p).
READERS = {
    "a loop with a checkpoint": (
        lambda z, flip, score, p: lax.scan(
            lambda t, zw: (t + jax.checkpoint(lambda z: c(z, zw[1]))(zw[0]), None), 0.0, (jnp.sin(z), jnp.asarray(W3))
        )[0],
        lambda z, flip, p: sum(c(np.sin(x), w) for x, w in zip(z, W3, strict=True)),
    ),
    "a loop backwards": (
        lambda z, flip, score, p: lax.scan(
            lambda t, zw: (t + c(zw[0], zw[1]), None), 0.0, (z, jnp.asarray(W3)), reverse=True
        )[0],
        lambda z, flip, p: sum(c(x, w) for x, w in zip(z, W3, strict=True)),
    ),
    "coins in lanes": (
        lambda z, flip, score, p: c(jax.vmap(lambda x: flip(0.3 + 0.2 * p * x))(z), jnp.asarray(W3)).sum(),
        lambda z, flip, p: sum(c(flip(0.3 + 0.2 * p * x), w) for x, w in zip(z, W3, strict=True)),
    ),
    "scored coins of a loop": (
        lambda z, flip, score, p: lax.scan(
            lambda t, zw: (t + c(score(zw[0] * p), zw[1]), None), 0.0, (0.1 + 0.3 * z, jnp.asarray(W3))
        )[0],
        lambda z, flip, p: sum(c(flip((0.1 + 0.3 * x) * p), w) for x, w in zip(z, W3, strict=True)),
    ),
    "scored coins in lanes": (
        lambda z, flip, score, p: c(jax.vmap(score)((0.1 + 0.3 * z) * p), jnp.asarray(W3)).sum(),
        lambda z, flip, p: sum(c(flip((0.1 + 0.3 * x) * p), w) for x, w in zip(z, W3, strict=True)),
    ),
    "other hidden states": (
        lambda z, flip, score, p: c(
            lax.scan(lambda s, x: (flip(p * (0.5 + 0.4 * s) + 0.3 * x),) * 2, 0.0, z)[1], jnp.asarray(W3)
        ).sum(),
        lambda z, flip, p: sum(
            c(s, w) for s, w in zip(hidden(lambda s, x: flip(p * (0.5 + 0.4 * s) + 0.3 * x), z), W3, strict=True)
        ),
    ),
}


def hidden(draw, inputs):
    """Draw states one after another, in plain Python."""
    states = [0.0]
    for x in inputs:
        states.append(draw(states[-1], x))
    return states[1:]


@pytest.mark.parametrize("name", READERS)
def test_hidden_states_that_are_read_outside_of_their_scan(name):
    """Their joint law is that of the chain, whatever depends on them: marginals alone would not do."""
    reads, law_of_reader = READERS[name]

    def program(theta):
        flip, score = flips(ppl.enum()), flips(reinforce())
        step = lambda s, _: (flip(theta[0] * (0.5 + 0.4 * s)),) * 2
        return reads(lax.scan(step, 0.0, None, 3)[1], flip, score, theta[1])

    def law(draws, theta):
        states = hidden(lambda s, _: draws.coin(theta[0] * (0.5 + 0.4 * s)), range(3))
        return law_of_reader(states, draws.coin, theta[1])

    assert_exact(program, law)


def test_hidden_states_of_many_steps_are_read_or_refused():
    """The costs of a second loop over 60 states are those of a matrix recursion; too many histories are refused."""

    def states(p):
        return lax.scan(lambda s, _: (flips(ppl.enum())(p * (0.5 + 0.4 * s)),) * 2, 0.0, None, 60)[1]

    def densities(p):
        step = lambda total, x: (total + normal(x, 1.0).log_prob(2.0), None)
        return lax.scan(step, 0.0, 0.3 * states(p) ** 2)[0]

    def mean(p):
        probs = hidden(lambda prob, _: p * (0.5 + 0.4 * prob), range(60))
        return sum(prob * log_normal(0.3, 2.0, 1.0) + (1 - prob) * log_normal(0.0, 2.0, 1.0) for prob in probs)

    found = ppl.value_and_grad(densities)(KEY, 0.6)
    np.testing.assert_allclose(found, jax.value_and_grad(mean)(0.6), rtol=1e-9)
    mixed = lambda p: lax.scan(lambda t, z: (t + c(z), None), 0.0, states(p), reverse=True)[0]
    with pytest.raises(ppl.StrategyError, match="reaches later steps"):
        ppl.grad(mixed)(KEY, 0.6)


def test_choices_that_do_not_depend_on_a_direct_one_are_drawn_once():
    """Costs of other values of `a` share a coin that has parents of its own; a table of all noise lists it once."""

    def program(theta):
        a, b = flips(mvd())(theta[0]), flips(reinforce())(theta[1])
        return (a + 2 * flips(reinforce())(0.2 + 0.5 * b * theta[0]) + 0.5) ** 2

    def law(draws, theta):
        a, b = draws.coin(theta[0]), draws.coin(theta[1])
        return (a + 2 * draws.coin(0.2 + 0.5 * b * theta[0]) + 0.5) ** 2

    assert_exact(program, law)


@dataclasses.dataclass(frozen=True)
class Twice(ppl.Strategy):
    """Not an estimator of anything: the difference of two looks at the costs of one value."""

    def estimate(self, key, d, k):
        """Weigh it with a parameter, whose derivative shows it."""
        return d.params["probs"] * (k(1) - k(1))


@pytest.mark.parametrize("later", [ppl.pathwise(), ppl.reinforce()], ids=str)
def test_costs_have_fresh_noise_at_every_call(later):
    """Of choices that depend on the value alone: the differences are normal with variance 2."""

    def program(p):
        value, other = flips(Twice())(p), normal(0.0, 3.0).sample()
        return normal(value, 1.0, grad=later).sample() + other * value

    differences = jax.jit(jax.vmap(ppl.grad(program), (0, None)))(jr.split(KEY, 2**12), 0.3)
    assert abs(float(differences.mean())) < 4.5 * np.sqrt(2 / 2**12)
    assert abs(float(differences.var()) - 2) < 4.5 * 2 * np.sqrt(2 / 2**12)


def test_a_single_lane_is_no_other_lane():
    """Costs mix along the only axis that has others, so nothing is left that a baseline could be made of."""
    lanes = lambda p: (flips(reinforce(leave_one_out_lanes()))(jnp.full((1, 3), p)).sum() + 0.5) ** 2
    with pytest.raises(ppl.StrategyError, match="depends on several"):
        ppl.grad(lanes)(KEY, 0.3)
    alone = lambda p: c(flips(reinforce(leave_one_out_lanes()))(jnp.full((1,), p))).sum()
    np.testing.assert_allclose(ppl.exact_gradient(alone)(0.3).gradient, 2.0, rtol=1e-10)


def test_factors_count_in_the_lanes_that_take_their_branch():
    def lane(x):
        def weighed():
            ppl.factor(3.0 * x**2) @ "f"
            return normal(x, 1.0) @ "z"

        return lax.cond(x > 0, weighed, lambda: x)

    program = gen(lambda xs: jax.vmap(lane)(xs).sum())
    z = ppl.Masked(jnp.array([0.0, 0.4, 1.3]), jnp.array([False, True, True]))
    expected = 3 * (0.5**2 + 2.0**2) + log_normal(0.4, 0.5, 1.0) + log_normal(1.3, 2.0, 1.0)
    found = program.log_density({"z": z}, jnp.array([-1.0, 0.5, 2.0]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_densities_of_lanes_under_a_vmap_around_them():
    program = gen(lambda: jax.vmap(lambda m: normal(m, 1.0) @ "z")(jnp.arange(3.0)))
    z = np.arange(6.0).reshape(2, 3) ** 2 / 7
    found = jax.vmap(lambda z: program.log_density({"z": z}))(jnp.asarray(z))
    np.testing.assert_allclose(found, log_normal(z, np.arange(3.0), 1.0).sum(1), rtol=1e-6)


def test_the_largest_enumerations():
    """2**16 joint values: of one choice, of two in one cost, of the histories of a scan; one value more is refused."""

    def uniform(n):
        return ppl.discrete_uniform(0, n - 1, grad=ppl.enum()).sample() / (n - 1)

    def walk(n):
        return lambda p: lax.scan(lambda s, _: (s * uniform(n) + p * s**2, None), 1.0, None, 2)[0]

    one, two = lambda n: lambda p: (uniform(n) + p) ** 2, lambda n: lambda p: (uniform(n) + p * uniform(n)) ** 2
    squares = lambda n: (2 * n - 1) / (6 * (n - 1))  # E u**2
    np.testing.assert_allclose(ppl.value_and_grad(one(2**16))(KEY, 0.3), [squares(2**16) + 0.39, 1.6], rtol=1e-6)
    s = squares(2**8)
    np.testing.assert_allclose(ppl.value_and_grad(two(2**8))(KEY, 0.3), [1.09 * s + 0.15, 0.6 * s + 0.5], rtol=1e-6)
    mean = lambda p: 0.5 * (0.5 + p) + p * (s + p + p**2)
    np.testing.assert_allclose(ppl.value_and_grad(walk(2**8))(KEY, 0.3), jax.value_and_grad(mean)(0.3), rtol=1e-6)
    for program in (one(2**16 + 1), two(2**8 + 1), walk(2**8 + 1)):
        with pytest.raises(ppl.StrategyError, match="joint values|reaches later steps"):
            ppl.grad(program)(KEY, 0.3)


def test_new_indices_come_with_all_that_stands_inside():
    given, log_density = example(1)
    trace, _ = model.generate(KEY, given, 0.4)
    new = {"indices": jnp.array([0, 2]), "r": jnp.array([0.5, -0.7])}
    moved, log_weight, discarded = model.update(KEY, trace, {"m": new})
    np.testing.assert_allclose(log_weight, density({**given, "m": new}, 0.4) - log_density, rtol=1e-5)
    np.testing.assert_array_equal(moved["m/indices"], [0, 2])
    np.testing.assert_array_equal(discarded["m"]["r"], given["m"]["r"])


def test_large_loops_and_unrolled_ones():
    """A draw of 2**26 numbers at once would not fit everywhere; what stays of a loop is unrolled as the user says."""
    step = lambda c, _: (c + normal(jnp.zeros(2**14), 1.0).sample().sum(), None)
    for length, left in ((2**10, 0), (2**12, 1)):
        body = passes.vectorise(passes.staged(lambda x, n=length: lax.scan(step, x, None, n)[0], 0.3))
        assert passes.count(body, passes.jaxprs.scan_p) == left
    walk = lambda x: lax.scan(lambda c, _: (normal(c, 1.0).sample(), None), x, None, 6, unroll=3)[0]
    (loop,) = [e for e in passes.vectorise(passes.staged(walk, 0.3)).eqns if e.primitive is passes.jaxprs.scan_p]
    assert passes.jaxprs.read_scan(loop).unroll == 3


def test_a_selection_between_costs_of_the_same_choices_is_charged_at_once():
    def program(p):
        x = flips(reinforce())(p)
        return jnp.where(jnp.array([True, False, True]), c(x), jnp.sin(x)).sum()

    assert "1 cost term;" in str(ppl.explain(program)(jnp.full(3, 0.3)))


def test_a_direct_choice_before_a_loop_of_others():
    """Its costs are those of the loop, too, whose coins depend on one another but not on it."""

    def program(theta):
        value, score = flips(mvd())(theta[0]), flips(reinforce())
        state = lax.scan(lambda s, _: (score(theta[1] * (0.5 + 0.2 * s)), None), 0.0, None, 2)[0]
        return (value + 2 * state + 0.5) ** 2

    def law(draws, theta):
        states = hidden(lambda s, _: draws.coin(theta[1] * (0.5 + 0.2 * s)), range(2))
        return (draws.coin(theta[0]) + 2 * states[-1] + 0.5) ** 2

    assert_exact(program, law)


def test_values_alone_are_costs_of_values():
    """Strategies that look at costs add nothing to the value of the objective."""
    for strategy in (mvd(), reinforce(leave_one_out_lanes()), Twice()):
        value = ppl.expect(lambda p, s=strategy: c(flips(s)(p)))(KEY, 0.3)
        assert float(value) in (0.25, 2.25)


def test_draws_with_fixed_parameters_leave_a_loop_that_stays():
    body = passes.staged(lambda x: lax.scan(lambda s, _: (s * s + normal(0.0, 1.0).sample(), None), x, None, 5)[0], 0.3)
    assert any(eqn.primitive is passes.choice_p for eqn in passes.vectorise(body).eqns)


@pytest.mark.parametrize("transform", [ppl.expect, ppl.grad, ppl.seed], ids=["expect", "grad", "seed"])
def test_what_is_no_function_is_refused(transform):
    with pytest.raises(ppl.PPLError, match="function"):
        transform(3)


def test_lanes_of_vectors_beside_a_batch_of_matrices():
    """Means by lane, covariances by batch element: every mean meets every covariance."""
    scales = np.array([1.0, 2.0])
    matrices = jnp.asarray(scales[:, None, None] ** 2 * np.eye(3))
    means = np.arange(6.0).reshape(2, 3) / 7
    found = jax.vmap(lambda m: ppl.multivariate_normal(m, matrices).log_prob(jnp.zeros(3)))(jnp.asarray(means))
    expected = log_normal(0.0, means[:, None], scales[None, :, None]).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_sums_of_rows_are_merged_inside_a_sum_that_stands_alone():
    weights = jnp.arange(1.0, 13.0).reshape(3, 4) / 5

    def objective(theta):
        coins = ppl.bernoulli(jax.nn.sigmoid(theta * weights), grad=ppl.enum()).sample()
        rows = jnp.sum(coins * weights, axis=1) + jnp.sum(jnp.cos(1.0 * coins), axis=1)
        return 2.0 - jnp.sum(rows)

    def mean(theta):
        p = jax.nn.sigmoid(theta * weights)
        return 2.0 - jnp.sum(p * (weights + jnp.cos(1.0)) + (1 - p))

    found = ppl.value_and_grad(objective)(KEY, 0.3)
    np.testing.assert_allclose(found, jax.value_and_grad(mean)(0.3), rtol=1e-12)
    assert costs(ppl.value_and_grad(objective))(KEY, 0.3).equations <= 42  # 39; each sum by itself: 51.


def test_a_thousand_operations_before_each_density_are_walked_without_a_thousand_frames():
    def objective(params):
        total = 0.0
        for i in range(6):
            z = normal(params[i], 1.0).sample()
            for _ in range(1_100):
                z = z * 0.9999
            total = total + normal(0.0, 1.0).log_prob(z)
        return total

    found = ppl.value_and_grad(objective)(KEY, jnp.arange(6.0))
    plain = jax.value_and_grad(ppl.seed(objective), argnums=1)(KEY, jnp.arange(6.0))
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_stochastic_density_all_of_whose_choices_are_given_is_generated_and_updated():
    @gen
    def pair(p):
        z = ppl.bernoulli(p) @ "z"
        ppl.bernoulli(0.2 + 0.5 * z) @ "x"

    kept = ppl.marginal(pair, keep="x", method=ppl.methods.exact())
    trace, log_weight = kept.generate(KEY, {"x": 1}, 0.3)
    np.testing.assert_allclose(log_weight, np.log(0.7 * 0.2 + 0.3 * 0.7), rtol=1e-12)
    moved, log_ratio, _ = kept.update(KEY, trace, {"x": 0})
    np.testing.assert_allclose(moved.log_density, np.log(0.7 * 0.8 + 0.3 * 0.3), rtol=1e-12)
    np.testing.assert_allclose(log_ratio, moved.log_density - log_weight, rtol=1e-12)


def test_direct_strategies_of_vectors_in_a_scan_and_below_an_enumerated_choice():
    """The mean of x[0] of a Dirichlet is a[0] / sum(a), whatever the concentration: that waits for the carry here."""
    weights = jnp.array([1.0, 2.0, 4.0])

    def objective(a):
        coin = ppl.bernoulli(0.25, grad=ppl.enum()).sample()
        below = ppl.dirichlet(jnp.stack([a + coin, 2.0, 1.0]), grad=leave_one_out(2)).sample()

        def step(total, w):
            x = ppl.dirichlet((1 + total) * jnp.stack([a, 2.0, 3.0]), grad=leave_one_out(2)).sample()
            return total + w * x[0], None

        return lax.scan(step, 0.0, weights)[0] + below[0]

    def mean(a):
        return weights.sum() * a / (a + 5) + 0.75 * a / (a + 3) + 0.25 * (a + 1) / (a + 4)

    gradients = jax.jit(jax.vmap(lambda key: ppl.grad(objective)(key, 1.5)))(jr.split(KEY, 4_000))
    error = gradients.std() / np.sqrt(len(gradients))
    assert 0 < error < 0.1
    assert abs(gradients.mean() - jax.grad(mean)(1.5)) < 4.5 * error
