"""Programs that mix nesting, masks, weights, minibatches, foreign objects and moves, beside plain loops over SciPy."""

import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax import lax
from scipy import stats

import ppl
from estimators import elbo
from ppl import (
    Masked,
    bernoulli,
    categorical,
    choice,
    condition,
    dirichlet,
    enum,
    factor,
    gamma,
    gen,
    lkj_cholesky,
    log_joint,
    multivariate_normal,
    normal,
    reinforce,
    scale,
    score_prior,
    subsample,
    uniform,
    while_loop,
    with_grad,
)
from tests.programs.replay import KEY, assert_exact, close, replay, sigmoid, softmax

pytestmark = pytest.mark.x64

N = stats.norm.logpdf
OTHER = jr.key(11)  # A move with the key of the trace would draw the same values again.


def arrays(tree):
    return jax.tree.map(np.asarray, tree)


def nat(p, b):
    return np.log(p if b else 1 - p)


# --- One program under three addresses: lanes of lanes, jit, branches, a chain ---------------------------------------

SHIFTS, PROBS = [0.5, -1.0], [0.2, 0.3, 0.5]


@gen
def leaf(a, s):
    k = categorical(probs=jnp.array(PROBS)) @ "k"
    z = lax.cond(k > 0, lambda: normal(a * k, s) @ "z", lambda: jnp.asarray(a))
    normal(z, 1.0) @ "x"
    return z


@gen
def tree(a):
    def cell(u, v):
        left = leaf(u + v, 1.0) @ "left"
        return left + jax.jit(lambda left: leaf(left, 2.0) @ "right")(left)

    rows = jax.vmap(lambda u: jax.vmap(lambda v: cell(u, v))(jnp.array(SHIFTS)))(a)
    step = lambda c, row: (leaf(c + row.sum(), 0.5) @ ("chain", "node"),) * 2
    return lax.scan(step, 0.0, rows)


def tree_law(choices, a):
    """Return the log density, that of the values "z" alone by address, and the results of the chain."""
    c, total, drawn, chain = arrays(choices), 0.0, {}, [0.0]

    def visit(name, here, index, a, s):
        nonlocal total
        k, z = here["k"][index], a
        assert here["z"].mask[index] == (k > 0)
        if k:
            z = here["z"].value[index]
            drawn[name, index] = N(z, a * k, s)
            total += drawn[name, index]
        total += np.log(PROBS[k]) + N(here["x"][index], z, 1)
        return z

    for i, u in enumerate(a):
        row = 0.0
        for j, v in enumerate(SHIFTS):
            left = visit("left", c["left"], (i, j), u + v, 1)
            row += left + visit("right", c["right"], (i, j), left, 2)
        chain.append(visit("chain", c["chain"]["node"], (i,), chain[-1] + row, 0.5))
    return total, drawn, chain[1:]


A = np.array([0.3, -0.2, 1.1])


def test_one_program_under_three_addresses():
    trace = jax.jit(tree.simulate)(KEY, A)
    total, drawn, chain = tree_law(trace.choices, A)
    close(trace.log_density, total)
    close(trace.retval[1], chain)
    close(tree.log_density(trace.choices, A), total)
    close(tree.project(trace, "left") + tree.project(trace, ["right/*", "chain/*"]), total)
    new = Masked(jnp.array([[2, 0], [1, 1], [0, 2]]), jnp.array([[True, True], [True, False], [False, True]]))
    after, weight, _ = tree.update(OTHER, trace, {"left": {"k": new}})
    close(after["left/k"], np.where(new.mask, new.value, trace["left/k"]))
    moved, terms, _ = tree_law(after.choices, A)
    close(after.log_density, moved)
    close(weight, moved - total - sum(terms[at] for at in terms.keys() - drawn.keys()))


def test_regenerated_nodes_of_a_chain_after_lanes():
    trace = tree.simulate(KEY, A)
    total, drawn, _ = tree_law(trace.choices, A)
    after, weight, _ = tree.regenerate(OTHER, trace, ["chain/*/z", "left/z"])
    moved, terms, _ = tree_law(after.choices, A)
    close(after.log_density, moved)
    own = lambda terms: sum(term for (name, _), term in terms.items() if name != "right")
    close(weight, moved - total - own(terms) + own(drawn))


