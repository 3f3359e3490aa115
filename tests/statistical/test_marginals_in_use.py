"""Marginals where a demanding user would put them: in loops and lanes, in guides, under derivatives, on long series."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from estimators import elbo, iwelbo
from ppl import bernoulli, categorical, enum, gen, marginal, normal, reinforce
from ppl.methods import exact, quadrature, sir, smc

pytestmark = pytest.mark.x64
TABLE = jnp.array([[0.7, 0.3], [0.2, 0.8]])
LOCS = jnp.array([-1.0, 2.0])


def close(one, other, tolerance=1e-10):
    """Compare pytrees."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other)


def log_normal(x, loc):
    return -0.5 * (x - loc) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


@gen
def hmm(locs, steps):
    def step(z, _):
        z = categorical(probs=TABLE[z], grad=reinforce()) @ "z"
        normal(locs[z], 1.0) @ "y"
        return z, None

    jax.lax.scan(step, 0, None, length=steps)


def joint(locs, ys, zs):
    """Return the log density of states and observations."""
    states = jnp.concatenate([jnp.zeros(1, int), zs])
    return jnp.log(TABLE[states[:-1], states[1:]]).sum() + log_normal(ys, locs[zs]).sum()


YS = jnp.array([0.3, 1.9, -0.8, 2.2])
PATHS = jnp.array(list(itertools.product((0, 1), repeat=4)))
EVIDENCE = marginal(hmm, "y", method=exact())


def test_smoothing_by_the_gradient_of_the_log_evidence():
    """The derivative by the log density of an observation in a state is the posterior probability of that state."""
    posterior = jax.nn.softmax(jax.vmap(lambda zs: joint(LOCS, YS, zs))(PATHS))
    in_state = jnp.stack([posterior @ (PATHS == k) for k in (0, 1)], axis=1)
    by_loc = jax.grad(lambda locs: EVIDENCE.log_density({"y": YS}, locs, 4))(LOCS)
    close(by_loc, (in_state * (YS[:, None] - LOCS)).sum(0))


def test_fisher_information_by_second_derivatives():
    truth = jax.hessian(lambda locs: jax.nn.logsumexp(jax.vmap(lambda zs: joint(locs, YS, zs))(PATHS)))(LOCS)
    close(jax.hessian(lambda locs: EVIDENCE.log_density({"y": YS}, locs, 4))(LOCS), truth)
    close(jax.jacfwd(jax.jacrev(lambda locs: EVIDENCE.log_density({"y": YS}, locs, 4)))(LOCS), truth)


def test_a_marginal_in_lanes_and_steps():
    """A marginal in a scan, in a vmap, within a marginal."""
    pair = marginal(gen(lambda p: bernoulli(jnp.where(bernoulli(p) @ "u" == 1, 0.9, 0.2)) @ "x"), "x", method=exact())

    @gen
    def program(p):
        def lane(p):
            def step(total, _):
                x = pair(p) @ "pair"
                return total + x["x"], None

            jax.lax.scan(step, 0, None, length=3)

        jax.vmap(lane)(p)

    p, x = jnp.array([0.3, 0.8]), jnp.array([[1, 0, 1], [0, 0, 1]])
    one = 0.9 * p + 0.2 * (1 - p)
    truth = jnp.where(x == 1, jnp.log(one)[:, None], jnp.log1p(-one)[:, None]).sum()
    close(program.log_density({"pair": {"x": x}}, p), truth)


