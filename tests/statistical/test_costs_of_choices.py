"""Strategies that look at costs have the means of the plain score function, also where values are summed over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import constant, leave_one_out_lanes, mvd, reinforce
from ppl import bernoulli
from tests.support.checks import KEY

pytestmark = pytest.mark.x64

flips = lambda strategy: lambda p: bernoulli(p, grad=strategy).sample().astype(float)
summed = flips(ppl.enum())


def lanes_under_lanes(flip, p):
    return jax.vmap(lambda w: (flip((0.2 + 0.5 * summed(p * w)) * (0.5 + p)) + w) ** 2)(jnp.array([0.9, 0.6])).sum()


def lanes_under_one(flip, p):
    x = summed(p)
    return jax.vmap(lambda w: (flip((0.2 + 0.5 * x * w) * (0.5 + p)) + x) ** 2)(jnp.array([0.9, 0.6])).sum()


def one_under_lanes(flip, p):
    x = jax.vmap(summed)(p * jnp.array([0.9, 0.6]))
    return (flip((0.2 + 0.3 * x.sum()) * (0.5 + p)) + x[0]) ** 2


def under_two(flip, p):
    x = summed(p)
    y = summed(0.3 + 0.4 * x)
    return (flip((0.2 + 0.5 * y) * (0.5 + p)) + p) ** 2 + x * y


def under_two_that_do_not_meet(flip, p):
    x, y = summed(p), summed(p * p)
    return (flip((0.2 + 0.3 * x + 0.3 * y) * (0.5 + p)) + p + y) ** 2


def under_one_in_a_branch(flip, p):
    return lax.cond(summed(p) == 1, lambda: flip(p) * 2, lambda: flip(p * p) + p) ** 2


def scan_under_one(flip, p):
    x = summed(p)
    return lax.scan(lambda c, w: (c + flip((0.2 + 0.3 * x * w) * (0.5 + p)), None), 0.0, jnp.array([0.9, 0.6]))[0] ** 2


def scan_over_lanes(flip, p):
    xs = jax.vmap(summed)(p * jnp.array([0.9, 0.6]))
    return lax.scan(lambda c, x: (c + (flip((0.2 + 0.3 * x) * (0.5 + p)) + p) ** 2, None), 0.0, xs)[0]


def checkpointed(flip, p):
    return jax.checkpoint(lambda p: (flip((0.2 + 0.5 * summed(p)) * (0.5 + p)) + p) ** 2)(p)


def not_under_any(flip, p):
    return (summed(p) + flip(p)) ** 2


UNDER_ENUMERATION = [
    *(lanes_under_lanes, lanes_under_one, one_under_lanes, under_two, under_two_that_do_not_meet),
    *(under_one_in_a_branch, scan_under_one, scan_over_lanes, checkpointed, not_under_any),
]
name = lambda function: getattr(function, "__name__", str(function))


@pytest.mark.parametrize("program", UNDER_ENUMERATION, ids=name)
def test_a_constant_baseline_under_enumeration(program):
    with_strategy = lambda strategy: ppl.exact_gradient(lambda p: program(flips(strategy), p))(0.4)
    plain, good, bad = (with_strategy(reinforce(b)) for b in (None, constant(1.2), constant(50.0)))
    for other in (good, bad):
        np.testing.assert_allclose(other.value, plain.value, rtol=1e-10)
        np.testing.assert_allclose(other.gradient, plain.gradient, rtol=1e-9)
    assert good.variance < plain.variance < bad.variance


def in_one_step(flip, p, reach):
    def step(carry, w):
        x = summed(p * w)
        cost = (flip((0.2 + 0.5 * x) * (0.5 + p)) + p) ** 2
        return (x if reach else 0.0, carry[1] + cost + carry[0]), None

    return lax.scan(step, (0.0, 0.0), jnp.array([0.9, 0.6, 0.3]))[0][1]


@pytest.mark.parametrize("reach", [False, True])
def test_a_baseline_beside_an_enumerated_choice_in_a_step_is_refused(reach):
    """The probabilities of the enumerated values stay in the loop."""
    with pytest.raises(ppl.StrategyError, match="enumerated one of a scan"):
        ppl.grad(lambda p: in_one_step(flips(reinforce(constant(1.2))), p, reach))(KEY, 0.4)


def results_apart(flip, p):
    x, y = flip(p), flip(p * p)
    return {"x": (x + p) ** 2, "y": jnp.stack([x * y, y + 10.0]), "none": p}


def results_of_lanes(flip, p):
    x = jax.vmap(lambda w: flip(p * w))(jnp.array([0.9, 0.6]))
    return (x + p) ** 2, x.sum() * p


def results_of_a_scan(flip, p):
    return lax.scan(lambda c, w: (c + flip(p * w), c), 0.0, jnp.array([0.9, 0.6]))


def results_of_chosen(flip, p):
    return lax.cond(p > 0.2, lambda: jnp.ones((2, 2)) * flip(p), lambda: jnp.zeros((2, 2))) * jnp.arange(4.0).reshape(
        2, 2
    )


STRATEGIES = {"mvd": mvd(), "constant": reinforce(constant(0.7)), "lanes": reinforce(leave_one_out_lanes())}


RESULTS = [results_apart, results_of_lanes, results_of_a_scan, results_of_chosen]
PAIRS = [(program, strategy) for program in RESULTS for strategy in STRATEGIES]
PAIRS.remove((results_of_a_scan, "lanes"))  # Its steps are drawn together, as lanes, and share costs.


@pytest.mark.parametrize(("program", "strategy"), PAIRS, ids=name)
def test_every_element_of_every_result_has_its_gradient(program, strategy):
    """Each alone is an objective of one result; all together they are their Jacobian."""
    leaves = lambda strategy: lambda p: jax.tree.leaves(program(flips(strategy), p))
    shapes = [jnp.shape(leaf) for leaf in jax.eval_shape(ppl.expect(leaves(reinforce())), KEY, 0.4)]
    weights = [1.0 + jnp.arange(float(np.prod(shape))).reshape(shape) for shape in shapes]
    together = lambda key, p: sum(
        (w * leaf).sum() for w, leaf in zip(weights, ppl.expect(leaves(STRATEGIES[strategy]))(key, p), strict=True)
    )
    weighed = lambda p: sum((w * leaf).sum() for w, leaf in zip(weights, leaves(STRATEGIES["mvd"])(p), strict=True))
    truth = ppl.exact_gradient(weighed)(0.4)
    runs = jax.jit(jax.vmap(jax.value_and_grad(together, argnums=1), (0, None)))(jax.random.split(KEY, 40_000), 0.4)
    for drawn, wanted in zip(runs, (truth.value, truth.gradient), strict=True):
        error = float(drawn.std()) / 200
        assert abs(float(drawn.mean()) - wanted) < 4.5 * error + 1e-9


def test_lanes_that_meet_along_one_axis_are_compared_along_the_other():
    program = lambda strategy: lambda p: ((flips(strategy)(jnp.full((3, 2), p)).sum(1) + 10.0) ** 2).sum()
    plain, others = (ppl.exact_gradient(program(reinforce(b)))(0.3) for b in (None, leave_one_out_lanes()))
    np.testing.assert_allclose(others.gradient, plain.gradient, rtol=1e-10)
    assert others.variance < plain.variance / 10
    across = lambda p: flips(reinforce(leave_one_out_lanes()))(jnp.full((3, 2), p)).sum() ** 2
    with pytest.raises(ppl.StrategyError, match="depends on several"):
        ppl.grad(across)(KEY, 0.3)


def test_steps_may_share_costs_of_lanes():
    step = lambda flip, p: lambda c, _: ((c + flip(0.1 + 0.3 * p + 0.2 * c)) * 0.7, None)
    lane = lambda flip: lambda p: (lax.scan(step(flip, p), 0.0, None, length=3)[0] + 10) ** 2
    lanes = lambda strategy: lambda p: jax.vmap(lane(flips(strategy)))(jnp.full(2, p)).sum()
    plain, others = (ppl.exact_gradient(lanes(reinforce(b)))(0.3) for b in (None, leave_one_out_lanes()))
    np.testing.assert_allclose(others.gradient, plain.gradient, rtol=1e-10)
    assert others.variance < plain.variance / 10


def test_steps_that_mix_lanes_are_no_baseline():
    step = lambda c, _: (flips(reinforce(leave_one_out_lanes()))(0.2 + 0.2 * c.sum() * jnp.ones(2)), None)
    mixing = lambda p: (lax.scan(step, p * jnp.ones(2), None, length=2)[0] ** 2).sum()
    with pytest.raises(ppl.StrategyError, match="depends on several"):
        ppl.grad(mixing)(KEY, 0.3)
