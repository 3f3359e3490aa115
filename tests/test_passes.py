"""Loop fission: the same program with smaller loops. Exact where there is no noise, or finite noise; else moments."""

import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from estimators import elbo
from ppl import gen, jaxprs, normal
from ppl.batching import Rebind
from ppl.passes import vectorise
from ppl.passes.draws import Draws
from ppl.primitives import choice_p, density_p
from ppl.transforms.programs import stage_program
from tests.statistical.random_programs import Generator, as_jax, as_law
from tests.statistics import assert_unbiased, enumerate_law

expect_module, seed_module = (importlib.import_module(f"ppl.transforms.{name}") for name in ("expect", "seed"))
ENUMERATED = frozenset({"enumerate"})
NOTHING = frozenset()
KEY = jr.key(3)


def staged(function, *args):
    """Trace a stochastic function of arrays."""
    return stage_program(function, args).staged.body


def primitives(body):
    """List the primitives of a body, at any depth."""
    found = []
    for eqn in body.eqns:
        found.append(eqn.primitive)
        found += [p for inner in jaxprs.inner_bodies(eqn) for p in primitives(inner)]
    return found


def count(body, primitive):
    return sum(found is primitive for found in primitives(body))


def assert_close(actual, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), actual, expected)


# --- Random deterministic loops ----------------------------------------------------------------------------------


def log_normal(x, loc):
    return normal(loc, 0.5 + loc**2).log_prob(x)


class Loops:
    """Write random loops over one scalar state each, of every kind of carry."""

    CARRIES = ("sum", "read_sum", "counter", "shift", "fixed", "recurrence", "chain", "minus", "same")

    def __init__(self, seed):
        self.rng = np.random.RandomState(seed)

    def pick(self, *options):
        return options[self.rng.randint(len(options))]

    def operation(self, depth):
        """Return a function of two numbers."""
        weight = float(self.rng.uniform(-1, 1))
        kinds = [
            lambda x, y: jnp.sin(x) + weight * y,
            lambda x, y: weight * x * jnp.tanh(y),
            lambda x, y: log_normal(jnp.tanh(x), y),
            lambda x, y: lax.cond(x > weight, lambda u: jnp.sin(u), lambda u: u * weight, y),
            lambda x, y: lax.cond(x > weight, lambda u: log_normal(u, weight), lambda u: u * weight, y),
            lambda x, y: jax.jit(lambda u: log_normal(u, jnp.tanh(y)))(jnp.tanh(x)),
            lambda x, y: jnp.sum(jnp.outer(jnp.full(4, x), jnp.arange(4.0) * y) @ jnp.ones(4)),
            lambda x, y: jax.nn.softplus(x) - jnp.where(y > 0, y, 0.5),
            jax.checkpoint(lambda x, y: log_normal(jnp.tanh(x), jnp.sin(y))),
        ]
        if depth < 2:
            inner = self.loop(depth + 1)
            kinds += [lambda x, y: inner(x, y)] * 3
        return self.pick(*kinds)

    def loop(self, depth=0):
        """Return a function of two numbers: constant and start."""
        length, reverse = self.pick(1, 2, 3, 5), bool(self.rng.rand() < 0.4)
        carries = [self.pick(*self.CARRIES) for _ in range(self.rng.randint(1, 5))]
        operations = [self.operation(depth) for _ in range(self.rng.randint(2, 5))]
        picks = self.rng.randint(0, 100, (len(operations) + 2 * len(carries) + 2, 2))
        xs = jnp.asarray(self.rng.uniform(-1, 1, (length,)))

        def run(constant, start):
            def step(carry, x):
                values = [constant, x]
                values += [v * 1.0 for v, kind in zip(carry, carries, strict=True) if kind not in ("sum", "chain")]
                for operation, (i, j) in zip(operations, picks, strict=False):
                    values.append(operation(values[i % len(values)], values[j % len(values)]))
                others = iter([values[i % len(values)] for i, _ in picks[len(operations) :]])
                new = [advance(kind, value, next(others), x) for kind, value in zip(carries, carry, strict=True)]
                return new, (values[-1], next(others), carry[0])

            init = [jnp.int32(2) if kind == "counter" else start * (0.5 + i) for i, kind in enumerate(carries)]
            final, ys = lax.scan(step, init, xs * jnp.cos(constant), reverse=reverse)
            weights = 1.0 + jnp.arange(length)
            return jnp.tanh(sum(final)) + sum(jnp.tanh(jnp.sum(y * weights)) for y in ys)

        return run


