"""Loop fission: the same program with smaller loops. Exact where there is no noise, or finite noise; else moments."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from ppl import jaxprs, normal
from ppl.batching import Rebind
from ppl.passes import vectorise
from ppl.primitives import density_p
from ppl.transforms.programs import stage_program
from tests.statistical.random_programs import Generator, as_jax, as_law
from tests.statistics import enumerate_law

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
@pytest.mark.parametrize("seed", range(40))
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
@pytest.mark.parametrize(("kept", "seed"), [*itertools.product([ENUMERATED], range(200, 230)), (NOTHING, 200)])
def test_finite_programs_keep_their_means(kept, seed, monkeypatch):
    """With score-function choices outside their loops, too, value and gradient are those of plain Python."""
    monkeypatch.setattr("ppl.transforms.expect.KEPT_MODES", kept)
    block = Generator(seed, 6.0).program()
    value, gradient = enumerate_law(as_law(block), THETA)
    try:
        exact = ppl.exact_gradient(as_jax(block))(jnp.asarray(THETA))
    except ppl.StrategyError as error:
        pytest.skip(str(error).splitlines()[0])
    np.testing.assert_allclose(exact.value, value, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(exact.gradient, gradient, rtol=1e-9, atol=1e-9)