@pytest.mark.parametrize("method", [exact(), None], ids=["exact", "importance"])
def test_a_marginal_guide_inside_of_an_importance_weighted_bound(method):
    @gen
    def pair(a):
        u = bernoulli(a, grad=enum() if method else reinforce()) @ "u"
        bernoulli(jnp.where(u == 1, 0.9, 0.2), grad=enum() if method else reinforce()) @ "z"

    guide = gen(lambda a, observed: marginal(pair, "z", method=method).inline(a))
    model = gen(lambda a: bernoulli(jnp.where(bernoulli(0.3) @ "z" == 1, 0.8, 0.1)) @ "x")
    found = ppl.exact_gradient(lambda a: iwelbo(model, guide, 2)(a, {"x": 1}))(0.6)

    def by_hand(a):
        """Enumerate two particles: with one importance particle the density is that of z given the u drawn with it."""
        q = jnp.array([0.1 * a + 0.8 * (1 - a), 0.9 * a + 0.2 * (1 - a)])
        p = jnp.array([0.7 * 0.1, 0.3 * 0.8])
        if method:
            return sum(q[i] * q[j] * jnp.log((p[i] / q[i] + p[j] / q[j]) / 2) for i in (0, 1) for j in (0, 1))
        u = jnp.array([1 - a, a])
        given = jnp.array([[0.8, 0.2], [0.1, 0.9]])
        outcomes = list(itertools.product((0, 1), repeat=2))
        return sum(
            u[r] * given[r, i] * u[s] * given[s, j] * jnp.log((p[i] / given[r, i] + p[j] / given[s, j]) / 2)
            for r, i in outcomes
            for s, j in outcomes
        )

    close((found.value, found.gradient), jax.value_and_grad(by_hand)(0.6))


def test_a_chain_that_is_observed_in_part():
    """The state is kept at no step, at the first, or outside of the chain."""

    @gen
    def program(locs):
        first = categorical(probs=jnp.array([0.4, 0.6])) @ "first"

        def step(z, _):
            z = categorical(probs=TABLE[z]) @ "z"
            normal(locs[z], 1.0) @ "y"
            return z, None

        jax.lax.scan(step, first, None, length=4)

    def by_hand(locs, first):
        start = jnp.log(jnp.array([0.4, 0.6])[first])
        at = lambda zs: start + jnp.log(TABLE[first, zs[0]]) - jnp.log(TABLE[0, zs[0]]) + joint(locs, YS, zs)
        return jax.nn.logsumexp(jax.vmap(at)(PATHS))

    kept = marginal(program, ("first", "y"), method=exact())
    summed = marginal(program, "y", method=exact())
    both = lambda function: jax.value_and_grad(function)(LOCS)
    for first in (0, 1):
        run = lambda locs, first=first: kept.log_density({"first": first, "y": YS}, locs)
        close(both(run), both(lambda locs, first=first: by_hand(locs, first)))
    whole = lambda locs: jnp.logaddexp(by_hand(locs, 0), by_hand(locs, 1))
    close(both(lambda locs: summed.log_density({"y": YS}, locs)), both(whole))


def test_a_filter_on_a_long_series_in_jit():
    """Its evidence is near the exact one, whatever the key, and finite."""
    steps = 2000
    ys = hmm.simulate(jax.random.key(0), LOCS, steps)["y"]
    truth = EVIDENCE.log_density({"y": ys}, LOCS, steps)
    filtered = marginal(hmm, "y", particles=64, method=smc())
    run = jax.jit(lambda key: filtered.assess(key, {"y": ys}, LOCS, steps)[0])
    found = np.array([run(key) for key in jax.random.split(jax.random.key(1), 5)])
    assert found.std() > 0
    assert (abs(found - truth) < 0.02 * abs(truth)).all()


def test_many_series_of_one_model():
    data = jnp.asarray(np.random.RandomState(0).randn(5, 4))
    run = lambda ys: EVIDENCE.log_density({"y": ys}, LOCS, 4)
    truth = [jax.nn.logsumexp(jax.vmap(lambda zs, ys=ys: joint(LOCS, ys, zs))(PATHS)) for ys in data]
    close(jax.jit(jax.vmap(run))(data), jnp.array(truth))
    close(jax.lax.map(run, data), jnp.array(truth))