def advance(kind, value, other, x):
    """Hand a carry on."""
    if kind == "recurrence":
        return jnp.sin(value + other)
    other = jnp.tanh(other)
    return {
        "sum": value + other,
        "read_sum": value + x,
        "counter": value + 1,
        "shift": jnp.sin(x) + 0 * x,
        "fixed": value,
        "chain": 0.3 + (value + other) - x,
        "minus": value - 0.25,
        "same": other,
    }[kind]


@pytest.mark.x64
@pytest.mark.parametrize("seed", [*range(16), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(16, 60))])
def test_deterministic_loops_keep_value_and_gradient(seed):
    run, args = Loops(seed).loop(), (jnp.float64(0.3), jnp.float64(-0.7))
    body = jaxprs.restage(run, args)
    rewritten = vectorise(body)
    evaluate = lambda body: jax.jit(jax.value_and_grad(lambda *xs: Rebind(()).run(body, xs)[0], (0, 1)))(*args)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), evaluate(rewritten), evaluate(body)
    )


def test_random_loops_are_rewritten():
    """The test above is not about programs that the pass leaves alone, and some loops disappear."""
    args = (jnp.zeros(()), jnp.zeros(()))
    bodies = [jaxprs.restage(Loops(seed).loop(), args) for seed in range(40)]
    speaking = [body for body in bodies if count(body, density_p) and count(body, jaxprs.scan_p)]
    rewritten = [(body, vectorise(body)) for body in speaking]
    assert len(speaking) > 20
    assert sum(count(new, jaxprs.scan_p) < count(old, jaxprs.scan_p) for old, new in rewritten) > 5
    assert all(count(new, jaxprs.scan_p) <= count(old, jaxprs.scan_p) for old, new in rewritten)


# --- Random finite programs ---------------------------------------------------------------------------------------

THETA = np.array([0.3, -0.4, 0.7])


