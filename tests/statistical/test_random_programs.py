"""Random finite programs: the exact mean of every estimator is that of a plain-Python reading of the same program."""

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from tests.statistical.random_programs import Generator, as_jax, as_law
from tests.statistics import enumerate_law

THETA = np.array([0.3, -0.4, 0.7])
QUICK = 64

pytestmark = pytest.mark.x64


def check(seed: int, budget: float) -> None:
    block = Generator(seed, budget).program()
    value, gradient = enumerate_law(as_law(block), THETA)
    try:
        exact = ppl.exact_gradient(as_jax(block))(jnp.asarray(THETA))
    except ppl.StrategyError as error:  # Refused: histories or noise beyond the limits.
        pytest.skip(str(error).splitlines()[0])
    scale = 1 + np.abs(gradient).max() + abs(value)
    np.testing.assert_allclose(exact.value, value, atol=1e-10 * scale, rtol=0)
    np.testing.assert_allclose(exact.gradient, gradient, atol=1e-9 * scale, rtol=0)


@pytest.mark.parametrize("seed", range(QUICK))
def test_random_program(seed):
    check(seed, budget=6.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_larger_random_program(seed):
    check(seed, budget=9.0)
