"""Short loops are written out when they are compiled: same keys, same numbers, no loop left."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from estimators import elbo, enum, pathwise, reinforce
from ppl import bernoulli, gen, normal
from ppl.passes.policy import SHORT_LOOP, WRITTEN_OUT
from ppl.transforms import evaluate_scan


@gen
def model(params, steps):
    def step(z, _):
        on = bernoulli(0.4) @ "on"
        z = normal(jnp.tanh(z) + on, 1.0) @ "z"
        return z, None

    z, _ = jax.lax.scan(step, params, None, length=steps)
    normal(z, 0.5) @ "x"


def guide_of(strategy):
    @gen
    def guide(params, observed, steps):
        def step(z, _):
            on = bernoulli(jax.nn.sigmoid(z), grad=strategy) @ "on"
            return normal(params * jnp.tanh(z) + on, 0.8, grad=pathwise()) @ "z", None

        jax.lax.scan(step, observed["x"], None, length=steps)

    return guide


def gradient(strategy, steps):
    objective = elbo(model, guide_of(strategy))
    return lambda key: ppl.grad(lambda params: objective(params, {"x": 1.2}, steps))(key, 0.7)


@pytest.mark.x64
@pytest.mark.parametrize("strategy", [reinforce(), enum()], ids=str)
def test_no_number_changes(strategy, monkeypatch):
    written_out = jax.jit(gradient(strategy, 3))(jr.key(4))
    monkeypatch.setattr(evaluate_scan, "steps_in_a_row", lambda view: view.unroll)
    np.testing.assert_allclose(written_out, jax.jit(gradient(strategy, 3))(jr.key(4)), rtol=1e-10)


def loops_in(function, *args):
    """Count the loops of what is compiled."""
    return jax.jit(function).lower(*args).as_text().count("stablehlo.while")


def test_a_short_loop_is_gone_and_a_long_one_stays():
    assert loops_in(gradient(reinforce(), SHORT_LOOP), jr.key(0)) < loops_in(
        gradient(reinforce(), SHORT_LOOP + 1), jr.key(0)
    )


def test_large_bodies_and_the_users_own_word_stay():
    """A body of many equations keeps its loop; `unroll` of a long one is kept."""
    seen = {}

    def objective(unroll, work):
        def step(z, _):
            z = normal(z, 1.0, grad=reinforce()).sample()
            for _ in range(work):
                z = jnp.sin(z)
            return z, None

        return lambda p: jax.lax.scan(step, p, None, length=3 if unroll is None else 12, unroll=unroll or 1)[0]

    for name, unroll, work in [("large", None, WRITTEN_OUT // 3), ("small", None, 3), ("long", 6, 3), ("plain", 1, 3)]:
        text = str(jax.make_jaxpr(ppl.expect(objective(unroll, work)))(jr.key(0), 0.1))
        seen[name] = [int(part.split()[0].rstrip("]")) for part in text.split("unroll=")[1:]]
    assert seen == {"large": [1], "small": [3], "long": [6], "plain": [1]}
