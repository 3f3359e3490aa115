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
from ppl.summation.logs import log_product, log_sum_exp, powers
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
        z = categorical(logits=theta[z] * jnp.arange(3)) @ f"z{i}"
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
        k = jax.lax.cond(flag > 0, lambda: categorical(logits=theta) @ "k", lambda: jnp.int32(0))
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
        b = bernoulli(logits=theta[2] * b - a) @ "b"
        normal(theta[1] * a + b, 0.8) @ "y"
        return (a, b), None

    jax.lax.scan(step, (0, 1), inputs)


@gen
def loops_apart(theta, inputs):
    """A choice of an outer chain, and a chain of its own in each of its steps."""

    def outer(top, x):
        top = bernoulli(logits=theta[top] + x) @ "top"

        def inner(z, shift):
            z = bernoulli(logits=theta[z] + top) @ "z"
            normal(theta[2] * z + shift, 0.8) @ "y"
            return z, None

        jax.lax.scan(inner, top, jnp.arange(2.0))
        return top, None

    jax.lax.scan(outer, 1, inputs, reverse=True)


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
    "loops_apart": (loops_apart, {"y": (3, 2)}, {"top": 2, "z": 2}, (INPUTS,)),
    "factorial": (factorial, {"y": (3,)}, {"a": 2, "b": 2}, (INPUTS,)),
}


def with_derivatives(function):
    """Return a function of theta and kept values that gives value, gradients, and second derivatives of them."""
    both = jax.value_and_grad(function, argnums=(0, 1))
    along = lambda kept: (jnp.array([0.5, 1.0, -0.3]), jax.tree.map(jnp.ones_like, kept))
    return jax.jit(lambda theta, kept: jax.jvp(both, (theta, kept), along(kept)))


