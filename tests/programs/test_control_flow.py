"""Exact means through nested control flow, calls, buffers and linear algebra, compared with a replay in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
from ppl import bernoulli, categorical, enum, gen, reinforce, while_loop
from tests.programs.replay import KEY, assert_exact, assert_mean, close, replay, sigmoid, softmax

pytestmark = pytest.mark.x64


@gen
def coin(q):
    return (bernoulli(q, grad=reinforce) @ "b") * 1.0


@gen
def two_coins(q):
    return (coin(q) @ "left") + 2 * (coin(q * q) @ "right")


def test_calls_in_branches_of_an_enumerated_choice_in_a_scan_in_lanes():
    def program(p):
        def step(c, t):
            heads = lambda c: c * 0.5 + (two_coins(p[1]) @ "heads") * t
            tails = lambda c: c * 1.5 + (two_coins(jnp.sin(p[1]) ** 2) @ "tails")
            c = lax.cond((bernoulli(p[0], grad=enum) @ "side") == 1, heads, tails, c)
            return c, c

        def lane(x):
            c, ys = lax.scan(step, 0.1 * x, jnp.array([1.0, 2.0]))
            return c**2 + jnp.sum(ys * x)

        return jnp.mean(jax.vmap(lane)(jnp.array([0.5, 1.2])))

    def lane(draw, p, x):
        c, total = 0.1 * x, 0.0
        for t in (1.0, 2.0):
            heads = draw.coin(p[0])
            q, gain, c = (p[1], t, c * 0.5) if heads else (np.sin(p[1]) ** 2, 1.0, c * 1.5)
            c = c + (draw.coin(q) + 2 * draw.coin(q * q)) * gain
            total = total + c * x
        return c**2 + total

    theta = jnp.array([0.3, 0.6])
    laws = [replay(lambda draw, p, x=x: lane(draw, p, x), theta) for x in (0.5, 1.2)]
    truth = jax.tree.map(lambda a, b: (a + b) / 2, *laws)
    assert_mean(lambda key: ppl.value_and_grad(program)(key, theta), truth, 40_000)


def test_a_reversed_scan_with_choices_in_its_carry_and_inputs():
    def program(p):
        xs = bernoulli(p[0] * jnp.ones(3), grad=reinforce) @ "xs"

        def step(c, x):
            b = bernoulli(0.2 + 0.5 * p[1] * x, grad=reinforce) @ "b"
            after = c * 0.5 + b * (1 + x)
            return after, after * x + b * c

        c, ys = lax.scan(step, (bernoulli(p[1], grad=reinforce) @ "init") * 1.0, xs, reverse=True)
        return jnp.sum(ys * jnp.array([1.0, 3.0, -2.0])) + c**2 * ys[1] + c

    def law(draw, p):
        xs, c, ys = [draw.coin(p[0]) for _ in range(3)], draw.coin(p[1]), [0.0] * 3
        for t in (2, 1, 0):
            b = draw.coin(0.2 + 0.5 * p[1] * xs[t])
            after = c * 0.5 + b * (1 + xs[t])
            c, ys[t] = after, after * xs[t] + b * c
        return ys[0] + 3 * ys[1] - 2 * ys[2] + c**2 * ys[1] + c

    assert_exact(program, law, [0.3, 0.7])


@pytest.mark.slow
def test_a_switch_in_a_checkpoint_in_lanes_that_multiply():
    weights = (0.5, -1.0, 2.0)

    def program(p):
        @jax.checkpoint
        def lane(p, w):
            k = categorical(logits=jnp.stack([p[0], w * p[1], 0.0]), grad=enum) @ "k"
            cases = [
                lambda: p[0] * 2.0,
                lambda: (bernoulli(jax.nn.sigmoid(p[1]), grad=reinforce) @ "c") * w + p[0] ** 2,
                lambda: (bernoulli(jax.nn.sigmoid(p[0] + w), grad=enum) @ "d") * 3.0 * p[1],
            ]
            return lax.switch(k, cases) * (1.0 + k)

        v = jax.vmap(lane, (None, 0))(p, jnp.array(weights))
        return jnp.sum(v) + v[0] * v[2]

    def lane(draw, p, w):
        k = draw(softmax([p[0], w * p[1], 0.0]))
        if k == 0:
            value = p[0] * 2
        elif k == 1:
            value = draw.coin(sigmoid(p[1])) * w + p[0] ** 2
        else:
            value = draw.coin(sigmoid(p[0] + w)) * 3 * p[1]
        return value * (1 + k)

    def law(draw, p):
        v = [lane(draw, p, w) for w in weights]
        return sum(v) + v[0] * v[2]

    theta = jnp.array([0.3, 0.6])
    assert_mean(lambda key: ppl.value_and_grad(program)(key, theta), replay(law, theta), 40_000)


def test_an_enumerated_chain_whose_accumulator_is_read_at_every_step():
    def program(p):
        def step(carry, t):
            z, total = carry
            stay = jnp.where(z == 0, jnp.stack([p[0], 1 - p[0]]), jnp.stack([1 - p[1], p[1]]))
            z = categorical(probs=stay, grad=enum) @ "z"
            b = bernoulli(0.1 + 0.6 * p[0] * z + 0.1 * t, grad=reinforce) @ "b"
            return (z, total + b * (1.0 + z) * t), total * b

        (z, total), ys = lax.scan(step, (0, 0.5), jnp.arange(3.0))
        return total + jnp.sum(ys) + z * p[1]

    def law(draw, p):
        z, total, read = 0, 0.5, 0.0
        for t in range(3):
            z = draw([p[0], 1 - p[0]] if z == 0 else [1 - p[1], p[1]])
            b = draw.coin(0.1 + 0.6 * p[0] * z + 0.1 * t)
            read, total = read + total * b, total + b * (1 + z) * t
        return total + read + z * p[1]

    assert_exact(program, law, [0.3, 0.7])


def test_a_buffer_written_step_by_step_from_the_lanes_of_a_choice():
    def program(p):
        a = bernoulli(jax.nn.sigmoid(p[0] + jnp.arange(3.0)), grad=reinforce) @ "a"

        def step(buffer, given):
            t, x = given
            b = bernoulli(0.3 + 0.4 * p[1] * x, grad=reinforce) @ "b"
            return buffer.at[t].set(b * 2.0 + x), buffer[jnp.maximum(t - 1, 0)] * b

        buffer, ys = lax.scan(step, jnp.zeros(3), (jnp.arange(3), a))
        segments = jax.ops.segment_sum(buffer * p[0], jnp.array([1, 0, 1]), num_segments=2)
        weighted = jnp.sum(buffer * jnp.array([1.0, 2.0, 3.0]))
        return weighted + ys.sum() + segments[1] * ys[2] + jnp.sort(buffer)[1] + jnp.prod(1 + a)

    def law(draw, p):
        a, buffer, ys = [draw.coin(sigmoid(p[0] + i)) for i in range(3)], np.zeros(3), []
        for t in range(3):
            b = draw.coin(0.3 + 0.4 * p[1] * a[t])
            ys.append(buffer[max(t - 1, 0)] * b)
            buffer[t] = b * 2 + a[t]
        weighted, segment = buffer @ np.array([1, 2, 3]), (buffer[0] + buffer[2]) * p[0]
        return weighted + sum(ys) + segment * ys[2] + np.sort(buffer)[1] + np.prod(1 + np.array(a))

    assert_exact(program, law, [0.2, 0.6])


# --- Calls ----------------------------------------------------------------------------------------------------------


@gen
def leaf(p):
    return (bernoulli(p[0], grad=reinforce) @ "x") * p[1]


@gen
def recursive(p, depth, inner):
    if depth == 0:
        return inner(p) @ "leaf"
    below = recursive(p, depth - 1, inner) @ "sub"
    b = bernoulli(jax.nn.sigmoid(p[1] * below + depth * 0.1), grad=enum if depth % 2 else reinforce) @ "b"
    return below * p[0] + b * depth


def test_recursion_with_a_program_as_argument():
    def law(draw, p, depth):
        if depth == 0:
            return draw.coin(p[0]) * p[1]
        below = law(draw, p, depth - 1)
        return below * p[0] + draw.coin(sigmoid(p[1] * below + depth * 0.1)) * depth

    program = lambda p: (recursive(p, 4, leaf) @ "deep") ** 2 + (recursive(p, 1, leaf) @ "flat") * 2.0
    assert_exact(program, lambda draw, p: law(draw, p, 4) ** 2 + law(draw, p, 1) * 2, [0.4, 0.6])


def test_programs_that_close_over_programs():
    def node(depth, inner):
        @gen
        def program(p):
            a = inner(p) @ "inner"
            b = bernoulli(jax.nn.sigmoid(p[1] * a), grad=enum if depth % 2 else reinforce) @ "b"
            return a * b + p[0] * depth

        return program

    def law(draw, p, depth=1):
        a = law(draw, p, depth + 1) if depth < 3 else draw.coin(p[0]) * p[1]
        return a if depth == 3 else a * draw.coin(sigmoid(p[1] * a)) + p[0] * depth

    top = node(1, node(2, leaf))
    assert_exact(lambda p: top(p) @ "top", law, [0.4, 0.6])


def test_one_compiled_body_under_several_addresses():
    @gen
    def body(q, w):
        a = bernoulli(q, grad=reinforce) @ "a"
        return jax.jit(lambda a: a * w + q)(a)

    again = gen(jax.jit(lambda q, w: body(q, w) @ "in"))

    def program(p):
        u, v = (jax.jit(lambda p, at=at: body(p[0], 2.0) @ at)(p) for at in ("u", "v"))
        h, k = again(p[0], 3.0) @ "h", again(p[0], 3.0) @ "k"
        return u * v + h * k - h * u

    def law(draw, p):
        u, v, h, k = (draw.coin(p[0]) * w + p[0] for w in (2, 2, 3, 3))
        return u * v + h * k - h * u

    assert_exact(program, law, [0.35])
    twice = jax.jit(jax.value_and_grad(jax.jit(ppl.expect(program)), argnums=1))
    assert_mean(lambda key: twice(key, jnp.array([0.35])), replay(law, [0.35]))


# --- Bounded loops and operations on lanes ---------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [enum, reinforce], ids=lambda strategy: strategy.__name__)
def test_a_bounded_loop_in_lanes_whose_carry_grows(strategy):
    def program(p):
        def lane(w):
            step = lambda c: (bernoulli(p[0] * w, grad=strategy) @ "b", c[1] + w + p[1] * c[1])
            return while_loop(lambda c: c[0] == 0, step, (jnp.int32(0), 1.0), 4)[1] ** 2

        return jnp.sum(jax.vmap(lane)(jnp.array([0.5, 1.0])))

    def law(draw, p):
        total = 0.0
        for w in (0.5, 1.0):
            n = 1.0
            for _ in range(4):
                stop, n = draw.coin(p[0] * w), n + w + p[1] * n
                if stop:
                    break
            total = total + n**2
        return total

    exact = assert_exact(program, law, [0.4, 0.3])
    assert (exact.variance.max() < 1e-20) == (strategy is enum)


def test_lanes_that_are_shifted_summed_multiplied_and_transposed():
    matrix = np.random.RandomState(0).randn(3, 2)

    def program(p):
        coin = lambda address, q: bernoulli(q, grad=reinforce) @ address
        a = jax.vmap(lambda i: coin("a", jax.nn.sigmoid(p[0] * i)))(jnp.arange(3.0)) * 1.0
        b = jax.vmap(lambda i: coin("b", jax.nn.sigmoid(p[1] - i + 0.3 * a[1])))(jnp.arange(2.0)) * 1.0
        row = lambda i: jax.vmap(lambda j: coin("m", 0.5 * p[2] + 0.1 * i + 0.1 * j))(jnp.arange(2.0))
        m = jax.vmap(row, out_axes=1)(jnp.arange(3.0)) * 1.0
        parts = jnp.roll(a, 1), jnp.cumsum(a * p[0])[::-1], jnp.concatenate([a, b])[jnp.array([4, 1, 2])], m[0]
        mixed = a @ jnp.asarray(matrix) @ b + jnp.sum(m.T * matrix) + jnp.sum(m.reshape(3, 2) @ b * a)
        return sum(jnp.sum(part * a) for part in parts) + mixed + jnp.max(a)

    def law(draw, p):
        a = np.array([draw.coin(sigmoid(p[0] * i)) for i in range(3)]) * 1.0
        b = np.array([draw.coin(sigmoid(p[1] - i + 0.3 * a[1])) for i in range(2)]) * 1.0
        m = np.array([[draw.coin(0.5 * p[2] + 0.1 * i + 0.1 * j) for i in range(3)] for j in range(2)]) * 1.0
        parts = np.roll(a, 1), np.cumsum(a * p[0])[::-1], np.concatenate([a, b])[[4, 1, 2]], m[0]
        mixed = a @ matrix @ b + np.sum(m.T * matrix) + np.sum(m.reshape(3, 2) @ b * a)
        return sum((part * a).sum() for part in parts) + mixed + a.max()

    assert_exact(program, law, [0.3, 0.7, 0.4])


def test_linear_algebra_inner_derivatives_and_mapped_loops():
    def program(p):
        b = bernoulli(jax.nn.sigmoid(p[0] * jnp.arange(3.0)), grad=reinforce) @ "b"
        k = categorical(logits=jnp.stack([p[0], p[1]]), grad=enum) @ "k"
        inner = jax.grad(lambda x: jnp.sum(jnp.sin(x * b) * p[1]))(p[0])
        matrix = jnp.eye(3) * 3 + jnp.outer(b, b) * p[1]
        solved = jnp.linalg.solve(matrix, b + p[0] * k)
        folded = lax.associative_scan(lambda x, y: x * y + x, b * 1.0 + p[1])[2]
        smooth = jnp.sum(jax.nn.relu(b - 0.5 * p[0])) + jax.nn.logsumexp(b * p[0])
        each = lax.map(lambda x: x * p[1] + (bernoulli(0.5 * p[1] * x, grad=reinforce) @ "m"), b * 1.0)
        root = jnp.linalg.cholesky(matrix)[2, 1]
        return inner + solved @ jnp.array([1.0, 2.0, 3.0]) + folded + smooth + jnp.sum(each) * solved[0] + root

    def cholesky(matrix):  # NumPy's conjugates
        root = np.zeros((3, 3), complex)
        for i, j in zip(*np.tril_indices(3), strict=True):
            rest = matrix[i, j] - root[i, :j] @ root[j, :j]
            root[i, j] = np.sqrt(rest) if i == j else rest / root[j, j]
        return root

    def law(draw, p):
        b = np.array([draw.coin(sigmoid(p[0] * i)) for i in range(3)]) * 1.0
        k = draw(softmax(p))
        inner = (b * np.cos(p[0] * b)).sum() * p[1]
        matrix = np.eye(3) * 3 + np.outer(b, b) * p[1]
        solved = np.linalg.solve(matrix, b + p[0] * k)
        fold, v = (lambda x, y: x * y + x), b + p[1]
        relu = sum(x for x in b - 0.5 * p[0] if x.real > 0)
        smooth = relu + np.log(np.exp(b * p[0]).sum())
        each = sum(x * p[1] + draw.coin(0.5 * p[1] * x) for x in b)
        folded = fold(fold(v[0], v[1]), v[2])
        return inner + solved @ np.array([1, 2, 3]) + folded + smooth + each * solved[0] + cholesky(matrix)[2, 1]

    assert_exact(program, law, [0.3, 0.6])


def test_the_density_of_a_recursive_program_is_that_of_its_trace():
    args = jnp.array([0.4, 0.6]), 4, leaf
    trace = recursive.simulate(KEY, *args)
    p, q, x = 0.4, 0.6, float(trace["sub/sub/sub/sub/leaf/x"])
    expected, below = np.log(p if x else 1 - p), x * q
    for depth in (1, 2, 3, 4):
        b = float(trace[("sub",) * (4 - depth) + ("b",)])
        up = sigmoid(q * below + depth * 0.1)
        expected, below = expected + np.log(up if b else 1 - up), below * p + b * depth
    close(trace.log_density, expected)
    close(trace.retval, below)
    close(recursive.log_density(trace.choices, *args), expected)
