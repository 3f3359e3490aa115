"""Every draw of one program through all control flow: uncorrelated, standard normal."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from scipy import stats

from ppl import expect, fresh_key, gen, normal, seed, while_loop
from tests.programs.replay import KEY


def draw(loc=0.0):
    return normal(loc, 1.0).sample()


def noise():
    return jr.normal(fresh_key())


def both():
    return jnp.stack([draw(), noise()])


def everywhere():
    """Draw choices and fresh keys through every construct, and some of them in each other."""
    coin = lambda t: jax.vmap(lambda _: lax.cond(t > 0, noise, lambda: noise() + 0.0))(jnp.arange(2))
    loop = lambda c: (c[0] + 1, c[1].at[c[0]].set(draw() + 0 * noise()))
    compiled, checkpointed = jax.jit(both), jax.checkpoint(draw)
    draws = (
        jax.vmap(lambda _: both())(jnp.arange(3)),
        lax.scan(lambda c, _: (c, both()), 0.0, None, length=3)[1],
        lax.scan(lambda c, t: (c, coin(t)), 0.0, jnp.arange(2))[1],
        lax.fori_loop(0, 3, lambda i, c: c.at[i].set(draw()), jnp.zeros(3)),
        lax.map(lambda _: draw(), jnp.arange(3)),
        lax.map(lambda _: noise(), jnp.arange(4), batch_size=2),
        compiled(),
        compiled(),
        checkpointed(),
        checkpointed(),
        while_loop(lambda c: c[0] < 2, loop, (0, jnp.zeros(2)), 3)[1],
        jax.vmap(lambda _: jax.vmap(lambda _: draw(jnp.zeros(2)))(jnp.arange(2)))(jnp.arange(2)),
    )
    return jnp.concatenate([jnp.ravel(values) for values in draws])


@pytest.mark.parametrize("run", [seed, pytest.param(expect, marks=pytest.mark.slow)], ids=lambda run: run.__name__)
def test_draws_through_all_control_flow_are_independent(run):
    num = 4_000
    draws = np.asarray(jax.jit(jax.vmap(run(everywhere)))(jr.split(KEY, num)))
    correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(correlation).max() < 5.5 / np.sqrt(num)  # of about a thousand pairs
    assert np.abs(draws.mean(0)).max() < 4.5 / np.sqrt(num)
    assert np.abs(draws.std(0) - 1).max() < 4.5 / np.sqrt(2 * num)


def test_a_key_in_a_loop_of_a_generative_function_has_no_place_in_the_trace():
    step = lambda c, _: (normal(c + 0.0 * noise(), 1.0) @ "z", None)
    program = gen(lambda: lax.scan(step, 0.0, None, length=3)[0])
    trace = program.simulate(KEY)
    assert jax.tree.map(jnp.shape, trace.choices) == {"z": (3,)}
    z = np.asarray(trace["z"])
    np.testing.assert_allclose(trace.log_density, stats.norm.logpdf(z, [0, *z[:2]]).sum(), rtol=1e-6)
