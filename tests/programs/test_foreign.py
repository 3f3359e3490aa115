"""Programs beside other libraries (Equinox, diffrax, NumPyro's distributions), and minibatches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.stats import norm
from scipy import stats

import ppl
from estimators import elbo
from ppl import PPLError, bernoulli, check, choice, fresh_key, gen, normal, reinforce, simulate, subsample
from tests.programs.replay import KEY, assert_mean, close, hermite

pytestmark = pytest.mark.x64

N = stats.norm.logpdf


def test_foreign_distributions_of_one_name_and_shape():
    """Numbers that they were made with are part of their methods, so the compiled ones are not to be shared."""
    draws = []
    for loc in (0.0, 0.5, -1.0):
        program = gen(lambda loc=loc: choice(dist.Normal(loc, 1.0), grad=reinforce()) @ "z")
        close(program.log_density({"z": 0.3}), N(0.3 - loc))
        draws.append(program.simulate(KEY)["z"] - loc)
    close(np.array(draws), np.full(3, draws[0]))
    slopes = []
    for slope in (1.0, 3.0):
        program = gen(lambda params, slope=slope: ppl.score_prior(lambda x: -slope * x, ()) @ "z")
        guide = gen(lambda params, observed: ppl.delta(params) @ "z")
        slopes.append(float(ppl.grad(elbo(program, guide))(KEY, 2.0, {})))
    assert slopes == [-2.0, -6.0]


# --- Equinox ---------------------------------------------------------------------------------------------------------


class Net(eqx.Module):
    """A module with arrays, an integer array, a number and a function."""

    w: jax.Array
    b: jax.Array
    n: int
    shift: jax.Array
    act: callable = eqx.field(static=True)

    def __call__(self, x):
        return self.act(self.w * x + self.b) * self.n + self.shift


NET, XS = Net(jnp.array(0.3), jnp.array(-0.2), 2, jnp.array(1), jnp.tanh), jnp.array([0.5, 1.0])


@gen
def gated(net, x):
    b = bernoulli(jax.nn.sigmoid(net(x)), grad=reinforce) @ "b"
    return eqx.filter_jit(lambda net, b: net(b * 1.0) * b)(net, b)


def total(net, xs):
    return jnp.sum(jax.vmap(lambda x: gated(net, x) @ "gated")(xs))


def total_law(theta):
    """The cost is 0 for tails: the probability of heads times its cost, in each lane."""
    w, b = theta
    return jnp.sum(jax.nn.sigmoid(jnp.tanh(w * XS + b) * 2 + 1)) * (jnp.tanh(w + b) * 2 + 1)


def test_a_module_as_parameter():
    value, gradient = jax.value_and_grad(total_law)(jnp.array([0.3, -0.2]))
    exact = ppl.exact_gradient(total)(NET, XS)
    close(exact.value, value, 1e-9)
    close([exact.gradient.w, exact.gradient.b], gradient, 1e-9)
    assert ppl.grad(total)(KEY, NET, XS).shift is None
    theirs = lambda key: eqx.filter_grad(lambda net: ppl.expect(total)(key, net, XS))(NET)
    both = jax.jit(lambda key: [(g.w, g.b) for g in (ppl.grad(total)(key, NET, XS), theirs(key))])
    close(*both(KEY))


# --- diffrax ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_ordinary_differential_equation_from_a_random_start():
    diffrax = pytest.importorskip("diffrax")
    term, times, theta = diffrax.ODETerm(lambda t, y, rate: -rate * y), jnp.array([0.5, 1.0]), jnp.array([0.7, 1.1])

    @gen
    def decay(theta):
        start = normal(theta[0], 0.5) @ "start"
        saved, steps = diffrax.SaveAt(ts=times), diffrax.PIDController(1e-9, 1e-9)
        ys = diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, 1.0, 0.1, start, args=theta[1], saveat=saved, stepsize_controller=steps
        ).ys
        normal(ys, 0.3) @ "y"
        return ys

    y = np.array([0.4, 0.2])
    expected = N(0.6, 0.7, 0.5) + N(y, 0.6 * np.exp(-1.1 * np.asarray(times)), 0.3).sum()
    close(decay.log_density({"start": 0.6, "y": y}, theta), expected, 1e-7)

    def objective(theta):
        ys = simulate(decay)(theta).retval
        return ys[0] ** 2 + ys[1]

    law = lambda theta: jnp.exp(-theta[1]) * (theta[0] ** 2 + 0.25 + theta[0])
    assert_mean(lambda key: ppl.grad(objective)(key, theta), jax.grad(law)(theta), 2_000)


@pytest.mark.slow
def test_lanes_of_a_stochastic_differential_equation():
    """Four Euler steps of dy = -a y dt + s dW: a linear recursion of mean and variance, independent in each lane."""
    diffrax = pytest.importorskip("diffrax")

    @gen
    def path(theta):
        noise = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-3, (), fresh_key())
        drift = diffrax.ODETerm(lambda t, y, theta: -theta[0] * y)
        terms = diffrax.MultiTerm(drift, diffrax.ControlTerm(lambda t, y, theta: theta[1], noise))
        ys = diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 1.0, 0.25, 1.0, args=theta).ys
        return ys[0] * (1 + (bernoulli(0.5, grad=reinforce) @ "b"))

    def law(theta):
        decay = 1 - 0.25 * theta[0]
        mean, variance = decay**4, theta[1] ** 2 * 0.25 * sum(decay ** (2 * i) for i in range(4))
        return 0.5 * 2.5 * (mean**2 + variance) + 0.5 * (1.5 * mean) ** 2

    objective = lambda theta: jnp.mean(jax.vmap(lambda _: path(theta) @ "path")(jnp.arange(2))) ** 2
    theta = jnp.array([0.5, 0.3])
    assert_mean(lambda key: ppl.grad(objective)(key, theta), jax.grad(law)(theta), 3_000)


# --- Foreign distributions -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_foreign_discrete_distributions_by_their_score():
    def program(p):
        rates = jax.nn.sigmoid(p[0] * jnp.arange(2.0))
        v = jax.vmap(lambda q: choice(dist.Binomial(2, q), grad=reinforce) @ "binomial")(rates)
        w = choice(dist.Geometric(jax.nn.sigmoid(p[1])), grad=reinforce) @ "geometric"
        return jnp.sum(v**2) + jnp.prod(v) * jnp.minimum(w, 3)

    def law(p):
        q, s = jax.nn.sigmoid(p[0] * jnp.arange(2.0)), jax.nn.sigmoid(p[1])
        waiting = sum((1 - s) ** k for k in (1, 2, 3))  # E min(w, 3) is the sum of P(w >= k)
        return jnp.sum(2 * q * (1 - q) + 4 * q * q) + 4 * jnp.prod(q) * waiting

    theta = jnp.array([0.4, 0.2])
    assert_mean(lambda key: ppl.value_and_grad(program)(key, theta), jax.value_and_grad(law)(theta), 10_000)


# --- Minibatches -----------------------------------------------------------------------------------------------------


YS = np.array([0.3, 1.0, -1.0, 5.0])
TERMS = N(YS, 0.2 + np.arange(4), 1)


@gen
def point(i, p):
    normal(p + i, 1.0) @ "y"


def minibatch(size, offset=0.0):
    return gen(lambda p: subsample(4, size, point)(p + offset) @ "s")


def indices_density(size):
    """Return minus infinity or the one density of all choices of so many distinct indices."""
    program = minibatch(size)
    return lambda *indices: program.log_density({"s": {"indices": jnp.array(indices), "y": YS}}, 0.2)


def test_all_of_the_data_is_the_full_density():
    _, weight = minibatch(4).generate(KEY, {"s": {"y": YS}}, 0.2)
    close(weight, TERMS.sum())
    close(indices_density(4)(0, 1, 2, 3), TERMS.sum())


def test_the_weight_of_a_minibatch_has_the_mean_of_the_full_one():
    """All six minibatches are drawn, each with its own weight."""
    weigh = lambda key: minibatch(2).generate(key, {"s": {"y": YS}}, 0.2)[1]
    weights = np.asarray(jax.jit(jax.vmap(weigh))(jr.split(KEY, 3_000)))
    assert abs(weights.mean() - TERMS.sum()) < 4.5 * weights.std() / np.sqrt(3_000)
    pairs = [2 * (TERMS[i] + TERMS[j]) for i in range(4) for j in range(i)]
    close(np.unique(weights.round(9)), np.sort(pairs), 1e-8)


def test_given_indices_gather_and_have_a_uniform_density():
    density = indices_density(2)
    close(density(1, 3) - density(0, 2), 2 * (TERMS[1] + TERMS[3] - TERMS[0] - TERMS[2]))
    assert abs(density(1, 3) - 2 * (TERMS[1] + TERMS[3]) + np.log([6, 12])).min() < 1e-12  # as a set, or in order
    trace, _ = minibatch(2).generate(KEY, {"s": {"y": YS}}, 0.2)
    close(minibatch(2).log_density(trace.choices, 0.2), trace.log_density)


@pytest.mark.parametrize("indices", [(1, 1), (1, 7), (-1, 2), (3, 2, 1, 0), (0, 1, 2, 2)], ids=str)
def test_indices_that_are_never_drawn_have_no_density(indices):
    """Twice the same, out of range, and for all of the data any but the order in which it is taken."""
    assert indices_density(len(indices))(*indices) == -jnp.inf


@pytest.mark.parametrize("size", [2, 4])
def test_minibatches_in_lanes_and_steps_gather_the_observations_of_each(size):
    offsets, ys = np.arange(3.0), np.stack([YS, YS + 1, YS - 1])
    lane = lambda p: lambda a: subsample(4, size, point)(p + a) @ "s"
    lanes = gen(lambda p: jax.vmap(lane(p))(offsets))
    steps = gen(lambda p: lax.scan(lambda c, a: (c, lane(p)(a)), 0.0, offsets)[0])
    for program in (lanes, steps):
        trace, weight = program.generate(KEY, {"s": {"y": ys}}, 0.2)
        terms = [N(ys[a, i], 0.2 + a + i, 1) for a in range(3) for i in np.asarray(trace["s/indices"])[a]]
        close(weight, 4 / size * sum(terms), 1e-10)


def test_a_minibatch_in_a_call():
    outer = gen(lambda p: minibatch(2)(p) @ "call")
    trace, weight = outer.generate(KEY, {"call": {"s": {"y": YS}}}, 0.2)
    close(weight, 2 * TERMS[np.asarray(trace["call/s/indices"])].sum())


@gen
def local_model(p):
    def one(i, mu):
        z = normal(mu, 1.0) @ "z"
        normal(z + (bernoulli(jax.nn.sigmoid(z)) @ "b"), 0.5) @ "y"

    subsample(4, 2, gen(one))(normal(p, 2.0) @ "mu") @ "points"


@gen
def local_guide(p, observed):
    def one(i, mu):
        normal(0.5 * observed["points"]["y"][i] + p * mu, 0.8) @ "z"
        bernoulli(jax.nn.sigmoid(p), grad=reinforce) @ "b"

    subsample(4, 2, gen(one))(normal(p * 0.5, 1.0) @ "mu") @ "points"


LOCAL = {"points": {"y": jnp.array([0.3, -1.0, 2.0, 0.7])}}


def local_law(p):
    nodes, weights = hermite(40)
    mu, both = p * 0.5 + nodes, weights[:, None] * weights
    total, up = jnp.sum(weights * (norm.logpdf(mu, p, 2) - norm.logpdf(mu, 0.5 * p, 1))), jax.nn.sigmoid(p)
    for y in LOCAL["points"]["y"]:
        loc = 0.5 * y + p * mu[:, None]
        z = loc + 0.8 * nodes
        for b, prob, prior in ((0, 1 - up, jax.nn.sigmoid(-z)), (1, up, jax.nn.sigmoid(z))):
            model = norm.logpdf(z, mu[:, None], 1) + jnp.log(prior) + norm.logpdf(y, z + b, 0.5)
            total = total + prob * jnp.sum(both * (model - norm.logpdf(z, loc, 0.8) - jnp.log(prob)))
    return total


@pytest.mark.slow
def test_elbo_of_minibatches_with_local_latents_by_quadrature():
    assert check(local_model, local_guide, (0.3, LOCAL)).ok
    estimate = ppl.value_and_grad(elbo(local_model, local_guide))
    assert_mean(lambda key: estimate(key, 0.3, LOCAL), jax.value_and_grad(local_law)(0.3), 40_000)


def test_more_than_all_of_the_data_is_refused():
    with pytest.raises(PPLError, match="size"):
        gen(lambda p: subsample(2, 4, point)(p) @ "s").generate(KEY, {}, 0.2)
