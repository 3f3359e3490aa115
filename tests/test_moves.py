"""Moves between traces: update, regenerate and project, and their laws."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from ppl import AddressError, Masked, bernoulli, categorical, gamma, gen, normal

KEY = jr.key(3)


@gen
def pair():
    z = normal(0.0, 1.0) @ "z"
    return normal(z, 1.0) @ "x"


@gen
def branching(p=0.4):
    b = bernoulli(p) @ "b"
    y = lax.cond(b == 1, lambda: normal(1.0, 1.0) @ "y", lambda: gamma(2.0, 1.0) @ "w")
    normal(y, 1.0) @ "x"


@gen
def nested(n=3):
    def step(carry, _):
        carry = normal(carry, 1.0) @ "state"
        lanes = jax.vmap(lambda i: branching(0.3 + 0.1 * i) @ "lane")(jnp.arange(2.0))
        return carry, lanes

    start = pair() @ "start"
    lax.scan(step, start, None, length=n)
    jax.vmap(lambda i: lax.scan(lambda c, _: (normal(c, 1.0) @ "grid", None), i, None, length=n))(jnp.arange(2.0))


PROGRAMS = {"pair": pair, "branching": branching, "nested": nested}


def replaced(choices, path, value):
    flat = dict(choices)
    return {**flat, path: value}


def test_update_of_the_gaussian_pair():
    trace, _ = pair.generate(KEY, {"z": 0.5, "x": 2.0})
    new, log_weight, discarded = pair.update(KEY, trace, {"z": 1.0})
    np.testing.assert_allclose(log_weight, 0.25, rtol=1e-12)
    _, back, _ = pair.update(KEY, new, discarded)
    np.testing.assert_allclose(back, -0.25, rtol=1e-12)


@pytest.mark.parametrize("name", PROGRAMS)
def test_update_there_and_back(name):
    gf = PROGRAMS[name]
    trace, other = gf.simulate(KEY), gf.simulate(jr.key(4))
    flat = ppl.choicemap.flatten(other.choices)
    new, log_weight, discarded = jax.jit(gf.update)(KEY, trace, other.choices)
    np.testing.assert_allclose(log_weight, other.log_density - trace.log_density, rtol=1e-9)
    assert ppl.choicemap.flatten(discarded).keys() == flat.keys()
    restored, back, _ = gf.update(KEY, new, discarded)
    np.testing.assert_allclose(back, -log_weight, rtol=1e-9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), restored.choices, trace.choices)


@pytest.mark.parametrize("name", PROGRAMS)
def test_update_without_changes_keeps_the_trace(name):
    trace = PROGRAMS[name].simulate(KEY)
    same, log_weight, _ = PROGRAMS[name].update(jr.key(9), trace, {})
    np.testing.assert_allclose(log_weight, 0.0, atol=1e-10)
    jax.tree.map(np.testing.assert_array_equal, same.choices, trace.choices)


def test_update_draws_what_was_not_made_before():
    trace, _ = branching.generate(KEY, {"b": 1, "y": 0.3, "x": 0.7})
    new, log_weight, discarded = branching.update(KEY, trace, {"b": 0})
    fresh = new["w"].value
    parts = branching.log_density(new.choices) - gen(lambda: gamma(2.0, 1.0) @ "w").log_density({"w": fresh})
    np.testing.assert_allclose(log_weight, parts - trace.log_density, rtol=1e-10)
    assert discarded["b"] == 1
    assert bool(discarded["y"].mask)
    assert not bool(discarded["w"].mask)


def test_update_with_other_arguments():
    trace = branching.simulate(KEY, 0.4)
    new, log_weight, _ = branching.update(KEY, trace, {}, 0.9)
    np.testing.assert_allclose(log_weight, new.log_density - trace.log_density, rtol=1e-10)
    assert new.args == (0.9,)


@pytest.mark.parametrize("name", PROGRAMS)
def test_project_of_all_and_of_parts(name):
    trace = PROGRAMS[name].simulate(KEY)
    paths = {"/".join(path) for path in ppl.choicemap.flatten(trace.choices)}
    parts = [PROGRAMS[name].project(trace, path) for path in sorted(paths)]
    np.testing.assert_allclose(PROGRAMS[name].project(trace, "*"), trace.log_density, rtol=1e-10)
    np.testing.assert_allclose(sum(parts), trace.log_density, rtol=1e-9)
    np.testing.assert_allclose(PROGRAMS[name].project(trace, []), 0.0)


@pytest.mark.parametrize("name", PROGRAMS)
def test_regenerate_everything_has_weight_one(name):
    trace = PROGRAMS[name].simulate(KEY)
    new, log_weight, _ = PROGRAMS[name].regenerate(jr.key(8), trace, "*")
    np.testing.assert_allclose(log_weight, 0.0, atol=1e-9)
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), new.choices, trace.choices))
    assert any(changed)


def test_regenerate_one_choice():
    trace, _ = pair.generate(KEY, {"z": 0.5, "x": 2.0})
    new, log_weight, discarded = pair.regenerate(KEY, trace, "z")
    expected = pair.project(new, "x") - pair.project(trace, "x")
    np.testing.assert_allclose(log_weight, expected, rtol=1e-10)
    assert discarded == {"z": 0.5}
    with pytest.raises(AddressError, match="zz"):
        pair.regenerate(KEY, trace, "zz")


@gen
def finite():
    a = categorical(probs=jnp.array([0.5, 0.3, 0.2])) @ "a"
    b = bernoulli(jnp.array([0.2, 0.6, 0.9])[a]) @ "b"
    lax.cond(b == 1, lambda: bernoulli(0.3) @ "c", lambda: bernoulli(0.8) @ "d")


def states():
    for a, b, c in itertools.product(range(3), range(2), range(2)):
        made = {
            "c": Masked(jnp.int32(c * b), jnp.asarray(b == 1)),
            "d": Masked(jnp.int32(c * (1 - b)), jnp.asarray(b == 0)),
        }
        yield (a, b, c), {"a": a, "b": b, **made}


@pytest.mark.parametrize("selection", ["a", "b", ("a", "b"), "c", "*"])
def test_regenerate_leaves_a_finite_model_invariant(selection):
    """Metropolis-Hastings with `regenerate` as proposal: its transition matrix, from 4,000 moves out of each state."""
    listed = list(states())
    index = {state: i for i, (state, _) in enumerate(listed)}
    target = np.exp([float(finite.log_density(choices)) for _, choices in listed])
    np.testing.assert_allclose(target.sum(), 1.0, rtol=1e-10)

    def code(choices):
        last = jnp.where(choices["b"] == 1, choices["c"].value, choices["d"].value)
        return choices["a"] * 4 + choices["b"] * 2 + last

    @jax.jit
    def moves(choices):
        trace, _ = finite.generate(KEY, choices)

        def move(key):
            new, log_weight, _ = finite.regenerate(key, trace, selection)
            return code(new.choices), log_weight

        return jax.vmap(move)(jr.split(jr.key(5), 4_000))

    flow = np.zeros((len(listed), len(listed)))
    for (state, choices), p in zip(listed, target, strict=True):
        reached, log_weights = map(np.asarray, moves(choices))
        accepted = np.minimum(1, np.exp(log_weights))
        here = index[state]
        np.add.at(flow[here], reached, p * accepted / len(reached))
        flow[here, here] += p * (1 - accepted).sum() / len(reached)
    # Detailed balance: what flows from i to j flows back. Compared in units of its standard error.
    error = np.sqrt(np.maximum(flow, flow.T) * np.maximum(target[:, None], target[None, :]) / 4_000) + 1e-9
    assert (np.abs(flow - flow.T) < 6 * error).all()
