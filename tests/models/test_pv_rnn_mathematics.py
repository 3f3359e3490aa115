"""PV-RNN against closed forms, quadrature and a Kalman filter."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.optimize
from numpyro.distributions import Normal, kl_divergence

import ppl
from estimators import elbo, iwelbo
from models.pv_rnn.codes import Direct, Softmax
from models.pv_rnn.fits import tempered
from models.pv_rnn.generative import (
    Parameters,
    divergences,
    emission,
    free_energy,
    guide,
    meta_prior,
    model,
    of_sequences,
    only_adaptive,
)
from models.pv_rnn.networks import LOWEST, Encoder, Network, Sizes, State, width

pytestmark = pytest.mark.x64


def identity(x):
    return x


def small(key=0, **options) -> Network:
    """Two layers, three and two units, two and one latents."""
    return Network(Sizes((3, 2), (2, 1), (2.0, 4.0)), 2, jr.key(key), **options)


def with_table(network: Network, number: int, steps: int, scale: float = 0.3) -> Parameters:
    return Parameters(network, scale * jr.normal(jr.key(7), (number, steps, width(network.latents))))


def scalar(c: float, scale: float, *, centre=jnp.tanh, **layer) -> Parameters:
    """One unit d = (given weight) d + z, one latent, x ~ N(c d, scale**2); all other weights are 0 unless given."""
    network = Network(Sizes((1,), (1,), (1.0,)), 1, jr.key(0), squash=identity, readout=identity, centre=centre)
    network = jax.tree.map(jnp.zeros_like, network)
    where = lambda net: (net.layers[0].latent.weight, net.output.weight)
    network = eqx.tree_at(where, network, (jnp.ones((1, 1)), jnp.full((1, 1), c)))
    for path, value in layer.items():
        head, part = path.split("_")
        network = eqx.tree_at(lambda net: getattr(getattr(net.layers[0], head), part), network, jnp.asarray(value))  # noqa: B023
    return Parameters(network, jnp.zeros((1, 2)), Direct(scale, bounded=False))


def given_noise(params: Parameters, noise: jax.Array) -> dict:
    """Return the latents of a network of one layer that this noise makes, step by step."""
    state, zs = params.network.start(), []
    for eps, vector in zip(noise, params.adaptive, strict=True):
        (law,) = params.network.posterior(state, vector)
        zs.append(law.loc + law.scale * eps)
        state = params.network.advance(state, zs[-1:])
    return {"z1": jnp.stack(zs)}


def integrand(params: Parameters, noise: jax.Array, x: jax.Array, weights=None) -> jax.Array:
    """Return log p - log q, weighted, at what this noise draws."""
    z, start, length = given_noise(params, noise), params.network.start(), len(x)
    log_joint, _ = ppl.assess(model, weights)({**z, "x": x}, params, start, length)
    of_latents = None if weights is None else {"z1": weights["z1"]}
    return log_joint - ppl.assess(guide, of_latents)(z, params, {"x": x}, start, length)[0]


def expected(params: Parameters, x: jax.Array, weights=None) -> jax.Array:
    """Return the mean of `integrand`, quadratic in the noise here: its value at 0 plus half the Hessian's trace."""
    zero = jnp.zeros((len(x), 1))
    of_noise = lambda noise: integrand(params, noise.reshape(zero.shape), x, weights)
    flat = zero.ravel()
    return of_noise(flat) + 0.5 * jnp.trace(jax.hessian(of_noise)(flat))


def maximise(f, start) -> tuple[np.ndarray, float]:
    flat, unravel = jax.flatten_util.ravel_pytree(start)
    both = jax.jit(jax.value_and_grad(lambda flat: -f(unravel(flat))))
    found = scipy.optimize.minimize(lambda x: [*map(np.asarray, both(x))], flat, jac=True, tol=1e-12)
    polished = scipy.optimize.minimize(
        lambda x: [*map(np.asarray, both(x))], found.x, jac=True, method="BFGS", options={"gtol": 1e-10}
    )
    return unravel(polished.x), -polished.fun


# --- 1 and 2: one step ------------------------------------------------------------------------------------------