def assert_close(one, other, tolerance=1e-10):
    """Compare pytrees."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other)


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_equal_enumeration(name):
    program, shapes, values, args = CASES[name]
    numbers = np.random.RandomState(len(name))
    kept = {address: jnp.asarray(numbers.randn(*shape)) for address, shape in shapes.items()}
    exact = marginal(program, keep=tuple(kept), method=EXACT)
    truth = with_derivatives(lambda theta, kept: enumerated(program, kept, kept, values, theta, *args))(THETA, kept)
    assert (jnp.abs(truth[0][1][0]) > 1e-4).all()
    assert_close(with_derivatives(lambda theta, kept: exact.log_density(kept, theta, *args))(THETA, kept), truth)


def test_choices_that_are_not_made_count_once():
    exact = marginal(masked, keep="x", method=EXACT)
    x = jnp.array([0.3, -1.0, 2.0])
    logits = jax.nn.log_softmax(THETA)
    normals = lambda x: -0.5 * (x - THETA[1] * jnp.arange(3)) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
    lanes = [jax.scipy.special.logsumexp(logits + normals(x[0])), normals(x[1])[0]]
    truth = sum(lanes) + jax.scipy.special.logsumexp(logits + normals(x[2]))
    assert_close(exact.log_density({"x": x}, THETA), truth)


# --- Mixtures and hidden Markov models ---------------------------------------------------------------------------


@gen
def mixture(theta, n):
    def point(_):
        k = categorical(probs=TABLE[0]) @ "k"
        normal(theta[k], 1.0) @ "x"

    jax.vmap(point)(jnp.arange(n))


def mixture_by_hand(theta, x):
    """Return the log density of points of the mixture."""
    logs = jnp.log(TABLE[0]) - 0.5 * (x[:, None] - theta) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
    return jax.scipy.special.logsumexp(logs, axis=1).sum()


def test_a_thousand_points_cost_a_thousand_times_as_much_as_one():
    exact = marginal(mixture, keep="x", method=EXACT)
    x = jnp.linspace(-3, 3, 1000)
    summed = lambda theta, kept: exact.log_density(kept, theta, len(kept["x"]))
    truth = with_derivatives(lambda theta, kept: mixture_by_hand(theta, kept["x"]))(THETA, {"x": x})
    assert_close(with_derivatives(summed)(THETA, {"x": x}), truth)
    few, many = (costs(summed)(THETA, {"x": jnp.zeros(n)}) for n in (10, 1000))
    assert few.equations == many.equations
    assert many.flops < 100 * few.flops


@gen
def three_steps(b):
    """The hidden Markov model of the mathematical reference, section 10, with 0 as the first state."""
    transition, emission = jnp.array([[0.7, 0.3], [0.2, 0.8]]), jnp.array([b, 0.2])
    z = bernoulli(0.4) @ "first"
    bernoulli(1 - emission[z]) @ "y0"

    def step(z, _):
        z = bernoulli(transition[z, 1]) @ "z"
        bernoulli(1 - emission[z]) @ "y"
        return z, None

    jax.lax.scan(step, z, None, length=2)


def test_the_numbers_of_the_reference():
    evidence = marginal(three_steps, keep=("y0", "y"), method=EXACT)
    log_z = lambda b: evidence.log_density({"y0": 0, "y": jnp.array([1, 1])}, b)
    assert abs(log_z(0.9) - jnp.log(0.131542)) < 1e-12
    assert abs(log_z(0.9) + 2.0284291) < 5e-8
    assert abs(jax.grad(log_z)(0.9) + 0.5915981) < 5e-8


@gen
def long_hmm(params, steps):
    def step(z, _):
        z = categorical(logits=params["transition"][z]) @ "z"
        normal(params["loc"][z], 0.7) @ "y"
        return z, None

    jax.lax.scan(step, 0, None, length=steps)


def forward(params, ys):
    """Return the evidence by the forward recursion, written by hand."""
    transition = jax.nn.log_softmax(params["transition"])
    log_density = lambda y: -0.5 * ((y - params["loc"]) / 0.7) ** 2 - jnp.log(0.7) - 0.5 * jnp.log(2 * jnp.pi)
    step = lambda alpha, y: (jax.nn.logsumexp(alpha[:, None] + transition, axis=0) + log_density(y), None)
    alpha, _ = jax.lax.scan(step, transition[0] + log_density(ys[0]), ys[1:])
    return jax.nn.logsumexp(alpha)


def hmm_params(k):
    """Return parameters of a model with k states."""
    numbers = np.random.RandomState(k)
    return {"transition": jnp.asarray(numbers.randn(k, k)), "loc": jnp.asarray(numbers.randn(k))}


def test_a_long_chain_equals_the_forward_recursion():
    evidence, params = marginal(long_hmm, keep="y", method=EXACT), hmm_params(8)
    ys = jnp.asarray(np.random.RandomState(0).randn(200))
    summed = jax.value_and_grad(lambda params: evidence.log_density({"y": ys}, params, len(ys)))(params)
    assert_close(summed, jax.value_and_grad(forward)(params, ys))


def test_the_size_of_a_chain_does_not_depend_on_its_length():
    evidence = marginal(long_hmm, keep="y", method=EXACT)
    found = {
        (k, n): costs(jax.grad(lambda params, ys: evidence.log_density({"y": ys}, params, len(ys))))(
            hmm_params(k), jnp.zeros(n)
        )
        for k, n in ((8, 50), (8, 5000), (32, 5000))
    }
    assert found[8, 50].equations == found[8, 5000].equations == found[32, 5000].equations
    assert found[8, 5000].flops < 105 * found[8, 50].flops
    assert found[32, 5000].flops < 17 * found[8, 5000].flops


def test_chains_through_transformations():
    evidence, params = marginal(long_hmm, keep="y", method=EXACT), hmm_params(3)
    ys = jnp.asarray(np.random.RandomState(0).randn(4, 5))
    one = lambda ys: evidence.log_density({"y": ys}, params, 5)
    truth = jnp.array([forward(params, row) for row in ys])
    assert_close(jax.vmap(one)(ys), truth)
    assert_close(jax.lax.map(jax.jit(one), ys), truth)


# --- What is impossible ------------------------------------------------------------------------------------------


def test_sums_of_logarithms_are_safe():
    gradient = jax.grad(lambda logs: log_sum_exp(logs, 0))
    second = jax.hessian(lambda logs: log_sum_exp(logs, 0))
    some, none = jnp.array([-jnp.inf, 1.0, -2000.0]), jnp.full(3, -jnp.inf)
    assert log_sum_exp(none, 0) == -jnp.inf
    assert log_sum_exp(jnp.array([jnp.inf, 1.0]), 0) == jnp.inf
    assert jnp.isnan(log_sum_exp(jnp.array([jnp.nan, 1.0]), 0))
    assert (gradient(none) == 0).all()
    assert (second(none) == 0).all()
    assert_close(gradient(some), jnp.array([0.0, 1.0, 0.0]))
    assert (second(some) == 0).all()
    far = jnp.array([-jnp.inf, -3000.0, -3001.0])
    assert jnp.isfinite(gradient(far)).all()
    assert_close(log_sum_exp(far, 0), -3000 + jnp.log1p(jnp.exp(-1.0)))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("spread", [1.0, 300.0, 3000.0])
def test_products_of_exponentials_equal_sums_of_logarithms(axis, spread):
    numbers = np.random.RandomState(0)
    table = jnp.asarray(spread * numbers.randn(4, 5)).at[1, 2].set(-jnp.inf).at[3].set(-jnp.inf)
    logs = jnp.asarray(spread * numbers.randn(*((4, 1) if axis == 0 else (1, 5)))).at[0, 0].set(-jnp.inf)

    def summed(table, logs):
        exact = lambda: log_sum_exp(table + logs, axis)
        return log_product(powers(table, axis), logs, axis, exact)

    weights = jnp.arange(1.0, 6.0)[: 5 if axis == 0 else 4]
    finite = lambda out: jnp.where(jnp.isfinite(out), out, 0) @ weights
    both = lambda function: jax.value_and_grad(lambda *args: finite(function(*args)), argnums=(0, 1))(table, logs)
    direct = lambda table, logs: log_sum_exp(table + logs, axis)
    assert_close(summed(table, logs), direct(table, logs))
    assert_close(both(summed), both(direct))


def test_large_chains_by_matrix_products():
    params, ys = hmm_params(64), jnp.asarray(np.random.RandomState(0).randn(6))
    evidence = marginal(long_hmm, keep="y", method=EXACT)
    summed = jax.jit(jax.value_and_grad(lambda params, ys: evidence.log_density({"y": ys}, params, 6), argnums=(0, 1)))
    assert "dot_general" in str(jax.make_jaxpr(summed)(params, ys))
    truth = jax.jit(jax.value_and_grad(forward, argnums=(0, 1)))
    assert_close(summed(params, ys), truth(params, ys))
    assert_close(summed(params, 1e4 * ys), truth(params, 1e4 * ys), 1e-9)


def test_what_is_impossible_has_density_zero_and_no_nan():
    @gen
    def stuck(p):
        transition = jnp.array([[1.0, 0.0], [0.0, 1.0]])

        def step(z, _):
            z = categorical(probs=transition[z]) @ "z"
            bernoulli(jnp.where(z == 0, p, 1.0)) @ "y"
            return z, None

        jax.lax.scan(step, 1, None, length=3)

    evidence = marginal(stuck, keep="y", method=EXACT)
    run = jax.value_and_grad(lambda p, y: evidence.log_density({"y": y}, p))
    assert run(0.3, jnp.array([1, 0, 1])) == (-jnp.inf, 0.0)
    assert_close(run(0.3, jnp.array([1, 1, 1])), (0.0, 0.0))


# --- Inside of other programs ------------------------------------------------------------------------------------


def test_what_is_drawn_carries_its_density():
    x = marginal(mixture, keep="x", method=EXACT)
    trace = x.simulate(jax.random.key(0), THETA, 5)
    assert {*trace.choices} == {"x"}
    assert_close(trace.log_density, mixture_by_hand(THETA, trace["x"]))
    other = x.simulate(jax.random.key(1), THETA, 5)
    assert (other["x"] != trace["x"]).all()


def test_a_collapsed_model_under_a_guide():
    @gen
    def model(theta, n):
        locs = normal(jnp.zeros(3), 5.0) @ "locs"
        mixture.inline(locs, n)

    @gen
    def by_hand(theta, n):
        locs = normal(jnp.zeros(3), 5.0) @ "locs"
        ppl.factor(mixture_by_hand(locs, x)) @ "x"

    guide = gen(lambda theta, *_: normal(theta, 0.3) @ "locs")
    x = jnp.array([-1.0, 0.3, 2.2])
    collapsed = marginal(model, keep=("locs", "x"), method=EXACT)
    run = lambda model, observed: ppl.value_and_grad(elbo(model, guide))(jax.random.key(3), THETA, observed, 3)
    assert_close(run(collapsed, {"x": x}), run(by_hand, {}))


def test_a_chain_with_continuous_parameters_under_a_guide():
    @gen
    def model(theta, n):
        loc = normal(jnp.zeros(3), 1.0) @ "loc"
        long_hmm.inline({"transition": TABLE, "loc": loc}, n)

    @gen
    def by_hand(theta, n):
        loc = normal(jnp.zeros(3), 1.0) @ "loc"
        ppl.factor(forward({"transition": TABLE, "loc": loc}, ys)) @ "y"

    guide = gen(lambda theta, *_: normal(theta, 0.3) @ "loc")
    ys = jnp.array([-1.0, 0.3, 2.2, 0.1])
    collapsed = marginal(model, keep=("loc", "y"), method=EXACT)
    run = lambda model, observed: ppl.value_and_grad(elbo(model, guide))(jax.random.key(3), THETA, observed, 4)
    assert_close(run(collapsed, {"y": ys}), run(by_hand, {}))


@pytest.mark.parametrize("states", [3, 64])
def test_jumps_before_a_sum_are_still_refused(states):
    """Our own selections inside of the sum are trusted; those of the program are not."""

    def model(loc_of):
        def body(theta, n):
            loc = loc_of(normal(jnp.zeros(states), 1.0) @ "loc")
            long_hmm.inline({"transition": jnp.eye(states), "loc": loc}, n)

        return marginal(gen(body), keep=("loc", "y"), method=EXACT)

    guide = gen(lambda theta, *_: normal(theta * jnp.ones(states), 0.3) @ "loc")
    run = lambda loc_of: ppl.grad(elbo(model(loc_of), guide))(jax.random.key(3), 0.5, {"y": jnp.ones(4)}, 4)
    assert jnp.isfinite(run(jnp.tanh))
    with pytest.raises(ppl.UnsoundGradientError, match="loc"):
        run(lambda loc: jnp.where(loc > 0.5, 1.0, loc))


def test_an_exact_marginal_as_a_guide():
    @gen
    def pair(a):
        u = bernoulli(a, grad=enum()) @ "u"
        bernoulli(jnp.where(u == 1, 0.9, 0.2), grad=enum()) @ "z"

    @gen
    def model(a):
        z = bernoulli(0.3) @ "z"
        bernoulli(jnp.where(z == 1, 0.8, 0.1)) @ "x"

    z_alone = marginal(pair, keep="z", method=EXACT)
    guide = gen(lambda a, observed: z_alone.inline(a))

    def by_hand(a):
        q = 0.9 * a + 0.2 * (1 - a)
        return q * (jnp.log(0.3 * 0.8) - jnp.log(q)) + (1 - q) * (jnp.log(0.7 * 0.1) - jnp.log(1 - q))

    found = ppl.exact_gradient(lambda a: elbo(model, guide)(a, {"x": 1}))(0.6)
    assert_close((found.value, found.gradient), jax.value_and_grad(by_hand)(0.6))
    assert found.variance < 1e-20


def test_a_marginal_inside_of_a_marginal():
    @gen
    def outer(theta):
        k = categorical(logits=theta) @ "k"
        inner(theta * k, 2) @ "points"

    inner = marginal(mixture, keep="x", method=EXACT)
    nested = marginal(outer, keep="points/x", method=EXACT)
    x = jnp.array([0.4, -1.0])
    logs = [jax.nn.log_softmax(THETA)[k] + mixture_by_hand(THETA * k, x) for k in range(3)]
    found = nested.log_density({"points": {"x": x}}, THETA)
    assert_close(found, jax.scipy.special.logsumexp(jnp.stack(logs)))


# --- Refusals ----------------------------------------------------------------------------------------------------


def crossing():
    rows = bernoulli(0.3 * jnp.ones(20)) @ "rows"
    columns = bernoulli(0.6 * jnp.ones(20)) @ "columns"
    normal(1.0 * rows[:, None] * columns, 1.0) @ "x"


def history():
    def step(total, _):
        total = total + bernoulli(0.5) @ "z"
        return total, normal(1.0 * total, 1.0) @ "x"

    jax.lax.scan(step, 0, None, length=3)


def stacked():
    _, z = jax.lax.scan(lambda _, __: (None, bernoulli(0.5) @ "z"), None, None, length=3)
    normal(1.0 * z.sum(), 1.0) @ "x"


def loop_in_loop():
    """A chain that goes on through an inner loop and the next step of the outer one."""

    def inner(z, _):
        z = bernoulli(jnp.where(z == 1, 0.2, 0.7)) @ "z"
        return z, normal(1.0 * z, 1.0) @ "x"

    jax.lax.scan(lambda z, _: jax.lax.scan(inner, z, None, length=2), 0, None, length=3)


def branch():
    z = bernoulli(0.5) @ "z"
    k = jax.lax.cond(z == 1, lambda: bernoulli(0.2) @ "k", lambda: jnp.int32(0))
    normal(1.0 * k, 1.0) @ "x"


def continuous():
    normal(normal(0.0, 1.0) @ "z", 1.0) @ "x"


def infinite():
    z = ppl.poisson(2.0) @ "z"
    normal(1.0 * z, 1.0) @ "x"


def many():
    z = bernoulli(0.5 * jnp.ones(20)) @ "z"
    normal(1.0 * z.sum(), 1.0) @ "x"


REFUSED = [
    (crossing, StrategyError, "all combinations"),
    (history, ControlFlowError, "more than its own last value"),
    (stacked, ControlFlowError, "stacked"),
    (loop_in_loop, ControlFlowError, "more than its own last value"),
    (branch, ControlFlowError, "branch"),
    (continuous, StrategyError, "quadrature.*importance"),
    (infinite, StrategyError, "finite support"),
    (many, StrategyError, "max_states"),
]


@pytest.mark.parametrize(("body", "error", "message"), REFUSED, ids=lambda case: getattr(case, "__name__", ""))
def test_what_cannot_be_summed_is_refused(body, error, message):
    program = marginal(gen(body), keep="x", method=EXACT)
    with pytest.raises(error, match=f"(?s){message}") as caught:
        program.simulate(jax.random.key(0))
    assert "test_exact_marginals.py" in str(caught.value)
    assert "remedy" in str(caught.value)


def test_the_largest_number_of_joint_values_is_the_users():
    program = lambda states: marginal(tree, keep=("x", "y"), method=ppl.methods.exact(max_states=states))
    kept = {"x": 0.3, "y": 0.1}
    assert_close(
        program(12).log_density(kept, THETA), marginal(tree, ("x", "y"), method=EXACT).log_density(kept, THETA)
    )
    with pytest.raises(StrategyError, match="max_states"):
        program(3).log_density(kept, THETA)
