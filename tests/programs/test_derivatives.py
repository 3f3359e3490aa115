"""Derivatives of every order and of structured values, batches of choices, and objectives, beside closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.stats import norm

import ppl
from estimators import elbo, iwelbo
from ppl import (
    StrategyError,
    bernoulli,
    beta,
    categorical,
    check,
    enum,
    expect,
    gamma,
    gen,
    normal,
    reinforce,
    score_prior,
    with_grad,
)
from tests.programs.replay import KEY, assert_mean, close, hermite

pytestmark = pytest.mark.x64
SLOW = pytest.mark.slow


# --- Structured arguments and results --------------------------------------------------------------------------------


def structured(p):
    a = bernoulli(p["a"], grad=reinforce) @ "a"
    k = categorical(probs=p["k"], grad=enum) @ "k"
    return {"x": a * p["a"], "y": (k * a * 1.0, p["k"] * k)}


STRUCTURED = {"a": jnp.array(0.3), "k": jnp.array([0.2, 0.5, 0.3])}


def test_jacobians_of_a_structured_value():
    """With a = 0.3 and E k = 1.1; probabilities sum to one, so only derivatives along their simplex have a meaning."""
    along = lambda leaf: leaf - leaf.mean(-1, keepdims=True)

    def jacobian(key):
        found = jax.jacrev(expect(structured), argnums=1)(key, STRUCTURED)
        return jax.tree.map(lambda leaf: along(leaf) if jnp.shape(leaf)[-1:] == (3,) else leaf, found)

    found = lambda key: (lambda j: (j["x"]["a"], j["y"][0], j["y"][1]["k"]))(jacobian(key))
    normalised = np.arange(3) - 1.1
    outer = 1.1 * np.eye(3) + np.outer(STRUCTURED["k"], normalised)
    assert_mean(found, (0.6, {"a": 1.1, "k": along(0.3 * normalised)}, along(outer)))


def test_forward_and_reverse_jacobians_agree():
    forward, reverse = (
        jax.jit(jac(expect(structured), argnums=1))(KEY, STRUCTURED) for jac in (jax.jacfwd, jax.jacrev)
    )
    jax.tree.map(close, forward, reverse)


def test_gradients_have_the_dtypes_of_their_parameters():
    params = {"a": jnp.float32(0.3), "b": jnp.array(0.2, jnp.float64), "n": 3, "c": jnp.array(1)}

    def cost(p):
        coin = bernoulli(jax.nn.sigmoid(p["a"]), grad=reinforce).sample()
        return p["a"] * normal(p["b"], p["n"] * 1.0).sample() * p["c"] + coin * p["b"]

    gradient = eqx.filter_jit(ppl.grad(cost))(KEY, params)
    assert jax.tree.map(lambda leaf: leaf.dtype.name, gradient) == {
        "a": "float32",
        "b": "float64",
        "c": None,
        "n": None,
    }


# --- Higher derivatives ----------------------------------------------------------------------------------------------


def three_strategies(p):
    k = categorical(logits=jnp.stack([p[0], p[1], 0.0]), grad=enum) @ "k"
    x = normal(p[0] * k, jnp.exp(p[1])) @ "x"

    def step(c, t):
        b = bernoulli(jax.nn.sigmoid(p[1] * t + p[0] * k), grad=reinforce) @ "b"
        return c + b * x, b * c

    c, ys = lax.scan(step, x, jnp.arange(2.0))
    return c * c + jnp.sum(ys) * p[0]


def three_strategies_law(p):
    """All coins, and a Gauss rule that is exact for squares."""
    nodes, weights = hermite(8)
    total = 0.0
    for k, prob in enumerate(jax.nn.softmax(jnp.stack([p[0], p[1], 0.0]))):
        x = p[0] * k + jnp.exp(p[1]) * nodes
        up = jax.nn.sigmoid(p[0] * k), jax.nn.sigmoid(p[1] + p[0] * k)
        for first in (0, 1):
            for second in (0, 1):
                mass = prob * (up[0] if first else 1 - up[0]) * (up[1] if second else 1 - up[1])
                middle = x + first * x
                last = middle + second * x
                total = total + mass * jnp.sum(weights * (last**2 + (first * x + second * middle) * p[0]))
    return total


THETA = jnp.array([0.3, -0.2])


def third(f):
    return lambda p: jax.grad(lambda q: jax.grad(lambda r: jax.grad(f)(r)[0])(q)[1])(p)


ORDERS = [
    pytest.param(jax.value_and_grad, 20_000, id="value and gradient"),
    pytest.param(jax.hessian, 60_000, id="hessian", marks=SLOW),
    pytest.param(lambda f: jax.jacfwd(jax.jacfwd(f)), 60_000, id="hessian forward over forward", marks=SLOW),
    pytest.param(third, 60_000, id="third", marks=SLOW),
    pytest.param(
        lambda f: lambda p: jax.vmap(jax.grad(f))(jnp.stack([p, 2 * p])), 20_000, id="gradients in lanes", marks=SLOW
    ),
]


@pytest.mark.parametrize(("derive", "num"), ORDERS)
def test_three_strategies_together_at_every_order(derive, num):
    truth = derive(three_strategies_law)(THETA)
    assert_mean(lambda key: derive(lambda p: expect(three_strategies)(key, p))(THETA), truth, num)


@pytest.mark.slow
def test_a_jvp_is_the_gradient_along_the_tangent():
    along = jnp.array([1.0, 2.0])
    _, tangent = jax.jit(lambda: ppl.jvp(three_strategies)(KEY, (THETA,), (along,)))()
    close(tangent, jax.jit(ppl.grad(three_strategies))(KEY, THETA) @ along, 1e-10)


# --- Batches of enumerated choices -----------------------------------------------------------------------------------

LANES = jnp.arange(8.0)
SEPARABLE = {  # cost of 8 coins, and of a lane without and with heads
    "products": (lambda b, p: jnp.sum(b * LANES), lambda p: (0 * LANES, LANES)),
    "dot": (lambda b, p: jnp.dot(b * 1.0, LANES * p), lambda p: (0 * LANES, LANES * p)),
    "mean and constant": (lambda b, p: jnp.mean(b * p) + 3, lambda p: (0.375 + 0 * LANES, 0.375 + p / 8 + 0 * LANES)),
    "select": (lambda b, p: jnp.sum(jnp.where(b == 1, p, p**2)), lambda p: (p**2 + 0 * LANES, p + 0 * LANES)),
    "sum of two": (
        lambda b, p: jnp.sum(b * LANES) + jnp.sum(jnp.where(b == 1, p, p**2)),
        lambda p: (p**2 + 0 * LANES, LANES + p),
    ),
    "table": (lambda b, p: jnp.sum(jnp.stack([p, p**2])[b]), lambda p: (p + 0 * LANES, p**2 + 0 * LANES)),
}


@pytest.mark.parametrize("cost", SEPARABLE)
def test_a_batch_of_enumerated_choices_with_separable_costs_is_exact(cost):
    program, lanes = SEPARABLE[cost]
    coins = lambda p: bernoulli(jax.nn.sigmoid(p * jnp.ones(8)), grad=enum) @ "b"

    def truth(p):
        tails, heads = lanes(p)
        return jnp.sum(jax.nn.sigmoid(p) * heads + (1 - jax.nn.sigmoid(p)) * tails)

    f = expect(lambda p: program(coins(p), p))
    every_order = lambda f: jax.jit(lambda p: (f(p), jax.grad(f)(p), jax.grad(jax.grad(f))(p)))(0.3)
    close(every_order(lambda p: f(KEY, p)), every_order(truth), 1e-9)


@pytest.mark.parametrize(
    "branch", [jnp.where, lambda b, x, y: lax.cond(b, lambda: x, lambda: y)], ids=["where", "cond"]
)
def test_lanes_of_enumerated_choices_that_branch_are_exact(branch):
    lane = lambda p: lambda _: branch((bernoulli(p, grad=enum) @ "b") == 1, p, p**2)
    value, gradient = ppl.value_and_grad(lambda p: jnp.sum(jax.vmap(lane(p))(LANES)))(KEY, 0.3)
    close(value, 8 * (0.3**2 + 0.7 * 0.3**2), 1e-9)  # of p * p + (1 - p) * p**2
    close(gradient, 8 * (4 * 0.3 - 3 * 0.3**2), 1e-9)


@pytest.mark.parametrize("form", ["batch", "vmap"])
def test_many_lanes_of_an_enumerated_choice_cost_no_more_than_their_sum(form):
    lane = lambda p: bernoulli(p, grad=enum).sample() * 2.0
    total = lambda theta: jnp.sum(lane(theta) if form == "batch" else jax.vmap(lane)(theta))
    close(ppl.grad(total)(KEY, jnp.full(20, 0.4)), np.full(20, 2.0))


# --- Implicit derivatives of samplers --------------------------------------------------------------------------------

IMPLICIT = [  # program of p, and its mean
    pytest.param(lambda p: (gamma(p, 1.0) @ "g") ** 2, lambda p: p * (p + 1), id="gamma squared", marks=SLOW),
    pytest.param(lambda p: jnp.exp(-(gamma(p, 1.0) @ "g")), lambda p: 2.0**-p, id="gamma transform", marks=SLOW),
    pytest.param(lambda p: beta(p, 2.0) @ "g", lambda p: p / (p + 2), id="beta", marks=SLOW),
]


@pytest.mark.parametrize(("program", "mean"), IMPLICIT)
def test_second_derivatives_of_samplers_are_unbiased_or_refused(program, mean):
    second = ppl.hessian(program)
    try:
        jax.eval_shape(lambda: second(KEY, 2.0))
    except StrategyError:
        return
    assert_mean(lambda key: second(key, 2.0), jax.grad(jax.grad(mean))(2.0), 40_000)


# --- Objectives ------------------------------------------------------------------------------------------------------


@gen
def chain(p):
    z = normal(p, 1.0) @ "z"
    normal(z, 1.0) @ "x"


@gen
def proposal(p, observed):
    normal(p * observed["x"], 1.5) @ "z"


def iwelbo_law(p, x=0.7):
    """Of two particles, by a product of Gauss rules."""
    nodes, weights = hermite(60)
    z = p * x + 1.5 * nodes
    log_weight = norm.logpdf(z, p, 1) + norm.logpdf(x, z, 1) - norm.logpdf(z, p * x, 1.5)
    return weights @ (jnp.logaddexp(log_weight[:, None], log_weight) - jnp.log(2)) @ weights


SCORED = with_grad(proposal, {"z": reinforce})
TWO_PARTICLES = {
    "pathwise": iwelbo(chain, proposal, 2),
    "reinforce": iwelbo(chain, SCORED, 2),
    "reinforce from outside": with_grad(iwelbo(chain, proposal, 2), {"z": reinforce}),
}


@pytest.mark.parametrize(
    "objective", [pytest.param("pathwise", marks=SLOW), "reinforce", pytest.param("reinforce from outside", marks=SLOW)]
)
def test_two_particles_by_quadrature(objective):
    truth = jax.value_and_grad(iwelbo_law)(0.4)
    estimate = ppl.value_and_grad(TWO_PARTICLES[objective])
    assert_mean(lambda key: estimate(key, 0.4, {"x": 0.7}), truth, 40_000)


@pytest.mark.parametrize("objective", [pytest.param("pathwise", marks=SLOW), "reinforce"])
def test_second_derivative_of_two_particles_by_quadrature(objective):
    hessian = ppl.hessian(TWO_PARTICLES[objective])
    assert_mean(lambda key: hessian(key, 0.4, {"x": 0.7}), jax.hessian(iwelbo_law)(0.4), 40_000)


@gen
def branching(p):
    b = bernoulli(0.3) @ "b"
    loc = lax.cond(b == 1, lambda: normal(p, 1.0) @ "z", lambda: -1.0 + 0 * p)
    normal(loc, 1.0) @ "y"


def branching_guide(strategy):
    @gen
    def guide(p, observed):
        b = bernoulli(jax.nn.sigmoid(p), grad=strategy) @ "b"
        lax.cond(b == 1, lambda: normal(p * observed["y"], 0.7) @ "z", lambda: 0.0 * p)

    return guide


def branching_law(p, y=0.8):
    q, (nodes, weights) = jax.nn.sigmoid(p), hermite(20)
    z = p * y + 0.7 * nodes
    heads = jnp.sum(weights * (norm.logpdf(z, p, 1) + norm.logpdf(y, z, 1) - norm.logpdf(z, p * y, 0.7)))
    return q * (jnp.log(0.3 / q) + heads) + (1 - q) * (jnp.log(0.7 / (1 - q)) + norm.logpdf(y, -1, 1))


@pytest.mark.parametrize("strategy", [enum, reinforce], ids=lambda strategy: strategy.__name__)
def test_elbo_of_a_model_and_a_guide_that_branch(strategy):
    estimate = ppl.value_and_grad(elbo(branching, branching_guide(strategy)))
    assert_mean(lambda key: estimate(key, 0.4, {"y": 0.8}), jax.value_and_grad(branching_law)(0.4))


def test_elbo_of_lanes_of_a_model_and_a_guide_that_branch():
    objective = elbo(branching, branching_guide(enum))
    batch = lambda p, ys: jnp.sum(jax.vmap(lambda y: objective(p, {"y": y}))(ys))
    truth = jax.value_and_grad(lambda p: branching_law(p, 0.8) + branching_law(p, -0.3))(0.4)
    assert_mean(lambda key: ppl.value_and_grad(batch)(key, 0.4, jnp.array([0.8, -0.3])), truth)


def test_check_of_guides_for_a_model_that_branches():
    assert check(branching, branching_guide(enum), (0.4, {"y": 0.8})).ok
    assert not check(branching, gen(lambda p, observed: bernoulli(0.5) @ "b"), (0.4, {"y": 0.8})).ok


def test_elbo_gradient_with_a_score_prior():
    """Of two standard normal latents seen as 0 with noise 1: the ELBO is -2 p**2 and a constant."""
    model = gen(lambda p: normal(score_prior(lambda x: -x, (2,)) @ "x", 1.0) @ "y")
    guide = gen(lambda p, observed: normal(p * jnp.ones(2), 0.5) @ "x")
    gradient = ppl.grad(elbo(model, guide))
    assert_mean(lambda key: gradient(key, 0.3, {"y": jnp.zeros(2)}), -4 * 0.3)