C, VARIANCE, X, W = 0.8, 0.25, jnp.array([[0.5]]), 0.3


def test_the_optimum_of_one_step_is_the_tempered_posterior():
    params, weights = scalar(C, VARIANCE**0.5), meta_prior((1,), 1, 1, (W,))
    of = lambda adaptive: expected(Parameters(params.network, adaptive, params.code), X, weights)
    best, value = maximise(of, jnp.zeros((1, 2)))
    (law,) = params.network.posterior(params.network.start(), best[0])
    square = 1 / (1 + C**2 / (W * VARIANCE))
    np.testing.assert_allclose([square, square * C * 0.5 / (W * VARIANCE)], [0.1048951049, 0.5594405594], atol=1e-10)
    np.testing.assert_allclose(law.scale**2, square, atol=1e-7)
    np.testing.assert_allclose(law.loc, square * C * 0.5 / (W * VARIANCE), atol=1e-7)
    nodes, masses = np.polynomial.hermite_e.hermegauss(200)
    log_p = -0.5 * (0.5 - C * nodes) ** 2 / VARIANCE - 0.5 * np.log(2 * np.pi * VARIANCE)
    tempered = W * np.log(np.sum(masses * np.exp(log_p / W)) / np.sum(masses))
    assert abs(tempered - -0.6164580695) < 1e-9
    assert abs(value - tempered) < 1e-9


def test_where_tanh_cannot_reach_the_optimum_it_lies_at_the_edge():
    params, weights = scalar(C, VARIANCE**0.5), meta_prior((1,), 1, 1, (W,))
    far = jnp.array([[5.0]])  # the optimum would be at 1.05
    of = lambda adaptive: expected(Parameters(params.network, adaptive, params.code), far, weights)
    best, _ = maximise(of, jnp.zeros((1, 2)))
    assert jnp.tanh(best[0, 0]) > 0.999


# --- 3: leak ----------------------------------------------------------------------------------------------------


def test_without_input_potentials_leak():
    network = jax.tree.map(jnp.zeros_like, Network(Sizes((1,), (1,), (5.0,)), 1, jr.key(0)))
    state = State((jnp.ones(1),), jnp.array(True))
    for _ in range(10):
        state = network.advance(state, [jnp.zeros(1)])
    np.testing.assert_allclose(state.potentials[0], 0.1073741824, rtol=1e-12)


