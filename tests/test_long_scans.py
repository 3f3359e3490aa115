"""Long loops: staging and compiling 10,000 steps costs what 100 cost, and `jax.checkpoint` saves memory."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from estimators import elbo
from ppl import bernoulli, enum, gen, normal, reinforce

CHOICES = 10
KEY = jax.random.key(0)


@gen
def model(params, steps, wrap):
    """Ten choices a step: eight of a chain, of which each depends on the last, a coin, and an observation."""

    def step(state, _):
        for i in range(CHOICES - 2):
            state = jnp.tanh(params[i] * state) + normal(jnp.sin(state), 1.0) @ f"z{i}"
        coin = bernoulli(jax.nn.sigmoid(state)) @ "coin"
        normal(state + coin, 1.0) @ "y"
        return state, None

    jax.lax.scan(wrap(step), 0.0, None, length=steps)


@gen
def guide(params, observed, steps, wrap):
    def step(state, y):
        for i in range(CHOICES - 2):
            state = jnp.tanh(params[i] * state) + normal(jnp.sin(state + y), 1.0) @ f"z{i}"
        bernoulli(jax.nn.sigmoid(state), grad=reinforce()) @ "coin"
        return state, None

    jax.lax.scan(wrap(step), 0.0, observed["y"])


def gradient(steps, wrap=lambda step: step):
    bound = elbo(model, guide)
    return lambda key, params, y: ppl.value_and_grad(bound)(key, params, {"y": y}, steps, wrap)


def arguments(steps):
    return KEY, jnp.linspace(0.1, 0.8, CHOICES - 2), jnp.zeros(steps)


def seconds(steps):
    """Return the processor time to stage, differentiate, lower and compile, of which nothing is cached."""
    begin = time.process_time()
    jax.jit(gradient(steps)).lower(*arguments(steps)).compile()
    return time.process_time() - begin


def memory(steps, wrap):
    """Return the bytes that the compiled step needs beside arguments and results."""
    compiled = jax.jit(gradient(steps, wrap)).lower(*arguments(steps)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_the_text_of_a_program_does_not_grow_with_its_loop():
    short, long = (ppl.reports.costs(gradient(steps))(*arguments(steps)) for steps in (100, 10_000))
    assert short.equations == long.equations
    assert long.executed > 50 * short.executed


def test_compiling_takes_the_same_time_for_ten_thousand_steps():
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        seconds(50)  # what is done once only: imports, rules
        short, long = min(seconds(100) for _ in range(2)), min(seconds(10_000) for _ in range(2))
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    print(f"compiling: {short:.2f} s for 100 steps, {long:.2f} s for 10,000")
    assert long < 1.5 * short + 0.2


def test_checkpointed_steps_take_less_memory():
    """Backwards, a plain loop keeps what every step has computed; a checkpointed one what is handed on."""
    plain, saved = (memory(10_000, wrap) for wrap in (lambda step: step, jax.checkpoint))
    print(f"temporary memory: {plain / 1e6:.2f} MB plain, {saved / 1e6:.2f} MB checkpointed")
    assert saved < 0.8 * plain


def test_checkpointed_steps_change_no_number():
    plain, saved = (jax.jit(gradient(20, wrap))(*arguments(20)) for wrap in (lambda step: step, jax.checkpoint))
    for mine, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(saved), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.x64
def test_checkpointed_steps_may_enumerate():
    def value(wrap):
        model = gen(
            lambda p: jax.lax.scan(wrap(lambda c, _: (c, normal(bernoulli(p) @ "c", 1.0) @ "y")), 0.0, None, 3)[0]
        )
        coin = lambda logits: bernoulli(logits=logits, grad=enum()) @ "c"
        guide = gen(lambda p, o: jax.lax.scan(wrap(lambda c, y: (c, coin(y))), 0.0, o["y"])[0])
        return ppl.value_and_grad(elbo(model, guide))(KEY, 0.3, {"y": jnp.ones(3)})

    np.testing.assert_allclose(value(jax.checkpoint), value(lambda step: step))
