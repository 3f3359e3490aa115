"""Sequential Monte Carlo: the filtering bound, marginals and posteriors of sequences, resampling schemes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from estimators import dropped, ess, log_normaliser, smc_elbo
from ppl import bernoulli, categorical, gen, normal, reinforce
from ppl.methods import multinomial, residual, smc, stratified, systematic

pytestmark = pytest.mark.x64

# --- The hidden Markov model of section 10 of the mathematical reference ------------------------------------------

START, TRANSITION = jnp.array([0.6, 0.4]), jnp.array([[0.7, 0.3], [0.2, 0.8]])
ROWS = jnp.concatenate([TRANSITION, START[None]])
YS = jnp.array([0, 1, 1])
EVIDENCE, SCORE = 0.131542, -0.5915981


def emission(b):
    return jnp.array([[0.0, 1.0], [0.2, 0.8]]) + b * jnp.array([[1.0, -1.0], [0.0, 0.0]])


def emit(b, z):
    categorical(probs=emission(b)[z], grad=reinforce()) @ "y"
    return z


@gen
def init(b):
    return emit(b, categorical(probs=START) @ "z")


@gen
def step(b, z, t):
    return emit(b, categorical(probs=TRANSITION[z]) @ "z")


@gen
def bootstrap(b, z, now, t):
    categorical(probs=START if z is None else TRANSITION[z], grad=reinforce()) @ "z"


@gen
def hmm(b):
    def one(z, _):
        z = categorical(probs=ROWS[z], grad=reinforce()) @ "z"
        return emit(b, z), None

    jax.lax.scan(one, 2, None, length=3)


BOUNDS = {
    (1, reinforce()): (-3.1287480, None),
    (2, reinforce()): (-2.6905058, -5.5999799),
    (2, dropped()): (-2.6905058, -5.8088952),
}


@pytest.mark.parametrize(("particles", "grad"), BOUNDS)
def test_filtering_bound_to_the_printed_digits(particles, grad):
    value, gradient = BOUNDS[particles, grad]
    exact = ppl.exact_gradient(smc_elbo(init, step, bootstrap, particles, multinomial(grad)))(0.9, {"y": YS})
    assert abs(exact.value - value) < 1e-7
    assert gradient is None or abs(exact.gradient - gradient) < 1e-7


@pytest.mark.slow
def test_filtering_bound_of_three_particles():
    exact = ppl.exact_gradient(smc_elbo(init, step, bootstrap, 3))(0.9, {"y": YS})
    assert abs(exact.value + 2.4629539) < 1e-7


FOUR = {reinforce(): -2.6200721, dropped(): -3.1909779}


@pytest.mark.parametrize("grad", FOUR, ids=str)
def test_gradient_of_four_particles(grad):
    objective = smc_elbo(init, step, bootstrap, 4, multinomial(grad))
    keys = jax.random.split(jax.random.key(4), 40_000)
    values, gradients = jax.jit(jax.vmap(lambda key: ppl.value_and_grad(objective)(key, 0.9, {"y": YS})))(keys)
    for draws, wanted in ((values, -2.3354481), (gradients, FOUR[grad])):
        error = np.std(draws) / math.sqrt(len(keys))
        assert error > 0
        assert abs(np.mean(draws) - wanted) < 4.5 * error


def test_dropped_is_called_biased():
    report = str(ppl.explain(smc_elbo(init, step, bootstrap, 2, multinomial(dropped())))(0.9, {"y": YS}))
    assert "biased" in report
    assert "biased" not in str(ppl.explain(smc_elbo(init, step, bootstrap, 2))(0.9, {"y": YS}))


@pytest.mark.parametrize("particles", [1, 2])
def test_marginal_of_a_sequence_is_unbiased_both_ways(particles):
    evidence = ppl.marginal(hmm, "y", particles=particles, method=smc())
    direct = ppl.exact_gradient(lambda b: jnp.exp(ppl.assess(evidence)({"y": YS}, b)[0]))(0.9)
    assert abs(direct.value - EVIDENCE) < 1e-10
    assert abs(direct.gradient - EVIDENCE * SCORE) < 1e-7

    def reciprocal(b):
        trace = ppl.simulate(evidence)(b)
        return jnp.where((trace["y"] == YS).all(), jnp.exp(-trace.log_density), 0.0)

    assert abs(ppl.exact_gradient(reciprocal)(0.9).value - 1) < 1e-10


@gen
def two_steps(b):
    def one(z, _):
        z = bernoulli(jnp.where(z == 1, 0.8, 0.3), grad=reinforce()) @ "z"
        bernoulli(jnp.where(z == 1, b, 0.2)) @ "y"
        return z, None

    jax.lax.scan(one, 1, None, length=2)


@gen
def informed(observed, b):
    jax.lax.scan(lambda z, y: (bernoulli(0.2 + 0.6 * y, grad=reinforce()) @ "z", None), 1, observed["y"])


@pytest.mark.parametrize("proposal", [None, informed], ids=["forward", "proposed"])
def test_posterior_of_a_sequence_is_unbiased_for_its_own_law(proposal):
    posterior = ppl.normalize(two_steps, {"y": jnp.array([1, 0])}, proposal, 2, smc(index=reinforce()))
    total = 0.0
    for zs in itertools.product((0, 1), repeat=2):
        zs = jnp.array(zs)
        law = float(ppl.exact_gradient(lambda b, zs=zs: jnp.exp(ppl.assess(posterior)({"z": zs}, b)[0]))(0.7).value)
        total += law

        def drawn(b, weigh, zs=zs):
            trace = ppl.simulate(posterior)(b)
            return jnp.where((trace["z"] == zs).all(), jnp.exp(-trace.log_density) if weigh else 1.0, 0.0)

        assert abs(ppl.exact_gradient(lambda b: drawn(b, False))(0.7).value - law) < 1e-10
        assert abs(ppl.exact_gradient(lambda b: drawn(b, True))(0.7).value - 1) < 1e-10
    assert abs(total - 1) < 1e-10


def test_latent_choices_before_and_after_the_scan():
    @gen
    def program(b):
        level = bernoulli(0.4, grad=reinforce()) @ "level"

        def one(z, _):
            z = bernoulli(jnp.where(z == level, 0.8, 0.3), grad=reinforce()) @ "z"
            bernoulli(jnp.where(z == 1, b, 0.2)) @ "y"
            return z, z

        last, zs = jax.lax.scan(one, 1, None, length=2)
        bernoulli(jnp.where(zs.sum() + level > 1, 0.9, 0.3)) @ "late"

    observed = {"y": jnp.array([1, 0]), "late": 1}
    by_sir = ppl.marginal(program, ("y", "late"))
    by_smc = ppl.marginal(program, ("y", "late"), particles=2, method=smc())
    mean = lambda gf: ppl.exact_gradient(lambda b: jnp.exp(ppl.assess(gf)(observed, b)[0]))(0.7)
    assert abs(mean(by_sir).value - mean(by_smc).value) < 1e-10
    assert abs(mean(by_sir).gradient - mean(by_smc).gradient) < 1e-10


def test_what_is_no_sequence():
    flat = gen(lambda: normal(normal(0.0, 1.0) @ "z", 1.0) @ "x")
    with pytest.raises(ppl.ControlFlowError, match="not a sequence"):
        ppl.marginal(flat, "x", method=smc()).simulate(jax.random.key(0))
    with pytest.raises(ppl.PPLError, match="no conditional version"):
        ppl.marginal(hmm, "y", particles=2, method=smc(systematic())).simulate(jax.random.key(0), 0.9)
    with pytest.raises(ppl.PPLError, match="threshold"):
        smc(threshold=0.0)
    with pytest.raises(ppl.PPLError, match="leading axis of steps"):
        ppl.expect(smc_elbo(init, step, bootstrap, 2))(jax.random.key(0), 0.9, {"y": YS, "x": YS[:2]})


# --- Resampling --------------------------------------------------------------------------------------------------

LOG_WEIGHTS = jnp.log(jnp.array([0.5, 0.05, 0.3, 0.15])) + 2.0
SCHEMES = [multinomial(), stratified(), systematic(), residual()]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_number_of_offspring(scheme):
    keys = jax.random.split(jax.random.key(1), 20_000)
    ancestors = jax.jit(jax.vmap(lambda key: ppl.seed(scheme.ancestors)(key, LOG_WEIGHTS)))(keys)
    offspring = (ancestors[..., None] == jnp.arange(4)).sum(1)
    error = offspring.std(0) / math.sqrt(len(keys))
    assert (abs(offspring.mean(0) - 4 * jax.nn.softmax(LOG_WEIGHTS)) < 4.5 * error + 1e-6).all()


@pytest.mark.parametrize("scheme", SCHEMES[:3], ids=lambda scheme: type(scheme).__name__)
def test_gradients_through_the_choice_of_ancestors(scheme):
    """The mean of a nonlinear function of the ancestors, by a sum over all of them."""
    scale = jnp.array([1.0, -2.0, 0.5, 3.0])
    cost = lambda ancestors: jnp.sin(scale[ancestors].sum()) + scale[ancestors[0]] * scale[ancestors[3]]
    logits = lambda t: LOG_WEIGHTS + t * scale
    objective = lambda t: cost(scheme.ancestors(logits(t)))

    def exact(t):
        """Weigh every vector of ancestors by its probability."""
        ends = jnp.cumsum(jax.nn.softmax(logits(t)))
        starts = ends - jax.nn.softmax(logits(t))
        total = 0.0
        for vector in itertools.product(range(4), repeat=4):
            a, i = jnp.array(vector), jnp.arange(4)
            if isinstance(scheme, multinomial):
                probability = jnp.prod(jax.nn.softmax(logits(t))[a])
            elif isinstance(scheme, stratified):
                overlap = jnp.minimum(ends[a], (i + 1) / 4) - jnp.maximum(starts[a], i / 4)
                probability = jnp.prod(4 * jnp.maximum(overlap, 0))
            else:
                low, high = jnp.max(4 * starts[a] - i), jnp.min(4 * ends[a] - i)
                probability = jnp.maximum(jnp.minimum(high, 1) - jnp.maximum(low, 0), 0)
            total += probability * cost(a)
        return total

    wanted = jax.grad(exact)(0.1)
    keys = jax.random.split(jax.random.key(2), 40_000)
    draws = jax.jit(jax.vmap(lambda key: ppl.grad(objective)(key, 0.1)))(keys)
    error = np.std(draws) / math.sqrt(len(keys))
    assert error > 0
    assert abs(np.mean(draws) - wanted) < 4.5 * error


def test_residual_resampling_refuses_derivatives():
    objective = lambda t: residual().ancestors(LOG_WEIGHTS * t).sum() * 1.0
    with pytest.raises(ppl.StrategyError, match="residual"):
        ppl.grad(objective)(jax.random.key(0), 1.0)
    biased = lambda t: t * residual(dropped()).ancestors(LOG_WEIGHTS * t).sum()
    assert ppl.grad(biased)(jax.random.key(0), 1.0) >= 0


def test_adaptive_resampling_keeps_the_evidence_unbiased():
    objective = smc_elbo(init, step, bootstrap, 2, threshold=0.9)
    exact = ppl.exact_gradient(lambda b, observed: jnp.exp(objective(b, observed)))(0.9, {"y": YS})
    assert abs(exact.value - EVIDENCE) < 1e-10


def test_weights():
    log_weights = jnp.log(jnp.array([1.0, 3.0]))
    assert abs(ess(log_weights) - 1.6) < 1e-12
    assert abs(log_normaliser(log_weights) - math.log(2)) < 1e-12
