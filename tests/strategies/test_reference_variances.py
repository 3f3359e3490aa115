"""The reference's variances (section 10): exactly over finite noise, or by quadrature over normal noise."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from estimators import elbo, leave_one_out, mvd, rao_blackwell, reinforce

pytestmark = pytest.mark.x64

model = ppl.gen(lambda theta: ppl.bernoulli(0.1 + 0.7 * (ppl.bernoulli(0.3) @ "z")) @ "x")


def two_point(strategy):
    guide = ppl.gen(lambda theta, observed: ppl.bernoulli(theta, grad=strategy) @ "z")
    return lambda theta: elbo(model, guide)(theta, {"x": 1})


@pytest.mark.parametrize(
    ("strategy", "variance"),
    [(ppl.enum(), 0.0), (reinforce(), 22.0907708), (mvd(), 4.0), (rao_blackwell(), 4.0)],
    ids=["enum", "reinforce", "mvd", "rao_blackwell"],
)
def test_two_point_model_with_the_score_term(strategy, variance):
    exact = ppl.exact_gradient(two_point(strategy))(0.5)
    np.testing.assert_allclose(exact.gradient, 1.2321437, atol=6e-8)
    np.testing.assert_allclose(exact.variance, variance, atol=1e-6)


def test_two_point_model_without_the_score_term():
    """Dropping the term -d log q(z), whose mean is 0: its law is that of log q with the parameter detached."""
    detached = ppl.gen(lambda theta, observed: ppl.bernoulli(theta, grad=reinforce()) @ "z")

    def program(theta):
        trace = ppl.simulate(detached)(theta, {})
        log_q = jnp.log(jnp.where(trace["z"] == 1, *jax.lax.stop_gradient((theta, 1 - theta))))
        return ppl.assess(model)({"z": trace["z"], "x": 1}, theta)[0] - log_q

    exact = ppl.exact_gradient(program)(0.5)
    np.testing.assert_allclose(exact.gradient, 1.2321437, atol=6e-8)
    np.testing.assert_allclose(exact.variance, 7.2904430, atol=1e-6)


def test_leave_one_out_of_two_by_enumeration():
    """Both draws of the estimate enumerated: 1.5181781, the score terms -d log q dropped."""
    log_w = jnp.log(jnp.array([0.07, 0.24])) - jnp.log(0.5)
    score = np.array([-2.0, 2.0])
    rows = [(log_w[a] - log_w[b]) * (score[a] - score[b]) / 2 for a, b in itertools.product((0, 1), repeat=2)]
    np.testing.assert_allclose(np.mean(rows), 1.2321437, atol=6e-8)
    np.testing.assert_allclose(np.var(rows), 1.5181781, atol=1e-6)
    cost = lambda theta: log_w[ppl.bernoulli(theta, grad=leave_one_out(2)).sample()]
    keys = jax.random.split(jax.random.key(0), 2**16)
    gradients = np.asarray(jax.vmap(ppl.grad(cost), (0, None))(keys, 0.5))
    np.testing.assert_allclose(sorted(set(np.round(gradients, 9))), sorted(set(np.round(np.array(rows), 9))), atol=1e-8)
    np.testing.assert_allclose(gradients.var(), 1.5181781, rtol=0.05)


@pytest.mark.parametrize(("with_score", "variances"), [(False, (14.5397, 40.6130)), (True, (24.8900, 63.0636))])
def test_the_gaussian_conjugate_model(with_score, variances):
    """Reinforce for the mean and the scale of N(.5, .8), in the program and by Gauss's rule."""

    def gaussian(params):
        loc, scale = params
        z = ppl.normal(loc, scale, grad=reinforce()).sample()
        fixed = params if with_score else jax.lax.stop_gradient(params)
        log_p = ppl.normal(0.0, 1.0).log_prob(z) + ppl.normal(z, 1.0).log_prob(2.0)
        return log_p - ppl.normal(*fixed).log_prob(z)  # Densities are charged with their constants.

    keys = jax.random.split(jax.random.key(1), 2**19)
    draws = np.stack(jax.jit(jax.vmap(lambda key: ppl.grad(gaussian)(key, (0.5, 0.8))))(keys))
    np.testing.assert_allclose(draws.var(1), variances, rtol=0.05)
    error = draws.std(1) / np.sqrt(draws.shape[1])
    assert (np.abs(draws.mean(1) - [1.0, -0.35]) < 4.5 * error).all()
