"""Steps of an optimizer in the middle of a program."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import ppl
from ppl import normal

OPTIMIZERS = [optax.sgd(0.1), optax.adam(0.1), optax.adamw(0.1), optax.chain(optax.clip(0.5), optax.sgd(0.3))]


def bowl(params):
    return -((params["a"] - 2.0) ** 2) - jnp.sum((params["b"] - params["a"]) ** 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_makes_the_steps_that_optax_makes_by_hand(optimizer):
    start = {"a": jnp.array(0.5), "b": jnp.array([1.0, -1.0])}
    got, _ = jax.jit(ppl.ascend(ppl.grad(bowl), optimizer, 7))(jr.key(0), start, optimizer.init(start))
    params, state = start, optimizer.init(start)
    for _ in range(7):
        updates, state = optimizer.update(jax.grad(lambda p: -bowl(p))(params), state, params)  # a loss, downhill
        params = jax.tree.map(jnp.add, params, updates)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), got, params)
    assert bowl(got) > bowl(start)


def test_every_step_has_its_own_noise_and_one_step_is_the_given_key():
    noisy = lambda x: x * normal(0.0, 1.0).sample()
    optimizer = optax.sgd(1.0)
    moved = lambda steps: float(ppl.ascend(ppl.grad(noisy), optimizer, steps)(jr.key(3), 0.0, optimizer.init(0.0))[0])
    gradient = lambda key: float(ppl.grad(noisy)(key, 0.0))
    assert moved(1) == pytest.approx(gradient(jr.key(3)))
    assert moved(3) == pytest.approx(sum(gradient(jr.fold_in(jr.key(3), i)) for i in range(3)), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 4])
def test_modules_keep_what_is_not_trained(steps):
    network = eqx.nn.MLP(2, 1, 3, 1, key=jr.key(0))
    optimizer = optax.adam(1e-2)
    value = lambda network: -jnp.sum(jax.vmap(network)(jnp.eye(2)) ** 2)
    climb = ppl.ascend(ppl.grad(value), optimizer, steps)
    found, _ = eqx.filter_jit(climb)(jr.key(0), network, optimizer.init(eqx.filter(network, eqx.is_inexact_array)))
    assert found.activation is network.activation
    assert value(found) > value(network)


def test_an_inner_loop_is_vmapped_and_scanned():
    """Exact: x moves a fixed share of the way to its target; lanes and outer steps are independent."""
    optimizer = optax.sgd(0.25)

    def track(targets):
        def outer(carry, target):
            climb = ppl.ascend(ppl.grad(lambda x: -((x - target) ** 2)), optimizer, 2)
            x, state = climb(jr.key(0), *carry)
            return (x, state), x

        return jax.lax.scan(outer, (0.0, optimizer.init(0.0)), targets)[1]

    targets = jnp.array([[4.0, 0.0], [8.0, 8.0]])
    expected = [[3.0, 0.75], [6.0, 7.5]]  # each outer step leaves a quarter of the distance
    np.testing.assert_allclose(jax.jit(jax.vmap(track))(targets), expected, rtol=1e-6)
