"""Paths as programs: Brownian motion, exact bridges, densities that are constant, divergences, invariances."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import linalg as scipy_linalg

import ppl
from estimators import elbo
from models.fractional_sde import bridge, exact, linear, nile, series
from models.fractional_sde.noise import brownian, fractional
from models.fractional_sde.process import Past, Sde, State, guided_path, past, prior_path, steps_between
from ppl import gen

KEY = jr.key(0)
PAPER = {"number": 5, "fastest": 20.0, "horizon": 6.0}
SMALL = bridge.BridgeConfig(kind="II", end=1.0, scale=0.5, steps_of_path=100, width=8, lanes=4, steps=3, draws=50)
pytestmark = pytest.mark.filterwarnings("ignore:slowest rate")


def plain(noise, scale=1.0, scheme="euler"):
    return Sde(lambda t, x: jnp.zeros_like(x), lambda t, x: scale * jnp.ones_like(x), noise, scheme)


def at_rest(noise, dimension=1):
    return State(jnp.zeros(dimension), jnp.zeros((dimension, len(noise.rates))))


def free(sde, steps, dimension=1):
    return gen(lambda: prior_path(sde, State(jnp.zeros(dimension), past(sde.noise, dimension)), steps))


# --- The prior ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["euler", "stratonovich"])
def test_one_rate_of_zero_is_brownian_motion(scheme):
    steps = steps_between(np.linspace(0, 2, 101), 0.0)
    trace = free(plain(brownian(), scheme=scheme), steps, 3).simulate(KEY)
    np.testing.assert_allclose(trace.retval, jnp.cumsum(trace["dB"], axis=0), atol=1e-6)
    assert trace["dB"].shape == (100, 3)


@pytest.mark.parametrize("kind", ["I", "II"])
def test_simulated_paths_have_the_covariance_of_the_approximation(kind):
    noise = fractional(0.3, **PAPER, kind=kind)
    steps = steps_between(np.linspace(0, 2, 201), 20.0)
    program = free(plain(noise), steps)
    paths = jax.jit(jax.vmap(lambda key: program.simulate(key).retval[99::100, 0]))(jr.split(KEY, 4000))
    wanted = exact.approximate_covariance(noise, np.array([1.0, 2.0]))
    products = np.asarray(paths)[:, :, None] * np.asarray(paths)[:, None]
    error = products.std(0) / math.sqrt(len(products))
    assert (np.abs(products.mean(0) - wanted) < 4.5 * error + 0.1 * wanted).all()  # Euler's error is of first order


def test_milsteins_scheme_is_stratonovichs():
    """dX = X o dB has the solution exp(B); Ito's reading has exp(B - t / 2)."""
    steps = steps_between(np.linspace(0, 1, 801), 0.0)
    for scheme, lost in (("stratonovich", 0.0), ("euler", 0.5)):
        sde = Sde(lambda t, x: jnp.zeros_like(x), lambda t, x: x, brownian(), scheme)
        program = gen(lambda sde=sde: prior_path(sde, State(jnp.ones(4), jnp.zeros((4, 1))), steps))
        trace = program.simulate(KEY)
        wanted = jnp.exp(jnp.sum(trace["dB"], axis=0) - lost)
        np.testing.assert_allclose(trace.retval[-1], wanted, rtol=0.06)


def test_a_hurst_index_may_change_from_step_to_step():
    steps = steps_between(np.linspace(0, 1, 51), 20.0)
    constant, changing = (fractional(h, **PAPER, kind="II") for h in (0.3, jnp.full(50, 0.3)))
    paths = [free(plain(noise), steps).simulate(KEY).retval for noise in (constant, changing)]
    np.testing.assert_allclose(*paths, atol=1e-6)
    grows = fractional(jnp.linspace(0.2, 0.8, 50), **PAPER, kind="II")
    other = free(plain(grows), steps).simulate(KEY).retval
    assert not np.allclose(other, paths[0], atol=1e-2)


