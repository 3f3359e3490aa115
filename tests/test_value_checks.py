"""`ppl.checks()`: parameters outside their domain are errors, in compiled code too, and cost nothing outside it."""

import jax
import jax.numpy as jnp
import pytest

import ppl
from ppl import bernoulli, gen, normal

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