def test_a_latent_transition_under_a_guide_in_lanes():
    """Every particle of a bound has a transition table of its own."""

    @gen
    def model(theta):
        stay = normal(0.0, 1.0) @ "stay"
        p = jax.nn.sigmoid(stay)
        table = jnp.log(jnp.array([[p, 1 - p], [1 - p, p]]))

        def step(z, _):
            z = categorical(logits=table[z]) @ "z"
            normal(LOCS[z], 1.0) @ "y"
            return z, None

        jax.lax.scan(step, 0, None, length=4)

    @gen
    def by_hand(theta):
        p = jax.nn.sigmoid(normal(0.0, 1.0) @ "stay")
        table = jnp.array([[p, 1 - p], [1 - p, p]])
        moves = lambda zs: jnp.log(table[jnp.concatenate([jnp.zeros(1, int), zs[:-1]]), zs]).sum()
        at = lambda zs: moves(zs) + log_normal(YS, LOCS[zs]).sum()
        ppl.factor(jax.nn.logsumexp(jax.vmap(at)(PATHS))) @ "y"

    guide = gen(lambda theta, *_: normal(theta, 0.5) @ "stay")
    collapsed = marginal(model, ("stay", "y"), method=exact())
    run = lambda model, observed: ppl.value_and_grad(iwelbo(model, guide, 3))(jax.random.key(2), 0.4, observed)
    close(run(collapsed, {"y": YS}), run(by_hand, {}), 1e-9)


def test_quadrature_and_sums_of_one_program_agree_with_each_other():
    """A continuous and a discrete auxiliary choice: one summed inside, the other integrated outside."""
    inner = marginal(gen(lambda u: normal(u + 2.0 * (bernoulli(0.3) @ "k"), 1.0) @ "x"), "x", method=exact())

    @gen
    def outer(loc):
        u = normal(loc, 1.0) @ "u"
        inner.inline(u)

    kept = marginal(outer, ("u", "x"), method=exact())
    scale = jnp.sqrt(2.0)
    truth = lambda loc: (
        jnp.logaddexp(
            jnp.log(0.7) + log_normal(0.4 / scale, loc / scale),
            jnp.log(0.3) + log_normal(0.4 / scale, (loc + 2) / scale),
        )
        - jnp.log(scale)
    )
    mixture = marginal(
        gen(lambda loc: normal(normal(loc, 1.0) @ "u" + jnp.array([0.0, 2.0]), 1.0) @ "x"), "x", method=quadrature(40)
    )
    assert jnp.isfinite(mixture.log_density({"x": jnp.array([0.4, 1.0])}, 0.2))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    at = lambda loc: jax.vmap(lambda u: kept.log_density({"u": u, "x": 0.4}, loc) - log_normal(u, loc))(loc + nodes)
    found = lambda loc: jax.nn.logsumexp(at(loc) + jnp.log(weights / weights.sum()))
    close(jax.value_and_grad(found)(0.2), jax.value_and_grad(truth)(0.2), 1e-9)


def test_a_posterior_of_a_marginal():
    """`normalize` of a program that has an exact marginal in it: its law is that of two particles, exactly."""
    pair = marginal(gen(lambda z: bernoulli(jnp.where(bernoulli(0.5) @ "u" == z, 0.9, 0.2)) @ "x"), "x", method=exact())

    @gen
    def model(b):
        z = bernoulli(b, grad=reinforce()) @ "z"
        pair.inline(z)
        bernoulli(jnp.where(z == 1, 0.8, 0.1)) @ "w"

    posterior = ppl.normalize(model, {"x": 1, "w": 1}, particles=2, method=sir(index=reinforce()))
    drawn = lambda b: jnp.where(ppl.simulate(posterior)(b)["z"] == 1, 1.0, 0.0)
    prior, likelihood = jnp.array([0.7, 0.3]), jnp.array([0.1, 0.8])
    law = sum(
        prior[i] * prior[j] * (likelihood[i] * i + likelihood[j] * j) / (likelihood[i] + likelihood[j])
        for i in (0, 1)
        for j in (0, 1)
    )
    close(ppl.exact_gradient(drawn)(0.3).value, law)


def test_an_objective_of_a_collapsed_model_has_no_noise_of_its_own():
    guide = gen(lambda locs, observed, steps: None)
    found = ppl.value_and_grad(elbo(EVIDENCE, guide))(jax.random.key(0), LOCS, {"y": YS}, 4)
    close(found, jax.value_and_grad(lambda locs: EVIDENCE.log_density({"y": YS}, locs, 4))(LOCS))
