"""What a program may do besides choosing, programs made from programs, and the density over one vector."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from estimators import elbo, iwelbo
from ppl import (
    AddressError,
    ControlFlowError,
    Masked,
    PPLError,
    StrategyError,
    UnsoundGradientError,
    assess,
    bernoulli,
    condition,
    dirichlet,
    enum,
    exponential,
    factor,
    fresh_key,
    gamma,
    gen,
    multivariate_normal,
    normal,
    pathwise,
    reinforce,
    scale,
    simulate,
    subsample,
    uniform,
    while_loop,
    with_grad,
)

KEY = jr.key(2)
I2 = jnp.eye(2)


@gen
def pair():
    z = normal(0.0, 1.0) @ "z"
    normal(z, 1.0) @ "x"


# --- Factors, conditions, scales -----------------------------------------------------------------------------------


def test_a_factor_counts_once_in_every_lane_and_step():
    @gen
    def program():
        jax.vmap(lambda _: factor(0.5) @ "lane")(jnp.arange(3))
        lax.scan(lambda c, x: (c, factor(x) @ "step"), 0.0, jnp.arange(4.0))
        jax.vmap(lambda p: lax.cond(p, lambda: factor(10.0) @ "branch", lambda: None))(jnp.array([True, False, True]))

    np.testing.assert_allclose(program.log_density({}), 3 * 0.5 + 6.0 + 20.0)


def test_unnormalised_programs_are_assessed_not_simulated():
    tilted = gen(lambda: factor(3.0 * (normal(0.0, 1.0) @ "z")) @ "tilt")
    choices = {"z": jnp.asarray(0.5), "x": jnp.asarray(2.0)}
    cases = [
        (tilted, {"z": 0.5}, 1.5 - 0.125 - 0.5 * np.log(2 * np.pi)),
        (condition(pair, {"x": 2.0}), {"z": 0.5}, pair.log_density(choices)),
        (scale(pair, {"z": 1.0}), choices, pair.log_density(choices)),
    ]
    for gf, given, expected in cases:
        np.testing.assert_allclose(gf.log_density(given), expected, rtol=1e-9)
        with pytest.raises(PPLError, match="unnormalised"):
            gf.simulate(KEY)


def test_condition_is_the_joint_density_and_nests():
    np.testing.assert_allclose(condition(pair, {"x": 2.0}).log_density({"z": 0.5}), -3.0878770664, rtol=1e-9)
    both = condition(condition(pair, {"x": 2.0}), {"z": 0.5})
    np.testing.assert_allclose(both.log_density({}), -3.0878770664, rtol=1e-9)


def test_condition_inside_a_scan_takes_the_step_of_each_observation():
    chain = gen(lambda: lax.scan(lambda c, _: (normal(c, 1.0) @ "s", normal(c, 2.0) @ "y"), 0.0, None, 3)[0])
    ys = jnp.array([0.1, -0.4, 2.0])
    choices = {"s": jnp.array([0.3, 0.2, -1.0])}
    expected = chain.log_density({**choices, "y": ys})
    np.testing.assert_allclose(condition(chain, {"y": ys}).log_density(choices), expected, rtol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_a_scaled_density_has_a_pathwise_derivative(weight):
    def costs(prior):
        in_scan = lambda choose: lax.scan(lambda _, __: (None, choose() @ "z"), None, None, 2)[1]
        model, guide = gen(lambda: in_scan(prior)), gen(lambda loc: in_scan(lambda: normal(loc, 0.5)))
        return lambda loc: assess(scale(model, {"z": weight}))(simulate(guide)(loc).choices)

    cost = costs(lambda: normal(1.0, 2.0))
    z = ppl.seed(cost)(KEY, 0.3)[1]
    np.testing.assert_allclose(ppl.grad(lambda loc: cost(loc)[0])(KEY, 0.3), -weight * jnp.sum(z - 1) / 4, rtol=1e-12)
    bounded = costs(lambda: exponential(2.0))
    with pytest.raises(UnsoundGradientError):  # The guide leaves the support, whatever the weight.
        ppl.grad(lambda loc: bounded(loc)[0])(KEY, 0.3)


def test_scale_multiplies_parts_of_the_density_also_by_step():
    trace, _ = pair.generate(KEY, {"z": 1.0, "x": 1.5})
    expected = 0.3 * pair.project(trace, "z") + 2.0 * pair.project(trace, "x")
    np.testing.assert_allclose(scale(pair, {"z": 0.3, "x": 2.0}).log_density(trace.choices), expected, rtol=1e-12)
    steps = gen(lambda: lax.scan(lambda c, _: (c, normal(0.0, 1.0) @ "z"), 0.0, None, 3)[0])
    z, w = jnp.array([0.5, -1.0, 2.0]), jnp.array([1.0, 0.0, 3.0])
    expected = jnp.sum(w * (-0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi)))
    np.testing.assert_allclose(scale(steps, {"z": w}).log_density({"z": z}), expected, rtol=1e-12)
    with pytest.raises(AddressError, match='did you mean "z"'):
        scale(pair, {"zz": 1.0}).log_density(trace.choices)


# --- Strategies from outside ---------------------------------------------------------------------------------------


def test_with_grad_changes_the_estimator_of_programs_and_objectives():
    guide = gen(lambda p, observed: bernoulli(p) @ "b")
    model = gen(lambda p: normal(1.0 * (bernoulli(0.3) @ "b"), 1.0) @ "x")
    plain = elbo(model, guide)
    with pytest.raises(StrategyError):
        ppl.grad(plain)(KEY, 0.4, {"x": 1.0})
    inside = ppl.exact_gradient(elbo(model, with_grad(guide, {"b": enum})))(0.4, {"x": 1.0})
    outside = ppl.exact_gradient(with_grad(plain, {"*": reinforce()}))(0.4, {"x": 1.0})
    np.testing.assert_allclose(inside.gradient, outside.gradient, rtol=1e-10)
    assert inside.variance < 1e-20 < outside.variance
    with pytest.raises(StrategyError, match="does not apply"):
        ppl.grad(with_grad(plain, {"b": pathwise()}))(KEY, 0.4, {"x": 1.0})


def test_with_grad_matches_under_any_prefix_and_the_last_match_wins():
    inner = gen(lambda p: bernoulli(p) @ "b")
    outer = gen(lambda p: (inner(p) @ "one") + (inner(p) @ "two"))
    total = lambda p: ppl.simulate(with_grad(outer, {"*": reinforce(), "b": enum()}))(p).retval * 1.0
    exact = ppl.exact_gradient(total)(0.3)
    np.testing.assert_allclose([exact.gradient, exact.variance], [2.0, 0.0], atol=1e-12)


# --- Foreign objects, scores, keys ---------------------------------------------------------------------------------


def test_foreign_distributions_have_their_own_density_and_lanes():
    program = gen(lambda c: jax.vmap(lambda i: ppl.choice(dist.Weibull(c, i)) @ "w")(jnp.arange(1.0, 4.0)))
    trace = program.simulate(KEY, 2.0)
    expected = dist.Weibull(2.0, jnp.arange(1.0, 4.0)).log_prob(trace["w"]).sum()
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-10)
    assert len(np.unique(trace["w"])) == 3


def test_a_foreign_pathwise_gradient():
    square = lambda c: ppl.choice(dist.Gumbel(c, 1.0), grad=pathwise()).sample() ** 2
    draws = jax.vmap(lambda key: ppl.grad(square)(key, 0.7))(jr.split(KEY, 20_000))
    truth = 2 * (0.7 + np.euler_gamma)  # d/dc of var + (c + gamma)**2
    assert abs(draws.mean() - truth) < 4.5 * draws.std() / np.sqrt(len(draws))


def test_a_score_prior_pulls_an_objective_but_cannot_be_sampled():
    model = gen(lambda p: normal(ppl.score_prior(lambda x: -x, (2,)) @ "x", 0.5) @ "y")
    density = lambda x: model.log_density({"x": x, "y": jnp.ones(2)}, 0.0)
    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(density)(x), -x + (1.0 - x) / 0.25, rtol=1e-12)
    with pytest.raises(PPLError, match="unnormalised"):
        model.simulate(KEY, 0.0)


def test_fresh_keys_differ_in_every_lane_and_step():
    def program():
        noise = lambda: jr.normal(fresh_key())
        return jax.vmap(lambda _: lax.scan(lambda c, _: (c, noise()), 0.0, None, 3)[1])(jnp.arange(4))

    drawn = ppl.seed(program)(KEY)
    assert len(np.unique(drawn)) == 12
    np.testing.assert_allclose(jax.jit(ppl.seed(program))(KEY), drawn, rtol=1e-12)
    assert gen(lambda: (fresh_key(), normal(0.0, 1.0) @ "z")[1]).simulate(KEY).choices.keys() == {"z"}


# --- Minibatches ---------------------------------------------------------------------------------------------------


@gen
def point(i, loc):
    local = normal(loc, 1.0) @ "local"
    normal(local, 1.0) @ "x"


def fit(n, size):
    model = gen(lambda p: subsample(n, size, point)(p) @ "data")
    local = gen(lambda i, p: normal(p, 0.5) @ "local")
    return elbo(model, gen(lambda p, observed: subsample(n, size, local)(p) @ "data"))


def test_a_subsampled_elbo_has_the_mean_of_the_full_one():
    xs = jr.normal(jr.key(1), (20,))
    values = {}
    for size in (20, 4):
        objective = ppl.value_and_grad(fit(20, size))
        run = jax.jit(jax.vmap(lambda key, objective=objective: objective(key, 0.3, {"data": {"x": xs}})))
        values[size] = [np.asarray(part) for part in run(jr.split(KEY, 20_000))]
    for full, part in zip(values[20], values[4], strict=True):
        error = np.sqrt((full.var() + part.var()) / 20_000)
        assert abs(full.mean() - part.mean()) < 4.5 * error


def test_the_whole_data_set_is_taken_in_order():
    model = gen(lambda p: subsample(5, 5, point)(p) @ "data")
    trace = model.simulate(KEY, 0.0)
    np.testing.assert_array_equal(trace["data/indices"], np.arange(5))
    with pytest.raises(PPLError, match="1 <= size <= n"):
        subsample(5, 6, point)


# --- Loops -----------------------------------------------------------------------------------------------------------


def trials(strategy, max_steps):
    step = lambda p: lambda state: (state[0] + 1.0, bernoulli(p, grad=strategy).sample())
    return lambda p: while_loop(lambda state: state[1] == 0, step(p), (0.0, 0), max_steps)[0] ** 2


@pytest.mark.parametrize("strategy", [enum(), reinforce()], ids=str)
def test_a_bounded_loop_is_the_truncated_geometric(strategy):
    def truth(p, steps=8):
        n = jnp.arange(1, steps + 1)
        mass = jnp.where(n < steps, (1 - p) ** (n - 1) * p, (1 - p) ** (n - 1))
        return jnp.sum(n**2 * mass)

    exact = ppl.exact_gradient(trials(strategy, 8))(0.4)
    np.testing.assert_allclose(exact.value, truth(0.4), rtol=1e-10)
    np.testing.assert_allclose(exact.gradient, jax.grad(truth)(0.4), rtol=1e-10)


def test_the_first_moments_of_a_long_loop():
    """E N**2 = (2 - p) / p**2, with derivative -4/p**3 + 1/p**2; 60 steps cut off less than 1e-10 of both."""
    exact = jax.vmap(lambda key: ppl.value_and_grad(trials(reinforce(), 60))(key, 0.4))
    values, gradients = (np.asarray(part) for part in jax.jit(exact)(jr.split(KEY, 40_000)))
    for draws, truth in ((values, 10.0), (gradients, -56.25)):
        assert abs(draws.mean() - truth) < 4.5 * draws.std() / np.sqrt(len(draws))


def test_choices_in_a_loop_are_masked_where_it_has_ended():
    body = lambda state: (state[0] + 1.0, bernoulli(0.4) @ "b")
    program = gen(lambda: while_loop(lambda state: state[1] == 0, body, (0.0, 0), 7)[0])
    trace = program.simulate(KEY)
    assert isinstance(trace["b"], Masked)
    assert trace["b"].mask.sum() == trace.retval
    np.testing.assert_allclose(program.log_density(trace.choices), trace.log_density, rtol=1e-12)
    with pytest.raises(ControlFlowError, match="static bound"):
        while_loop(lambda c: True, lambda c: c, 0.0, jnp.asarray(3))


# --- One vector ------------------------------------------------------------------------------------------------------


@gen
def wide(n):
    s = gamma(2.0, 1.0) @ "s"
    w = dirichlet(jnp.array([2.0, 3.0, 1.5])) @ "w"
    uniform(0.0, s) @ "u"
    lax.scan(lambda c, _: (exponential(c) @ "e", None), s, None, length=n)
    normal(w, s) @ "y"


def test_log_joint_goes_there_and_back():
    log_density, constrain = ppl.log_joint(wide, {"y": jnp.ones(3)}, 4)
    x = jr.normal(KEY, (constrain.size,))
    choices = constrain(x)
    assert jax.tree.map(jnp.shape, choices) == {"s": (), "w": (3,), "u": (), "e": (4,)}
    assert constrain.size == 1 + 2 + 1 + 4
    np.testing.assert_allclose(constrain.inverse(choices), x, atol=1e-12)
    assert jnp.isfinite(jax.grad(log_density)(x)).all()


def test_log_joint_is_a_density():
    """Its exponential integrates to 1 where nothing is observed: the Jacobian is right, also for dependent supports."""
    program = gen(lambda: uniform(0.0, exponential(1.5) @ "s") @ "u")
    log_density, constrain = ppl.log_joint(program, {})
    grid = jnp.linspace(-24.0, 24.0, 1601)
    points = jnp.stack(jnp.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    mass = jnp.exp(jax.jit(jax.vmap(log_density))(points)).sum() * (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(mass, 1.0, rtol=1e-6)
    assert constrain.size == 2


def test_log_joint_refuses_what_has_no_vector():
    with pytest.raises(StrategyError, match="discrete"):
        ppl.log_joint(gen(lambda: bernoulli(0.3) @ "b"), {})
    branch = gen(lambda: lax.cond((bernoulli(0.3) @ "b") == 1, lambda: normal(0.0, 1.0) @ "z", lambda: 0.0))
    with pytest.raises(ControlFlowError, match="only sometimes"):
        ppl.log_joint(branch, {"b": 1})


# --- Derivatives, observations, checks -------------------------------------------------------------------------------


def test_hessian_and_forward_mode():
    cost = lambda p: bernoulli(p["a"], grad=enum()).sample() * p["b"] ** 2
    hessian = ppl.hessian(cost)(KEY, {"a": 0.3, "b": 2.0, "n": 3})
    np.testing.assert_allclose(hessian["a"]["b"], 4.0, rtol=1e-10)
    np.testing.assert_allclose(hessian["b"]["b"], 0.6, rtol=1e-10)
    assert hessian["n"] is None
    value, tangent = ppl.jvp(cost)(KEY, ({"a": 0.3, "b": 2.0, "n": 3},), ({"a": 1.0, "b": 0.5, "n": None},))
    np.testing.assert_allclose([value, tangent], [1.2, 4.0 + 0.5 * 4 * 0.3], rtol=1e-10)


def test_partly_missing_data():
    program = gen(
        lambda n: (jax.vmap(lambda _: normal(0.0, 1.0) @ "x")(jnp.arange(n)), normal(jnp.zeros(2), 1.0) @ "v")
    )
    seen = Masked(jnp.array([1.0, 2.0, 3.0]), jnp.array([True, False, True]))
    part = Masked(jnp.zeros(2), jnp.array([True, False]))
    trace, log_weight = program.generate(KEY, {"x": seen, "v": part}, 3)
    np.testing.assert_allclose(log_weight, -0.5 * (1 + 9) - 1.5 * np.log(2 * np.pi), rtol=1e-12)
    assert trace["x"][0] == 1.0
    assert trace["x"][1] != 2.0


def test_check_reports_everything_at_once():
    guide = gen(lambda p, observed: (normal(p, 1.0) @ "s", dirichlet(jnp.ones(4)) @ "w", bernoulli(0.3) @ "uu"))
    report = ppl.check(gen(lambda p: wide.inline(4)), guide, (0.3, {"yy": jnp.ones(3)}))
    text = str(report)
    assert not report.ok
    for part in ('Did you mean "y"', "is not inside", "has shape (4,)", '"uu"', "needs and which is not observed"):
        assert part in text, part
    fine = gen(lambda p, observed: normal(p, 1.0) @ "z")
    assert ppl.check(gen(lambda p: pair.inline()), fine, (0.3, {"x": 1.0})).ok


def test_a_joint_normal_guide_fits_independent_choices():
    independent, joint = gen(lambda p: normal(jnp.zeros(2), 1.0) @ "z"), gen(lambda p: multivariate_normal(p, I2) @ "z")
    both = [gen(lambda p, observed, gf=gf: gf.inline(p)) for gf in (independent, joint)]
    assert ppl.check(independent, both[1], (jnp.zeros(2), {})).ok
    assert ppl.check(joint, both[0], (jnp.zeros(2), {})).ok


def test_a_program_as_argument_closure_and_in_three_others():
    body = gen(lambda loc: normal(loc, 1.0) @ "z")
    takes = gen(lambda inner, loc: inner(loc) @ "arg")
    closed = gen(lambda loc: jax.jit(lambda q: (body(q) @ "one") + (body(2 * q) @ "two"))(loc))
    mapped = gen(lambda loc: jax.vmap(lambda q: body(q) @ "lane")(loc * jnp.ones(3)))
    for gf, args in ((takes, (body, 0.5)), (closed, (0.5,)), (mapped, (0.5,))):
        trace = gf.simulate(KEY, *args)
        np.testing.assert_allclose(gf.log_density(trace.choices, *args), trace.log_density, rtol=1e-10)
        drawn = np.concatenate([np.ravel(x) for x in jax.tree.leaves(trace.choices)])
        assert len(np.unique(drawn)) == len(drawn)
    one, two = closed.simulate(KEY, 0.5)["one/z"], closed.simulate(KEY, 0.5)["two/z"]
    assert one != two


def test_recursion_of_depth_four():
    @gen
    def tree(depth, loc):
        here = normal(loc, 1.0) @ "here"
        if depth:
            tree(depth - 1, here) @ "left"
            tree(depth - 1, here + 1.0) @ "right"

    trace = tree.simulate(KEY, 4, 0.0)
    assert len(jax.tree.leaves(trace.choices)) == 31
    np.testing.assert_allclose(tree.log_density(trace.choices, 4, 0.0), trace.log_density, rtol=1e-10)
    assert jnp.shape(trace["left/right/left/right/here"]) == ()


def test_the_missing_value_of_a_score_prior_is_never_read():
    model = gen(lambda p: normal(ppl.score_prior(lambda x: -x, ()) @ "x", 0.5) @ "y")
    guide = gen(lambda p, observed: normal(p, 1.0) @ "x")
    gradient = ppl.grad(elbo(model, guide))
    draws = jax.jit(jax.vmap(lambda key: gradient(key, 0.3, {"y": 1.0})))(jr.split(KEY, 4_000))
    truth = -0.3 + (1.0 - 0.3) / 0.25  # of E[log N(x; 0, 1) + log N(1; x, 0.5)] in the mean of x
    assert abs(draws.mean() - truth) < 4.5 * draws.std() / np.sqrt(len(draws))
    with pytest.raises(StrategyError, match="score only"):
        ppl.grad(iwelbo(model, guide, particles=2))(KEY, 0.3, {"y": 1.0})
    with pytest.raises(StrategyError, match="score only"):
        ppl.grad(elbo(model, with_grad(guide, {"x": reinforce()})))(KEY, 0.3, {"y": 1.0})
