"""The battery of the mutation test: small programs with exact answers, all of them within a minute.

Everything that the statistical core decides is looked at: which lanes a value depends on (against finite differences
of all outcomes), what a score is charged with (against the exact variance of the estimator that is charged by hand),
means, refusals, numbers per key. Mutants are made by `tools/mutants.py`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import constant, leave_one_out, leave_one_out_lanes, mvd, reinforce
from ppl import gen, normal
from ppl.analysis.plan import make_plan
from ppl.transforms.programs import stage_program
from tests import test_passes as passes
from tests import test_traces as traces
from tests.cases import CASES, Law
from tests.cases import THETA as CASE_THETA
from tests.statistical.test_strategies import EXACT, SAMPLED, WRONG, flips
from tests.statistical.test_strategies import PROGRAMS as DIRECT
from tests.statistics import enumerate_law
from tests.test_passes import LEFT

pytestmark = pytest.mark.x64

KEY = jr.key(5)
M23, M32 = jnp.array([[1.0, -0.5, 0.3], [0.4, 0.8, -1.0]]), jnp.array([[1.0, 2.0], [0.5, -1.0], [0.7, 0.2]])


def flip(p, strategy="reinforce"):
    return ppl.bernoulli(p, grad=getattr(ppl, strategy)()).sample().astype(float)


# --- What a score is charged with --------------------------------------------------------------------------------


def by_hand(terms, probs):
    """Enumerate the estimator sum_t cost_t(bits) sum_{i in charged_t} score_i: mean, gradient and variance."""
    probs = np.asarray(probs)
    rows = []
    for bits in itertools.product((0, 1), repeat=len(probs)):
        b = np.array(bits, float)
        score = b / probs - (1 - b) / (1 - probs)
        gradient = np.zeros(len(probs))
        for cost, charged in terms:
            gradient[list(charged)] += cost(b) * score[list(charged)]
        rows.append((np.prod(np.where(b, probs, 1 - probs)), sum(cost(b) for cost, _ in terms), gradient))
    weights, values, gradients = (np.array(column) for column in zip(*rows, strict=True))
    mean = weights @ gradients
    return weights @ values, mean, weights @ (gradients - mean) ** 2


def c(x, w=1.0):
    return w * (x + 0.5) ** 2


W3, W4 = np.array([1.0, 3.0, -2.0]), np.array([1.0, 3.0, -2.0, 0.7])
each = lambda weights: [(lambda b, i=i, w=w: c(b[i], w), [i]) for i, w in enumerate(weights)]
to_go = lambda n: [(lambda b, i=i: c(b[: i + 1].sum(), W3[i]), range(i + 1)) for i in range(n)]


def scan_carry(theta):
    return lax.scan(lambda t, pw: (t + c(flip(pw[0]), pw[1]), None), 0.0, (theta, jnp.asarray(W3)))[0]


def scan_minus(theta):
    return -lax.scan(lambda t, pw: (t - c(flip(pw[0]), pw[1]), None), 0.0, (theta, jnp.asarray(W3)), reverse=True)[0]


def walk(theta):
    def step(carry, pw):
        state, total = carry
        state = state + flip(pw[0])
        return (state, total + c(state, pw[1])), None

    return lax.scan(step, (0.0, 0.0), (theta, jnp.asarray(W3)))[0][1]


def walk_backwards(theta):
    def step(carry, pw):
        state, total = carry
        state = state + flip(pw[0])
        return (state, total + c(state, pw[1])), None

    return lax.scan(step, (0.0, 0.0), (theta[::-1], jnp.asarray(W3)[::-1]), reverse=True)[0][1]


def walk_stacked(theta):
    def step(state, p):
        state = state + flip(p)
        return state, state

    return (jnp.asarray(W3) * (lax.scan(step, 0.0, theta)[1] + 0.5) ** 2).sum()


def guide_and_model(theta):
    values = lax.scan(lambda none, p: (none, flip(p)), None, theta)[1]
    step = lambda carry, xw: ((xw[0], carry[1] + c(xw[0] + 2 * carry[0], xw[1])), None)
    return lax.scan(step, (0.0, 0.0), (values, jnp.asarray(W3)))[0][1]


def scan_in_scan(theta):
    def outer(total, row):
        inner = lax.scan(lambda t, p: (t + c(flip(p), 2.0), None), 0.0, row)[0]
        return total + inner, None

    return lax.scan(outer, 0.0, theta.reshape(2, 2))[0]


def scan_in_vmap(theta):
    def lane(row):
        step = lambda s, p: (lambda new: (new, c(new)))(s + flip(p))
        return lax.scan(step, 0.0, row)[1].sum()

    return jax.vmap(lane)(theta.reshape(2, 2)).sum()


def vmap_in_scan(theta):
    def step(total, row):
        return total + c(jax.vmap(flip)(row)).sum(), None

    return lax.scan(step, 0.0, theta.reshape(2, 2))[0]


def neighbours(theta):
    x = flip(theta)
    return c(x[1:] + 2 * x[:-1]).sum()


def array_of_sums(theta):
    x = flip(theta)
    return c(jnp.cumsum(x), jnp.asarray(W3)).sum() + 2 * c(x)[::-1].sum()


def linear_mix(theta):
    """A matrix product of terms is a sum of terms."""
    return (M23 @ c(flip(theta)))[0] + 10.0


def branch(theta):
    a, b = flip(theta[0]), flip(theta[1])
    return lax.cond(a > 0.5, lambda b: c(b, 3.0), lambda b: b, b) + c(b, 5.0)


def called(theta):
    @jax.jit
    def inner(a, b):
        return c(a) - c(b, 100.0), c(a + b)

    first, second = inner(flip(theta[0]), flip(theta[1]))
    return first / 2 + second


def checkpointed(theta):
    costs = jax.checkpoint(lambda p: c(flip(p), jnp.asarray(W3)))(theta)
    return costs.sum()


def selected(theta):
    x = flip(theta)
    return jnp.where(jnp.array([True, False, True]), c(x), 2.0).sum() + 3 * c(x[2:]).sum()


def lanes_of_cond(theta):
    lane = lambda p, w: lax.cond(w > 0, lambda: c(flip(p), w), lambda: c(flip(p * 1.0), 2 * w))
    return jax.vmap(lane)(theta, jnp.asarray(W3)).sum()


CHARGES = {
    "scan, carry": (scan_carry, 3, each(W3)),
    "scan, minus": (scan_minus, 3, each(W3)),
    "walk": (walk, 3, to_go(3)),
    "walk, backwards": (walk_backwards, 3, to_go(3)),
    "walk, stacked": (walk_stacked, 3, to_go(3)),
    "guide and model": (
        guide_and_model,
        3,
        [(lambda b, i=i: c(b[i] + 2 * (b[i - 1] if i else 0), W3[i]), range(max(i - 1, 0), i + 1)) for i in range(3)],
    ),
    "scan in scan": (scan_in_scan, 4, each([2.0] * 4)),
    "scan in vmap": (
        scan_in_vmap,
        4,
        [(lambda b, i=i: c(b[i - i % 2 : i + 1].sum()), range(i - i % 2, i + 1)) for i in range(4)],
    ),
    "vmap in scan": (vmap_in_scan, 4, each([1.0] * 4)),
    "neighbours": (neighbours, 4, [(lambda b, i=i: c(b[i + 1] + 2 * b[i]), [i, i + 1]) for i in range(3)]),
    "array of sums": (array_of_sums, 3, to_go(3) + each([2.0] * 3)),
    "linear mix": (linear_mix, 3, each(np.asarray(M23)[0]) + [(lambda b: 10.0, [])]),
    "branch": (
        branch,
        2,
        [(lambda b: c(b[1], 3.0) if b[0] else b[1], [0, 1]), (lambda b: c(b[1], 5.0), [1])],
    ),
    "called": (called, 2, [*each([0.5, -50.0]), (lambda b: c(b[0] + b[1]), [0, 1])]),
    "selected": (selected, 3, [*each([1.0, 0.0, 1.0]), (lambda b: c(b[2], 3.0), [2]), (lambda b: 2.0, [])]),
    "lanes of cond": (lanes_of_cond, 3, each(np.where(W3 > 0, W3, 2 * W3))),
    "checkpointed": (checkpointed, 3, each(W3)),
}


@pytest.mark.parametrize("name", CHARGES)
def test_scores_are_charged_as_by_hand(name):
    program, size, terms = CHARGES[name]
    probs = np.linspace(0.3, 0.6, size)
    exact = ppl.exact_gradient(program)(jnp.asarray(probs))
    value, gradient, variance = by_hand(terms, probs)
    np.testing.assert_allclose(exact.value, value, rtol=1e-10)
    np.testing.assert_allclose(exact.gradient, gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(exact.variance, variance, rtol=1e-8, atol=1e-12)


# --- Traces, densities and moves ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "program", "axes"), traces.SHAPES, ids=[row[0] for row in traces.SHAPES])
def test_outer_axes_come_first(name, program, axes):
    traces.test_outer_axes_come_first(name, program, axes)


@gen
def model(t):
    """Every kind of choice: scalar, branches, scan, lanes, batch, a factor, a minibatch."""
    a = ppl.bernoulli(t) @ "a"
    y = lax.cond(a == 1, lambda: normal(t, 1.0) @ "y", lambda: 2 * (normal(0.0, 2.0) @ "w"))
    state, _ = lax.scan(lambda s, x: ((normal(0.5 * s, x) @ "s"), None), y, jnp.array([1.0, 2.0, 0.5]), reverse=True)
    b = jax.vmap(lambda x: lax.cond(x > t, lambda: normal(x, 1.0) @ "b", lambda: x))(jnp.array([0.1, 0.9]))
    ppl.factor(-(state**2) * jnp.array([0.1, 0.2])) @ "f"
    rows = ppl.subsample(4, 2, gen(lambda i: normal(1.0 * i, 1.0) @ "r"))
    rows() @ "m"
    return (ppl.categorical(jnp.ones((2, 3)) / 3) @ "c").sum() + b.sum()


def log_normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


def density(choices, t):
    """The log density of the model by hand: NumPy alone."""
    a, s, b = float(choices["a"]), np.asarray(choices["s"]), np.asarray(choices["b"].value)
    y = float(choices["y"].value) if a else float(choices["w"].value)
    total = np.log(t if a else 1 - t) + (log_normal(y, t, 1.0) if a else log_normal(y, 0.0, 2.0))
    before = np.array([s[1], s[2], y if a else 2 * y])
    total += log_normal(s, 0.5 * before, np.array([1.0, 2.0, 0.5])).sum()
    total += sum(log_normal(b[i], x, 1.0) for i, x in enumerate((0.1, 0.9)) if x > t)
    total += -(s[0] ** 2) * 0.3 + 2 * np.log(1 / 3)
    indices, r = np.asarray(choices["m"]["indices"]), np.asarray(choices["m"]["r"])
    return total + np.log(1 / 12) + 2 * log_normal(r, indices, 1.0).sum()


def example(a, t=0.4):
    """A trace of the model."""
    m = {"indices": jnp.array([1, 3]), "r": jnp.array([0.3, 2.0])}
    made = jnp.array(a == 1)
    given = {
        **{"a": a, "s": jnp.array([0.2, -1.0, 0.7]), "c": jnp.array([2, 0]), "m": m},
        **{"y": ppl.Masked(jnp.where(made, 0.6, 0.0), made), "w": ppl.Masked(jnp.where(made, 0.0, -0.8), ~made)},
        "b": ppl.Masked(jnp.array([0.0, 1.3]), jnp.array([False, True])),
    }
    return given, float(model.log_density(given, t))


@pytest.mark.parametrize("a", [0, 1])
def test_densities_by_hand(a):
    given, log_density = example(a)
    np.testing.assert_allclose(log_density, density(given, 0.4), rtol=1e-6)
    trace, log_weight = model.generate(KEY, given, 0.4)
    np.testing.assert_allclose([log_weight, trace.log_density], [log_density] * 2, rtol=1e-9)
    wrong = dict(given, b=ppl.Masked(jnp.array([0.5, 1.3]), jnp.array([True, True])))
    assert float(model.log_density(wrong, 0.4)) == -np.inf
    weights = {"s": jnp.array([1.0, 2.0, 3.0]), "a": 0.5}
    scaled = ppl.scale(model, weights).log_density(given, 0.4)
    s, y = np.asarray(given["s"]), 0.6 if a else -1.6
    steps = log_normal(s, 0.5 * np.array([s[1], s[2], y]), np.array([1.0, 2.0, 0.5]))
    extra = steps @ np.array([0.0, 1.0, 2.0]) - 0.5 * np.log(0.4 if a else 0.6)
    np.testing.assert_allclose(scaled, log_density + extra, rtol=1e-6)


@pytest.mark.parametrize("a", [0, 1])
def test_moves_by_hand(a):
    given, log_density = example(a)
    trace, _ = model.generate(KEY, given, 0.4)
    np.testing.assert_allclose(model.project(trace, "*"), log_density, rtol=1e-9)
    parts = [float(model.project(trace, name)) for name in ("a", "y", "w", "s", "b", "c", "m/*", "f")]
    np.testing.assert_allclose(sum(parts), log_density, rtol=1e-9)
    np.testing.assert_allclose(parts[-1], -(0.2**2) * 0.3, rtol=1e-6)
    np.testing.assert_allclose(model.project(trace, "c"), 2 * np.log(1 / 3), rtol=1e-6)
    new, log_weight, discarded = model.update(KEY, trace, {"s": jnp.array([0.5, -0.3, 0.1])})
    changed = dict(given, s=jnp.array([0.5, -0.3, 0.1]))
    np.testing.assert_allclose(log_weight, density(changed, 0.4) - log_density, rtol=1e-5)
    np.testing.assert_array_equal(discarded["s"], given["s"])
    _, back, _ = model.update(KEY, new, discarded)
    np.testing.assert_allclose(back, -log_weight, rtol=1e-9)
    partly = ppl.Masked(jnp.array([9.0, 0.0, 9.0]), jnp.array([False, True, False]))
    new, log_weight, _ = model.update(KEY, trace, {"s": partly})
    np.testing.assert_array_equal(new["s"], [0.2, 0.0, 0.7])
    np.testing.assert_allclose(log_weight, density(new.choices, 0.4) - log_density, rtol=1e-5)
    new, log_weight, discarded = model.update(KEY, trace, {"a": 1 - a})
    drawn = float(new["y"].value) if not a else float(new["w"].value)
    plain = log_normal(drawn, 0.4, 1.0) if not a else log_normal(drawn, 0.0, 2.0)
    np.testing.assert_allclose(log_weight, density(new.choices, 0.4) - log_density - plain, rtol=1e-5)
    assert bool(discarded["y"].mask) == bool(a)
    assert bool(discarded["w"].mask) != bool(a)
    new, log_weight, discarded = model.update(KEY, trace, {}, 0.05)
    lost = log_normal(float(new["b"].value[0]), 0.1, 1.0)
    np.testing.assert_allclose(log_weight, density(new.choices, 0.05) - log_density - lost, rtol=1e-5)
    new, log_weight, discarded = model.regenerate(KEY, trace, ("s", "c"))
    before = np.array([0.0, 0.0, 0.6 if a else -1.6])
    law = lambda s: log_normal(s, 0.5 * np.array([s[1], s[2], before[2]]), np.array([1.0, 2.0, 0.5])).sum()
    old, drawn = np.asarray(given["s"]), np.asarray(new["s"])
    expected = density(new.choices, 0.4) - log_density - law(drawn) + law(old)
    np.testing.assert_allclose(log_weight, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(discarded["s"], given["s"])
    assert not any(np.asarray(discarded[path].mask).any() for path in discarded if path not in ("s", "c"))
    with pytest.raises(ppl.AddressError, match="beside choices made for the old ones"):
        model.update(KEY, trace, {"m": {"indices": jnp.array([0, 1])}})
    with pytest.raises(ppl.AddressError):
        model.regenerate(KEY, trace, "q")
    with pytest.raises(ppl.PPLError, match="unnormalised"):
        model.simulate(KEY, 0.4)


@pytest.mark.parametrize("name", ["z", "q"])
def test_densities_under_lanes_of_scans(name):
    """Values and weights are handed to the lanes and steps to which they belong, in any order of nesting."""
    walk = lambda start: lax.scan(lambda s, x: (normal(s, x) @ name, None), start, jnp.array([1.0, 2.0, 0.5]))[0]
    grid = gen(lambda: jax.vmap(walk)(jnp.array([0.3, -0.4])))
    z = np.arange(6.0).reshape(2, 3) / 7
    before = np.concatenate([[[0.3], [-0.4]], z[:, :-1]], 1)
    by_hand = log_normal(z, before, np.array([1.0, 2.0, 0.5]))
    np.testing.assert_allclose(grid.log_density({name: z}), by_hand.sum(), rtol=1e-6)
    weights = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])
    scaled = ppl.scale(grid, {name: weights}).log_density({name: z})
    np.testing.assert_allclose(scaled, (weights * by_hand).sum(), rtol=1e-6)
    some = ppl.Masked(jnp.asarray(z), jnp.array([[True, False, True], [False, True, True]]))
    trace, log_weight = grid.generate(KEY, {name: some})
    found = np.asarray(trace[name])
    np.testing.assert_allclose(found[np.asarray(some.mask)], z[np.asarray(some.mask)], rtol=1e-6)
    before = np.concatenate([[[0.3], [-0.4]], found[:, :-1]], 1)
    known = (log_normal(found, before, np.array([1.0, 2.0, 0.5])) * np.asarray(some.mask)).sum()
    np.testing.assert_allclose(log_weight, known, rtol=1e-6)


def test_support_and_dtypes():
    """Densities at the edge and outside of the support, of floats under discrete choices, with finite gradients."""
    coin = ppl.bernoulli(0.3)
    np.testing.assert_allclose(np.exp(coin.log_prob(jnp.array([1.0, 0.0, 0.5, 2.0]))), [0.3, 0.7, 0.0, 0.0], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.where(x > 0, ppl.gamma(2.0, 1.0).log_prob(x), 0.0))(-1.0)
    assert np.isfinite(gradient)
    assert float(ppl.gamma(2.0, 1.0).log_prob(-1.0)) == -np.inf
    assert float(ppl.poisson(2.0).log_prob(2.0**40)) == -np.inf
    batch = ppl.multivariate_normal(jnp.zeros((2, 3)), jnp.eye(3)).log_prob(jnp.ones((2, 3)))
    np.testing.assert_allclose(batch, [-1.5 - 1.5 * np.log(2 * np.pi)] * 2, rtol=1e-6)
    draw = jax.vmap(lambda p: ppl.categorical(jnp.stack([p, 1 - p])).sample(), axis_size=3)
    values = ppl.seed(lambda: draw(jnp.array([0.0, 1.0, 0.0])))(KEY)
    assert values.dtype == jnp.int32
    np.testing.assert_array_equal(values, [1, 0, 1])


# --- Refusals and numbers of expect, grad and seed ---------------------------------------------------------------

plain = lambda p: ppl.bernoulli(p).sample() * 1.0
coin = lambda p: flip(p, "enum")
REFUSED = {
    "no strategy": (lambda: ppl.grad(plain)(KEY, 0.3), ppl.StrategyError, "which has no strategy"),
    "seed drops": (lambda: jax.grad(ppl.seed(plain), 1)(KEY, 0.3), ppl.StrategyError, "plain sampling would drop"),
    "step": (
        lambda: ppl.grad(lambda m: 1.0 * (normal(m, 1.0).sample() > 0))(KEY, 0.3),
        ppl.UnsoundGradientError,
        "discont|jump|compar",
    ),
    "seed, step": (
        lambda: jax.grad(ppl.seed(lambda m: 1.0 * (normal(m, 1.0).sample() > 0)), 1)(KEY, 0.3),
        ppl.UnsoundGradientError,
        "discont|jump|compar",
    ),
    "moving support": (
        lambda: ppl.grad(lambda t: ppl.uniform(0.0, t, grad=ppl.reinforce()).sample())(KEY, 2.0),
        ppl.UnsoundGradientError,
        "moves with its parameters",
    ),
    "too many values": (
        lambda: ppl.grad(lambda p: flip(jnp.full(17, p), "enum").sum() ** 2)(KEY, 0.3),
        ppl.StrategyError,
        "too many joint values",
    ),
    "too many coins": (
        lambda: ppl.grad(lambda p: sum(coin(p) for _ in range(17)) ** 2)(KEY, 0.3),
        ppl.StrategyError,
        "17 enumerated choices",
    ),
    "too many histories": (
        lambda: ppl.grad(lambda p: lax.scan(lambda s, _: (s + coin(p) * s, None), 1.0, None, 17)[0])(KEY, 0.3),
        ppl.StrategyError,
        "reaches later steps",
    ),
    "integer": (lambda: ppl.expect(lambda p: ppl.bernoulli(p).sample())(KEY, 0.3), ppl.PPLError, "no expectation"),
    "nothing": (lambda: ppl.expect(lambda p: None)(KEY, 0.3), ppl.PPLError, "returns nothing"),
    "no pair": (lambda: ppl.expect(coin, has_aux=True)(KEY, 0.3), ppl.PPLError, "does not return a pair"),
    "not scalar": (lambda: ppl.grad(lambda p: coin(p) * jnp.ones(2))(KEY, 0.3), ppl.PPLError, "not return a scalar"),
    "no argument": (lambda: ppl.grad(coin, argnums=1)(KEY, 0.3), ppl.PPLError, "has no argument 1"),
    "no argument behind": (lambda: ppl.grad(coin, argnums=-2)(KEY, 0.3), ppl.PPLError, "has no argument -2"),
    "nothing to differentiate": (lambda: ppl.grad(lambda n: coin(0.3))(KEY, 3), ppl.PPLError, "nothing to diff"),
    "no key": (lambda: ppl.expect(coin)(0.3), ppl.PPLError, "key"),
    "no key for seed": (lambda: ppl.seed(coin)(0.3), ppl.PPLError, "key"),
    "no key for grad": (lambda: ppl.grad(coin)(0.3), ppl.PPLError, "key"),
    "jvp of one": (lambda: ppl.jvp(coin)(KEY, 0.3, 1.0), ppl.PPLError, "takes tuples"),
    "jvp of two": (lambda: ppl.jvp(coin)(KEY, (0.3,), (1.0, 1.0)), ppl.PPLError, "takes tuples"),
    "inner derivative": (
        lambda: ppl.expect(lambda p: jax.grad(lambda q: normal(q, 1.0).sample())(p))(KEY, 0.3),
        ppl.PPLError,
        "derivative is taken",
    ),
    "plain call": (lambda: normal(0.0, 1.0).sample() + 1, ppl.PPLError, "give it a key"),
    "endless noise": (lambda: ppl.exact_gradient(lambda m: normal(m, 1.0).sample())(0.3), ppl.StrategyError, "enumer"),
    "strategy": (lambda: ppl.expect(lambda: normal(grad=3).sample())(KEY), ppl.StrategyError, "takes a strategy"),
    "pathwise coin": (
        lambda: ppl.expect(lambda p: ppl.bernoulli(p, grad=ppl.pathwise()).sample() * 1.0)(KEY, 0.3),
        ppl.StrategyError,
        "no derivative",
    ),
    "enumerated normal": (
        lambda: ppl.expect(lambda p: normal(p, 1.0, grad=ppl.enum()).sample())(KEY, 0.3),
        ppl.StrategyError,
        "not finite",
    ),
    "integer auxiliary": (
        lambda: ppl.expect(lambda p: (p, ppl.bernoulli(p, grad=ppl.enum()).sample()), has_aux=True)(KEY, 0.3),
        ppl.StrategyError,
        "not a float",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    run, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        run()


def test_what_is_not_refused():
    """Values alone, arguments without a derivative, detached and unchecked choices, the largest enumeration."""
    assert float(ppl.expect(plain)(KEY, 0.3)) in (0.0, 1.0)
    assert float(ppl.seed(plain)(KEY, 0.3)) in (0.0, 1.0)
    assert float(ppl.grad(lambda p, q: q * plain(p), argnums=1)(KEY, 0.3, 1.0)) in (0.0, 1.0)
    assert float(ppl.grad(lambda p: p**2 * plain(lax.stop_gradient(p)))(KEY, 0.5)) in (0.0, 1.0)
    step = lambda m: 1.0 * (normal(m, 1.0, grad=ppl.pathwise(unchecked=True)).sample() > 0)
    assert float(ppl.grad(step)(KEY, 0.3)) == 0.0
    edge = lambda t: ppl.uniform(0.0, lax.stop_gradient(t), grad=ppl.reinforce()).sample() * t
    assert 0 < float(ppl.grad(edge)(KEY, 2.0)) < 2
    assert float(jax.grad(ppl.seed(lambda m: normal(m, 2.0).sample() * 3), 1)(KEY, 0.3)) == 3.0
    large = lambda p: flip(jnp.full(10, p), "enum").sum() ** 2
    np.testing.assert_allclose(ppl.grad(large)(KEY, 0.3), 10 + 2 * 90 * 0.3, rtol=1e-10)


def test_arguments_of_gradients():
    f = lambda p, tree: coin(p) * tree["w"] ** 2 * tree["n"] + tree["name"].count("a") * p
    tree = {"w": jnp.array(2.0), "n": 3, "name": "aha"}
    (value, (by_p, by_tree)) = ppl.value_and_grad(f, argnums=(0, 1))(KEY, 0.5, tree)
    np.testing.assert_allclose([value, by_p, by_tree["w"]], [7.0, 14.0, 6.0], rtol=1e-12)
    assert by_tree["n"] is by_tree["name"] is None
    np.testing.assert_allclose(ppl.grad(f, argnums=-1)(KEY, 0.5, tree)["w"], 6.0, rtol=1e-12)
    gradient, aux = ppl.grad(lambda p: (coin(p) * 2, (coin(p) + p, "kept")), has_aux=True)(KEY, 0.3)
    np.testing.assert_allclose([gradient, aux[0]], [2.0, 0.6], rtol=1e-12)
    assert aux[1] == "kept"
    (value, aux), gradient = ppl.value_and_grad(lambda p: (coin(p) * 2, p), has_aux=True)(KEY, 0.3)
    np.testing.assert_allclose([value, aux, gradient], [0.6, 0.3, 2.0], rtol=1e-12)
    detached = jax.grad(lambda p: ppl.expect(lambda p: (coin(p), p**2), has_aux=True)(KEY, p)[1])(0.3)
    assert float(detached) == 0.0
    value, tangent = ppl.jvp(lambda p, q, n: coin(p) * q * n)(KEY, (0.3, 2.0, 3), (1.0, 0.5, None))
    np.testing.assert_allclose([value, tangent], [1.8, 6.45], rtol=1e-12)
    rows = ppl.hessian(lambda x: coin(x[0]) * x[1] ** 2)(KEY, jnp.array([0.3, 2.0]))
    np.testing.assert_allclose(rows, [[0.0, 4.0], [4.0, 0.6]], rtol=1e-10, atol=1e-12)


# --- Means of all constructs -------------------------------------------------------------------------------------

LADDER = [
    pytest.param(case, case.draws()[i], id=f"{case}-{case.draws()[i]}")
    for number, case in enumerate(CASES)
    for i in ([0, 1] if number % 2 == 0 else [0]) + ([5 + number % 2] if case.predicates else [])
]


@pytest.mark.parametrize(("case", "draw"), LADDER)
def test_means_of_constructs(case, draw):
    value, gradient = enumerate_law(lambda draws, theta: case.law(Law(draw.family, draws), theta), CASE_THETA)
    exact = ppl.exact_gradient(functools.partial(case.program, draw))(jnp.asarray(CASE_THETA))
    np.testing.assert_allclose(exact.value, value, rtol=1e-10)
    np.testing.assert_allclose(exact.gradient, gradient, rtol=1e-10, atol=1e-10)
    assert (np.asarray(exact.variance) < 1e-20).all() if draw.is_exact else (np.asarray(exact.variance) > 0).any()


# --- Which lanes a value depends on ------------------------------------------------------------------------------


def shift_down(x):
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def windows(x):
    """Columns of a result of three copies, each of which may depend on lanes from four before to its own."""
    return jnp.stack([x[:, 0], *[x.sum(1)] * 4, x[:, 1]], 1)


B = jnp.arange(1.0, 13.0).reshape(2, 3, 2)

Rows = lambda x: x.sum(1, keepdims=True)  # All of a row at once.
Columns = lambda x: x.sum(0, keepdims=True)

# Shape of the choice, operation, and what depends on the same lanes as its rule says, if that is more than it does.
OPERATIONS = {
    "same": ((3,), lambda x: x + 1, None),
    "outer sum": ((3,), lambda x: x[:, None] + x[None, :], lambda x: jnp.full((3, 3), x.sum())),
    "rows and columns": ((2, 3), lambda x: Rows(x) * Columns(x), lambda x: jnp.full((2, 3), x.sum())),
    "broadcast": ((2, 1), lambda x: jnp.broadcast_to(x, (2, 3)), None),
    "broadcast, new axes": ((3,), lambda x: jnp.broadcast_to(x[None, :, None], (2, 3, 2)), None),
    "transpose": ((2, 3), lambda x: x.T, None),
    "three axes": ((2, 1, 3), lambda x: x.transpose(2, 0, 1), None),
    "reduce first": ((2, 3), lambda x: x.sum(0), None),
    "reduce last": ((2, 3), lambda x: x.max(1), None),
    "argmax": ((2, 3), lambda x: 1.0 * jnp.argmax(x - 0.1 * jnp.arange(3), 1), None),
    "reshape, new axis": ((2, 3), lambda x: lax.reshape(x, (2, 1, 3)), None),
    "reshape, split": ((2, 4), lambda x: x.reshape(2, 2, 2), lambda x: Rows(x)[..., None] + jnp.zeros((2, 2, 2))),
    "reshape, tail": ((2, 2, 2), lambda x: x.reshape(4, 2), lambda x: x.sum((0, 1))[None] + jnp.zeros((4, 2))),
    "reshape, head": ((2, 2, 2), lambda x: x.reshape(2, 4), lambda x: x.sum((1, 2))[:, None] + jnp.zeros((2, 4))),
    "reshape, equal sizes": ((2, 3), lambda x: x.reshape(3, 2), lambda x: jnp.full((3, 2), x.sum())),
    "squeeze": ((2, 1, 3), lambda x: x.squeeze(1), None),
    "squeeze, negative": ((2, 3), lambda x: lax.squeeze(x[..., None], (-1,)), None),
    "concatenate, other axis": ((2, 2), lambda x: jnp.concatenate([x, 1 - x, x], 1), lambda x: windows(x)),
    "shift down": ((4,), shift_down, None),
    "shift up": ((4,), lambda x: jnp.concatenate([x[1:], jnp.zeros(1)]), None),
    "neighbours": ((4,), lambda x: shift_down(x) + 2 * x, None),
    "far neighbours": ((5,), lambda x: x[2:] + 2 * x[:-2] + 4 * x[1:-1], None),
    "stack": ((3,), lambda x: jnp.stack([x, x + 1], 1), None),
    "slice": ((3, 2), lambda x: x[1:], None),
    "slice of columns": ((2, 4), lambda x: x[:, 1:3], None),
    "strides": ((4, 2), lambda x: x[::2], lambda x: Columns(x) + jnp.zeros((2, 2))),
    "reverse": ((3, 2), lambda x: x[::-1], lambda x: Columns(x) + jnp.zeros((3, 2))),
    "reverse columns": ((3, 2), lambda x: x[:, ::-1], lambda x: Rows(x) + jnp.zeros((3, 2))),
    "pad in front": ((3,), lambda x: lax.pad(x, 0.0, [(2, 0, 0)]), None),
    "pad behind": ((3,), lambda x: lax.pad(x, 0.0, [(0, 1, 0)]), None),
    "pad one of two": ((2, 3), lambda x: lax.pad(x, 0.0, [(0, 0, 0), (1, -1, 0)]), None),
    "pad between": ((2, 2), lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1)]), lambda x: Rows(x) + jnp.zeros((2, 3))),
    "dynamic slice": (
        (2, 3),
        lambda x: lax.dynamic_slice(x, (0, jnp.argmax(B[0, 0])), (2, 2)),
        lambda x: Rows(x) + jnp.zeros((2, 2)),
    ),
    "dynamic update, operand": (
        (2, 3),
        lambda x: lax.dynamic_update_slice(x, jnp.ones((2, 1)), (0, jnp.argmax(B[0, 0]))),
        lambda x: x,
    ),
    "dynamic update": (
        (2, 3),
        lambda x: lax.dynamic_update_slice(jnp.ones((2, 4)), x, (0, jnp.argmax(B[0, 0]))),
        lambda x: Rows(x) + jnp.zeros((2, 4)),
    ),
    "sort": ((2, 3), lambda x: jnp.sort(x, 1), lambda x: Rows(x) + jnp.zeros((2, 3))),
    "sort columns": ((3, 2), lambda x: jnp.sort(x, 0), lambda x: Columns(x) + jnp.zeros((3, 2))),
    "split": ((2, 4), lambda x: jnp.split(x, 2, 1)[1], lambda x: Rows(x) + jnp.zeros((2, 2))),
    "top k": ((2, 3), lambda x: lax.top_k(x - 0.1 * jnp.arange(3), 2)[0], lambda x: Rows(x) + jnp.zeros((2, 2))),
    "bits of pairs": (
        (3, 2),
        lambda x: lax.bitcast_convert_type(x.astype(np.float32), np.float64),
        lambda x: jnp.full(3, x.sum()),
    ),
    "cumsum": ((4,), jnp.cumsum, None),
    "cumsum, reverse": ((4,), lambda x: lax.cumsum(x, 0, reverse=True), None),
    "cumsum, columns": ((2, 3), lambda x: jnp.cumsum(x, 1), None),
    "cumsum of neighbours": ((4,), lambda x: jnp.cumsum(shift_down(x) + x[0] * 0), lambda x: jnp.full(4, x.sum())),
    "cumsum and after": ((4,), lambda x: jnp.cumsum(x) + lax.cumsum(x, 0, reverse=True), None),
    "matrix from the left": ((2, 2), lambda x: M32 @ x, lambda x: Columns(x) + jnp.zeros((3, 2))),
    "matrix from the right": ((2, 2), lambda x: x @ M23, None),
    "batched product": ((2, 3), lambda x: jnp.einsum("bi,bij->bj", x, B), None),
    "batched product, last": ((3, 2), lambda x: jnp.einsum("ib,bij->bj", x, B), None),
    "product of choices": ((2, 3), lambda x: jnp.einsum("bi,ci->bc", x, x), lambda x: jnp.full((2, 2), x.sum())),
    "take columns": ((2, 3), lambda x: x[:, jnp.array([2, 0])], lambda x: Rows(x) + jnp.zeros((2, 2))),
    "take rows": ((3, 2), lambda x: x[jnp.array([2, 0])], lambda x: Columns(x) + jnp.zeros((2, 2))),
    "batched take": (
        (2, 3),
        lambda x: jax.vmap(lambda row, i: row[i])(x, jnp.array([1, 2])),
        lambda x: x.sum(1),
    ),
    "index by a choice": ((3,), lambda x: jnp.array([0.3, 0.9])[x.astype(int)], None),
    "index rows by a choice": ((3,), lambda x: M23[x.astype(int)], None),
    "convolution": (
        (2, 3),
        lambda x: jax.vmap(lambda row: jnp.convolve(row, jnp.array([1.0, -0.5]), "same"))(x),
        lambda x: Rows(x) + jnp.zeros((2, 3)),
    ),
    "fourier": ((2, 3), lambda x: jnp.fft.fft(x).real, lambda x: Rows(x) + jnp.zeros((2, 3))),
    "cholesky": (
        (2,),
        lambda x: jnp.linalg.cholesky((1 + x)[:, None, None] * jnp.eye(2) + 0.1),
        lambda x: x[:, None, None] + jnp.zeros((2, 2, 2)),
    ),
    "vmapped scan": ((2, 3), lambda x: jax.vmap(lambda row: lax.scan(lambda c, y: (c + y, c), 0.0, row)[0])(x), None),
    "running sums": ((3,), lambda x: lax.scan(lambda c, y: (jnp.sin(c) + y, c + y), 0.1, x)[1], None),
    "running sums, reverse": (
        (3,),
        lambda x: lax.scan(lambda c, y: (jnp.sin(c) + y, c + y), 0.1, x, reverse=True)[1],
        None,
    ),
    "sums before": ((3,), lambda x: lax.scan(lambda c, y: (jnp.sin(c) + y, c), 0.1, x)[1], None),
    "last step": ((3,), lambda x: lax.scan(lambda c, y: (y, c + 2 * y), 0.0, x)[1], None),
    "last step, reverse": ((3,), lambda x: lax.scan(lambda c, y: (y, c + 2 * y), 0.0, x, reverse=True)[1], None),
    "the step before last": (
        (4,),
        lambda x: lax.scan(lambda c, y: ((y, c[0]), c[1]), (0.0, 0.0), x)[1],
        lambda x: shift_down(shift_down(jnp.cumsum(x))),
    ),
    "scan over rows": ((2, 3), lambda x: lax.scan(lambda c, row: (c, row * 2), None, x)[1], None),
    "scan over rows, sums": ((2, 3), lambda x: lax.scan(lambda c, row: (c, row.sum()), None, x)[1], None),
    "scan with a constant": (
        (3,),
        lambda x: lax.scan(lambda c, y: (c, y * x), None, jnp.ones(2))[1],
        None,
    ),
    "cond": ((2,), lambda x: lax.cond(x.sum() > 1, jnp.sin, jnp.cos, x), lambda x: jnp.full(2, x.sum())),
    "cond, fixed": ((2,), lambda x: lax.cond(B.sum() > 1, jnp.sin, jnp.cos, x), None),
    "where": ((3,), lambda x: jnp.where(x > 0.5, 2.0, x), None),
    "jit": ((3,), lambda x: jax.jit(jnp.sin)(x), None),
    "checkpoint": ((3,), jax.checkpoint(lambda x: jnp.sin(x) * 2), None),
    "density": ((3,), lambda x: normal(x, 1.0).log_prob(0.3), None),
    "density of a matrix": ((2, 3), lambda x: normal(0.2, 1.0 + x).log_prob(x[:, :1]), lambda x: Rows(x) + 0 * x),
    "density of vectors": (
        (2, 3),
        lambda x: ppl.multivariate_normal(x, jnp.eye(3)).log_prob(jnp.zeros(3)),
        None,
    ),
    "density by vmap": (
        (2, 3),
        lambda x: jax.vmap(lambda r, i: normal(r, 1.0 + i).log_prob(0.3))(x, jnp.ones(2)),
        None,
    ),
    "unknown operation": ((3,), lambda x: jnp.linalg.inv(jnp.diag(1 + x)), lambda x: jnp.full((3, 3), x.sum())),
}
FORMS = {"batch": flip, "vmap": jax.vmap(flip)}


def depends(function, shape):
    """Find out by trying all outcomes which elements of a result change with which elements of the argument."""
    size = int(np.prod(shape))
    outcomes = np.array(list(itertools.product((0.0, 1.0), repeat=size)))
    evaluate = jax.jit(jax.vmap(lambda bits: jnp.ravel(function(bits.reshape(shape)))))
    values = np.asarray(evaluate(outcomes))
    numbers = outcomes @ 2 ** np.arange(size)[::-1]
    flipped = [
        np.searchsorted(numbers, (outcomes != np.eye(size)[i]) @ 2 ** np.arange(size)[::-1]) for i in range(size)
    ]
    return np.stack([(np.abs(values - values[other]) > 1e-9).any(0) for other in flipped], 1)


def believed(function, shape, form):
    """The same, as the analysis has it."""
    program = stage_program(lambda p: function(FORMS[form](p)), (jnp.full(shape, 0.4),))
    plan = make_plan(program.staged.body, program.places, [False])
    ((deps,), (out,)) = plan.flow.outs, program.staged.body.outvars
    at = np.indices(out.aval.shape).reshape(len(out.aval.shape), -1)
    lanes = np.indices(shape).reshape(len(shape), -1)
    found = np.zeros((at.shape[1], lanes.shape[1]), bool)
    for position in deps.values():
        met = np.ones_like(found)
        for axis, relation in enumerate(position):
            if relation is not None:
                place, (first, last, _) = relation
                distance = lanes[axis][None] - at[place][:, None]
                met &= (first <= distance) & (distance <= last)
        found |= met
    return found


@pytest.mark.parametrize(("name", "form"), [*((name, "batch") for name in OPERATIONS), ("transpose", "vmap")])
def test_values_depend_on_the_lanes_that_they_depend_on(name, form):
    shape, operation, rule = OPERATIONS[name]
    found, truth = believed(operation, shape, form), depends(operation, shape)
    assert (found | ~truth).all()
    np.testing.assert_array_equal(found, truth if rule is None else depends(rule, shape) | truth)


# --- Passes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEFT)
def test_what_leaves_a_loop(name):
    passes.test_what_leaves_a_loop(name)


@pytest.mark.parametrize("seed", range(7))
def test_deterministic_loops(seed):
    passes.test_deterministic_loops_keep_value_and_gradient(seed)


@pytest.mark.parametrize("program", [passes.nested, passes.branches, passes.separate])
def test_passes_change_no_number(program, monkeypatch):
    run = lambda: jax.jit(jax.vmap(ppl.expect(program), (0, None)))(jr.split(KEY, 2), 0.7)
    rewritten = run()
    passes.without_passes(monkeypatch)
    np.testing.assert_allclose(rewritten, run(), rtol=1e-9)


# --- Direct strategies and baselines -----------------------------------------------------------------------------

ROWS = [(name, strategy) for name in DIRECT for strategy in ("mvd", "constant") if strategy == "mvd" or "scan" in name]


@pytest.mark.parametrize(("name", "strategy"), [*ROWS, ("one", "own"), ("three", "own")])
def test_means_of_direct_strategies_and_baselines(name, strategy):
    make, mean = DIRECT[name]
    exact = ppl.exact_gradient(make(flips(EXACT[strategy])))(0.3)
    np.testing.assert_allclose(exact.value, mean(0.3), rtol=1e-10)
    np.testing.assert_allclose(exact.gradient, jax.grad(mean)(0.3), rtol=1e-10)


def variance(strategy, program, p):
    return float(ppl.exact_gradient(lambda p: program(flips(strategy))(p))(p).variance)


def test_variances_of_baselines():
    """In closed form: (c1 - b) / p or (b - c0) / (1 - p) for one coin; with other lanes' costs, their differences."""
    one = lambda flip: lambda p: 3 * (flip(p) + 0.5) ** 2
    for b in (0.0, 2.0):
        values = np.array([(0.75 - b) * -1 / 0.7, (6.75 - b) / 0.3])
        expected = 0.7 * values[0] ** 2 + 0.3 * values[1] ** 2 - (0.7 * values[0] + 0.3 * values[1]) ** 2
        np.testing.assert_allclose(variance(reinforce(constant(b)), one, 0.3), expected, rtol=1e-10)
    lanes = lambda flip: lambda p: 3 * ((jax.vmap(flip)(jnp.full(3, p)) + 0.5) ** 2).sum()
    rows = []
    for bits in itertools.product((0, 1), repeat=3):
        x, probs = np.array(bits), np.where(bits, 0.3, 0.7)
        cost = 3 * (x + 0.5) ** 2
        advantage = cost - (cost.sum() - cost) / 2
        rows.append((probs.prod(), (advantage * np.where(x, 1 / 0.3, -1 / 0.7)).sum()))
    weights, gradients = np.array(rows).T
    expected = weights @ gradients**2 - (weights @ gradients) ** 2
    np.testing.assert_allclose(variance(reinforce(leave_one_out_lanes()), lanes, 0.3), expected, rtol=1e-10)
    two = lambda flip: lambda p: jax.vmap(lambda p: (flip(p) + 1.0) ** 2)(jnp.stack([p, 0.5 * p])).sum()
    assert variance(mvd(), two, 0.3) < 1e-20


