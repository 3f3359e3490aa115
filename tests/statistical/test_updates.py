"""Natural gradients and coordinate ascent: one step where the model is conjugate, closed forms elsewhere."""

import itertools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.special

import estimators as es
import ppl
from ppl import enum
from tests.statistical.objective_cases import OBSERVED, gaussian, two_point

pytestmark = pytest.mark.x64


def close(actual, expected, digits=10):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.51 * 10.0**-digits)


# --- The Fisher information --------------------------------------------------------------------------------------


def informed(family, *params):
    guide = ppl.gen(lambda params, observed: family(*params) @ "z")
    return es.fisher_information(guide)(jnp.array(params), {})


def test_information_of_families():
    close(informed(ppl.normal, 0.3, 0.8), np.diag([1 / 0.64, 2 / 0.64]))
    trigamma = scipy.special.polygamma(1, 2.5)
    close(informed(ppl.gamma, 2.5, 1.3), [[trigamma, -1 / 1.3], [-1 / 1.3, 2.5 / 1.69]])
    tri = lambda x: scipy.special.polygamma(1, x)
    close(informed(ppl.beta, 2.0, 3.0), [[tri(2) - tri(5), -tri(5)], [-tri(5), tri(3) - tri(5)]])
    close(informed(ppl.bernoulli, 0.3), [[1 / 0.21]])
    logits = jnp.array([0.1, -0.4, 0.7])
    guide = ppl.gen(lambda params, observed: ppl.categorical(logits=params, grad=enum()) @ "z")
    probs = jax.nn.softmax(logits)
    close(es.fisher_information(guide)(logits, {}), jnp.diag(probs) - jnp.outer(probs, probs))


def test_information_is_the_covariance_of_the_score():
    """A guide of several choices with shared parameters, by its definition: a sum over its values."""

    @ppl.gen
    def guide(params, observed):
        ppl.bernoulli(logits=params["a"] * jnp.array([1.0, 2.0])) @ "x"
        ppl.categorical(logits=jnp.array([0.0, params["b"], params["a"]])) @ "y"

    params = {"a": 0.4, "b": -0.3}
    total = np.zeros((2, 2))
    for x0, x1, y in itertools.product((0, 1), (0, 1), (0, 1, 2)):
        choices = {"x": jnp.array([x0, x1]), "y": y}
        log_prob, score = jax.value_and_grad(lambda p, c=choices: guide.log_density(c, p, {}))(params)
        vector = np.array([score["a"], score["b"]])
        total += math.exp(log_prob) * np.outer(vector, vector)
    close(es.fisher_information(guide)(params, {}), total)


@pytest.mark.parametrize(
    "body",
    [
        lambda params: ppl.normal(ppl.normal(params, 1.0) @ "u", 1.0) @ "z",
        lambda params: jax.lax.scan(lambda c, _: (c, ppl.normal(params, 1.0) @ "z"), 0.0, None, 2),
        lambda params: ppl.student_t(3.0, params, 1.0) @ "z",
    ],
    ids=["dependent", "in a scan", "no closed form"],
)
def test_what_has_no_information_is_refused(body):
    guide = ppl.gen(lambda params, observed: body(params))
    with pytest.raises(ppl.StrategyError, match=r"not known in closed form"):
        es.fisher_information(guide)(0.5, {})


# --- Natural gradients -------------------------------------------------------------------------------------------


@ppl.gen
def in_natural_parameters(eta, observed):
    """N with eta = (loc / var, -1 / (2 var))."""
    ppl.normal(-eta[0] / (2 * eta[1]), jnp.sqrt(-0.5 / eta[1])) @ "z"


def gaussian_elbo(eta):
    """Return the ELBO of GC in closed form."""
    loc, var = -eta[0] / (2 * eta[1]), -0.5 / eta[1]
    log_joint = -math.log(2 * math.pi) - (loc**2 + var) / 2 - ((2 - loc) ** 2 + var) / 2
    return log_joint + 0.5 * jnp.log(2 * math.pi * math.e * var)


def test_one_unit_step_reaches_the_posterior_of_gaussians():
    """The sheet: N(1, .5), from N(.5, .64), by the exact gradient."""
    eta = jnp.array([0.5 / 0.64, -0.5 / 0.64])
    close(gaussian_elbo(eta), -2.5320821, 7)
    transform = es.natural_gradient(in_natural_parameters, {"x": 2.0})
    step, _ = transform.update(jax.grad(gaussian_elbo)(eta), transform.init(eta), eta)
    loc, var = -(eta + step)[0] / (2 * (eta + step)[1]), -0.5 / (eta + step)[1]
    close([loc, var], [1.0, 0.5])


