"""Laws of keys: choices, steps, lanes and keys never share noise, and names alone decide which noise a choice gets."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl

NUM = 2**14


def two_sites(draw):
    return jnp.stack([draw(), draw()])


def scan(draw):
    return lax.scan(lambda none, _: (none, draw()), None, None, 3)[1]


def carry(draw):
    step = lambda c, i: ((c[1], draw(), c[0]), None)
    return jnp.stack(lax.scan(step, (0.0, 0.0, 0.0), jnp.arange(3))[0])


def fori(draw):
    return lax.fori_loop(0, 3, lambda i, xs: xs.at[i].set(draw()), jnp.zeros(3))


def vmap(draw):
    return jax.vmap(lambda x: draw() + 0 * x)(jnp.zeros(3))


def vmap_of_nothing(draw):
    return jax.vmap(draw, axis_size=3)()


def vmap_in_scan(draw):
    return lax.scan(lambda none, _: (none, jax.vmap(draw, axis_size=2)()), None, None, 2)[1]


def scan_in_vmap(draw):
    return jax.vmap(lambda: lax.scan(lambda none, _: (none, draw()), None, None, 2)[1], axis_size=2)()


def scan_in_scan(draw):
    inner = lambda: lax.scan(lambda none, _: (none, draw()), None, None, 2)[1]
    return lax.scan(lambda none, _: (none, inner()), None, None, 2)[1]


def checkpointed_steps(draw):
    return lax.scan(jax.checkpoint(lambda none, _: (none, jax.jit(draw)())), None, None, 3)[1]


def one_jitted_function_twice(draw):
    once = jax.jit(draw)
    return jnp.stack([once(), once()])


def branches(draw):
    one = lambda x: lax.cond(x > 0, draw, lambda: draw() + 0.0)
    return jnp.stack([one(1.0), one(-1.0), draw()])


def lanes_of_branches(draw):
    return jax.vmap(lambda x: lax.cond(x > 0, draw, lambda: draw() + 0.0))(jnp.array([1.0, -1.0, 1.0]))


def scan_of_branches(draw):
    step = lambda none, x: (none, lax.cond(x > 0, draw, lambda: draw() + 0.0))
    return lax.scan(step, None, jnp.array([1.0, -1.0, 1.0]))[1]


def two_addresses(draw):
    body = ppl.gen(lambda: draw())
    return jnp.stack([body() @ "a", body() @ "b", body.inline()])


PROGRAMS = [two_sites, scan, carry, fori, vmap, vmap_of_nothing, vmap_in_scan, scan_in_vmap, scan_in_scan]
PROGRAMS += [checkpointed_steps, one_jitted_function_twice, branches, lanes_of_branches, scan_of_branches]
PROGRAMS += [two_addresses]


def seeded(program):
    return ppl.seed(functools.partial(program, lambda: ppl.normal(0.0, 1.0).sample()))


def expected_by_score(program):
    draw = lambda: ppl.normal(0.0, 1.0, grad=ppl.reinforce()).sample()
    return lambda key: ppl.expect(lambda: (0.0, program(draw)), has_aux=True)(key)[1]


def expected_by_path(program):
    draw = lambda: ppl.normal(0.0, 1.0, grad=ppl.pathwise()).sample()
    return lambda key: ppl.expect(lambda: program(draw))(key)


@pytest.mark.parametrize("through", [seeded, expected_by_score, expected_by_path], ids=lambda f: f.__name__)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_noise_is_neither_frozen_nor_shared(program, through):
    """Law K1: every pair of draws is uncorrelated, every draw is standard normal, no value comes twice."""
    draws = np.asarray(jax.jit(jax.vmap(through(program)))(jr.split(jr.key(9), NUM))).reshape(NUM, -1)
    assert draws.shape[1] > 1
    assert len(np.unique(draws)) == draws.size
    moments = draws.mean(0) * NUM**0.5, (draws.var(0) - 1) * (NUM / 2) ** 0.5
    assert (np.abs(moments) < 4.5).all(), moments
    correlation = np.corrcoef(draws.T) * NUM**0.5
    squares = np.corrcoef(draws.T**2) * NUM**0.5
    for table in (correlation, squares):
        assert (np.abs(table[np.triu_indices(len(table), 1)]) < 4.5).all(), table


@pytest.mark.parametrize("construct", ["plain", "scan", "vmap", "cond", "nested"])
def test_other_choices_do_not_change_the_noise(construct):
    """Law K2: renaming, adding or dropping an unrelated choice leaves every other draw as it was."""

    def program(names):
        def body(x):
            for name in names:
                ppl.normal(x, 2.0) @ name
            return ppl.normal(x, 1.0) @ "z"

        def model():
            if construct == "scan":
                return lax.scan(lambda c, x: (c, body(x)), None, jnp.arange(3.0))[1]
            if construct == "vmap":
                return jax.vmap(body)(jnp.arange(3.0))
            if construct == "cond":
                u = ppl.uniform(0.0, 1.0) @ "u"
                return lax.cond(u > 0.5, body, lambda x: x, 0.5)
            return ppl.gen(body)(0.0) @ "inner" if construct == "nested" else body(0.0)

        return ppl.gen(model)

    runs = [program(names) for names in ((), ("a",), ("other",), ("a", "b", "c"))]
    for through in (lambda gf, key: gf.simulate(key).retval, lambda gf, key: ppl.expect(gf)(key)):
        for seed in (0, 1):
            results = [np.asarray(through(gf, jr.key(seed))) for gf in runs]
            for other in results[1:]:
                np.testing.assert_array_equal(other, results[0])


def test_wrappers_do_not_change_the_noise():
    """Law K3: jit, checkpoint and a scan of any unrolling give the same draws for one key."""
    step = lambda c, x: (c, ppl.normal(x, 1.0).sample())
    xs = jnp.arange(3.0)
    ways = [
        lambda: lax.scan(step, None, xs)[1],
        lambda: lax.scan(step, None, xs, unroll=3)[1],
        lambda: jax.jit(lambda xs: lax.scan(step, None, xs)[1])(xs),
        lambda: jax.checkpoint(lambda xs: lax.scan(step, None, xs)[1])(xs),
        lambda: lax.scan(jax.checkpoint(step), None, xs)[1],
    ]
    for run in (ppl.seed, ppl.expect):
        results = [np.asarray(run(way)(jr.key(3))) for way in ways]
        for other in results[1:]:
            np.testing.assert_allclose(other, results[0], rtol=1e-9)
        assert not np.allclose(run(ways[0])(jr.key(4)), results[0])


def test_one_key_gives_seed_and_expect_the_same_draws():
    program = lambda: lax.scan(lambda c, x: (c, ppl.normal(x, 1.0).sample()), None, jnp.arange(3.0))[1]
    np.testing.assert_array_equal(ppl.seed(program)(jr.key(5)), ppl.expect(program)(jr.key(5)))
