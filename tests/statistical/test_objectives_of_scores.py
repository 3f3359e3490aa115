"""Objectives made of scores, and annealing: closed forms at the Gaussian model."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import estimators as es
import ppl
from estimators.objectives.kernel_stein import _stein_kernel
from ppl import pathwise, reinforce
from tests.statistical.objective_cases import GC, gaussian, two_point
from tests.statistics import assert_unbiased

pytestmark = pytest.mark.x64
both = pytest.mark.parametrize("strategy", [pathwise, reinforce])
OBSERVED = {"x": 2.0}
PRIOR = ppl.gen(lambda params: ppl.normal(0.0, 1.0) @ "z")


def shifted(strategy):
    return ppl.gen(lambda loc, observed: ppl.normal(loc, 1.0, grad=strategy()) @ "z")


def unbiased(objective, params, observed, truth, **options):
    assert_unbiased(lambda key: ppl.value_and_grad(objective)(key, params, observed), truth, jr.key(1), **options)


@both
def test_fisher_divergence(strategy):
    """The sheet: (m - 1)^2 / .25 + (s / .5 - 1 / s)^2 = 1.1225."""
    closed = lambda params: (params[0] - 1) ** 2 / 0.25 + (params[1] / 0.5 - 1 / params[1]) ** 2
    truth = jax.value_and_grad(closed)(GC)
    np.testing.assert_allclose(truth[0], 1.1225, atol=1e-12)
    power = 0.02 if strategy is pathwise else 0.04
    unbiased(es.fisher_divergence(*gaussian(strategy)), GC, OBSERVED, truth, power=power)


def test_fisher_divergence_at_the_posterior_has_no_noise():
    found = ppl.value_and_grad(es.fisher_divergence(*gaussian(pathwise)))
    at = jnp.array([1.0, math.sqrt(0.5)])
    values, gradients = jax.vmap(lambda key: found(key, at, OBSERVED))(jr.split(jr.key(2), 50))
    np.testing.assert_allclose(values, 0, atol=1e-12)
    np.testing.assert_allclose(gradients, 0, atol=1e-10)


def test_fisher_divergence_needs_no_normalising_constant():
    @ppl.gen
    def weighted(params):
        z = ppl.normal(0.0, 1.0) @ "z"
        ppl.factor(3.0 - (2.0 - z) ** 2 / 2) @ "likelihood"

    run = lambda model, observed: ppl.expect(es.fisher_divergence(model, gaussian(pathwise)[1]))(
        jr.key(3), GC, observed
    )
    np.testing.assert_allclose(run(weighted, {}), run(gaussian(pathwise)[0], OBSERVED), rtol=1e-12)


def test_score_matching():
    """E -(-1 + (z - m)^2 / 2) = 1 - (1 + m^2) / 2 for p = N(0, 1), q = N(m, 1): the sheet's gradient mu - m."""
    closed = lambda loc: 1 - (1 + loc**2) / 2
    unbiased(es.score_matching(PRIOR, shifted(pathwise)), 0.5, {}, jax.value_and_grad(closed)(0.5))


def test_score_matching_of_an_unnormalised_guide():
    """log q = -(z - m)^2 + log N(z; 0, 1), so N(2 m / 3, 1 / 3): E 3 - (3 z - 2 m)^2 / 2."""
    guide = ppl.gen(lambda loc, observed: ppl.factor(-(((ppl.normal(0.0, 1.0) @ "z") - loc) ** 2)) @ "f")
    closed = lambda loc: 3 - (9 + 4 * loc**2) / 2
    unbiased(es.score_matching(PRIOR, guide), 0.5, {}, jax.value_and_grad(closed)(0.5))


def test_score_matching_of_an_amortised_guide():
    """The posterior N(x / 2, 1 / 2) is the best slope: the mean gradient is 0 there, and not elsewhere."""
    model = gaussian(pathwise)[0]
    guide = ppl.gen(lambda slope, observed: ppl.normal(slope * observed["x"], math.sqrt(0.5)) @ "z")
    closed = lambda slope: 2 - 2 * (1 - 2 * slope + 2 * slope**2)  # E (z - c x)^2, with E z x = 1, E x^2 = 2
    for slope in (0.2, 0.8):
        unbiased(es.score_matching(model, guide), slope, OBSERVED, jax.value_and_grad(closed)(slope))


@both
def test_kernel_stein(strategy):
    """The sheet: m^2 / sqrt(3) = .1443376 at m = .5, for two particles, as for any number."""
    closed = lambda loc: loc**2 / math.sqrt(3)
    np.testing.assert_allclose(closed(0.5), 0.1443376, atol=5e-8)
    truth = jax.value_and_grad(closed)(0.5)
    for particles in (2, 5):
        power = 0.02 if strategy is pathwise else 0.05
        objective = es.kernel_stein(PRIOR, shifted(strategy), particles)
        unbiased(objective, 0.5, {}, truth, power=power)


def test_kernel_stein_in_two_dimensions_by_its_definition():
    """Against derivatives of the kernel itself, by JAX, for another bandwidth."""

    @ppl.gen
    def model(params):
        ppl.normal(jnp.zeros(2), jnp.array([1.0, 0.5])) @ "z"

    points = jr.normal(jr.key(4), (2, 2))
    kernel = lambda x, y: jnp.exp(-jnp.sum((x - y) ** 2) / (2 * 0.7**2))
    score = jax.grad(lambda z: model.log_density({"z": z}, None))
    x, y = points
    cross = jax.jacfwd(jax.grad(kernel, 0), 1)(x, y)
    by_definition = (
        score(x) @ score(y) * kernel(x, y)
        + score(x) @ jax.grad(kernel, 1)(x, y)
        + score(y) @ jax.grad(kernel, 0)(x, y)
        + jnp.trace(cross)
    )
    found = _stein_kernel(points, jax.vmap(score)(points), 0.7)
    np.testing.assert_allclose(found[0, 1], by_definition, rtol=1e-12)
    np.testing.assert_allclose(found[1, 0], by_definition, rtol=1e-12)