@pytest.mark.parametrize("coupling", ["bidirectional", "topdown"])
def test_time_constants_of_one_give_an_elman_network(coupling):
    network = Network(Sizes((3, 2), (2, 1), (1.0, 1.0)), 2, jr.key(0), coupling=coupling)
    fast, slow = network.layers
    state, (d1, d2) = network.start(), (np.zeros(3), np.zeros(2))
    zs = jr.normal(jr.key(1), (6, 3))
    for z in zs:
        state = network.advance(state, [z[:2], z[2:]])
        below = 0 if slow.below is None else slow.below.weight @ d1
        new = np.tanh(slow.recurrent.weight @ d2 + slow.recurrent.bias + slow.latent.weight @ z[2:] + below)
        heard = new if coupling == "topdown" else d2
        drive = fast.recurrent.weight @ d1 + fast.recurrent.bias + fast.latent.weight @ z[:2]
        d1, d2 = np.tanh(drive + fast.above.weight @ heard), new
        for found, wanted in zip(network.activities(state), (d1, d2), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert (slow.below is None) == (coupling == "topdown")


# --- 4: a posterior that is the prior ---------------------------------------------------------------------------


def like_prior(network: Network) -> Network:
    """Let U be W, without biases: head 0 is the standard normal of the first step."""
    heads = lambda net: [layer.posterior for layer in net.layers]
    silent = eqx.tree_at(lambda net: [layer.prior.bias for layer in net.layers], network, replace_fn=jnp.zeros_like)
    return eqx.tree_at(heads, silent, [layer.prior for layer in silent.layers])


def test_a_posterior_that_is_the_prior_rolls_out_alike_and_costs_nothing():
    params = Parameters(like_prior(small()), jnp.zeros((9, 6)))
    start, key, x = params.network.start(), jr.key(3), 0.5 * jr.normal(jr.key(4), (9, 2))
    drawn, free = guide.simulate(key, params, {"x": x}, start, 9), model.simulate(key, params, start, 9)
    for name in ("z1", "z2"):
        np.testing.assert_array_equal(drawn[name], free[name])
    np.testing.assert_array_equal(divergences(drawn.retval)[0], 0)
    objective = free_energy(meta_prior((2, 1), 2, 9, (5.0, 7.0)))
    value = ppl.expect(objective)(key, params, {"x": x}, start, 9)
    log_likelihood, _ = emission.assess(key, {"x": x}, params, drawn.retval.states)
    np.testing.assert_allclose(value, log_likelihood / 2, rtol=1e-12)


@pytest.mark.parametrize("form", ["adaptive", "free"])
def test_a_vector_makes_any_posterior_the_prior(form):
    network = small(form=form)
    state = network.start()
    for z in jr.normal(jr.key(1), (4, 3)):
        for q, p in zip(network.posterior(state, network.as_prior(state)), network.prior(state), strict=True):
            np.testing.assert_allclose(q.loc, p.loc, atol=1e-12)
            np.testing.assert_allclose(q.scale, p.scale, rtol=1e-12)
        state = network.advance(state, [z[:2], z[2:]])


# --- 5: the meta-prior ------------------------------------------------------------------------------------------


def test_without_meta_prior_the_prior_is_not_learned():
    params, x, key = with_table(small(), 1, 5).of(0), 0.5 * jr.normal(jr.key(4), (5, 2)), jr.key(5)
    gradient = lambda w: ppl.grad(free_energy(meta_prior((2, 1), 2, 5, (w, w))))(
        key, params, {"x": x}, params.network.start(), 5
    )
    fit = lambda params: ppl.expect(_fit_only)(key, params, x)
    without, by_fit = gradient(0.0), jax.grad(fit)(params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14), without, by_fit)
    for layer in without.network.layers:
        np.testing.assert_array_equal(layer.prior.weight, 0)
    assert all(np.abs(layer.prior.weight).max() > 1e-3 for layer in gradient(1.0).network.layers)


def _fit_only(params, x):
    steps = ppl.simulate(guide)(params, {"x": x}, params.network.start(), len(x)).retval
    return ppl.assess(emission)({"x": x}, params, steps.states)[0] / 2


def test_an_unobserved_tail_relaxes_to_the_prior():
    params, x = with_table(like_prior(small()), 1, 8).of(0), 0.5 * jr.normal(jr.key(4), (8, 2))
    weights, key, start = meta_prior((2, 1), 2, 8, (0.5, 0.5)), jr.key(5), params.network.start()
    seen = weights | {"x": 0.5 * (jnp.arange(8) < 5)[:, None]}
    gradient = ppl.grad(free_energy(seen))(key, params, {"x": x}, start, 8).adaptive

    def costs(params):
        steps = ppl.simulate(guide)(params, {"x": x}, start, 8).retval
        return -sum(jnp.sum(weights[f"z{k}"] * kl) for k, kl in enumerate(divergences(steps), start=1))

    by_costs = ppl.grad(costs)(key, params).adaptive
    np.testing.assert_allclose(gradient[5:], by_costs[5:], rtol=1e-10, atol=1e-13)
    assert np.abs(gradient[:5] - by_costs[:5]).max() > 1e-3

    # With U = W one vector, 0, makes the posterior the prior whatever d is; else something is left.
    one = lambda params: free_energy(seen)(params, {"x": x}, start, 8)
    found = ppl.maximize(
        one,
        params,
        None,
        optax.adam(optax.cosine_decay_schedule(0.1, 2000)),
        steps=2000,
        key=key,
        trainable=only_adaptive,
    )
    steps = jax.vmap(lambda key: guide.simulate(key, found.params, {"x": x}, start, 8).retval)(jr.split(key, 50))
    costs_by_step = sum(kl.mean(0).sum(-1) for kl in divergences(steps))
    assert costs_by_step[5:].max() < 2e-3 < 0.05 < costs_by_step[:5].max()


# --- 6: linear and Gaussian -------------------------------------------------------------------------------------