# --- Bounded loops whose end is a coin, in lanes that multiply -------------------------------------------------------


def runs(theta, grad):
    def run(t):
        def body(c):
            i, s, _ = c
            b = bernoulli(theta[0], grad=grad) @ "b"
            return i + 1, s + jnp.sin(t * i) * b + 0.3 * b * s, b

        return while_loop(lambda c: c[2] == 1, body, (0, 0.5, 1), 3)[1] ** 2

    return jnp.prod(jax.vmap(run)(jnp.stack([theta[1], 2 * theta[1]])))


def runs_law(draw, theta):
    """Return the product over lanes; the draws of one lane do not depend on those of the other."""
    product = 1.0
    for t in (theta[1], 2 * theta[1]):
        s = 0.5
        for i in range(3):
            b = draw([1 - theta[0], theta[0]])
            if not b:
                break
            s = s + np.sin(t * i) + 0.3 * s
        product = product * s**2
    return product


@pytest.mark.parametrize("grad", [enum, reinforce])
def test_bounded_loops_that_multiply(grad):
    exact = assert_exact(lambda theta: runs(theta, grad), runs_law, [0.4, 0.7])
    assert (float(np.max(exact.variance)) < 1e-20) == (grad is enum)


def test_another_strategy_for_an_anonymous_choice_in_a_loop():
    cost = lambda p: lax.scan(lambda c, _: (c + bernoulli(p).sample() * 1.0, None), 0.0, None, length=2)[0]
    close(ppl.grad(with_grad(cost, {"bernoulli": enum()}))(KEY, 0.3), 2.0)
    body = lambda c: (c[0] + 1, c[1] + bernoulli(c[2]).sample(), c[2])
    loop = lambda p: while_loop(lambda c: c[0] < 2, body, (0, 0.0, p), 3)[1]
    close(ppl.grad(with_grad(loop, {"bernoulli": enum()}))(KEY, 0.3), 2.0)


# --- Moves of bounded loops that branch, with a factor, in lanes, partly observed ------------------------------------


@gen
def walk(q):
    def body(c):
        i, x = c
        go = bernoulli(q) @ "go"
        x = lax.cond(go == 1, lambda: normal(x, 1.0) @ "jump", lambda: x)
        normal(x, 0.5) @ "y"
        return jnp.where(go == 1, i + 1, 9), x

    x = while_loop(lambda c: c[0] < 3, body, (0, 0.0), 4)[1]
    factor(-(x**2)) @ "end"
    return x


walks = gen(lambda qs: jax.vmap(lambda q: walk(q) @ "w")(qs))
QS = np.array([0.5, 0.8, 0.3, 0.6])


def walks_law(choices):
    """Return the log density with its factors, and each choice's part by lane, step and address."""
    w, parts, total = arrays(choices)["w"], {}, 0.0
    for lane, q in enumerate(QS):
        x, on = 0.0, True
        for t in range(4):
            made = {name: w[name].mask[lane, t] for name in w}
            assert made["go"] == made["y"] == (on and t < 3)
            if not made["go"]:
                assert not made["jump"]
                continue
            go, jump, y = (w[name].value[lane, t] for name in ("go", "jump", "y"))
            assert made["jump"] == go
            parts[lane, t, "go"] = nat(q, go)
            if go:
                parts[lane, t, "jump"] = N(jump, x, 1)
                x = jump
            parts[lane, t, "y"] = N(y, x, 0.5)
            on = bool(go)
        total -= x**2
    return total + sum(parts.values()), parts


FIRST = jnp.zeros((4, 4), bool).at[:, 0].set(True)


def moved_walks():
    before, weight = walks.generate(KEY, {"w": {"y": Masked(jnp.full((4, 4), 0.7), FIRST)}}, QS)
    flipped = jnp.zeros((4, 4), jnp.int32).at[:, 0].set(1 - before["w/go"].value[:, 0])
    return before, weight, *walks.update(OTHER, before, {"w": {"go": Masked(flipped, FIRST)}})