def test_kernel_stein_of_a_program_without_a_density():
    """A marginal guide: only its draws are used."""

    @ppl.gen
    def pushed(loc, observed):
        u = ppl.normal(0.0, 0.6) @ "u"
        ppl.normal(loc + u, 0.8) @ "z"

    objective = es.kernel_stein(PRIOR, ppl.marginal(pushed, "z"), 2)
    unbiased(objective, 0.5, {}, jax.value_and_grad(lambda loc: loc**2 / math.sqrt(3))(0.5))


# --- Annealing ---------------------------------------------------------------------------------------------------


@both
def test_no_steps_are_the_elbo(strategy):
    """Key by key."""
    one, other = (
        ppl.value_and_grad(objective)(jr.key(5), GC, OBSERVED)
        for objective in (es.annealed(*gaussian(strategy), 0, 0.3), es.elbo(*gaussian(strategy)))
    )
    np.testing.assert_allclose(one[0], other[0], rtol=1e-12)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-12)


def bounds(steps, step_size, num, persistence=0.9):
    run = ppl.expect(es.annealed(*gaussian(pathwise), steps, step_size, persistence))
    return np.asarray(jax.jit(jax.vmap(lambda key: run(key, GC, OBSERVED)))(jr.split(jr.key(6), num)))


@pytest.mark.parametrize(("steps", "step_size", "persistence"), [(1, 0.3, 0.9), (4, 0.5, 0.0), (8, 0.7, 0.5)])
def test_annealed_weights_are_unbiased(steps, step_size, persistence):
    """E exp(bound) = p(x) = .1037769, whatever the step size: the ratio of momenta and the Jacobian are right."""
    weights = np.exp(bounds(steps, step_size, 200_000, persistence))
    error = weights.std() / math.sqrt(len(weights))
    assert abs(weights.mean() - 0.1037769) < 4.5 * error < 0.005


def test_annealing_closes_the_gap():
    """From -2.5321 (no steps) to -2.2655; a tenth of the gap is left after 32 steps."""
    means = [bounds(steps, 0.3, 20_000).mean() for steps in (0, 4, 16, 32)]
    assert (np.diff(means) > 0.01).all()
    assert -2.2655121 - 0.0267 < means[-1] < -2.2655121


def test_annealed_gradient_is_that_of_the_mean():
    """One step with a fixed momentum is a map of two normal numbers: its mean by a Gauss rule of 20 x 20."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    mass = np.outer(weights, weights).ravel()

    def mean(params):
        def one(noise):  # with persistence 0 the first momentum is forgotten
            z, before, size = params[0] + params[1] * noise[0], noise[1], 0.5
            score = lambda z: -z + (2.0 - z)
            half = before + size / 2 * score(z)
            moved = z + size * half
            after = half + size / 2 * score(moved)
            log_q = -0.5 * noise[0] ** 2 - jnp.log(params[1]) - 0.5 * math.log(2 * math.pi)
            log_p = -(moved**2) / 2 - (2.0 - moved) ** 2 / 2 - math.log(2 * math.pi)
            return log_p - log_q + (before**2 - after**2) / 2

        return jnp.sum(mass * jax.vmap(one)(jnp.asarray(grid)))

    objective = es.annealed(*gaussian(pathwise), 1, 0.5, 0.0)
    unbiased(objective, GC, OBSERVED, jax.value_and_grad(mean)(GC))


def test_the_step_size_can_be_trained():
    guide = ppl.gen(lambda params, observed: ppl.normal(0.5, 0.8) @ "z")
    objective = es.annealed(gaussian(pathwise)[0], guide, 8, jnp.exp)
    assert abs(float(ppl.grad(objective)(jr.key(7), -2.0, OBSERVED))) > 1e-3


# --- What is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [es.fisher_divergence, lambda m, g: es.kernel_stein(m, g, 2), lambda m, g: es.annealed(m, g, 2, 0.1)],
)
def test_discrete_choices_are_refused(objective):
    with pytest.raises(ppl.PPLError, match="discrete|has edges"):
        ppl.expect(objective(*two_point(reinforce)))(jr.key(0), 0.5, {"x": 1})


def test_edges_are_refused():
    model = ppl.gen(lambda params: ppl.exponential(1.0) @ "z")
    guide = ppl.gen(lambda params, observed: ppl.exponential(params) @ "z")
    with pytest.raises(ppl.PPLError, match="has edges"):
        ppl.expect(es.annealed(model, guide, 2, 0.1))(jr.key(0), 2.0, {})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda m, g: es.annealed(m, g, -1, 0.1), "number of steps"),
        (lambda m, g: es.annealed(m, g, 2, 0.0), "`step_size`"),
        (lambda m, g: es.annealed(m, g, 2, 0.1, persistence=1.0), "`persistence`"),
        (lambda m, g: es.kernel_stein(m, g, 1), "at least 2"),
        (lambda m, g: es.kernel_stein(m, g, 2, bandwidth=-1.0), "`bandwidth`"),
        (lambda m, g: es.fisher_divergence(m, 3), "generative functions"),
        (lambda m, g: es.score_matching(3, g), "generative functions"),
    ],
)
def test_bad_inputs(make, match):
    with pytest.raises(ppl.PPLError, match=match):
        make(*gaussian(pathwise))