def test_one_unit_step_of_an_estimated_gradient_is_unbiased_where_it_is_linear():
    """The natural gradient is F^-1 times a mean of zero-noise in var, so 20,000 runs average to the posterior."""
    eta = jnp.array([0.5 / 0.64, -0.5 / 0.64])
    transform = es.natural_gradient(in_natural_parameters, {"x": 2.0})
    objective = es.elbo(gaussian(ppl.pathwise)[0], in_natural_parameters)
    grad = jax.jit(jax.vmap(lambda key: ppl.grad(objective)(key, eta, {"x": 2.0})))
    draws = np.asarray(
        jax.vmap(lambda g: transform.update(g, optax.EmptyState(), eta)[0])(grad(jr.split(jr.key(1), 20_000)))
    )
    error = draws.std(0) / math.sqrt(len(draws))
    assert (np.abs(np.asarray(eta) + draws.mean(0) - [2.0, -1.0]) < 4.5 * error).all()


def test_one_unit_step_reaches_the_posterior_of_two_points():
    """In logits, with an enumerated guide: log(24 / 7) exactly, through a training run of one step."""

    @ppl.gen
    def guide(logit, observed):
        ppl.bernoulli(logits=logit, grad=enum()) @ "z"

    model = two_point(enum)[0]
    objective = lambda logit: es.elbo(model, guide)(logit, OBSERVED)
    optimizer = optax.chain(es.natural_gradient(guide, OBSERVED), optax.sgd(1.0))
    result = ppl.maximize(objective, jnp.array(0.3), None, optimizer, steps=1, key=jr.key(2))
    close(result.params, math.log(24 / 7), 8)


def test_damping():
    guide = ppl.gen(lambda params, observed: ppl.normal(params[0] + params[1], 0.5) @ "z")  # one direction is idle
    update = lambda damping: es.natural_gradient(guide, {}, damping=damping).update(
        jnp.ones(2), optax.EmptyState(), jnp.zeros(2)
    )
    close(update(0.1)[0], np.linalg.solve(4 * np.ones((2, 2)) + 0.1 * np.eye(2), np.ones(2)))


def test_natural_gradient_refuses():
    with pytest.raises(ppl.PPLError, match="`damping`"):
        es.natural_gradient(in_natural_parameters, {}, damping=-1.0)
    with pytest.raises(ppl.PPLError, match="needs the parameters"):
        es.natural_gradient(in_natural_parameters, {}).update(jnp.ones(2), optax.EmptyState())


# --- Coordinate ascent -------------------------------------------------------------------------------------------


def is_monotone(found):
    return (np.diff(found.elbo) >= -1e-10).all()


def test_cavi_of_a_correlated_gaussian():
    """The sheet: precision [[2, 1], [1, 2]], mean-field variances .5 (true .6667). The gap is log(4 / 3) / 2."""

    @ppl.gen
    def model(params):
        a = ppl.normal(1.0, math.sqrt(2 / 3)) @ "a"
        ppl.normal(-(a - 1) / 2 + 3, math.sqrt(0.5)) @ "b"

    found = es.cavi(model, None, {})
    close([found.variances["a"], found.variances["b"]], [0.5, 0.5])
    close([found.means["a"], found.means["b"]], [1.0, 3.0], 3)
    assert found.converged
    assert is_monotone(found)
    assert len(found.elbo) > 4
    close(found.elbo[-1], -math.log(4 / 3) / 2, 6)
    tight = es.cavi(model, None, {}, tolerance=0.0, sweeps=60)
    close([tight.means["a"], tight.means["b"]], [1.0, 3.0], 7)  # the bound, flat there, no longer rises


def test_cavi_of_one_factor_is_the_posterior():
    found = es.cavi(gaussian(ppl.pathwise)[0], jnp.array([0.5, 0.8]), {"x": 2.0})
    close([found.means["z"], found.variances["z"]], [1.0, 0.5])
    close(found.elbo[-1], -2.2655121, 7)
    found = es.cavi(two_point(enum)[0], 0.5, OBSERVED)
    close(found.probabilities["z"], [7 / 31, 24 / 31])
    close(found.elbo[-1], math.log(0.31))


