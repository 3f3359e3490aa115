"""`ppl.checks()`: parameters outside their domain are errors, in compiled code too, and cost nothing outside it."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import ppl
from ppl import Masked, bernoulli, gen, normal

KEY = jax.random.key(0)


@gen
def scaled(scale):
    normal(0.0, scale) @ "z"


@gen
def stepped(scales):
    def step(carry, scale):
        return normal(carry, scale) @ "x", None

    jax.lax.scan(step, 0.0, scales)


@gen
def branched(flag, scale):
    return jax.lax.cond(flag, lambda: normal(0.0, scale) @ "a", lambda: 0.0)


def gradient(scale):
    return ppl.grad(lambda s: normal(0.0, s).sample() ** 2)(KEY, scale)


LANES = jax.vmap(scaled.simulate, (None, 0))
BAD = {
    "eager": (lambda: scaled.simulate(KEY, -1.0), "`scale` of normal"),
    "jit": (lambda: jax.jit(scaled.simulate)(KEY, -1.0), "`scale` of normal"),
    "nan": (lambda: jax.jit(scaled.simulate)(KEY, jnp.nan), "`scale` of normal"),
    "vmap": (lambda: LANES(KEY, jnp.array([1.0, -1.0])), "`scale` of normal"),
    "scan": (lambda: jax.jit(stepped.simulate)(KEY, jnp.array([1.0, 1.0, 0.0])), "`scale` of normal"),
    "cond": (lambda: jax.jit(branched.simulate)(KEY, True, -1.0), "`scale` of normal"),
    "grad": (lambda: jax.jit(gradient)(-1.0), "`scale` of normal"),
    "assess": (lambda: scaled.log_density({"z": 1.0}, -1.0), "`scale` of normal"),
    "log_prob": (lambda: ppl.seed(lambda p: bernoulli(p).log_prob(1))(KEY, 2.0), "`probs` of bernoulli"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_parameter_outside_its_domain_is_an_error_only_under_checks(name):
    call, text = BAD[name]
    jax.block_until_ready(jax.tree.leaves(call()))
    with ppl.checks(), pytest.raises((ppl.SupportError, RuntimeError)) as caught:
        jax.block_until_ready(jax.tree.leaves(call()))
    message = str(caught.value)
    assert text in message
    assert "test_value_checks.py:" in message
    assert "remedy" in message
    jax.block_until_ready(jax.tree.leaves(call()))  # Off again.


def test_parameters_inside_their_domain_give_the_same_results():
    plain = jax.jit(stepped.simulate)(KEY, jnp.ones(3))
    with ppl.checks():
        checked = jax.jit(stepped.simulate)(KEY, jnp.ones(3))
        branched.simulate(KEY, True, 1.0)
    assert jnp.array_equal(plain["x"], checked["x"])


def test_without_checks_nothing_is_added_to_the_program():
    before = str(jax.make_jaxpr(scaled.simulate)(KEY, 1.0))
    with ppl.checks():
        inside = str(jax.make_jaxpr(scaled.simulate)(KEY, 1.0))
    assert str(jax.make_jaxpr(scaled.simulate)(KEY, 1.0)) == before != inside
    assert "callback" not in before


def test_a_branch_that_is_not_taken_is_not_checked():
    with ppl.checks():
        branched.simulate(KEY, False, -1.0)


# --- Lanes that do not take the branch --------------------------------------------------------------------------------


def drawn(s):
    return normal(0.0, s) @ "x"


def scored(s):
    return normal(0.0, s).log_prob(0.3)


def looped(make):
    return lambda s: lax.scan(lambda c, _: (c + make(s), None), 0.0, None, length=2)[0]


INSIDE = {
    "choice": drawn,
    "jit": lambda s: jax.jit(drawn)(s),
    "call": lambda s: gen(drawn)(s) @ "call",
    "scan": looped(drawn),
    "cond": lambda s: lax.cond(s > -5, drawn, lambda s: 0.0, s),
    "checkpoint": lambda s: jax.checkpoint(drawn)(s),
    "density": scored,
    "density in jit": lambda s: jax.jit(scored)(s),
    "density in scan": looped(scored),
    "density of a switch": lambda s: lax.switch(1, [lambda s: 0.0, scored], s),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", INSIDE)
def test_a_parameter_counts_in_the_lanes_that_take_the_branch(name, compiled):
    """The same parameter is bad in one lane; which lanes take the branch differs."""
    program = gen(lambda taken, s: lax.cond(taken, INSIDE[name], lambda s: 0.0, s))
    lanes = gen(lambda taken, s: jax.vmap(lambda taken, s: program(taken, s) @ "lane")(taken, s))
    inner = lambda taken, s: lanes.simulate(KEY, taken, s)
    outer = lambda taken, s: jax.vmap(lambda taken, s: program.simulate(KEY, taken, s))(taken, s)
    scales = jnp.array([-1.0, 2.0])
    for run in (inner, outer):
        run = jax.jit(run) if compiled else run
        plain = run(jnp.array([False, True]), scales)
        with ppl.checks():
            checked = run(jnp.array([False, True]), scales)
            with pytest.raises((ValueError, RuntimeError), match="`scale` of normal"):
                jax.block_until_ready(jax.tree.leaves(run(jnp.array([True, False]), scales)))
        assert jnp.array_equal(plain.retval, checked.retval)
        assert plain.retval[1] != 0


def test_derivatives_and_enumeration_pass_through_checks():
    cost = lambda p: jnp.sum(jax.vmap(lambda q: lax.cond(q > 0, enumerated, lambda q: q, q))(jnp.stack([p, -p])))
    enumerated = lambda q: bernoulli(q, grad=ppl.enum()).sample() * 1.0 + normal(q, q).sample()
    estimate = jax.jit(ppl.grad(cost))
    plain = estimate(KEY, 0.4)
    with ppl.checks():
        assert jnp.allclose(estimate(KEY, 0.4), plain)


# --- Values -----------------------------------------------------------------------------------------------------------


def test_a_traced_value_that_is_not_integral_is_an_error_only_under_checks():
    program = gen(lambda: bernoulli(jnp.array([0.3, 0.3])) @ "b")
    some = lambda value: Masked(value, jnp.array([True, False]))
    density = jax.jit(lambda value: program.log_density({"b": value}))
    partly = jax.jit(lambda value: program.generate(KEY, {"b": some(value)})[1])
    bad = jnp.array([1.0, 0.5])
    assert density(bad) == -jnp.inf
    with ppl.checks():
        assert jnp.allclose(density(jnp.array([1.0, 0.0])), jnp.log(0.3 * 0.7))
        assert jnp.allclose(partly(bad), jnp.log(0.3))
        for run, value in ((density, bad), (partly, bad[::-1])):
            with pytest.raises((ValueError, RuntimeError), match="not integral"):
                jax.block_until_ready(run(value))
