"""Programs that other tests do not have, each against a truth found another way: enumeration, a closed form, `seed`."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import constant, learned, mvd
from ppl import (
    AddressError,
    StrategyError,
    UnsoundGradientError,
    bernoulli,
    categorical,
    enum,
    gen,
    half_normal,
    log_normal,
    marginal,
    normal,
    reinforce,
    seed,
    simulate,
)
from tests.programs.replay import KEY

LOGITS = jnp.sin(jnp.arange(9.0) * 1.7).reshape(3, 3)
LOCS = jnp.array([-0.5, 0.3, 1.1])
TABLE = jnp.cos(jnp.arange(18.0) * 1.3).reshape(3, 6)
HISTORIES = jnp.array(list(itertools.product(range(3), repeat=3)))


def close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), got, expected)


def over_histories(cost, log_prob):
    """Sum a cost over all values of three choices of three values each."""
    return lambda *args: jax.vmap(lambda h: jnp.exp(log_prob(h, *args)) * cost(h, *args))(HISTORIES).sum()


# --- Pathwise programs: per key the numbers of `seed` and of its derivatives ------------------------------------------


def shapes(p):
    """Draw many choices of mixed families and shapes, and use them in several terms each."""
    x = normal(p, 1.0).sample()
    tall, none = normal(p[:, None], 0.5).sample(), normal(p[:0], 1.0).sample()
    spread, half = log_normal(p[0], 0.3).sample(), half_normal(1.0 + p**2).sample()
    return (
        normal(x, spread).log_prob(tall).sum()
        - normal(0.0, 1.0).log_prob(jnp.log(half)).sum()
        - normal(0.0, 1.0).log_prob(-x).sum()
        + 2 * normal(tall.T, 1.0).log_prob(jnp.zeros((2, 3))).sum()
        + normal(p[1], 1.0).log_prob(none).sum()
        + jnp.mean(half_normal(2.0).log_prob(half)) * spread
    )


def loops(p):
    """Draw in a reversed scan, under cond and vmap, and multiply what the lanes give."""

    def step(carry, t):
        x, h = normal(carry + p[0], t).sample(), half_normal(1.0 + p[1] ** 2).sample()
        return 0.5 * x + h, normal(0.0, h).log_prob(x) - normal(carry, t).log_prob(x)

    def lane(a):
        made = lax.cond(a > 0.0, lambda: normal(a, 0.2).sample(), lambda: 0.1 * a)
        return jnp.cos(made) + normal(0.0, 1.0).log_prob(made)

    last, terms = lax.scan(step, p[2], jnp.array([1.0, 2.0]), reverse=True)
    return terms.sum() * last + jnp.prod(jax.vmap(lane)(p))


@gen
def part(p):
    z = normal(p[0], 1.0) @ "z"
    normal(z * jnp.ones(2), jnp.exp(p[1])) @ "x"


def nested(p):
    """Call a program within another one, jitted."""
    called = gen(lambda p: (part(p) @ "part", jax.jit(lambda p: part.inline(p))(p), None)[2])
    trace = simulate(called)(p)
    return trace.log_density * trace["part", "z"] + trace["x"].sum()


@pytest.mark.parametrize("program", [shapes, loops, nested])
def test_pathwise_programs_agree_with_seed(program):
    p = jnp.array([0.3, -0.2, 0.5])
    plain = seed(program)
    value, gradient = jax.jit(ppl.value_and_grad(program))(KEY, p)
    close((value, gradient), jax.jit(jax.value_and_grad(plain, 1))(KEY, p))
    tangent = jnp.array([1.0, -2.0, 0.5])
    hessian = lambda f: jax.jit(lambda p: jax.jvp(jax.grad(lambda p: f(KEY, p)), (p,), (tangent,)))(p)
    close(hessian(ppl.expect(program)), hessian(plain))


# --- Enumeration: sums over all histories -----------------------------------------------------------------------------


def markov(history, p):
    before = jnp.concatenate([jnp.zeros(1, int), history[:-1]])
    return jax.nn.log_softmax(p[before], -1)[jnp.arange(3), history].sum()


def chained(cost):
    """Draw the history by a scan whose carry is the last state."""

    def program(p):
        def step(z, _):
            z = categorical(logits=p[z], grad=enum()).sample()
            return z, z

        return cost(lax.scan(step, 0, None, length=3)[1], p)

    return program


def products(history, p):
    return jnp.prod(1 + 0.1 * LOCS[history]) * p[0, history[-1]]


def impossible(history, p):
    """Give states that cannot be an infinite cost."""
    return jnp.where(history == 3, jnp.inf, LOCS[history]).sum() + p[history[0], 0]


def ordered(history, p):
    return (
        jnp.sum(jnp.sort(LOCS[history]) * p[0]) + jnp.linalg.slogdet(TABLE[history] @ TABLE[history].T + jnp.eye(3))[1]
    )


@pytest.mark.parametrize("cost", [products, impossible, ordered])
def test_chains_are_summed_over_all_histories(cost):
    close(ppl.value_and_grad(chained(cost))(KEY, LOGITS), jax.value_and_grad(over_histories(cost, markov))(LOGITS))


def lanes_apart(history, p):
    return jnp.sum(jnp.max(TABLE[history], -1) * jnp.tanh(TABLE[history]).sum(-1))


def neighbours(history, p):
    x = LOCS[history]
    return jnp.sum(jnp.cumsum(x) ** 2) + jnp.sum(x[1:] * x[:-1]) + jnp.sum(jnp.flip(TABLE[history]) * TABLE[history])


def by_index(history, p):
    return jnp.sum(LOCS[history][history]) + jnp.sum(jnp.zeros(3).at[history].add(1.0) ** 2 * p[0])


@pytest.mark.parametrize("strategy", [enum(), reinforce(), reinforce(constant(0.7)), mvd()], ids=str)
@pytest.mark.parametrize("cost", [lanes_apart, neighbours, by_index])
def test_costs_that_mix_the_lanes_of_a_batch(cost, strategy):
    independent = lambda h, p: jax.nn.log_softmax(p, -1)[jnp.arange(3), h].sum()
    exact = ppl.exact_gradient(lambda p: cost(categorical(logits=p, grad=strategy).sample(), p))(LOGITS)
    close((exact.value, exact.gradient), jax.value_and_grad(over_histories(cost, independent))(LOGITS))


# --- Jumps at random places -------------------------------------------------------------------------------------------


def sampled_by(strategy, threshold):
    return bernoulli(jnp.where(normal(0.0, 1.0).sample() > threshold, 0.2, 0.7), grad=strategy).sample() * 1.0


@pytest.mark.parametrize("strategy", [enum(), reinforce(), mvd()], ids=str)
def test_a_law_that_jumps_at_a_random_place_is_refused(strategy):
    """The mean 0.2 + 0.5 Phi(t) has the derivative 0.5 phi(t); every strategy of the coin would give 0."""
    with pytest.raises(UnsoundGradientError, match="moves a jump at a random place"):
        ppl.grad(lambda t: sampled_by(strategy, t))(KEY, 0.3)
    ppl.expect(lambda t: sampled_by(strategy, t))(KEY, 0.3)  # Its value is not wrong.


def test_a_law_that_jumps_is_refused_inside_other_programs_too():
    @gen
    def program(t):
        z = normal(0.0, 1.0) @ "z"
        bernoulli(jnp.array([0.7, 0.2])[(z > t).astype(int)], grad=enum()) @ "b"

    marginalised = marginal(program, keep="b")
    scanned = lambda t: lax.scan(lambda c, _: (c + sampled_by(enum(), t), None), 0.0, None, length=2)[0]
    later = lambda t: normal(sampled_by(reinforce(), t), 1.0, grad=reinforce()).sample()
    for objective in (lambda t: simulate(marginalised)(t)["b"] * 1.0, scanned, later):
        with pytest.raises(UnsoundGradientError, match="moves a jump"):
            ppl.grad(objective)(KEY, 0.3)


def test_a_law_may_jump_where_no_derivative_moves_it():
    fixed = lambda t: t * bernoulli(jnp.where(normal(0.0, 1.0).sample() > 0.0, 0.2, 0.7), grad=enum()).sample()
    detached = lambda t: t * sampled_by(enum(), lax.stop_gradient(t))
    gradients = jax.jit(jax.vmap(ppl.grad(fixed), (0, None)))(jax.random.split(KEY, 200), 0.3)
    assert set(np.round(np.unique(gradients), 12)) == {0.2, 0.7}
    assert round(float(ppl.grad(detached)(KEY, 0.3)), 12) in (0.2, 0.7)


FROM_KEYS = {
    "normal": lambda t: jax.random.normal(ppl.fresh_key()) > t,
    "bernoulli": lambda t: jax.random.bernoulli(ppl.fresh_key(), t),
    "bits": lambda t: jax.random.bits(ppl.fresh_key()) / 2.0**32 > t,
    "split": lambda t: lax.scan(lambda c, k: (c | (jax.random.uniform(k) < t), None), False, keys_of_three())[0],
}


def keys_of_three():
    return jax.random.split(ppl.fresh_key(), 3)


@pytest.mark.parametrize("event", FROM_KEYS.values(), ids=FROM_KEYS)
def test_noise_from_a_fresh_key_may_not_place_a_jump_that_a_derivative_moves(event):
    with pytest.raises(UnsoundGradientError, match="depends on fresh_key"):
        ppl.grad(lambda t: jnp.where(event(t), 1.0, 0.0))(KEY, 0.3)


def test_noise_from_a_fresh_key_may_decide_what_no_derivative_moves():
    def program(t):
        dropped = jnp.where(jax.random.bernoulli(ppl.fresh_key(), 0.5, (3,)), t, 0.0).sum()
        shuffled = jax.random.permutation(ppl.fresh_key(), jnp.array([1.0, 2.0, 3.0]))  # Discrete noise.
        return dropped + jnp.where(shuffled > t, t, 0.0).sum() + jax.nn.relu(jax.random.normal(ppl.fresh_key())) * t

    gradients = np.array([ppl.grad(program)(jax.random.key(i), 0.3) for i in range(8)])
    assert (gradients >= 3).all()
    assert len(set(gradients)) > 2


# --- Predictions, and what errors say ---------------------------------------------------------------------------------


def test_predictions_of_a_program_with_a_marginal_in_it_have_a_log_likelihood():
    """Of the observed x ~ N(u, 2), with u drawn: the log density is that of every draw."""

    @gen
    def inner(u):
        normal(normal(u, 1.0) @ "a", 1.0) @ "x"

    @gen
    def model(params):
        u = normal(0.0, 1.0) @ "u"
        marginal(inner, keep="x", method=ppl.methods.quadrature(20))(u) @ "m"
        normal(u, 1.0) @ "y"

    observed = {"m": {"x": jnp.array(0.3)}, "y": jnp.array(1.0)}
    guide, init = ppl.guides.mean_field(model, observed)
    draws = ppl.predict(model, guide, init, observed, key=KEY, samples=3)
    expected = -0.25 * (0.3 - draws["u"]) ** 2 - 0.5 * math.log(4 * math.pi)
    np.testing.assert_allclose(draws.log_likelihood["m"]["x"], expected, rtol=1e-6)
    np.testing.assert_allclose(draws.log_likelihood["y"], jax.scipy.stats.norm.logpdf(1.0, draws["u"]), rtol=1e-9)


def test_the_exact_oracle_names_a_choice_that_would_be_drawn_again():
    def program(p):
        first = bernoulli(p, grad=mvd()).sample()
        return bernoulli(0.2 + 0.5 * first, grad=reinforce()).sample("second") * 1.0

    with pytest.raises(StrategyError, match=r"'second' at .*test_attack\.py:\d+ drawn anew"):
        ppl.exact_gradient(program)(0.3)


def test_a_baseline_is_an_object():
    for wrong in (learned, 0.5):
        with pytest.raises(StrategyError, match="takes a baseline"):
            reinforce(baseline=wrong)


def test_none_is_no_value_of_a_choice():
    one = gen(lambda: normal(0.0, 1.0) @ "z")
    with pytest.raises(AddressError, match="is not an array"):
        one.log_density({"z": None})
