"""Guides made from a model: densities against NumPyro's transforms and `log_joint`, optima against closed forms."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax import lax

import ppl
from estimators import elbo
from ppl import (
    bernoulli,
    beta,
    dirichlet,
    exponential,
    gamma,
    gen,
    guides,
    half_cauchy,
    lkj_cholesky,
    multivariate_normal,
    normal,
    pareto,
    truncated_normal,
    uniform,
    wishart,
)

pytestmark = pytest.mark.x64

KEY = jr.key(0)
NORMAL = ("mean_field", "full", "low_rank")


@gen
def inner(scale):
    normal(jnp.zeros((2, 2)), scale) @ "z"


@gen
def everything(params, inputs):
    """Nested addresses, lanes, steps, and supports of many kinds."""
    s = half_cauchy(2.0) @ "s"
    inner(s) @ "sub"
    dirichlet(jnp.array([1.0, 2.0, 3.0])) @ ("sub", "w")
    uniform(-1.0, 3.0) @ "u"
    jax.vmap(lambda scale: beta(2.0, 3.0 * scale) @ "p")(jnp.ones(2))
    last, _ = lax.scan(lambda c, _: (normal(c, s) @ "walk", None), 0.0, None, length=3)
    normal(last + inputs, 1.0) @ "y"


DATA, INPUTS = {"y": jnp.array([0.3, 1.2])}, jnp.array([0.0, 1.0])


def made(kind, model=everything, observed=DATA, inputs=(INPUTS,), **options):
    return getattr(guides, kind)(model, observed, *inputs, **options)


def perturbed(init, scale=0.3):
    """Move every parameter, so that nothing is 0 or alike."""
    leaves, tree = jax.tree.flatten(init)
    keys = jr.split(jr.key(7), len(leaves))
    return tree.unflatten([x + scale * jr.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)])


def moments(kind, params):
    """Return mean and covariance of the unconstrained numbers."""
    q = params["guide"]
    if kind == "mean_field":
        return q["loc"], jnp.diag(jnp.exp(2 * q["log_scale"]))
    if kind == "low_rank":
        return q["loc"], q["factor"] @ q["factor"].T + jnp.diag(jnp.exp(2 * q["log_scale"]))
    factor = guides.lower(q["scale_tril"])
    return q["loc"], factor @ factor.T


# --- Densities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NORMAL)
def test_densities_are_those_of_one_normal_over_the_vector_of_log_joint(kind):
    guide, init = made(kind)
    params = perturbed(init)
    assert ppl.check(everything, guide, (params, DATA, INPUTS)).ok
    joint, constrain = ppl.log_joint(everything, DATA, params, INPUTS)

    @jax.jit
    def densities(params):
        drawn = guide.simulate(KEY, params, DATA, INPUTS)
        z = constrain.inverse(drawn.choices)
        log_jacobian = joint(z) - everything.log_density(ppl.merge(drawn.choices, DATA), params, INPUTS)
        expected = dist.MultivariateNormal(*moments(kind, params)).log_prob(z) - log_jacobian
        return expected, drawn.log_density, guide.log_density(drawn.choices, params, DATA, INPUTS)

    expected, *ours = densities(params)
    np.testing.assert_allclose(ours, expected, rtol=1e-8)


def test_mean_field_follows_numpyros_transforms():
    model = gen(lambda params: (gamma(2.0, 1.0) @ "g", dirichlet(jnp.ones(3)) @ "w", uniform(1.0, 4.0) @ "u"))
    guide, init = guides.mean_field(model, {})
    params = perturbed(init)
    trace = guide.simulate(KEY, params, {})
    loc, scale = params["guide"]["loc"], jnp.exp(params["guide"]["log_scale"])
    expected = 0.0
    supports = {"g": (dist.Gamma(2.0).support, 0), "w": (dist.Dirichlet(jnp.ones(3)).support, slice(1, 3))}
    for address, (support, part) in {**supports, "u": (dist.Uniform(1.0, 4.0).support, 3)}.items():
        base = dist.Normal(loc[part], scale[part]).to_event(np.ndim(loc[part]))
        expected += dist.TransformedDistribution(base, dist.biject_to(support)).log_prob(trace[address])
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-10)


@gen
def supports(params):
    exponential(2.0) @ "positive"
    pareto(1.5, 3.0) @ "from its scale"
    beta(2.0 * jnp.ones(2), 3.0) @ "shares"
    uniform(-1.0, 2.0) @ "interval"
    truncated_normal(0.0, jnp.ones(2), high=0.5) @ "below"
    ppl.von_mises(0.0, 1.0) @ "angle"
    dirichlet(jnp.ones((2, 3))) @ "simplexes"
    multivariate_normal(jnp.zeros((2, 3)), jnp.eye(3)) @ "vectors"
    jax.vmap(lambda _: lkj_cholesky(3, 2.0) @ "correlations")(jnp.ones(2))
    wishart(5.0, jnp.eye(2)) @ "matrices"


@pytest.mark.parametrize("kind", ["mean_field", "full", "delta"])
def test_every_support_is_reached_as_by_log_joint(kind):
    """A guide of no width gives the choices that `log_joint` makes of the same vector."""
    guide, init = made(kind, supports, {}, ())
    z = jnp.sin(1.0 + jnp.arange(init["guide"]["loc"].size))
    narrow = {"log_scale": lambda x: x - 30.0, "scale_tril": lambda x: x - 30.0 * jnp.eye(len(x)), "loc": lambda x: z}
    params = {"guide": {name: narrow[name](x) for name, x in init["guide"].items()}, "model": {}}
    _, constrain = ppl.log_joint(supports, {}, params)

    @jax.jit
    def run(params):
        drawn = guide.simulate(KEY, params, {})
        return drawn.choices, constrain(z), drawn.log_density

    choices, expected, log_density = run(params)
    for name, x in choices.items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-9, atol=1e-11, err_msg=name)
    assert np.isfinite(log_density)
    assert ppl.check(supports, guide, (params, {})).ok
    assert np.isfinite(ppl.grad(elbo(supports, guide))(KEY, init, {})["guide"]["loc"]).all()


@pytest.mark.parametrize("kind", ["full", "low_rank"])
def test_draws_have_the_moments_of_the_normal(kind):
    """Mean and covariance of 4,000 draws, in standard errors; 4 numbers, so 14 comparisons."""
    model = gen(lambda params: (normal() @ "a", gamma(2.0, 1.0) @ "g", normal(jnp.zeros(2)) @ "b"))
    guide, init = getattr(guides, kind)(model, {}, scale=0.5)
    params = perturbed(init)
    _, constrain = ppl.log_joint(model, {}, params)
    draws = jax.jit(jax.vmap(lambda key: constrain.inverse(guide.simulate(key, params, {}).choices)))(
        jr.split(KEY, 4_000)
    )
    loc, covariance = moments(kind, params)
    assert (np.abs(draws.mean(0) - loc) < 4.5 * np.sqrt(np.diag(covariance) / 4_000)).all()
    products = (draws - loc)[:, :, None] * (draws - loc)[:, None, :]
    assert (np.abs(products.mean(0) - covariance) < 4.5 * products.std(0) / np.sqrt(4_000)).all()


@pytest.mark.parametrize("kind", ["mean_field", "low_rank", "delta"])
def test_the_printed_program_is_the_guide(kind):
    guide, init = made(kind)
    text = guides.source(guide)
    namespace = {}
    exec(compile(text, "pasted.py", "exec"), namespace)
    params = perturbed(init)
    ours, theirs = (jax.jit(lambda p, g=g: g.simulate(KEY, p, DATA, INPUTS))(params) for g in (guide, namespace[kind]))
    jax.tree.map(np.testing.assert_array_equal, ours.choices, theirs.choices)
    np.testing.assert_array_equal(ours.log_density, theirs.log_density)


def test_addresses_enter_a_program_as_literals():
    strange = 'a"); import os; ("'
    model = gen(lambda params: (normal() @ strange, normal() @ ("it's", "\n")))
    guide, init = guides.mean_field(model, {})
    assert set(guide.simulate(KEY, init, {}).choices) == {strange, "it's"}


# --- Optima ------------------------------------------------------------------------------------------------------

X = jnp.array([[1.0, 0.5], [1.0, -1.0], [1.0, 2.0]])
LINEAR = {"y": jnp.array([0.2, -1.0, 2.5])}


@gen
def linear(params):
    a = normal(0.0, 2.0) @ "a"
    b = normal(jnp.zeros(1), 1.0) @ "b"
    normal(X @ jnp.stack([a, b[0]]), 0.7) @ "y"


PRECISION = jnp.diag(jnp.array([0.25, 1.0])) + X.T @ X / 0.49
COVARIANCE = jnp.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ LINEAR["y"] / 0.49
EVIDENCE = dist.MultivariateNormal(jnp.zeros(3), X @ jnp.diag(jnp.array([4.0, 1.0])) @ X.T + 0.49 * jnp.eye(3))


def evidence(guide, params, key):
    return ppl.expect(elbo(linear, guide))(key, params, LINEAR)


def test_laplace_is_exact_for_a_normal_posterior():
    """Then log p(x, y) - log q(x) is log p(y) for every draw."""
    guide, init = guides.laplace(linear, LINEAR)
    np.testing.assert_allclose(init["guide"]["loc"], MEAN, rtol=1e-9)
    np.testing.assert_allclose(moments("full", init)[1], COVARIANCE, rtol=1e-9)
    bounds = jax.vmap(lambda key: evidence(guide, init, key))(jr.split(KEY, 5))
    np.testing.assert_allclose(bounds, EVIDENCE.log_prob(LINEAR["y"]), rtol=1e-9)


def test_full_is_exact_at_the_posterior_and_training_finds_it():
    guide, init = guides.full(linear, LINEAR, scale=0.5)
    factor = jnp.linalg.cholesky(COVARIANCE)
    raw = jnp.tril(factor, -1) + jnp.diag(jnp.log(jnp.diag(factor)))
    exact = {"guide": {"loc": MEAN, "scale_tril": raw}, "model": {}}
    np.testing.assert_allclose(evidence(guide, exact, KEY), EVIDENCE.log_prob(LINEAR["y"]), rtol=1e-9)

    def objective(params):
        return jnp.mean(jax.vmap(lambda _: elbo(linear, guide)(params, LINEAR))(jnp.arange(16)))

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 600))
    fit = ppl.maximize(objective, init, None, optimizer, steps=600, key=KEY)
    loc, covariance = moments("full", fit.params)
    ratio = jnp.linalg.solve(COVARIANCE, covariance)
    distance = (loc - MEAN) @ PRECISION @ (loc - MEAN)
    kl = 0.5 * (jnp.trace(ratio) - 2 - jnp.linalg.slogdet(ratio)[1] + distance)
    assert 0 <= kl < 0.005, kl  # as if every mean were off by a twentieth of its standard deviation, twice over


def test_low_rank_is_exact_where_the_posterior_is():
    """One direction and a diagonal hold any covariance of two numbers."""
    guide, _ = guides.low_rank(linear, LINEAR, rank=1)
    c = float(COVARIANCE[0, 1])
    factor = jnp.array([[np.sqrt(abs(c))], [np.sign(c) * np.sqrt(abs(c))]])
    rest = jnp.diag(COVARIANCE) - abs(c)
    assert (rest > 0).all()
    exact = {"guide": {"loc": MEAN, "factor": factor, "log_scale": 0.5 * jnp.log(rest)}, "model": {}}
    np.testing.assert_allclose(evidence(guide, exact, KEY), EVIDENCE.log_prob(LINEAR["y"]), rtol=1e-9)


@gen
def survey(params):
    p = beta(2.0, 3.0) @ "p"
    bernoulli(p * jnp.ones(10)) @ "y"


ANSWERS = {"y": jnp.arange(10) < 7}


def test_delta_finds_the_mode_of_the_density():
    """Beta(2 + 7, 3 + 3): the mode is 8 / 13."""
    guide, init = guides.delta(survey, ANSWERS)
    objective = lambda params: elbo(survey, guide)(params, ANSWERS)
    fit = ppl.maximize(objective, init, None, optax.adam(0.05), steps=400, key=KEY)
    found = guide.simulate(KEY, fit.params, ANSWERS)
    np.testing.assert_allclose(found["p"], 8 / 13, rtol=1e-6)
    assert found.log_density == 0
    assert guide.log_density({"p": found["p"]}, fit.params, ANSWERS) == 0
    assert guide.log_density({"p": 0.3}, fit.params, ANSWERS) == -jnp.inf


def test_laplace_of_a_share_is_that_of_its_logit():
    """With the Jacobian the mode of Beta(9, 6) is 9 / 15, and the curvature there 15 p (1 - p)."""
    _, init = guides.laplace(survey, ANSWERS)
    np.testing.assert_allclose(jax.nn.sigmoid(init["guide"]["loc"][0]), 0.6, rtol=1e-8)
    np.testing.assert_allclose(moments("full", init)[1][0, 0], 1 / (15 * 0.24), rtol=1e-8)


# --- Parameters --------------------------------------------------------------------------------------------------


def test_the_model_reads_its_own_parameters():
    @gen
    def model(params, x):
        w = normal(0.0, 1.0) @ "w"
        normal(params["model"]["bias"] + w * x, 1.0) @ "y"

    x, y = jnp.array([0.0, 1.0]), {"y": jnp.array([3.0, 4.0])}
    guide, init = guides.mean_field(model, y, x, params={"bias": jnp.array(0.5)})
    assert init["model"] == {"bias": 0.5}
    _, gradient = ppl.value_and_grad(elbo(model, guide))(KEY, init, y, x)
    assert gradient["model"]["bias"] != 0
    assert gradient["guide"]["loc"] != 0


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_start_and_scale(kind):
    trace = jax.jit(lambda: everything.simulate(KEY, {}, INPUTS))()
    start = {name: value for name, value in trace.choices.items() if name != "y"}
    options = {} if kind == "delta" else {"scale": 1e-9}
    guide, init = made(kind, start=start, **options)
    drawn = jax.jit(lambda p: guide.simulate(KEY, p, DATA, INPUTS).choices)(init)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), drawn, start)


def test_a_guide_works_under_vmap_and_jit_and_with_other_strategies():
    guide, init = guides.mean_field(survey, ANSWERS)
    variant = ppl.with_grad(guide, {"p": ppl.reinforce()})
    run = ppl.value_and_grad(elbo(survey, variant))
    keys = jr.split(KEY, 3)
    together = jax.jit(jax.vmap(lambda key: run(key, init, ANSWERS)[0]))(keys)
    np.testing.assert_allclose(together, [run(key, init, ANSWERS)[0] for key in keys], rtol=1e-12)


# --- Flows -------------------------------------------------------------------------------------------------------


def test_a_flow_beats_the_normal_and_its_density_is_that_of_its_draws():
    pytest.importorskip("flowjax")
    observed = {"y": jnp.array([1.0, 2.0])}

    @gen
    def model(params):
        s = gamma(2.0, 1.0) @ "s"
        normal(normal(0.0, s * jnp.ones(2)) @ "z", 1.0) @ "y"

    guide, init = guides.flow(model, observed, key=KEY, width=8, layers=1, knots=4)
    namespace = {}
    exec(compile(guides.source(guide), "pasted.py", "exec"), namespace)
    trace = guide.simulate(KEY, init, observed)
    again = namespace["flow"].log_density(trace.choices, init, observed)
    np.testing.assert_allclose(again, trace.log_density, rtol=1e-6)
    value, gradient = ppl.value_and_grad(elbo(model, guide))(KEY, init, observed)
    assert np.isfinite(value)
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient) if leaf is not None and hasattr(leaf, "dtype")
    )