# --- Linear equations: what is exact -----------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(("kind", "theta"), [("II", 0.0), ("I", 0.0), ("I", 1.0)])
@pytest.mark.parametrize("number", [50, 200])
def test_under_the_exact_control_every_path_has_the_same_density_ratio(kind, theta, number):
    """Section 2.5 of the sheet in discrete time: log p - log q is the log evidence, to rounding."""
    config = dataclasses.replace(SMALL, kind=kind, theta=theta, steps_of_path=number, fastest=9.0)
    task = bridge.task_of(config, 0.3)
    _, found = bridge.exact_posterior(config, task)
    inferred = Past.of(found.start_mean[None], jnp.linalg.cholesky(found.start_covariance)[None])
    params = bridge.Guide(linear.feedback, inferred if kind == "I" else None)
    guide = gen(lambda params, observed: bridge.push(task, params, (found.control, jnp.asarray(task.steps.length))))
    objective = elbo(gen(lambda params: bridge.model.inline(None, task)), guide)
    draws = jax.jit(jax.vmap(lambda key: ppl.seed(objective)(key, params, {"end": 1.0})))(jr.split(KEY, 50))
    assert np.std(draws) < 1e-6
    np.testing.assert_allclose(draws, found.log_evidence, atol=1e-6)


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["I", "II"])
def test_the_evidence_is_that_of_the_gaussian_process(kind):
    noise = fractional(0.8, **PAPER, kind=kind)
    steps = steps_between(np.linspace(0, 2, 1601), 20.0)
    found = linear.posterior(linear.linear(noise, steps), linear.observe_last(steps, 1.0, 0.5)).log_evidence
    variance = exact.approximate_covariance(noise, np.array([2.0])) + 0.25
    assert abs(float(found) - exact.log_evidence(np.array([1.0]), variance)) < 2e-3  # of first order in the step


@pytest.mark.x64
def test_the_exact_variance_is_that_of_conditioned_normal_numbers():
    config = dataclasses.replace(SMALL, kind="I", steps_of_path=40, fastest=9.0)
    task = bridge.task_of(config, 0.3)
    system, found = bridge.exact_posterior(config, task)
    mean, variance = linear.moments(system, found)
    size, state = 40, np.asarray(system.start)
    rows = np.zeros((size, size + state.shape[1]))  # X after each step, from all standard normal numbers
    state = np.concatenate([state, np.zeros((len(state), size))], axis=1)
    for i in range(size):
        state = np.asarray(system.matrix[i]) @ state
        state[:, config.number + i] += np.asarray(system.push[i]) * math.sqrt(float(system.length[i]))
        rows[i] = state[0]
    joint = rows @ rows.T
    gain = joint[:, -1] / (joint[-1, -1] + config.scale**2)
    np.testing.assert_allclose(mean, gain * config.end, atol=1e-8)
    np.testing.assert_allclose(variance, np.diag(joint) - gain * joint[-1], atol=1e-8)


def continuous_control(task, end, scale):
    """The best control of section 2.5 in continuous time: r = 1, and u linear in the state."""
    noise, times = task.sde.noise, np.append(task.steps.start, task.steps.start[-1] + task.steps.length[-1])
    weights, rates = np.asarray(noise.weights), np.asarray(noise.rates)
    field = np.diag(np.concatenate([[0.0], -rates]))
    field[0, 1:] = -weights * rates
    push = np.concatenate([[weights.sum()], np.ones(len(rates))])
    reach = np.stack([scipy_linalg.expm(field.T * (times[-1] - t))[:, 0] for t in times])
    across = reach @ push
    remaining = np.flip(np.cumsum(np.flip((across[1:] ** 2 + across[:-1] ** 2) / 2 * task.steps.length)))
    root = np.sqrt(task.steps.length)
    share = across[:-1] / (remaining + scale**2) * root
    control = linear.Feedback(-share[:, None] * reach[:-1], share * end, np.zeros(len(root)))
    return jax.tree.map(jnp.asarray, control)


@pytest.mark.x64
def test_the_continuous_control_of_the_sheet():
    """H = .8, o = 1, variance .25, T = 2, 800 steps: evidence -1.5870, both bounds near it; s.d. 1.3 and .062."""
    config = dataclasses.replace(SMALL, steps_of_path=800)
    task = bridge.task_of(config, 0.8)
    _, found = bridge.exact_posterior(config, task)
    assert abs(float(found.log_evidence) + 1.5870) < 1e-4
    context = continuous_control(task, 1.0, 0.5), jnp.asarray(task.steps.length)
    model = gen(lambda params: bridge.model.inline(None, task))
    guide = gen(lambda params, observed: bridge.push(task, bridge.Guide(linear.feedback, None), context))
    keys = jr.split(KEY, 2000)
    for objective, spread, error in ((bridge.girsanov(model, guide), 1.3, 0.15), (elbo(model, guide), 0.062, 0.012)):
        draws = np.asarray(jax.jit(jax.vmap(lambda key, f=objective: ppl.seed(f)(key, None, {"end": 1.0})))(keys))
        assert abs(draws.std() - spread) < error
        assert abs(draws.mean() + 1.5870) < 4 * draws.std() / math.sqrt(len(draws)) + 0.005


