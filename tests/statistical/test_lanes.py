"""Lanes keep apart: random programs over arrays of choices, against their enumeration without the library's analyses.

A program is a Python function of a way to draw. Drawing with the library gives the estimator, whose exact mean and
variance come from its own noise; drawing from a list of all outcomes gives the expectation by plain summation.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl

pytestmark = pytest.mark.x64

NUM_PARAMS = 3
SHAPES = [(2,), (3,), (2, 2), (1, 3)]


# --- Operations on arrays ----------------------------------------------------------------------------------------


def _matrix(rng, rows, columns):
    return jnp.asarray(np.round(rng.uniform(-1, 1, (rows, columns)), 2))


def _matmul_left(rng, x):
    return jnp.tensordot(_matrix(rng, 2, x.shape[0]), x, 1)


def _matmul_right(rng, x):
    return x @ _matrix(rng, x.shape[-1], 2)


def _reduce(rng, x):
    return x.sum(int(rng.integers(x.ndim))) if x.ndim > 1 else x + x.max()


def _accumulate(rng, x):
    return lax.cumsum(x, int(rng.integers(x.ndim)), reverse=bool(rng.integers(2)))


def _scan_carry(rng, x):
    weight = float(rng.uniform(0.5, 1.5))
    return lax.scan(lambda c, row: (c + weight * jnp.sin(row + 0.2) ** 2, None), jnp.zeros(x.shape[1:]), x)[0]


def _scan_outputs(rng, x):
    reverse = bool(rng.integers(2))
    step = lambda c, row: ((c + row) * 0.5, jnp.tanh(c) + row)
    return lax.scan(step, jnp.zeros(x.shape[1:]), x, reverse=reverse)[1]


def _gather(rng, x):
    axis = int(rng.integers(x.ndim))
    return jnp.take(x, rng.integers(x.shape[axis], size=2), axis)


def _gather_lanes(rng, x):
    return jax.vmap(lambda row, i: row[i])(x.reshape(x.shape[0], -1), jnp.arange(x.shape[0]) % (x.size // x.shape[0]))


OPERATIONS = {
    "transpose": lambda rng, x: x.transpose(rng.permutation(x.ndim)),
    "matmul left": _matmul_left,
    "matmul right": _matmul_right,
    "reduce": _reduce,
    "accumulate": _accumulate,
    "scan carry": _scan_carry,
    "scan outputs": _scan_outputs,
    "gather": _gather,
    "gather lanes": _gather_lanes,
    "reverse": lambda rng, x: jnp.flip(x, int(rng.integers(x.ndim))),
    "roll": lambda rng, x: jnp.roll(x, 1, int(rng.integers(x.ndim))),
    "sort": lambda rng, x: jnp.sort(x, int(rng.integers(x.ndim))),
    "flatten": lambda rng, x: x.reshape(-1),
    "split axis": lambda rng, x: x[..., None] * jnp.array([1.0, 0.5]),
    "concatenate": lambda rng, x: jnp.concatenate([x, jnp.cos(x)], int(rng.integers(x.ndim))),
    "relu": lambda rng, x: jax.nn.relu(x - 0.3),
    "where": lambda rng, x: jnp.where(x > 0.5, x, 0.2 * x + 0.1),
    "jit": lambda rng, x: jax.jit(lambda y: jnp.sin(y) + y[:1])(x),
    "checkpoint": lambda rng, x: jax.checkpoint(jnp.sin)(x),
    "vmapped scan": lambda rng, x: jax.vmap(lambda row: _scan_carry(rng, row))(x[..., None]),
    "outer": lambda rng, x: x[..., None] + x[..., None, :],
    "one row": lambda rng, x: x[0],
    "cond": lambda rng, x: lax.cond(x.sum() > 1, lambda y: 2 * y, jnp.cos, x),
}


# --- Programs ----------------------------------------------------------------------------------------------------


def random_program(number, strategies):
    """Return a function of (draw, theta) that makes up to three arrays of choices and adds up positive costs."""

    def program(draw, theta):
        rng = np.random.default_rng(number)
        pool, total = [], 0.0
        for site in range(int(rng.integers(1, 4))):
            shape = SHAPES[int(rng.integers(len(SHAPES)))]
            logits = theta[site] + jnp.asarray(np.round(rng.normal(size=shape), 2))
            if pool and rng.random() < 0.5:
                logits = logits + 0.5 * _fit(rng, pool[int(rng.integers(len(pool)))], shape)
            strategy = strategies[int(rng.integers(len(strategies)))]
            pool.append(draw(site, logits, strategy, ("vmap", "batch", "lanes")[int(rng.integers(3))]))
        for _ in range(int(rng.integers(2, 6))):
            x = pool[int(rng.integers(len(pool)))]
            if 1 <= x.ndim <= 3 and x.size:
                pool.append(list(OPERATIONS.values())[int(rng.integers(len(OPERATIONS)))](rng, x))
        for x in pool:
            weight, other = float(rng.uniform(0.5, 2.0)), pool[int(rng.integers(len(pool)))]
            cost = (x + 0.3) ** 2 * (1.0 + other**2) if other.shape == x.shape else jnp.exp(0.3 * x)
            total = total + weight * (cost.sum() if rng.random() < 0.7 else jnp.sqrt(0.1 + cost.sum()))
        return total

    return program


def _fit(rng, x, shape):
    return x if x.shape == shape else jnp.mean(x) * jnp.ones(shape)


def drawn(site, logits, strategy, form):
    """Make the choices with the library."""
    flip = lambda one: ppl.bernoulli(logits=one, grad=getattr(ppl, strategy)()).sample().astype(float)
    if form == "batch":
        return flip(logits)
    if form == "lanes":  # The first axis by vmap, the others as the batch of the choice.
        return jax.vmap(flip)(logits)
    return jax.vmap(flip)(logits.reshape(-1)).reshape(logits.shape)


def outcomes(program, theta):
    """Return costs and log probabilities of all outcomes, as functions of the parameters."""
    shapes = {}

    def measure(site, logits, strategy, form):
        shapes[site] = logits.shape
        return jnp.zeros(logits.shape)

    jax.eval_shape(lambda t: program(measure, t), theta)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    bits = np.array(list(itertools.product((0.0, 1.0), repeat=sum(sizes))))

    def one(row, theta):
        log_prob, starts = 0.0, np.cumsum([0, *sizes])

        def read(site, logits, strategy, form):
            nonlocal log_prob
            value = row[starts[site] : starts[site + 1]].reshape(shapes[site])
            log_prob += (value * jax.nn.log_sigmoid(logits) + (1 - value) * jax.nn.log_sigmoid(-logits)).sum()
            return value

        return program(read, theta), log_prob

    return jax.vmap(one, (0, None))(bits, theta)


@jax.jit(static_argnums=0)
def moments(program, theta):
    """Return mean, gradient, and the variance of the plain score-function estimator."""
    costs, log_probs = outcomes(program, theta)
    probs = jnp.exp(log_probs)
    mean = lambda theta: (lambda c, lp: (jnp.exp(lp) * c).sum())(*outcomes(program, theta))
    d_costs, d_log_probs = jax.jacfwd(lambda theta: outcomes(program, theta))(theta)
    plain = d_costs + costs[:, None] * d_log_probs
    gradient = jax.grad(mean)(theta)
    return mean(theta), gradient, probs @ (plain - gradient) ** 2


THETA = jnp.array([0.3, -0.4, 0.2])


def check(number, strategies):
    program = random_program(number, strategies)
    value, gradient, plain = moments(program, THETA)
    exact = ppl.exact_gradient(lambda theta: program(drawn, theta))(THETA)
    np.testing.assert_allclose(exact.value, value, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(exact.gradient, gradient, rtol=1e-9, atol=1e-10)
    assert np.all(np.asarray(exact.variance) <= np.asarray(plain) * (1 + 1e-9) + 1e-9)
    if strategies == ["enum"]:
        np.testing.assert_allclose(exact.variance, 0, atol=1e-18)


MIXES = {"reinforce": ["reinforce"], "enum": ["enum"], "both": ["reinforce", "enum"]}


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("mix", MIXES)
def test_random_programs_over_lanes_are_exact_and_no_noisier(number, mix):
    check(1000 * list(MIXES).index(mix) + number, MIXES[mix])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10, 200))
@pytest.mark.parametrize("mix", MIXES)
def test_more_random_programs_over_lanes_are_exact_and_no_noisier(number, mix):
    check(1000 * list(MIXES).index(mix) + number, MIXES[mix])


def test_the_programs_use_every_operation():
    used = set()
    for name, operation in OPERATIONS.items():
        OPERATIONS[name] = lambda rng, x, name=name, operation=operation: used.add(name) or operation(rng, x)
    try:
        for number in range(24):
            jax.eval_shape(lambda t, n=number: random_program(n, ["enum"])(lambda s, logits, *_: logits, t), THETA)
    finally:
        for name in OPERATIONS:
            OPERATIONS[name] = OPERATIONS[name].__defaults__[1]
    assert used == set(OPERATIONS)