@ppl.gen
def ising(params):
    spins = ppl.bernoulli(jnp.array([0.6, 0.5, 0.3])) @ "spins"
    signs = 2.0 * spins - 1
    ppl.factor(0.8 * signs[0] * signs[1] - 0.5 * signs[1] * signs[2]) @ "couplings"


def test_cavi_of_an_ising_chain():
    """At the optimum every factor is its own update: by sums over the 8 states."""
    found = es.cavi(ising, None, {}, tolerance=1e-14)
    probs = np.asarray(found.probabilities["spins"])[:, 1]
    states = list(itertools.product((0, 1), repeat=3))
    log_p = {state: float(ising.log_density({"spins": jnp.array(state)}, None)) for state in states}
    weight = lambda state, left: math.prod(probs[i] if state[i] else 1 - probs[i] for i in range(3) if i != left)
    for i in range(3):
        means = [sum(weight(s, i) * log_p[s] for s in states if s[i] == value) for value in (0, 1)]
        close(probs[i], scipy.special.expit(means[1] - means[0]), 6)
    assert is_monotone(found)
    log_z = scipy.special.logsumexp(list(log_p.values()))
    assert log_z - 0.3 < float(found.elbo[-1]) < log_z


@ppl.gen
def mixture(data):
    centres = ppl.normal(jnp.zeros(2), 3.0) @ "centres"
    label = ppl.categorical(probs=jnp.array([0.5, 0.5]) * jnp.ones((len(data), 1))) @ "label"
    ppl.normal(centres[label], 0.5) @ "x"


def test_cavi_of_a_mixture():
    """Finite and real factors together, against the textbook's updates (Blei et al. 2017, eq. 26, 34)."""
    data = jnp.array([-2.1, -1.8, -2.4, 1.5, 1.9])
    found = es.cavi(mixture, data, {"x": data}, start={"centres": jnp.array([-1.0, 1.0])}, tolerance=1e-14)
    means, variances, shares = found.means["centres"], found.variances["centres"], found.probabilities["label"]
    precision = 1 / 9 + shares.sum(0) / 0.25
    close(variances, 1 / precision, 6)
    close(means, (shares.T @ data / 0.25) / precision, 6)
    logits = (data[:, None] * means - (means**2 + variances) / 2) / 0.25
    close(shares, jax.nn.softmax(logits, axis=1), 6)
    assert is_monotone(found)
    assert float(means[0]) < -1.9
    assert float(means[1]) > 1.6


def test_cavi_is_above_every_other_mean_field():
    """No independent normals do better: a grid around the optimum of a regression."""
    xs = jnp.array([[1.0, 0.5], [0.3, -1.0], [2.0, 1.5]])
    ys = jnp.array([1.0, -0.4, 2.2])

    @ppl.gen
    def model(params):
        weights = ppl.normal(jnp.zeros(2), 1.0) @ "weights"
        ppl.normal(xs @ weights, 0.7) @ "y"

    found = es.cavi(model, None, {"y": ys}, tolerance=1e-14)
    precision = jnp.eye(2) + xs.T @ xs / 0.49
    close(found.means["weights"], jnp.linalg.solve(precision, xs.T @ ys / 0.49), 5)
    close(found.variances["weights"], 1 / jnp.diag(precision))
    guide = ppl.gen(lambda params, observed: ppl.normal(params[0], params[1]) @ "weights")
    params = jnp.stack([found.means["weights"], jnp.sqrt(found.variances["weights"])])
    grad = jax.jit(jax.vmap(lambda key: ppl.grad(es.elbo(model, guide))(key, params, {"y": ys})))
    draws = np.asarray(grad(jr.split(jr.key(3), 40_000)))
    assert (np.abs(draws.mean(0)) < 4.5 * draws.std(0) / 200).all()


def test_cavi_refuses():
    with pytest.raises(ppl.PPLError, match="neither finite nor real"):
        es.cavi(ppl.gen(lambda params: ppl.gamma(1.0, 1.0) @ "z"), None, {})
    with pytest.raises(ppl.PPLError, match="not quadratic"):
        es.cavi(ppl.gen(lambda params: ppl.student_t(3.0, 0.0, 1.0) @ "z"), None, {})
    with pytest.raises(ppl.PPLError, match="no unobserved choice"):
        es.cavi(two_point(enum)[0], 0.5, OBSERVED, start={"zz": 0.0})
