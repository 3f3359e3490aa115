"""Moves between traces: update, regenerate and project, and their laws."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from scipy import stats

import ppl
from ppl import AddressError, Masked, bernoulli, categorical, factor, gamma, gen, normal, scale, subsample

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


# --- Weighted programs: a move draws from the plain density and is accepted by the weighted one -----------------------


TS, YS = np.array([0.3, 0.6]), np.array([0.2, 0.7])
KEYS = jr.split(jr.key(6), 400)


@gen
def one(i, b):
    t = bernoulli(jnp.array(TS)[b]) @ "t"
    bernoulli(jnp.array(YS)[t]) @ "y"


@gen
def minibatch():
    subsample(3, 2, one)(bernoulli(0.4) @ "b") @ "s"


@gen
def weighted():
    b = bernoulli(0.4) @ "b"
    factor(0.7 * b) @ "f"
    lax.scan(lambda c, i: (c, one(i, c) @ "s"), b, jnp.arange(2))


WEIGHTED = {
    "subsample": (minibatch, {"indices": jnp.array([2, 0])}),
    "scale": (scale(weighted, {"s/t": jnp.array([3.0, 0.5]), "b": 2.0, "f": -1.0}), {}),
}


@pytest.mark.parametrize("selection", ["b", "s/t", ("b", "s/t")], ids=str)
@pytest.mark.parametrize("name", WEIGHTED)
def test_regenerate_leaves_a_weighted_density_invariant(name, selection):
    """The transition matrix: probabilities of what is drawn by hand, acceptances from the weights of all moves."""
    program, fixed = WEIGHTED[name]
    listed = list(itertools.product((0, 1), repeat=3))
    choices = lambda b, *t: {"b": b, "s": {"t": jnp.array(t), "y": jnp.array([1, 0]), **fixed}}
    target = np.exp([float(program.log_density(choices(*state))) for state in listed])
    target /= target.sum()

    @jax.jit
    def moves(given):
        trace, _ = program.generate(KEY, given)
        new, log_weights, _ = jax.vmap(lambda key: program.regenerate(key, trace, selection))(KEYS)
        return new["b"] * 4 + new["s/t"][:, 0] * 2 + new["s/t"][:, 1], log_weights

    def proposed(old, new):
        flip = lambda p, k: p if k else 1 - p
        first = flip(0.4, new[0]) if "b" in selection else old[0] == new[0]
        rest = [flip(TS[new[0]], k) for k in new[1:]] if "s/t" in selection else [old[1:] == new[1:]]
        return first * np.prod(rest)

    matrix = np.zeros((8, 8))
    for i, old in enumerate(listed):
        reached, log_weights = map(np.asarray, moves(choices(*old)))
        for j, new in enumerate(listed):
            prob, found = proposed(old, new), log_weights[reached == j]
            assert bool(prob) == bool(found.size)
            matrix[i, j] = prob * np.minimum(1, np.exp(found[0])) if prob else 0
            assert not prob or np.ptp(found) < 1e-12
        matrix[i, i] += 1 - matrix[i].sum()
    np.testing.assert_allclose(target @ matrix, target, rtol=0, atol=1e-12)
    assert not np.allclose(matrix, np.eye(8))


def test_update_in_a_minibatch_divides_by_the_plain_density_of_what_it_draws():
    element = gen(lambda i, b: lax.cond(b == 1, lambda: normal(0.0, 1.0) @ "t", lambda: gamma(2.0, 1.0) @ "w"))
    program = gen(lambda: subsample(3, 2, element)(bernoulli(0.4) @ "b") @ "s")
    trace, _ = program.generate(KEY, {"b": 1})
    new, log_weight, _ = program.update(jr.key(9), trace, {"b": 0})
    drawn = stats.gamma.logpdf(new["s/w"].value, 2).sum()
    np.testing.assert_allclose(new.log_density - program.project(new, ["b", "s/indices"]), 1.5 * drawn, rtol=1e-12)
    np.testing.assert_allclose(log_weight, new.log_density - trace.log_density - drawn, rtol=1e-12)


# --- Factors, subsamples and their parts ------------------------------------------------------------------------------


@gen
def noisy(i):
    t = normal(i * 1.0, 1.0) @ "t"
    normal(t, 0.5) @ "y"
    factor(0.3 * t) @ "f"


points = gen(lambda: subsample(4, 2, noisy)() @ "s")
INDICES, LATENT, DATA = np.array([3, 1]), np.array([0.1, 0.2]), np.arange(4.0)
GIVEN = {"s": {"indices": INDICES, "t": LATENT, "y": DATA}}
PARTS = {
    "s/indices": -np.log(12),
    "s/t": 2 * stats.norm.logpdf(LATENT, INDICES).sum(),
    "s/y": 2 * stats.norm.logpdf(DATA[INDICES], LATENT, 0.5).sum(),
    "s/f": 0.6 * LATENT.sum(),
}
WEIGHTS = {"s/t": 3.0, "s/f": 0.5}


@pytest.mark.parametrize("weights", [{}, WEIGHTS], ids=["plain", "scaled"])
def test_parts_of_a_minibatch_with_factors_and_weights(weights):
    program = scale(points, weights) if weights else points
    trace, _ = program.generate(KEY, GIVEN)
    parts = {path: part * weights.get(path, 1.0) for path, part in PARTS.items()}
    for path, part in parts.items():
        np.testing.assert_allclose(program.project(trace, path), part, rtol=1e-12)
    np.testing.assert_allclose(program.project(trace, "*"), trace.log_density, rtol=1e-12)
    np.testing.assert_allclose(trace.log_density, sum(parts.values()), rtol=1e-12)
    np.testing.assert_allclose(program.project(trace, ["f", "t"]), parts["s/f"] + parts["s/t"], rtol=1e-12)


def test_parts_of_a_program_with_a_factor_in_a_loop_and_a_condition():
    program = ppl.condition(weighted, {"s": {"y": jnp.array([1, 0])}})
    trace, _ = program.generate(KEY, {"b": 1, "s": {"t": jnp.array([0, 1])}})
    np.testing.assert_allclose(program.project(trace, "f"), 0.7, rtol=1e-12)
    np.testing.assert_allclose(program.project(trace, "s/y"), np.log(YS[0] * (1 - YS[1])), rtol=1e-12)
    np.testing.assert_allclose(program.project(trace, "*"), trace.log_density, rtol=1e-12)
    with pytest.raises(AddressError, match="nothing"):
        program.project(trace, "nothing")


@pytest.mark.parametrize("lanes", ["alone", "vmap", "scan"])
@pytest.mark.parametrize("fixed", [("y",), ("y", "indices"), ("indices",), ("t",)], ids=str)
def test_a_condition_in_a_minibatch_gathers_and_is_weighed(lanes, fixed):
    program, given = points, GIVEN["s"]
    if lanes == "vmap":
        program = gen(lambda: jax.vmap(lambda _: subsample(4, 2, noisy)() @ "s")(jnp.arange(2)))
    if lanes == "scan":
        program = gen(lambda: lax.scan(lambda c, _: (c, subsample(4, 2, noisy)() @ "s"), 0.0, None, length=2)[0])
    if lanes != "alone":
        given = {name: np.stack([value, value]) for name, value in given.items()}
    split = lambda keep: {"s": {name: value for name, value in given.items() if (name in fixed) == keep}}
    rest = split(False)
    if "indices" in fixed and "y" not in fixed:  # What is left has no index any more to gather by.
        rest["s"]["y"] = np.broadcast_to(DATA[INDICES], (*given["y"].shape[:-1], 2))
    expected = sum(PARTS.values()) * (1 if lanes == "alone" else 2)
    np.testing.assert_allclose(ppl.condition(program, split(True)).log_density(rest), expected, rtol=1e-12)


# --- New indices, and what is discarded -------------------------------------------------------------------------------


def test_new_indices_beside_old_elements_are_refused():
    trace, _ = points.generate(KEY, GIVEN)
    new = jnp.array([0, 2])
    for given in ({"indices": new}, {"indices": new, "y": DATA}, {"indices": new, "y": DATA, "t": some(LATENT)}):
        with pytest.raises(AddressError, match='s/t".* kept'):
            points.update(KEY, trace, {"s": given})
    for selection in ("s/indices", ("s/indices", "s/y")):
        with pytest.raises(AddressError, match='s/t".* kept'):
            points.regenerate(KEY, trace, selection)


def some(value):
    return Masked(jnp.asarray(value), jnp.arange(len(value)) == 0)


def test_new_indices_with_new_elements():
    trace, _ = points.generate(KEY, GIVEN)
    other = {"s": {"indices": np.array([0, 2]), "y": DATA, "t": LATENT}}
    after, log_weight, discarded = points.update(KEY, trace, other)
    np.testing.assert_array_equal(after["s/y"], DATA[[0, 2]])
    np.testing.assert_allclose(log_weight, points.log_density(other) - trace.log_density, rtol=1e-12)
    back = points.update(KEY, after, discarded)[0]
    jax.tree.map(np.testing.assert_array_equal, back.choices, trace.choices)
    after, log_weight, _ = points.regenerate(jr.key(2), trace, "s")
    change = after.log_density - trace.log_density
    drawn = sum(
        (points.project(t, ["t", "y"]) / 2 + points.project(t, "indices")) * s for t, s in ((after, -1), (trace, 1))
    )
    np.testing.assert_allclose(log_weight, change + drawn, rtol=1e-10)


def test_indices_that_cannot_change_may_be_given():
    whole = gen(lambda: subsample(4, 4, noisy)() @ "s")
    trace, _ = whole.generate(KEY, {"s": {"y": DATA}})
    assert whole.update(KEY, trace, {"s": {"indices": np.arange(4)}})[1] == 0
    assert whole.regenerate(KEY, trace, "s/indices")[1] == 0


def test_a_choice_that_another_argument_makes_conditional_is_discarded_where_it_is_not_made():
    def either(always):
        b = bernoulli(0.5) @ "b"
        make = lambda: normal(0.0, 1.0) @ "z"
        make() if always else lax.cond(b == 1, make, lambda: 0.0)

    program = gen(lambda always: jax.vmap(lambda _: gen(either)(always) @ "l")(jnp.arange(2)))
    trace, _ = program.generate(KEY, {"l": {"b": jnp.array([0, 1]), "z": jnp.array([0.3, -0.2])}}, True)
    _, log_weight, discarded = program.update(KEY, trace, {}, False)
    np.testing.assert_allclose(log_weight, -stats.norm.logpdf(0.3), rtol=1e-12)
    np.testing.assert_array_equal(discarded["l"]["z"].mask, [True, False])
    np.testing.assert_array_equal(discarded["l"]["z"].value, [0.3, 0.0])