def linear(slope: float = 0.7, spread: float = 0.5) -> Parameters:
    """z_t ~ N(0.4 d + 0.1, spread**2), d = slope d + z, x ~ N(0.8 d, 0.6**2); the first z is standard normal."""
    return scalar(
        0.8, 0.6, centre=identity, recurrent_weight=[[slope]], prior_weight=[[0.4], [0.0]],
        prior_bias=[0.1, np.log(spread)],
    )  # fmt: skip


def kalman(x, slope=0.7, spread=0.5) -> float:
    """Return log p(x) of `linear`: d_1 = z_1, d_t = (slope + 0.4) d_{t-1} + 0.1 + noise."""
    mean, variance, total = 0.0, 1.0, 0.0
    for t, value in enumerate(np.asarray(x).ravel()):
        if t:
            mean, variance = (slope + 0.4) * mean + 0.1, (slope + 0.4) ** 2 * variance + spread**2
        predicted = 0.64 * variance + 0.36
        total += -0.5 * np.log(2 * np.pi * predicted) - 0.5 * (value - 0.8 * mean) ** 2 / predicted
        gain = 0.8 * variance / predicted
        mean, variance = mean + gain * (value - 0.8 * mean), (1 - 0.8 * gain) * variance
    return total


def test_one_linear_gaussian_step_reaches_the_evidence():
    params, x = linear(), jnp.array([[0.9]])
    _, value = maximise(lambda a: expected(Parameters(params.network, a, params.code), x), jnp.zeros((1, 2)))
    assert abs(value - kalman(x)) < 1e-6


def test_posterior_weights_bring_a_linear_gaussian_bound_nearer_to_the_evidence():
    """The exact slope of z in d changes with time, U does not: a gap is left, smaller than without U."""
    x = jnp.array([[0.9], [-0.4], [1.3], [0.2]])
    params, evidence = linear(), kalman(x)

    def bound(adaptive, weight=None):
        network = params.network
        if weight is not None:
            network = eqx.tree_at(lambda net: net.layers[0].posterior.weight, network, weight)
        return expected(Parameters(network, adaptive, params.code), x)

    zeros = jnp.zeros((4, 2))
    _, without = maximise(bound, zeros)
    _, trained = maximise(lambda both: bound(*both), (zeros, jnp.zeros((2, 1))))
    assert without <= evidence + 1e-6
    assert trained <= evidence + 1e-6
    assert trained - without > 1e-3


# --- 7: closed form and samples ---------------------------------------------------------------------------------


def test_closed_divergences_are_means_of_log_ratios():
    """Both have one mean, value and gradient; the closed form has less noise, path by path."""
    params, x = with_table(small(), 1, 6).of(0), 0.5 * jr.normal(jr.key(4), (6, 2))
    weights, start = meta_prior((2, 1), 2, 6, (0.7, 0.2), (1.5, 1.0)), params.network.start()
    keys = jr.split(jr.key(6), 4000)

    def draws(objective):
        value = jax.jit(jax.vmap(lambda key: ppl.value_and_grad(objective)(key, params, {"x": x}, start, 6)))
        values, gradients = value(keys)
        return np.concatenate([values[:, None], *(g.reshape(4000, -1) for g in jax.tree.leaves(gradients))], axis=1)

    closed, sampled = draws(free_energy(weights)), draws(elbo(model, guide, weights))
    error = (closed - sampled).std(0, ddof=1) / np.sqrt(4000)
    assert (np.abs(closed.mean(0) - sampled.mean(0)) <= 4.5 * error + 1e-9).all()
    assert abs((closed - sampled)[:, 0].mean()) <= 4 * error[0]
    assert error.max() > 1e-4
    vectors = slice(-36, None)  # the adaptive vectors come last
    assert closed[:, vectors].var(0).sum() < 0.7 * sampled[:, vectors].var(0).sum()