def test_a_common_cost_is_no_cost():
    """Differences of costs do not see what all values have in common; the values are fresh at every key."""
    far = lambda m: normal(m, 1.0, grad=leave_one_out(3)).sample() * 0.0 + 1e6
    assert abs(float(jax.jit(ppl.grad(far))(KEY, 0.3))) < 1e-3
    gradients = jax.jit(jax.vmap(ppl.grad(lambda m: normal(m, 1.0, grad=leave_one_out(3)).sample()), (0, None)))
    values = gradients(jr.split(KEY, 4), 0.3)
    assert len(set(values.tolist())) == 4


QUICK = ["poisson", "normal lanes", "normal scale", "exponential", "gamma", "leave one out, steps", "dependent"]


@pytest.mark.parametrize("name", QUICK)
def test_sampled_strategies_are_roughly_unbiased(name):
    program, parameter, mean = SAMPLED[name]
    truth = jax.value_and_grad(mean)(parameter)
    draws = jax.jit(jax.vmap(ppl.value_and_grad(program), (0, None)))(jr.split(jr.key(1), 2**13), parameter)
    for found, expected in zip(draws, truth, strict=True):
        error = float(found.std()) / 2**6.5
        assert abs(float(found.mean()) - float(expected)) < 4.5 * error + 1e-9
        assert error < 0.12 * max(abs(float(expected)), 0.3)


@pytest.mark.parametrize("name", WRONG)
def test_refusals_of_direct_strategies(name):
    program, text = WRONG[name]
    run = jax.grad(lambda p: jax.tree.leaves(ppl.expect(program)(KEY, p))[0])
    with pytest.raises(ppl.StrategyError, match=text):
        run(0.3)


def test_second_derivatives():
    """DiCE, with a baseline, by the closed form of E c(b; p): c1 p + c0 (1 - p), all orders."""
    cost = lambda strategy: lambda p: jnp.where(flips(strategy)(p) == 1, p**2, 2 * p)
    mean = lambda p: p**3 + 2 * p * (1 - p)
    for strategy in (reinforce(constant(0.4)), ppl.enum()):
        second = jax.jit(jax.vmap(ppl.hessian(cost(strategy)), (0, None)))(jr.split(KEY, 2**12), 0.3)
        error = float(second.std()) / 2**6
        assert abs(float(second.mean()) - float(jax.grad(jax.grad(mean))(0.3))) < 4.5 * error + 1e-9
    with pytest.raises(ppl.StrategyError, match="second derivative"):
        ppl.hessian(cost(mvd()))(KEY, 0.3)