def test_moves_of_bounded_loops_that_branch_in_lanes():
    before, weight, after, moved, discarded = moved_walks()
    (old, parts), (new, others) = walks_law(before.choices), walks_law(after.choices)
    close(before.log_density, old)
    close(weight, sum(parts[lane, 0, "y"] for lane in range(4)) - np.sum(before.retval**2))
    close(after.log_density, new)
    close(moved, new - old - sum(others[at] for at in others.keys() - parts.keys()))
    back = walks.update(jr.key(5), after, discarded)[0]
    jax.tree.map(close, back.choices, before.choices)


def test_discarded_choices_are_zero_where_nothing_is_discarded():
    program = gen(lambda b: lax.cond(b, lambda: normal(0.0, 1.0) @ "z", lambda: 0.0))
    discarded = program.update(OTHER, program.simulate(KEY, True), {})[2]
    assert not discarded["z"].mask
    close(discarded["z"].value, 0.0)


# --- A density over a vector: simplex, Cholesky factor, lanes of positive choices, an interval that moves ------------


@gen
def spread():
    w = dirichlet(jnp.array([1.5, 2.0, 0.7])) @ "w"
    tril = lkj_cholesky(2, 1.5) @ "tril"
    s = jax.vmap(lambda rate: gamma(2.0, rate) @ "s")(jnp.array([1.0, 3.0]))
    u = uniform(-1.0, s[0]) @ "u"
    b = bernoulli(0.3) @ "b"
    multivariate_normal(jnp.stack([u, 0.0]) + w[:2] * b, scale_tril=s[:, None] * tril) @ "x"


def spread_law(choices, b, x):
    c = arrays(choices)
    (w, s), r, tril = (c["w"], c["s"]), c["tril"][1, 0], c["s"][:, None] * c["tril"]
    prior = stats.dirichlet.logpdf(w / w.sum(), [1.5, 2, 0.7]) + stats.beta.logpdf((r + 1) / 2, 1.5, 1.5) - np.log(2)
    prior += stats.gamma.logpdf(s, 2, scale=[1, 1 / 3]).sum() - np.log(s[0] + 1) + nat(0.3, b)
    return prior + stats.multivariate_normal.logpdf(x, np.array([c["u"], 0]) + w[:2] * b, tril @ tril.T)


def test_a_density_over_a_vector_of_four_supports():
    b, x = 1, np.array([0.3, -0.4])
    log_density, constrain = log_joint(spread, {"x": x, "b": b})
    z = jr.normal(jr.key(b), (constrain.size,))
    parts = lambda c: jnp.concatenate([c["w"][:2], c["tril"][1, :1], c["s"], c["u"][None]])

    @jax.jit
    def everything(z):
        c = constrain(z)
        return c, constrain.inverse(c), jax.jacobian(lambda z: parts(constrain(z)))(z), log_density(z)

    c, same, jacobian, density = everything(z)
    close(same, z)
    close(density, spread_law(c, b, x) + np.linalg.slogdet(jacobian)[1])


def test_a_density_over_a_vector_with_missing_data():
    """The missing element is an unknown as all others are."""
    program = gen(lambda: jax.vmap(lambda rate: gamma(2.0, rate) @ "s")(jnp.array([1.0, 3.0])))
    seen = {"s": Masked(jnp.array([0.5, 0]), jnp.array([True, False]))}
    log_density, constrain = log_joint(program, seen)
    assert constrain.size == 1
    close(log_density(jnp.zeros(1)), stats.gamma.logpdf([0.5, 1], 2, scale=[1, 1 / 3]).sum())


# --- Minibatches with a global and local latents, in a call ----------------------------------------------------------

LENGTHS, DATA = np.array([1.0, 2.0, 0.5, 1.5]), np.array([0.1, 0.2, 0.3, 0.4])


@gen
def item(i, mu):
    t = normal(mu * jnp.array(LENGTHS)[i], 1.0) @ "t"
    normal(t, 0.5) @ "y"