def test_one_site_in_closed_form_is_the_mean_of_its_log_ratio():
    network = small()
    state, z = network.start(), jr.normal(jr.key(1), (3,))
    state = network.advance(state, [z[:2], z[2:]])
    q, p = network.posterior(state, 0.5 * jnp.ones(6))[0], network.prior(state)[0]
    draws = q.loc + q.scale * jr.normal(jr.key(2), (100_000, 2))
    log_density = lambda law: jax.scipy.stats.norm.logpdf(draws, *law)
    ratios = np.asarray(log_density(q) - log_density(p))
    wanted = np.log(p.scale / q.scale) + ((p.loc - q.loc) ** 2 + q.scale**2) / (2 * p.scale**2) - 0.5
    np.testing.assert_allclose(kl_divergence(Normal(*q), Normal(*p)), wanted, rtol=1e-12)
    assert (np.abs(ratios.mean(0) - wanted) < 4 * ratios.std(0) / np.sqrt(100_000)).all()


def test_gradients_of_a_divergence_are_those_by_hand():
    network, state = small(), small().start()
    vector = 0.5 * jr.normal(jr.key(1), (6,))
    state = network.advance(state, [jnp.ones(2), jnp.ones(1)])
    (mu_q, sigma_q), (mu_p, sigma_p) = network.posterior(state, vector)[0], network.prior(state)[0]

    def kl(vector):
        laws = zip(network.posterior(state, vector), network.prior(state), strict=True)
        return sum(kl_divergence(Normal(*q), Normal(*p)).sum() for q, p in laws)

    found = jax.grad(kl)(vector)
    by_mean = (mu_q - mu_p) / sigma_p**2 * (1 - mu_q**2)
    by_scale = (-1 / sigma_q + sigma_q / sigma_p**2) * sigma_q
    np.testing.assert_allclose(found[:4], jnp.concatenate([by_mean, by_scale]), rtol=1e-10)


def test_absent_sequences_have_no_gradient():
    params, x = with_table(small(), 5, 6), 0.5 * jr.normal(jr.key(4), (2, 6, 2))
    weights = meta_prior((2, 1), 2, 6, (0.7, 0.2))
    mean = lambda params, rows, x: jnp.mean(of_sequences(free_energy(weights), params, rows, x))
    found = ppl.grad(mean)(jr.key(0), params, jnp.array([3, 1]), x).adaptive
    np.testing.assert_array_equal(found[jnp.array([0, 2, 4])], 0)
    assert (jnp.abs(found[jnp.array([1, 3])]).max((1, 2)) > 1e-3).all()


# --- 8: scaling of sites ----------------------------------------------------------------------------------------


def test_an_output_twice_weighs_as_much_as_once():
    network, x = small(), 0.5 * jr.normal(jr.key(4), (5, 2))
    twice = eqx.tree_at(
        lambda net: (net.output.weight, net.output.bias),
        network,
        (jnp.tile(network.output.weight, (2, 1)), jnp.tile(network.output.bias, 2)),
    )
    values = []
    for net, data in ((network, x), (twice, jnp.tile(x, (1, 2)))):
        params = with_table(net, 1, 5).of(0)
        weights = meta_prior((2, 1), data.shape[1], 5, (0.3, 0.1))
        values.append(ppl.expect(free_energy(weights))(jr.key(1), params, {"x": data}, net.start(), 5))
    np.testing.assert_allclose(*values, rtol=1e-12)


def test_weights_are_those_of_the_objective():
    """The generic `elbo` with every weight 1 is log p - log q of the programs."""
    params, x = with_table(small(), 1, 5).of(0), 0.5 * jr.normal(jr.key(4), (5, 2))
    start, args = params.network.start(), (params, {"x": x}, params.network.start(), 5)
    weights = meta_prior((2, 1), 2, 5, (2.0, 1.0)) | {"x": 1.0}  # w_k / Z_k = 1
    plain, weighted = (ppl.expect(elbo(model, guide, w))(jr.key(2), *args) for w in (None, weights))
    np.testing.assert_allclose(plain, weighted, rtol=1e-12)
    drawn = guide.simulate(jr.key(3), *args)
    log_joint = model.log_density(ppl.merge(drawn.choices, {"x": x}), params, start, 5)
    z_only = sum(jax.scipy.stats.norm.logpdf(drawn[f"z{k + 1}"], *drawn.retval.prior[k]).sum() for k in range(2))
    outputs = jax.vmap(params.network.read)(drawn.retval.states)
    np.testing.assert_allclose(log_joint - z_only, jax.scipy.stats.norm.logpdf(x, outputs).sum(), rtol=1e-10)