@pytest.mark.x64
def test_what_a_variance_of_its_own_is_worth():
    """Section 8 of the sheet: H = .3, o = 1, variance .01, dt = .04 and .01, the rates up to 20."""
    for number, evidence, drift_only in ((50, -1.5036, -11.85), (200, -1.5001, -3.53)):
        noise = fractional(0.3, **PAPER, kind="II")
        steps = steps_between(np.linspace(0, 2, number + 1), 1.0)
        task = bridge.Task(plain(noise), steps, 0.1)
        found = linear.posterior(linear.linear(noise, steps), linear.observe_last(steps, 1.0, 0.1))
        assert abs(float(found.log_evidence) - evidence) < 1e-4
        context = continuous_control(task, 1.0, 0.1), jnp.asarray(steps.length)
        guide = gen(lambda p, o, task=task, c=context: bridge.push(task, bridge.Guide(linear.feedback, None), c))
        model = gen(lambda params, task=task: bridge.model.inline(None, task))
        objective = elbo(model, guide)
        draws = jax.jit(jax.vmap(lambda key, f=objective: ppl.seed(f)(key, None, {"end": 1.0})))(jr.split(KEY, 4000))
        assert abs(float(jnp.mean(draws)) - drift_only) < 4.5 * float(jnp.std(draws)) / math.sqrt(4000) + 0.01


# --- Divergences -------------------------------------------------------------------------------------------------


def test_an_untrained_network_is_the_prior():
    """Its last layer is zero: the divergence is exactly 0, and paths are the prior's."""
    task = bridge.task_of(SMALL, 0.3)
    params = bridge.Guide(bridge.Control(5, 8, KEY, ratio=True), None)
    drawn = bridge.guide.simulate(KEY, params, {"end": 1.0}, task)
    assert drawn.retval == 0
    np.testing.assert_array_equal(drawn["dB"], free(task.sde, task.steps).simulate(KEY)["dB"])


def test_the_divergence_knows_neither_scale_nor_hurst_index():
    """For a control that does not look at the state; with the same key."""
    steps = steps_between(np.linspace(0, 2, 101), 20.0)
    push = lambda t, state, known: (jnp.stack([jnp.sin(t)]), jnp.zeros(1))
    found = []
    for hurst, scale in ((0.3, 1.0), (0.3, 5.0), (0.8, 1.0)):
        noise = fractional(hurst, **PAPER, kind="II")
        sde = plain(noise, scale)
        guide = gen(lambda p, o, sde=sde, noise=noise: guided_path(sde, at_rest(noise), steps, push, None))
        model = gen(lambda p, sde=sde: prior_path(sde, at_rest(sde.noise), steps))
        found.append((guide.simulate(KEY, None, {}).retval, ppl.seed(elbo(model, guide))(KEY, None, {})))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-6)
    times = np.arange(100) * 0.02
    np.testing.assert_allclose(found[0][0], 0.5 * np.sum(np.sin(times) ** 2) * 0.02, rtol=1e-5)


@pytest.mark.parametrize("kind", ["I", "II"])
def test_girsanovs_objective_has_the_mean_of_the_sampled_one(kind):
    config = dataclasses.replace(SMALL, kind=kind, lanes=1)
    task = bridge.task_of(config, 0.6)
    network = bridge.Control(5, 8, KEY, ratio=False)
    network = jax.tree.map(lambda leaf: leaf + 0.1 if hasattr(leaf, "shape") else leaf, network)
    params = bridge.Guide(network, Past(1, 5) if kind == "I" else None)
    differ = []
    for objective in (bridge.girsanov(bridge.model, bridge.guide), elbo(bridge.model, bridge.guide)):
        one = ppl.seed(lambda params, f=objective: f(params, {"end": 1.0}, task))
        differ.append(np.asarray(jax.jit(jax.vmap(lambda key, one=one: one(key, params)))(jr.split(KEY, 4000))))
    gap = differ[0] - differ[1]
    assert gap.std() > 0
    assert abs(gap.mean()) < 4.5 * gap.std() / math.sqrt(len(gap))


