"""Exact marginals: sums over finite auxiliary choices equal enumeration, and cost what their factors cost."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from estimators import elbo
from ppl import bernoulli, categorical, enum, gen, marginal, normal
from ppl._errors import ControlFlowError, StrategyError
from ppl.reports.costs import costs
from ppl.summation.logs import log_sum_exp
from ppl.transforms.layout import addressed, trace_shape
from ppl.transforms.programs import list_places

pytestmark = pytest.mark.x64
EXACT = ppl.methods.exact()
TABLE = jnp.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.7, 0.2]])


def enumerated(gf, keep, kept, values, *args):
    """Return the log density of kept choices by adding up the joint density of all values of the others.

    Args:
        gf: The program.
        keep: Addresses that are kept.
        kept: Their values.
        values: Number of values of each other choice, by address.
        *args: Arguments of the program.
    """
    staged, _ = gf.stage(args)
    shapes = {"/".join(path): trace_shape(place) for path, place in addressed(list_places(staged.body)[0]).items()}
    assert {*shapes} == {*keep, *values}
    elements = [(name, i) for name in values for i in range(math.prod(shapes[name]))]
    rows = np.array(list(itertools.product(*(range(values[name]) for name, _ in elements))))
    columns = {name: [i for i, (other, _) in enumerate(elements) if other == name] for name in values}
    others = {name: jnp.asarray(rows[:, at].reshape((-1, *shapes[name]))) for name, at in columns.items()}
    joint = jax.vmap(lambda others: gf.log_density({**others, **kept}, *args))(others)
    return jax.scipy.special.logsumexp(joint)


@gen
def tree(theta):
    z = bernoulli(logits=theta[0]) @ "z"
    k = categorical(probs=TABLE[z]) @ "k"
    j = bernoulli(jnp.where(z == 1, 0.3, 0.9)) @ "j"
    normal(theta[1] * k, 1.0) @ "x"
    normal(k * j + theta[2] * z, 1.5) @ "y"


@gen
def python_chain(theta):
    z = 0
    for i in range(4):
        z = categorical(logits=theta[z] + jnp.arange(3)) @ f"z{i}"
        normal(theta[0] * z, 0.7) @ f"y{i}"


@gen
def plates(theta):
    """Groups of points: a choice for all, one for each group, one for each point."""
    top = bernoulli(logits=theta[0]) @ "top"

    def group(shift):
        kind = bernoulli(jnp.where(top == 1, 0.2, 0.6)) @ "kind"

        def point(_):
            k = categorical(probs=TABLE[kind]) @ "k"
            normal(theta[1] * k + kind + shift, 1.0) @ "x"

        jax.vmap(point)(jnp.arange(2))
        normal(theta[2] * kind, 1.0) @ "y"

    jax.vmap(group)(jnp.arange(2.0))


@gen
def batch(theta):
    """Batch elements of one choice are lanes, too."""
    flips = bernoulli(logits=theta) @ "flips"
    normal(theta * flips, 1.0) @ "x"


@gen
def together(theta):
    """A density that mixes the lanes of a choice."""
    flips = bernoulli(logits=theta) @ "flips"
    normal(flips.sum() * theta[0], 1.0) @ "x"
    normal(theta * flips, 1.0) @ "y"


@gen
def masked(theta):
    """Choices that are made in some lanes only."""

    def lane(flag):
        k = jax.lax.cond(flag > 0, lambda: categorical(logits=theta) @ "k", lambda: 0)
        normal(theta[1] * k, 1.0) @ "x"

    jax.vmap(lane)(jnp.array([1, 0, 1]))


@gen
def hmm(theta, steps):
    def step(z, _):
        z = categorical(logits=theta[z] * TABLE[z]) @ "z"
        normal(theta[z], 0.8) @ "y"
        return z, None

    jax.lax.scan(step, 0, None, length=steps)


@gen
def backwards_hmm(theta, inputs):
    """Reversed, with inputs, an initial state of its own, and densities over two states."""
    start = categorical(logits=theta) @ "start"

    def step(z, x):
        new = categorical(logits=theta[z] * TABLE[z] + x * jnp.arange(3)) @ "z"
        normal(theta[z] + new, 0.8) @ "y"
        normal(x * new, 1.0) @ "w"
        return new, None

    jax.lax.scan(step, start, inputs, reverse=True)
    normal(1.0 * start, 2.0) @ "s"


@gen
def last_state(theta, inputs):
    """What comes after the scan depends on its last state."""
    start = categorical(logits=theta) @ "start"

    def step(z, x):
        z = categorical(logits=theta[z] * TABLE[z] + x) @ "z"
        normal(theta[z], 0.8) @ "y"
        return z, None

    last, _ = jax.lax.scan(step, start, inputs)
    end = bernoulli(logits=theta[last]) @ "end"
    normal(theta[last] + start, 1.0) @ "x"
    normal(theta[0] * end, 1.0) @ "e"


@gen
def sequences(theta, inputs):
    """Hidden chains in lanes, each of a kind, with a choice for all, and choices local to each step."""
    top = bernoulli(0.4) @ "top"

    def sequence(inputs):
        kind = bernoulli(jnp.where(top == 1, 0.3, 0.8)) @ "kind"

        def step(z, x):
            z = bernoulli(logits=theta[z] + kind + x) @ "z"
            local = bernoulli(logits=theta[2] * z) @ "local"
            normal(theta[z] + local + top, 0.8) @ "y"
            return z, None

        jax.lax.scan(step, 0, inputs)

    jax.vmap(sequence)(inputs)


@gen
def mixture_in_scan(theta, inputs):
    """A sum within each step, and a counter."""
    top = bernoulli(0.4) @ "top"

    def step(count, x):
        k = categorical(logits=theta + x * top) @ "k"
        normal(theta[1] * k + count, 1.0) @ "y"
        return count + 1, None

    jax.lax.scan(step, 0, inputs)


@gen
def counted(theta):
    """A loop with a counter whose value matters, and a function of the choice that is handed on."""

    def step(i, carry):
        z = categorical(logits=theta + TABLE[carry[1]] * i) @ "z"
        normal(theta[z] * i, 1.0) @ "y"
        return jnp.cos(1.0 * z), z

    jax.lax.fori_loop(0, 3, step, (jnp.ones(()), 1))


@gen
def factorial(theta, inputs):
    """Two hidden chains."""

    def step(carry, x):
        a, b = carry
        a = bernoulli(logits=theta[a] + x) @ "a"
        b = bernoulli(logits=theta[b] - a) @ "b"
        normal(theta[1] * a + b, 0.8) @ "y"
        return (a, b), None

    jax.lax.scan(step, (0, 1), inputs)


THETA = jnp.array([0.3, -0.8, 1.1])
INPUTS = jnp.array([0.4, -1.0, 0.7])
LANES = jnp.array([[0.4, -1.0], [0.1, 0.9]])
CASES = {
    "tree": (tree, {"x": (), "y": ()}, {"z": 2, "k": 3, "j": 2}, ()),
    "python_chain": (python_chain, {f"y{i}": () for i in range(4)}, {f"z{i}": 3 for i in range(4)}, ()),
    "plates": (plates, {"x": (2, 2), "y": (2,)}, {"top": 2, "kind": 2, "k": 3}, ()),
    "batch": (batch, {"x": (3,)}, {"flips": 2}, ()),
    "together": (together, {"x": (), "y": (3,)}, {"flips": 2}, ()),
    "hmm3": (hmm, {"y": (3,)}, {"z": 3}, (3,)),
    "hmm8": (hmm, {"y": (8,)}, {"z": 3}, (8,)),
    "hmm1": (hmm, {"y": (1,)}, {"z": 3}, (1,)),
    "backwards_hmm": (backwards_hmm, {"y": (3,), "w": (3,), "s": ()}, {"start": 3, "z": 3}, (INPUTS,)),
    "last_state": (last_state, {"y": (3,), "x": (), "e": ()}, {"start": 3, "z": 3, "end": 2}, (INPUTS,)),
    "last_of_one": (last_state, {"y": (1,), "x": (), "e": ()}, {"start": 3, "z": 3, "end": 2}, (INPUTS[:1],)),
    "sequences": (sequences, {"y": (2, 2)}, {"top": 2, "kind": 2, "z": 2, "local": 2}, (LANES,)),
    "mixture_in_scan": (mixture_in_scan, {"y": (3,)}, {"top": 2, "k": 3}, (INPUTS,)),
    "counted": (counted, {"y": (3,)}, {"z": 3}, ()),
    "factorial": (factorial, {"y": (3,)}, {"a": 2, "b": 2}, (INPUTS,)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_equal_enumeration(name):
    program, shapes, values, args = CASES[name]
    numbers = np.random.RandomState(len(name))
    kept = {address: jnp.asarray(numbers.randn(*shape)) for address, shape in shapes.items()}
    exact = marginal(program, keep=tuple(kept), method=EXACT)
    summed = lambda theta: exact.log_density(kept, theta, *args)
    truth = lambda theta: enumerated(program, kept, kept, values, theta, *args)
    close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
    close(summed(THETA), truth(THETA))
    gradient = jax.jit(jax.grad(truth))(THETA)
    assert (jnp.abs(gradient).max() > 1e-3).all()
    close(jax.grad(summed)(THETA), gradient)
    direction = jnp.array([0.5, 1.0, -0.3])
    second = lambda function: jax.jit(jax.grad(lambda theta: jax.grad(function)(theta) @ direction))(THETA)
    close(second(summed), second(truth))
    with_kept = lambda kept: exact.log_density(kept, THETA, *args)
    for address, value in jax.grad(with_kept)(kept).items():
        other = jax.grad(lambda kept: enumerated(program, kept, kept, values, THETA, *args))(kept)[address]
        close(value, other)