@gen
def corpus():
    mu = normal(0.0, 2.0) @ "mu"
    subsample(4, 2, item)(mu) @ ("docs", "sub")


def corpus_law(trace):
    """Return the parts of the log density: the global latent, the locals, the data and the indices."""
    c = arrays(trace.choices)
    mu, sub = c["mu"], c["docs"]["sub"]
    local = 2 * N(sub["t"], mu * LENGTHS[sub["indices"]], 1).sum()
    return np.array([N(mu, 0, 2), local, 2 * N(sub["y"], sub["t"], 0.5).sum(), -np.log(12)])


def corpus_trace():
    return corpus.generate(KEY, {"docs": {"sub": {"y": DATA}}})


def test_moves_of_a_minibatch():
    before, weight = corpus_trace()
    parts = corpus_law(before)
    close(before["docs/sub/y"], DATA[before["docs/sub/indices"]])
    close([before.log_density, weight], [parts.sum(), parts[2]])
    after, weight, _ = corpus.regenerate(OTHER, before, "mu")
    change = corpus_law(after) - parts
    assert change[0] != 0
    close(after.log_density, corpus_law(after).sum())
    close(weight, change[1:].sum())
    after, weight, _ = corpus.update(OTHER, before, {"mu": 0.5, "docs": {"sub": {"y": DATA + 5}}})
    close(after["docs/sub/y"], DATA[before["docs/sub/indices"]] + 5)
    close(weight, corpus_law(after).sum() - parts.sum())


def test_regenerated_local_latents_of_a_minibatch():
    """The target has the density n/size times, the proposal once: see the transition matrices in `test_moves`."""
    before, _ = corpus_trace()
    after, weight, _ = corpus.regenerate(OTHER, before, "docs/sub/t")
    change = corpus_law(after) - corpus_law(before)
    close(weight, change[2] + change[1] / 2)


def test_parts_of_the_density_of_a_minibatch():
    trace, _ = corpus_trace()
    close(corpus.project(trace, "*"), trace.log_density)
    close(corpus.project(trace, "docs/sub/t"), corpus_law(trace)[1])


def test_parts_of_a_scaled_density():
    program = scale(gen(lambda: normal(normal(0.0, 1.0) @ "t", 0.5) @ "y"), {"t": 3.0})
    trace, _ = program.generate(KEY, {"y": 0.5})
    close(program.project(trace, "*"), trace.log_density)
    close(program.project(trace, "t"), 3 * N(trace["t"]))
    twice = scale(scale(gen(lambda: program() @ "in"), {"in/t": 2.0}), {"t": 0.5})
    trace, _ = twice.generate(KEY, {"in": {"y": 0.5}})
    close(twice.project(trace, "t"), 3 * N(trace["in/t"]))


# --- A module as argument and in closures; enumeration and scores together; training ---------------------------------


class Net(eqx.Module):
    w: jax.Array
    act: Callable = eqx.field(static=True)
    depth: int = 2

    def __call__(self, x):
        return self.act(self.w @ x)


START, X = np.array([0.3, -0.2, 0.5, 0.1]), np.array([0.2, -0.4])


def layers(net, x, grad=reinforce):
    inner = gen(lambda z: bernoulli(logits=net(z), grad=enum) @ "b")
    for i in range(net.depth):
        b = inner(x) @ f"l{i}"
        k = categorical(logits=net.w[0] * (i + 1), grad=grad) @ f"k{i}"
        x = x * 0.5 + b * (k + 1)
    return jnp.sum(x**2)


def layers_law(draw, theta):
    w, x = theta.reshape(2, 2), X
    for i in range(2):
        logits = np.tanh(w @ x)
        b = np.array([draw([1 - sigmoid(v), sigmoid(v)]) for v in logits])
        x = x * 0.5 + b * (draw(softmax(w[0] * (i + 1))) + 1)
    return np.sum(x**2)


def net_of(theta):
    return Net(theta.reshape(2, 2), jnp.tanh)


@pytest.mark.parametrize("grad", [enum, reinforce])
def test_layers_of_a_module(grad):
    assert_exact(lambda theta: layers(net_of(theta), X, grad), layers_law, START)