# --- Several particles, other guides, other codes ---------------------------------------------------------------


def test_several_particles_approach_the_value_of_the_best_posterior():
    """The meta-prior is a temperature: w times the bound goes from the objective to w log E p(x | z)**(1 / w)."""
    params, weights = scalar(C, VARIANCE**0.5), meta_prior((1,), 1, 1, (W,))
    args = params, {"x": X}, params.network.start(), 1

    def value(particles, draws):
        bound = ppl.expect(iwelbo(model, guide, particles, tempered(weights, W)))
        values = W * jax.jit(jax.vmap(lambda key: bound(key, *args)))(jr.split(jr.key(particles), draws))
        return values.mean(), values.std() / draws**0.5

    one, error = value(1, 40_000)
    assert abs(one - expected(params, X, weights)) < 4.5 * error
    few, few_error = value(8, 5_000)
    assert few - one > 5 * (error + few_error)
    many, many_error = value(2_000, 50)
    assert abs(many - -0.6164580695) < 4.5 * many_error + 1e-4
    assert many_error < 0.01 < -0.6164580695 - one


@pytest.mark.parametrize("backward", [False, True])
def test_an_encoder_makes_vectors_of_what_it_has_read(backward):
    encoder = Encoder(2, 4, 3, jr.key(0), backward=backward)
    x = jr.normal(jr.key(1), (6, 2))
    changed = encoder(x.at[3].add(1.0)) - encoder(x)
    moved = np.abs(changed).max(1) > 1e-9
    assert moved.tolist() == ([True] * 4 + [False] * 2 if backward else [False] * 3 + [True] * 3)


def test_a_soft_code_is_a_cross_entropy():
    code = Softmax()
    network = Network(Sizes((3, 2), (2, 1), (2.0, 4.0)), code.outputs(2), jr.key(0), readout=identity)
    params = Parameters(network, jnp.zeros((4, 6)), code)
    data = np.random.default_rng(0).uniform(-1, 1, (4, 2))
    target, start = code.encode(data), params.network.start()
    drawn = guide.simulate(jr.key(1), params, {"x": target}, start, 4)
    found, mean = emission.assess(jr.key(0), {"x": target}, params, drawn.retval.states)
    logits = jax.vmap(params.network.read)(drawn.retval.states).reshape(4, 2, 10)
    np.testing.assert_allclose(found, jnp.sum(target * jax.nn.log_softmax(logits)), rtol=1e-6)
    np.testing.assert_allclose(target.sum(-1), 1, rtol=1e-6)
    assert mean.shape == (4, 2)
    decoded = target @ code.centres
    assert np.abs(decoded - data).max() < 0.05  # the kernel is wide enough for the bins


def test_tiny_scales_give_divergences_that_are_not_negative():
    """Exact logarithms: a constant added inside of them would make these costs negative."""
    network = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), small())
    lowered = eqx.tree_at(
        lambda net: [head.bias for layer in net.layers for head in (layer.prior, layer.posterior)],
        network,
        replace_fn=lambda bias: bias.at[len(bias) // 2 :].set(-50.0),
    )
    state = lowered.advance(lowered.start(), [jnp.ones(2), jnp.ones(1)])
    for q, p in zip(lowered.posterior(state, lowered.as_prior(state)), lowered.prior(state), strict=True):
        np.testing.assert_allclose(p.scale, np.exp(LOWEST), rtol=1e-6)
        assert (kl_divergence(Normal(*q), Normal(*p)) >= 0).all()


def test_huge_heads_do_not_overflow():
    network = eqx.tree_at(lambda net: net.layers[0].posterior.bias, small(), jnp.full(4, 1e6))
    (law, _), start = network.posterior(network.start(), jnp.zeros(6)), network.start()
    assert np.isfinite(law.scale).all()
    value, gradient = ppl.value_and_grad(free_energy(meta_prior((2, 1), 2, 3, (1.0, 1.0))))(
        jr.key(0), Parameters(network, jnp.zeros((3, 6))), {"x": jnp.zeros((3, 2))}, start, 3
    )
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