@pytest.mark.x64
@pytest.mark.parametrize(
    ("kept", "seed"), [*itertools.product([ENUMERATED], [*range(200, 230), 301, 309]), (NOTHING, 200)]
)
def test_finite_programs_keep_their_means(kept, seed, monkeypatch):
    """With score-function choices outside their loops, too, value and gradient are those of plain Python."""
    monkeypatch.setattr(expect_module, "KEPT_MODES", kept)
    block = Generator(seed, 6.0).program()
    value, gradient = enumerate_law(as_law(block), THETA)
    try:
        exact = ppl.exact_gradient(as_jax(block))(jnp.asarray(THETA))
    except ppl.StrategyError as error:
        pytest.skip(str(error).splitlines()[0])
    np.testing.assert_allclose(exact.value, value, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(exact.gradient, gradient, rtol=1e-9, atol=1e-9)


# --- One result per key, with the pass and without ----------------------------------------------------------------


def recurrence(p):
    """A choice that needs the carry, beside two that do not."""

    def step(state, x):
        noise = ppl.gamma(1.0 + x**2, 2.0).sample() * ppl.laplace(p, 0.5).sample()
        state = normal(0.5 * state, 1.0 + x**2).sample() + jnp.tanh(noise)
        return state, state * noise

    final, ys = lax.scan(step, p, jnp.arange(3.0) * p)
    return final + (ys**2).sum()


def nested(p):
    """Choices of the inner loop that need the step of the outer one, and its carry."""

    def outer(total, x):
        def inner(state, y):
            free = normal(x * y, 0.3).sample()
            bound = normal(state, 0.2).sample()
            return jnp.sin(bound + free), free * bound

        state, ys = lax.scan(inner, 0.1 * total, jnp.arange(2.0), reverse=True)
        return total + ys.sum(), state + normal(p, 1.0).sample()

    total, ys = lax.scan(outer, p, jnp.linspace(0.0, p, 3))
    return total + jnp.sin(ys).sum()


def lanes(p):
    """Lanes inside and outside of a loop, of choices with and without parameters that vary."""

    def lane(x):
        def step(c, y):
            z = jax.vmap(lambda u: normal(x + u, 1.0).sample())(jnp.arange(2.0)).sum()
            w = jax.vmap(lambda u: normal(y, 1.0).sample() * u)(jnp.arange(3.0)).sum()
            return c + z * w, normal(jnp.stack([p, y]), 0.5).sample()

        c, ys = lax.scan(step, 0.0, x * jnp.arange(2.0))
        return c + jnp.sum(ys**2)

    return jax.vmap(lane)(jnp.array([0.2, p, 1.0])).sum()


def branches(p):
    """Conds that make choices, under predicates that are fixed, vary, and are mapped."""

    def step(c, x):
        a = lax.cond(x > 0.5, lambda u: normal(u, 1.0).sample(), lambda u: jnp.sqrt(u), p + x)
        b = lax.cond(p > 0, lambda u: normal(u, 1.0).sample() ** 2, lambda u: u, x)
        m = jax.vmap(lambda u: lax.cond(u > x, lambda v: normal(v, 1.0).sample(), lambda v: v, u))(jnp.arange(3.0))
        return c + a * b, jnp.sin(m).sum()

    c, ys = lax.scan(step, p, jnp.arange(3.0) * p)
    return c + ys.sum()


def wrapped(p):
    """Choices in jit, checkpoint and nested calls inside a loop; fresh keys; foreign distributions."""

    @gen
    def pair(x):
        z = normal(x, 1.0) @ "z"
        return z * (normal(z, 0.5) @ "w")

    def step(c, x):
        a = jax.jit(lambda u: normal(u, 1.0).sample())(x)
        b = jax.checkpoint(lambda u: normal(u, 1.0).sample() ** 2)(x)
        free = jr.normal(ppl.fresh_key())
        d = ppl.choice(dist.Gumbel(x, 1.0), grad=ppl.pathwise()).sample()
        return c + a * b * free + d, pair(x) @ "pair"

    c, ys = lax.scan(step, p, jnp.arange(3.0) * p)
    return c + jnp.cos(ys).sum()


def discrete(p):
    """Choices without a strategy, whose parameters have no derivative."""

    def step(c, x):
        n = ppl.poisson(2.0 + x).sample() + ppl.bernoulli(0.3).sample() + ppl.categorical(jnp.ones(3) / 3).sample()
        return c + p * n, ppl.multivariate_normal(p * jnp.ones(2), jnp.eye(2)).sample() * n

    c, ys = lax.scan(step, 0.0, jnp.arange(4.0))
    return c + (ys**2).sum()


def counters(p):
    """A `fori_loop`, whose counter indexes arrays and seeds nothing."""
    xs = p * jnp.arange(5.0)
    return lax.fori_loop(0, 5, lambda i, c: c + normal(xs[i], 1.0).sample() ** 2 * i, 0.0)


def separate(p):
    """Choices without any loop, some of one shape."""
    zs = [normal(p * i, 1.0).sample() for i in range(4)] + [ppl.uniform(p, p + i + 1.0).sample() for i in range(3)]
    return jnp.sin(jnp.stack(zs)).sum() + (normal(p * jnp.ones(2), 1.0).sample() ** 2).sum()


PROGRAMS = [recurrence, nested, lanes, branches, wrapped, discrete, counters, separate]


def without_passes(monkeypatch):
    """Leave loops as they are, and let every choice draw alone."""
    for module in (expect_module, seed_module):
        monkeypatch.setattr(module, "vectorise", lambda body, *_, **__: body)
        monkeypatch.setattr(module, "plan_draws", lambda body: Draws())


@pytest.mark.x64
@pytest.mark.parametrize("run", [ppl.seed, ppl.expect])
@pytest.mark.parametrize("program", PROGRAMS)
def test_passes_change_no_number(program, run, monkeypatch):
    """Value and pathwise gradient of every key, and of rewritten programs at least one loop is smaller."""
    keys = jr.split(KEY, 3)
    both = lambda: jax.jit(jax.vmap(jax.value_and_grad(run(program), argnums=1), (0, None)))(keys, 0.7)
    rewritten = both()
    body = staged(program, jnp.float64(0.7))
    assert (vectorise(body) is body) == (program is separate)
    without_passes(monkeypatch)
    assert_close(rewritten, both())
    assert len(set(rewritten[0].tolist())) == 3


# --- What is left -------------------------------------------------------------------------------------------------


@gen
def walk(locs, observed_scale=0.5):
    def step(z, _):
        z = normal(z, 1.0) @ "z"
        normal(z, observed_scale) @ "x"
        return z, None

    lax.scan(step, 0.0, locs)


@gen
def steps_of_their_own(locs, observed):
    lax.scan(lambda _, loc: (None, normal(loc, 0.8) @ "z"), None, locs)


def rewritten_elbo(length):
    args = (jnp.linspace(0.0, 1.0, length), {"x": jnp.ones(length)})
    return vectorise(staged(elbo(walk, steps_of_their_own), *args)), args


def test_a_state_space_model_has_no_loop_left():
    """One draw, three densities, and as many equations whatever the number of steps."""
    small, large = rewritten_elbo(4)[0], rewritten_elbo(400)[0]
    for body in (small, large):
        assert count(body, jaxprs.scan_p) == 0
        assert (count(body, choice_p), count(body, density_p)) == (1, 3)
    assert len(primitives(small)) == len(primitives(large))


@pytest.mark.x64
def test_a_state_space_model_keeps_its_elbo(getkey, monkeypatch):
    """Value and gradient per key are those of the loops, and of a closed form on average."""
    _, (locs, observed) = rewritten_elbo(5)
    key = getkey()
    both = lambda: ppl.value_and_grad(elbo(walk, steps_of_their_own))(key, locs, observed)
    rewritten = both()
    without_passes(monkeypatch)
    assert_close(rewritten, both())


def closed_form(locs, scale=0.8, observed_scale=0.5):
    """The ELBO of the walk under independent normals: all terms are quadratic."""
    previous = jnp.concatenate([jnp.zeros(1), locs[:-1]])
    spread = jnp.full(locs.shape, scale**2).at[1:].add(scale**2)
    prior = -0.5 * ((locs - previous) ** 2 + spread) - 0.5 * jnp.log(2 * jnp.pi)
    likelihood = -0.5 * ((1 - locs) ** 2 + scale**2) / observed_scale**2
    likelihood = likelihood - 0.5 * jnp.log(2 * jnp.pi) - jnp.log(observed_scale)
    entropy = 0.5 * jnp.log(2 * jnp.pi * jnp.e * scale**2)
    return jnp.sum(prior + likelihood + entropy)


def test_a_state_space_model_is_unbiased(getkey):
    _, (locs, observed) = rewritten_elbo(3)
    truth = jax.value_and_grad(closed_form)(locs)
    assert_unbiased(
        lambda key: ppl.value_and_grad(elbo(walk, steps_of_their_own))(key, locs, observed), truth, getkey()
    )


def test_steps_are_independent(getkey):
    """Choices of one loop that leave it, with and without parameters that vary, and one that stays."""

    def draws():
        def step(state, x):
            free, fixed = normal(x, 1.0).sample() - x, normal(0.0, 1.0).sample()
            bound = normal(state, 1.0).sample() - state
            return jnp.tanh(bound), jnp.stack([free, fixed, bound, jr.normal(ppl.fresh_key())])

        return lax.scan(step, 0.0, jnp.arange(3.0))[1].ravel()

    num = 20_000
    values = np.asarray(jax.jit(jax.vmap(ppl.seed(draws)))(jr.split(getkey(), num)))
    assert np.abs(np.corrcoef(values.T) - np.eye(12)).max() < 4.5 / np.sqrt(num)
    assert np.abs(values.mean(0)).max() < 4.5 / np.sqrt(num)
    assert np.abs(values.std(0) - 1).max() < 4.5 / np.sqrt(2 * num)


def scan_of(step, init=0.0, length=6):
    return lambda xs: lax.scan(step, init, xs, length)


LEFT = {  # Loops left, and choices outside of them.
    "carry": (lambda c, x: (normal(c, 1.0).sample(), normal(x, 1.0).sample()), 1, 1),
    "sum": (lambda c, x: (c + normal(x, 1.0).sample(), None), 0, 1),
    "running sum": (lambda c, x: (c + x, normal(c, 1.0).sample()), 0, 1),
    "shift": (lambda c, x: (jnp.sin(x), normal(c, 1.0).sample()), 0, 1),
    "varying cond": (lambda c, x: (c, lax.cond(x > 0, lambda: normal(x, 1.0).sample(), lambda: x)), 1, 0),
    "checkpoint": (lambda c, x: (c, jax.checkpoint(lambda u: normal(u, 1.0).sample())(x)), 1, 0),
    "enumerated": (lambda c, x: (c + ppl.bernoulli(0.3, grad=ppl.enum()).sample(), normal(x, 1.0).sample()), 1, 1),
    "score": (lambda c, x: (c + normal(x, 1.0, grad=ppl.reinforce()).sample(), normal(x, 1.0).sample()), 0, 2),
    "callback": (lambda c, x: (c + jax.pure_callback(np.sin, x, x), normal(x, 1.0).sample()), 1, 1),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_leaves_a_loop(name):
    step, loops, outside = LEFT[name]
    body = vectorise(staged(scan_of(step), jnp.linspace(-1.0, 1.0, 6)), expect_module.KEPT_MODES)
    assert count(body, jaxprs.scan_p) == loops
    assert sum(eqn.primitive is choice_p for eqn in body.eqns) == outside


def test_a_callback_is_called_once_for_each_step():
    seen = []

    def step(c, x):
        jax.debug.callback(lambda value: seen.append(float(value)), x, ordered=True)
        return c, normal(x, 1.0).sample()

    ppl.seed(scan_of(step, length=3))(KEY, jnp.arange(3.0))
    jax.effects_barrier()
    assert seen == [0.0, 1.0, 2.0]


def test_broadcasts_and_large_arrays_stay_inside():
    """What is handed into the loop is never larger than what it is computed from; large steps stay where they are."""

    def step(c, x):
        outer = jnp.outer(x, x)
        z = normal(x[0], 1.0).sample()
        return jnp.tanh(c + outer * z + jnp.ones((50, 50))), None

    body = vectorise(staged(scan_of(step, jnp.zeros((50, 50))), jnp.ones((6, 50))))
    (loop,) = [eqn for eqn in body.eqns if eqn.primitive is jaxprs.scan_p]
    assert sum(int(np.prod(var.aval.shape)) for var in loop.invars) <= 50 * 50 + 6 * 50 + 6
    large = staged(scan_of(lambda c, x: (c, normal(x, 1.0).sample().sum())), jnp.zeros((6, 2**15)))
    assert not any(eqn.primitive is choice_p for eqn in vectorise(large).eqns)


def test_a_loop_of_no_steps_hands_on_what_it_was_given():
    step = lambda c, x: (jnp.sin(x), normal(x, 1.0).sample())
    final, ys = ppl.seed(lambda xs: lax.scan(step, 2.0, xs))(KEY, jnp.zeros(0))
    assert float(final) == 2.0
    assert ys.shape == (0,)


def test_programs_without_loops_are_left_alone():
    body = staged(separate, 0.5)
    assert vectorise(body) is body
    plain = staged(lambda x: lax.scan(lambda c, y: (c + y, c), x, jnp.arange(3.0))[0] + normal(x, 1.0).sample(), 0.5)
    assert vectorise(plain) is plain


# --- Draws made together -------------------------------------------------------------------------------------------


def generator_calls(function, *args):
    """Count the calls of the bit generator that are left when every jit is written out."""
    return count(jaxprs.body_of(jax.make_jaxpr(function)(*args)), jax.extend.core.primitives.random_bits_p)


def test_like_choices_share_one_generator_call():
    many = lambda p: sum(normal(p * i, 1.0 + i).sample() for i in range(20))
    assert generator_calls(ppl.seed(many), KEY, 0.3) == 1
    assert generator_calls(ppl.expect(many), KEY, 0.3) == 1
    assert generator_calls(ppl.seed(lambda p: many(p) + ppl.uniform(p, 1.0).sample()), KEY, 0.3) == 2


def test_a_choice_more_does_not_change_the_others():
    zs = lambda *names: jnp.stack([normal(0.0, 1.0) @ name for name in names])
    draws = lambda *names: gen(lambda: zs(*names)).simulate(KEY).choices
    few, many = draws("a", "b"), draws("new", "a", "c", "b")
    assert float(few["a"]) == float(many["a"])
    assert float(few["b"]) == float(many["b"])
    assert len({float(value) for value in many.values()}) == 4


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_generators_draw_alone(impl):
    """Their keys under `vmap` do not give the numbers of single keys."""
    draws = lambda names: gen(lambda: [normal(0.0, 1.0) @ name for name in names]).simulate(jr.key(0, impl=impl))
    assert float(draws("ab")["b"]) == float(draws("cab")["b"])