def test_training_of_a_module_without_noise():
    """With all choices enumerated, three steps are those of gradient descent on the enumerated law."""
    objective = lambda net: with_grad(layers, {"k?": enum})(net, X)
    fit = ppl.minimize(objective, net_of(jnp.array(START)), None, optax.sgd(0.1), steps=3, key=KEY)
    theta, values = START, []
    for _ in range(3):
        value, gradient = replay(layers_law, theta)
        values.append(value)
        theta = theta - 0.1 * gradient
    close(fit.params.w.ravel(), theta, 1e-9)
    close(fit.history["value"], values, 1e-9)


# --- Weights, conditions and factors in lanes, calls and steps -------------------------------------------------------


@gen
def part(mu):
    a = normal(mu, 1.0) @ "a"
    b = bernoulli(jax.nn.sigmoid(a)) @ "b"
    factor(jnp.array([0.1, 0.2]) * a) @ "f"
    return a + b


@gen
def weighted(p):
    mu = normal(p, 1.0) @ "mu"
    jax.vmap(lambda s: scale(part, {"b": 0.5, "f": 3.0})(mu * s) @ "s")(jnp.array([1.0, 2.0]))
    condition(part, {"a": 0.3})(mu) @ "v"
    one = gen(lambda c: normal(c, 1.0) @ "y")
    step = lambda c, t: (scale(one, {"y": t})(c) @ "st", None)
    lax.scan(step, mu, jnp.array([0.2, 1.0, 2.0]))


def weighted_law(choices, p):
    """Return the log density, and the unscaled densities of "s/b" and of the steps."""
    c = arrays(choices)
    mu, a, b, ys = c["mu"], c["s"]["a"], c["s"]["b"], c["st"]["y"]
    coins = np.array([nat(sigmoid(x), k) for x, k in zip(a, b, strict=True)])
    steps = N(ys, [mu, *ys[:2]], 1)
    conditioned = N(0.3, mu, 1) + nat(sigmoid(0.3), c["v"]["b"]) + 0.3 * 0.3
    lanes = N(a, mu * np.array([1, 2]), 1).sum() + 0.5 * coins.sum() + 3 * 0.3 * a.sum()
    return N(mu, p, 1) + lanes + conditioned + np.dot([0.2, 1, 2], steps), coins, steps


def test_moves_of_a_weighted_program():
    """What is drawn has the unscaled density, what is weighed the scaled one."""
    seen = {
        "s": {"a": jnp.array([0.1, -0.7])},
        "st": {"y": Masked(jnp.array([0.2, 0, -1.0]), jnp.array([True, False, True]))},
    }
    before, weight = weighted.generate(KEY, seen, 0.2)
    old, coins, steps = weighted_law(before.choices, 0.2)
    close(before.log_density, old)
    latent = N(before["mu"], 0.2, 1) + nat(sigmoid(0.3), before["v/b"])
    close(weight, old - coins.sum() - steps[1] - latent)
    after, weight, _ = weighted.regenerate(OTHER, before, ["s/b", "st/*"])
    new, others, walked = weighted_law(after.choices, 0.2)
    close(after.log_density, new)
    close(weight, new - old - others.sum() - walked.sum() + coins.sum() + steps.sum())


# --- Foreign objects -------------------------------------------------------------------------------------------------


class Triangle:
    def __init__(self, mode):
        self.mode = mode

    def sample(self, key):
        return self.mode + jr.uniform(key, (2,)).sum() - 1

    def log_prob(self, x):
        return jnp.log1p(-jnp.abs(x - self.mode))


class Coin(Triangle):
    """A choice of True or False."""

    def sample(self, key):
        return jr.bernoulli(key, self.mode)

    def log_prob(self, x):
        return jnp.where(x, jnp.log(self.mode), jnp.log1p(-self.mode))