# --- The programs ------------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_the_niles_evidences():
    """By algebra, without any inference: section 7 of the sheet."""
    values, times = nile.flows(), np.arange(1, 101) / 100
    of_fgn = lambda hurst: exact.best_evidence(values, exact.fgn_covariance(100, 0.01, hurst))
    assert abs(of_fgn(0.8054) + 637.17) < 0.01
    assert abs(of_fgn(0.5) + 654.52) < 0.01
    for number, fastest, hurst, value in (
        (5, 20.0, 0.90, -637.46),
        (5, 100.0, 0.79, -636.96),
        (8, 300.0, 0.81, -637.18),
    ):
        grid = {"number": number, "fastest": fastest, "horizon": 1.0}
        at = lambda h, grid=grid: exact.increments(exact.approximate_covariance(fractional(h, **grid, kind="I"), times))
        around = [exact.best_evidence(values, at(hurst + step)) for step in (-0.03, 0.0, 0.03)]
        assert abs(around[1] - value) < 0.01
        assert max(around) == around[1]


@pytest.mark.x64
def test_the_niles_program_has_the_evidence_of_the_gaussian_process():
    """The guide that is the prior of the rest of each year leaves little: importance sampling closes it."""
    config = nile.NileConfig(draws=1000)
    values = nile.flows()[:6]
    params = nile.start(config, 6)
    draws = nile.measure(params, values, dataclasses.replace(config, horizon=0.06), KEY)
    horizon = dataclasses.replace(config, horizon=0.06)
    evidence = nile.exact_evidence(params.prior, values, horizon)
    weights = np.exp(draws - evidence)
    assert abs(weights.mean() - 1) < 4.5 * weights.std() / math.sqrt(len(weights)) + 1e-3
    assert draws.mean() < evidence


@pytest.mark.x64
def test_a_series_under_its_exact_control_has_its_evidence():
    config = series.SeriesConfig(draws=20)
    grid = series.grid_of(6, dataclasses.replace(config, fastest=10.0))
    values = series.synthetic(0.7, 0.05, (1, 6), seed=0)
    params = series.start(scale=1.2, error=0.1)
    draws = series.measure(params, values, grid, KEY)
    np.testing.assert_allclose(draws, series.exact_posterior(params.prior, values[0], grid).log_evidence, atol=1e-6)
    slope = params.prior._replace(slope=jnp.asarray(0.5))
    changed = series.measure(series.Params(slope, slope), values, grid, KEY, changing=True)
    np.testing.assert_allclose(changed, series.exact_posterior(slope, values[0], grid, True).log_evidence, atol=1e-6)
    other = params.guide._replace(hurst=jnp.asarray(0.5))
    worse = series.measure(params._replace(guide=other), values, grid, KEY)
    assert worse.std() > 1e-4
    assert worse.mean() < draws.mean() + 4.5 * worse.std() / math.sqrt(len(worse))


def test_synthetic_paths_have_the_covariance_they_are_drawn_from():
    paths = series.synthetic(0.3, 0.05, (4000, 3), seed=1)
    wanted = exact.fbm_covariance(np.arange(1, 4) / 3, 0.3, "II") + 0.0025 * np.eye(3)
    np.testing.assert_allclose(np.cov(paths.T), wanted, atol=0.06)


def test_model_and_guide_fit_together():
    task = bridge.task_of(dataclasses.replace(SMALL, kind="I"), 0.3)
    params = bridge.Guide(bridge.Control(5, 8, KEY, ratio=True), Past(1, 5))
    report = ppl.check(bridge.model, bridge.guide, (params, {"end": jnp.asarray(1.0)}, task))
    assert report.ok, report


def test_a_level_is_drawn_for_every_observation():
    grid = series.grid_of(5, series.SeriesConfig(fastest=5.0))
    params = series.start(scale=1.0, error=0.05)
    values = series.synthetic(0.5, 0.05, (1, 5), seed=0)[0]
    levels = series.levels(params, values, grid, KEY, draws=50)
    assert levels.shape == (50, 5)
    assert np.abs(levels.mean(0) - values).max() < 0.15
