"""Second derivatives of samplers with implicit derivatives: those of the quantile function, draw by draw.

JAX draws a gamma variable by rejection and differentiates it implicitly: x(a) keeps F(x; a) = u. Its second derivative,
taken forwards over backwards, is compared with second differences of scipy's quantile function at that u. Beta,
dirichlet, student_t and the others are made of such draws by ordinary operations.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.special import gammainc, gammaincinv

import ppl
from tests.statistics import assert_unbiased

pytestmark = pytest.mark.x64


@pytest.mark.parametrize("concentration", [0.3, 0.9, 2.5, 20.0, 300.0])
def test_draw_by_draw(concentration):
    sample = lambda a, key: ppl.seed(lambda a: ppl.gamma(a, 1.0).sample())(key, a)
    both = jax.jit(jax.vmap(lambda key: (sample(concentration, key), jax.jacfwd(jax.grad(sample))(concentration, key))))
    draws, second = map(np.asarray, both(jr.split(jr.key(1), 50)))
    level, step = gammainc(concentration, draws), 1e-3 * concentration
    quantile = lambda shift: gammaincinv(concentration + shift, level)
    expected = (quantile(step) - 2 * quantile(0.0) + quantile(-step)) / step**2
    inner = (level > 1e-6) & (level < 1 - 1e-6)  # Elsewhere scipy's quantiles are not exact enough to be subtracted.
    assert inner.sum() > 40
    scale = np.abs(expected[inner]).max()
    np.testing.assert_allclose(second[inner] / scale, expected[inner] / scale, atol=2e-5)
    assert scale > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beta", "dirichlet"])
def test_what_is_made_of_gammas(name):
    if name == "beta":
        program = lambda t: ppl.beta(t[0], t[1]).sample() ** 2
        mean = lambda t: t[0] * (t[0] + 1) / t.sum() / (t.sum() + 1)
    else:
        program = lambda t: ppl.dirichlet(jnp.stack([t[0], t[1], 1.0])).sample()[0] ** 2
        mean = lambda t: t[0] * (t[0] + 1) / (t.sum() + 1) / (t.sum() + 2)
    theta = jnp.array([2.5, 1.5])
    truth = mean(theta), jax.hessian(mean)(theta).ravel()
    estimate = lambda key: (ppl.expect(program)(key, theta), ppl.hessian(program)(key, theta).ravel())
    assert_unbiased(estimate, truth, jr.key(2), chunk=2**13)