@gen
def foreign(c):
    t = jax.vmap(lambda c: choice(Triangle(c)) @ "t")(jnp.stack([c, c + 1]))
    components = dist.Normal(jnp.array([0.0, 2.0]) + t[0], jnp.array([1.0, 0.5]))
    choice(dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.3, 0.7])), components)) @ "m"
    e = choice(dist.Normal(jnp.zeros((2, 3)), jnp.arange(1.0, 4.0)).to_event(1)) @ "e"
    g = lax.scan(lambda s, u: (s + (choice(dist.Gamma(jnp.exp(u), 1.0)) @ "g"), None), 0.0, e.sum(1))[0]
    choice(dist.MultivariateNormal(t, jnp.eye(2) * (1 + g))) @ "x"


def test_foreign_objects_in_lanes_and_steps():
    trace = jax.jit(foreign.simulate)(KEY, 0.5)
    c = arrays(trace.choices)
    total = np.log1p(-abs(c["t"] - [0.5, 1.5])).sum() + N(c["e"], 0, [1, 2, 3]).sum()
    total += np.log(np.dot([0.3, 0.7], stats.norm.pdf(c["m"], c["t"][0] + np.array([0, 2]), [1, 0.5])))
    total += stats.gamma.logpdf(c["g"], np.exp(c["e"].sum(1))).sum()
    total += stats.multivariate_normal.logpdf(c["x"], c["t"], np.eye(2) * (1 + c["g"].sum()))
    close(trace.log_density, total)
    close(foreign.log_density(trace.choices, 0.5), total)


@pytest.mark.parametrize("made", [lambda: Coin(0.3), lambda: dist.Bernoulli(0.3)])
def test_the_density_of_a_discrete_foreign_choice(made):
    program = gen(lambda: choice(made()) @ "k")
    for k in (0, 1):
        close(program.log_density({"k": k}), nat(0.3, k))


# --- Priors known by their score, with parameters and in lanes -------------------------------------------------------


def score_gradient(model, a):
    """Return one run of the gradient of the ELBO at 0.3, the noise of the guide being none."""
    guide = gen(lambda p, observed: normal(p * jnp.array(a), 1e-9) @ "x")
    return ppl.grad(lambda p: elbo(model, guide)(p, {}))(KEY, 0.3)


def test_a_score_with_a_parameter():
    program = gen(lambda p: score_prior(lambda x: (p - x) / 2, (2,)) @ "x")
    a = np.array([1.0, -2.0])
    close(score_gradient(program, a), np.sum(a * (0.3 - 0.3 * a) / 2), 1e-6)


def test_scores_in_lanes():
    program = gen(lambda p: jax.vmap(lambda _: score_prior(lambda x: -x / 2, ()) @ "x")(jnp.arange(2)))
    a = np.array([1.0, -2.0])
    close(score_gradient(program, a), np.sum(a * -0.3 * a / 2), 1e-6)


# --- Value checks ----------------------------------------------------------------------------------------------------


def test_checks_of_choices_that_are_not_made():
    program = gen(lambda s: lax.cond(s > 0, lambda: normal(0.0, s) @ "x", lambda: 0.0))
    values = {"x": Masked(jnp.array([0.0, 0.4]), jnp.array([False, True]))}
    with ppl.checks():
        densities = jax.vmap(program.log_density)(values, jnp.array([-1.0, 2.0]))
    close(densities, [0.0, N(0.4, 0, 2)])


def test_all_outcomes_of_an_anonymous_and_a_named_choice():
    """Two kinds of choices under two strategies, one in a nested program; enumeration in plain Python."""
    inner = gen(lambda p: categorical(probs=jnp.stack([p, 1 - p]), grad=reinforce) @ "k")

    def program(theta):
        b = bernoulli(theta[0], grad=enum).sample()
        return (inner(theta[1]) @ "one" + 2 * (inner(theta[0] * theta[1]) @ "two") - b) ** 2 * 1.0

    exact = ppl.exact_gradient(program)(jnp.array([0.3, 0.6]))
    outcomes = itertools.product((0, 1), repeat=3)
    law = lambda p, q: [
        ((k + 2 * m - b) ** 2, (p, 1 - p)[1 - b], (q, 1 - q)[k], (p * q, 1 - p * q)[m]) for b, k, m in outcomes
    ]
    close(exact.value, sum(np.prod(row) for row in law(0.3, 0.6)))
