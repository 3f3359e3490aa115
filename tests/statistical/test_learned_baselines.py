"""Learned baselines: nothing but their own parameters changes in the mean, and these get the regression gradient.

Both are checked by enumeration. A law of a program returns its cost and, for each element of a choice with a baseline,
the cost charged to it and the baseline's value.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax import lax

import ppl
from estimators import constant, elbo, learned, reinforce
from ppl import bernoulli, gen, normal
from tests.statistics import assert_unbiased, enumerate_law

pytestmark = pytest.mark.x64

KEY = jr.key(0)
THETA, PHI = np.array([0.3, 0.6]), np.array([0.7, -1.3, 0.4])
W = jnp.array([0.5, 1.0, 2.0])


def net(phi, x=0.0):
    """A baseline that is not linear in its parameters."""
    return phi[0] + phi[1] * x + phi[2] ** 2 * x**2


def coin(p, phi, *inputs):
    return bernoulli(p, grad=reinforce(learned(net, phi, *inputs))).sample().astype(float)


@dataclasses.dataclass(frozen=True)
class Case:
    """A program of theta and phi, and a law that returns its cost and the pairs of charged cost and baseline."""

    program: Callable
    law: Callable


def plain(theta, phi):
    return (coin(theta[0], phi) + theta[1]) ** 2


def plain_law(draw, theta, phi):
    cost = (draw.coin(theta[0]) + theta[1]) ** 2
    return cost, [(cost, net(phi))]


def earlier(theta, phi):
    x = coin(theta[0], phi)
    y = coin(0.2 + 0.5 * theta[1], phi, x)
    return (x + theta[0]) ** 2 + x * y * theta[1]


def earlier_law(draw, theta, phi):
    x, y = draw.coin(theta[0]), draw.coin(0.2 + 0.5 * theta[1])
    first, second = (x + theta[0]) ** 2, x * y * theta[1]
    return first + second, [(first + second, net(phi)), (second, net(phi, x))]


def lanes(theta, phi):
    return jnp.sum(jax.vmap(lambda w: (coin(theta[0] * w / 2, phi, w) + theta[1]) ** 2 * w)(W))


def lanes_law(draw, theta, phi):
    costs = [(draw.coin(theta[0] * w / 2) + theta[1]) ** 2 * w for w in np.asarray(W)]
    return sum(costs), [(cost, net(phi, w)) for cost, w in zip(costs, np.asarray(W), strict=True)]


def shared_lanes(theta, phi):
    return jnp.sum(jax.vmap(lambda w: coin(theta[0] * w / 2, phi, w))(W) + theta[1]) ** 2


def shared_lanes_law(draw, theta, phi):
    cost = sum(draw.coin(theta[0] * w / 2) + theta[1] for w in np.asarray(W)) ** 2
    return cost, [(cost, net(phi, w)) for w in np.asarray(W)]


def batch(theta, phi):
    return jnp.sum((coin(theta[0] * W / 2, phi, W) + theta[1]) ** 2 * W)


def walk(theta, phi):
    def step(total, w):
        total = total + w * coin(theta[0], phi, total)
        return total, total**2 * theta[1]

    return lax.scan(step, 0.0, W)[1].sum()


def walk_law(draw, theta, phi):
    total, costs, values = 0.0, [], []
    for w in np.asarray(W):
        values.append(net(phi, total))
        total = total + w * draw.coin(theta[0])
        costs.append(total**2 * theta[1])
    return sum(costs), [(sum(costs[t:]), values[t]) for t in range(3)]


def lanes_of_scans(theta, phi):
    one = lambda w: lax.scan(lambda c, v: (c + coin(theta[0] * w / 2, phi, v) * v, None), w, W[:2])[0] ** 2
    return jax.vmap(one)(W[:2]).sum() * theta[1]


def lanes_of_scans_law(draw, theta, phi):
    pairs = []
    for w in np.asarray(W[:2]):
        cost = (w + sum(draw.coin(theta[0] * w / 2) * v for v in np.asarray(W[:2]))) ** 2 * theta[1]
        pairs += [(cost, net(phi, v)) for v in np.asarray(W[:2])]
    return sum(cost for cost, _ in pairs[::2]), pairs


def nested(theta, phi):
    inner = gen(lambda u, v: (bernoulli(u, grad=reinforce(learned(net, phi, v))) @ "x").astype(float))
    x = inner(theta[0], 1.0) @ "a"
    return (x + (inner(theta[1], x) @ "b") * theta[0]) ** 2


def nested_law(draw, theta, phi):
    x, y = draw.coin(theta[0]), draw.coin(theta[1])
    cost = (x + y * theta[0]) ** 2
    return cost, [(cost, net(phi, 1.0)), (cost, net(phi, x))]


def checkpointed(theta, phi):
    return jax.checkpoint(lambda u: (coin(u, phi, 2.0) + u) ** 2)(theta[0]) * theta[1]


def checkpointed_law(draw, theta, phi):
    cost = (draw.coin(theta[0]) + theta[0]) ** 2 * theta[1]
    return cost, [(cost, net(phi, 2.0))]


def branch(theta, phi):
    x = coin(theta[0], phi)
    return lax.cond(x == 1, lambda: coin(theta[1], phi, 2.0) * theta[0] + 1, lambda: theta[1]) ** 2


def branch_law(draw, theta, phi):
    if not draw.coin(theta[0]):
        return theta[1] ** 2, [(theta[1] ** 2, net(phi))]
    cost = (draw.coin(theta[1]) * theta[0] + 1) ** 2
    return cost, [(cost, net(phi)), (cost, net(phi, 2.0))]


def masked(theta, phi):
    def lane(w):
        value = lax.cond(w > 0.7, lambda: coin(theta[0] * w / 2, phi, w), lambda: 0.5)
        return (value + theta[1]) ** 2

    return jax.vmap(lane)(W).sum()


def masked_law(draw, theta, phi):
    total, pairs = 0.0, []
    for w in np.asarray(W):
        cost = ((draw.coin(theta[0] * w / 2) if w > 0.7 else 0.5) + theta[1]) ** 2
        total, pairs = total + cost, pairs + [(cost, net(phi, w))] * int(w > 0.7)
    return total, pairs


def by_with_grad(theta, phi):
    body = lambda theta: lanes_alone(theta)
    return ppl.with_grad(body, {"*": reinforce(learned(lambda phi: net(phi, W), phi))})(theta)


def lanes_alone(theta):
    return jnp.sum(jax.vmap(lambda w: (bernoulli(theta[0] * w / 2).sample() + theta[1]) ** 2 * w)(W))


def noisy_input(theta, phi):
    """The input draws noise of its own: it cannot know the choice."""
    z = bernoulli(0.4, grad=reinforce()).sample().astype(float)
    return (coin(theta[0], phi, z) + theta[1]) ** 2


def noisy_input_law(draw, theta, phi):
    z, cost = draw.coin(0.4), (draw.coin(theta[0]) + theta[1]) ** 2
    return cost, [(cost, net(phi, z))]


CASES = {
    "plain": Case(plain, plain_law),
    "jit": Case(lambda *args: jax.jit(plain)(*args), plain_law),
    "earlier choices": Case(earlier, earlier_law),
    "lanes": Case(lanes, lanes_law),
    "lanes that share costs": Case(shared_lanes, shared_lanes_law),
    "batch": Case(batch, lanes_law),
    "scan": Case(walk, walk_law),
    "scan in lanes": Case(lanes_of_scans, lanes_of_scans_law),
    "nested": Case(nested, nested_law),
    "checkpoint": Case(checkpointed, checkpointed_law),
    "branch": Case(branch, branch_law),
    "masked lanes": Case(masked, masked_law),
    "with_grad": Case(by_with_grad, lanes_law),
    "an input with noise": Case(noisy_input, noisy_input_law),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("phi", [PHI, np.zeros(3)], ids=["trained", "zero"])
def test_exact_mean_and_regression_gradient(name, phi):
    case = CASES[name]
    exact = ppl.exact_gradient(case.program, argnums=(0, 1))(jnp.asarray(THETA), jnp.asarray(phi))
    value, gradient = enumerate_law(lambda draw, theta: case.law(draw, theta, PHI)[0], THETA)
    np.testing.assert_allclose(exact.value, value, rtol=1e-10)
    np.testing.assert_allclose(exact.gradient[0], gradient, rtol=1e-10)
    squares = lambda draw, phi: sum(-((cost - b) ** 2) / 2 for cost, b in case.law(draw, THETA, phi)[1])
    np.testing.assert_allclose(exact.gradient[1], enumerate_law(squares, phi)[1], rtol=1e-10, atol=1e-12)
    run = ppl.value_and_grad(case.program, argnums=(0, 1))
    eager, jitted = run(KEY, jnp.asarray(THETA), phi), jax.jit(run)(KEY, jnp.asarray(THETA), phi)
    for one, other in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


def test_the_baseline_is_no_reason_to_be_charged():
    """A choice whose baseline looks at an earlier one does not depend on it: the earlier one pays its own cost."""

    def program(theta, phi):
        x = bernoulli(theta[0], grad=reinforce()).sample().astype(float)
        return (x + 1) ** 2 + (coin(theta[1], phi, x) + 1) ** 2

    phi = jnp.zeros(3)  # Nothing is subtracted.
    apart = lambda theta: sum((bernoulli(theta[i], grad=reinforce()).sample() + 1.0) ** 2 for i in range(2))
    variance = ppl.exact_gradient(program)(jnp.asarray(THETA), phi).variance
    np.testing.assert_allclose(variance, ppl.exact_gradient(apart)(jnp.asarray(THETA)).variance, rtol=1e-10)


def test_what_the_function_closes_over_is_detached():
    program = lambda theta, phi: (
        (bernoulli(theta[0], grad=reinforce(learned(lambda phi: net(phi) * theta[1], phi))).sample() + theta[1]) ** 2
    )
    other = lambda theta: (bernoulli(theta[0], grad=reinforce()).sample() + theta[1]) ** 2
    exact = ppl.exact_gradient(program)(jnp.asarray(THETA), jnp.asarray(PHI))
    np.testing.assert_allclose(exact.gradient, ppl.exact_gradient(other)(jnp.asarray(THETA)).gradient, rtol=1e-10)


def test_second_derivatives():
    """The Hessian in theta is that of the mean, whatever the baseline is; mixed ones with phi are 0."""
    program = lambda both: earlier(both[:2], both[2:])
    expected = ppl.exact_gradient(lambda theta: earlier(theta, PHI))

    def means(theta):
        x, y = theta[0], 0.2 + 0.5 * theta[1]
        return x * (1 + theta[0]) ** 2 + (1 - x) * theta[0] ** 2 + x * y * theta[1]

    theta = jnp.asarray(THETA)
    np.testing.assert_allclose(expected(theta).gradient, jax.grad(means)(theta), rtol=1e-10)
    both = jnp.concatenate([theta, jnp.asarray(PHI)])
    estimate = lambda key: (means(theta), ppl.hessian(program)(key, both)[:2, :2])
    assert_unbiased(lambda key: estimate(key)[1], jax.hessian(means)(theta), KEY)
    np.testing.assert_allclose(ppl.hessian(program)(KEY, both)[:2, 2:], 0, atol=1e-12)


def test_training_it_reduces_the_variance():
    @gen
    def model(params):
        z = bernoulli(jnp.full(4, 0.5)) @ "z"
        normal(3.0 * z, 0.5) @ "x"

    @gen
    def guide(params, observed):
        baseline = learned(lambda level, x: level * (1 + x), params["level"], observed["x"])
        bernoulli(logits=params["logits"], grad=reinforce(baseline)) @ "z"

    observed = {"x": jnp.array([0.1, 2.0, 3.1, 1.4])}
    objective = elbo(model, guide)
    params = {"logits": jnp.zeros(4), "level": jnp.zeros(4)}
    only = {"logits": False, "level": True}
    fit = lambda params: objective(params, observed)
    result = ppl.maximize(fit, params, None, optax.adam(0.02), steps=1500, key=KEY, trainable=only)
    before, after = (ppl.exact_gradient(fit)(p).variance["logits"] for p in (params, result.params))
    assert (after < before / 20).all(), (before, after)
    best = ppl.exact_gradient(fit)(result.params)
    plain = ppl.exact_gradient(lambda p: ppl.with_grad(objective, {"z": reinforce()})(p, observed))(params)
    np.testing.assert_allclose(best.gradient["logits"], plain.gradient["logits"], rtol=1e-10)


def test_reports_and_plain_runs():
    theta, phi = jnp.asarray(THETA), jnp.asarray(PHI)
    assert "learned(net)" in str(ppl.explain(earlier)(theta, phi))
    assert np.isfinite(ppl.seed(earlier)(KEY, theta, phi))
    with pytest.raises(ppl.StrategyError, match="no value"):
        ppl.exact_gradient(_swapped)(theta)


def _swapped(theta):
    """What a report would do that puts another strategy in a staged program."""
    from ppl import jaxprs
    from ppl.batching import Rebind
    from ppl.transforms.programs import stage_program

    staged = stage_program(lambda theta: bernoulli(theta[0], grad=reinforce()).sample() * 1.0, (theta,)).staged
    body = jaxprs.with_params(staged.body, {(2,): {}})
    (at,) = [i for i, eqn in enumerate(body.eqns) if eqn.primitive.name == "choice"]
    body = jaxprs.with_params(body, {(at,): {"strategy": reinforce(learned(net, PHI))}})
    return staged.results(Rebind(()).run(body, [theta]))


def test_other_strategies_in_its_place():
    theta, phi = jnp.asarray(THETA), jnp.asarray(PHI)
    for other in (reinforce(), reinforce(constant(0.3)), ppl.enum()):
        swapped = lambda theta, other=other: ppl.with_grad(lambda t: earlier(t, phi), {"*": other})(theta)
        value, gradient = enumerate_law(lambda draw, theta: earlier_law(draw, theta, PHI)[0], THETA)
        exact = ppl.exact_gradient(swapped)(theta)
        np.testing.assert_allclose((exact.value, *exact.gradient), (value, *gradient), rtol=1e-10)


def test_a_wrong_shape_is_refused():
    with pytest.raises(ppl.StrategyError, match="wrong shape"):
        ppl.grad(lambda p: bernoulli(p, grad=reinforce(learned(lambda b: b, W))).sample() * 1.0)(KEY, 0.3)
