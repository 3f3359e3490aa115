"""Densities, moves, masks and weights of branching, looping and nested programs, beside sums written by hand."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from scipy import stats

from ppl import AddressError, Masked, PPLError, bernoulli, condition, factor, gen, log_joint, normal, scale, while_loop
from tests.programs.replay import KEY, close

pytestmark = pytest.mark.x64

N = stats.norm.logpdf


def flip(p, b):
    return np.log(p if b else 1 - p)


# --- A branch, and a scan that starts from it -----------------------------------------------------------------------


@gen
def branching(q):
    b = bernoulli(q) @ "b"
    heads = lambda: (normal(1.0, 2.0) @ "z") * 2
    loc = lax.cond(b == 1, heads, lambda: (normal(-1.0, 1.0) @ "w") + 0.5)
    normal(loc, 1.0) @ "y"
    lax.scan(lambda c, t: (normal(c, 1.0 + t) @ "x", None), loc, jnp.arange(3.0))


def branching_density(choices, q):
    c = jax.tree.map(np.asarray, choices)
    if c["b"]:
        total, loc = N(c["z"].value, 1, 2), 2 * c["z"].value
    else:
        total, loc = N(c["w"].value, -1, 1), c["w"].value + 0.5
    means = np.concatenate([[loc], c["x"][:2]])
    return flip(q, c["b"]) + total + N(c["y"], loc, 1) + N(c["x"], means, 1 + np.arange(3)).sum()


def test_densities_of_a_branching_program():
    traces = jax.jit(jax.vmap(lambda key: branching.simulate(key, 0.4)))(jr.split(KEY, 6))
    several = [jax.tree.map(lambda leaf, i=i: leaf[i], traces.choices) for i in range(6)]
    assert {int(choices["b"]) for choices in several} == {0, 1}
    close(traces.log_density, [branching_density(choices, 0.4) for choices in several])


def test_the_density_of_lanes_of_a_branching_program():
    lanes, q = gen(lambda q: jax.vmap(lambda q: branching(q) @ "lane")(q)), [0.2, 0.8, 0.5]
    trace = lanes.simulate(KEY, jnp.array(q))
    expected = (branching_density(jax.tree.map(lambda leaf, i=i: leaf[i], trace["lane"]), q[i]) for i in range(3))
    close(trace.log_density, sum(expected))


def test_partly_observed_steps_after_an_observed_branch():
    seen = {"x": Masked(jnp.array([1.0, 0.0, 2.0]), jnp.array([True, False, True])), "y": 0.3, "b": 1}
    traces, weights = jax.jit(jax.vmap(lambda key: branching.generate(key, seen, 0.4)))(jr.split(KEY, 5))
    xs, z = np.asarray(traces["x"]), np.asarray(traces["z"].value)
    expected = np.log(0.4) + N(0.3, 2 * z, 1) + N(1, 2 * z, 1) + N(2, xs[:, 1], 3)
    close(weights, expected)
    close(traces.log_density, expected + N(z, 1, 2) + N(xs[:, 1], 1, 2))
    close(xs[:, [0, 2]], np.broadcast_to([1, 2], (5, 2)))
    assert len(np.unique(xs[:, 1])) == 5


@pytest.mark.parametrize(("z", "w"), list(itertools.product([True, False], repeat=2)))
def test_only_the_masks_of_the_branch_that_is_taken_have_a_density(z, w):
    choices = {"b": 0, "z": Masked(1.0, z), "w": Masked(1.0, w), "y": 0.0, "x": jnp.zeros(3)}
    expected = branching_density(choices, 0.4) if (z, w) == (False, True) else -np.inf
    np.testing.assert_allclose(branching.log_density(choices, 0.4), expected, rtol=1e-12)


def test_update_into_the_other_branch_with_other_arguments():
    before, _ = branching.generate(KEY, {"b": 1}, 0.4)
    after, weight, discarded = branching.update(KEY, before, {"b": 0, "w": 0.1}, 0.7)
    close(weight, branching_density(after.choices, 0.7) - branching_density(before.choices, 0.4))
    assert (int(after["b"]), float(after["w"].value), int(discarded["b"])) == (0, 0.1, 1)


def test_regenerate_and_project_of_steps():
    trace, _ = branching.generate(KEY, {"b": 1}, 0.4)
    other, weight, _ = branching.regenerate(jr.key(8), trace, "x")
    close(other.log_density, branching_density(other.choices, 0.4))
    close(weight, 0.0)
    x, z = np.asarray(trace["x"]), float(trace["z"].value)
    steps = N(x[0], 2 * z, 1) + N(x[1], x[0], 2) + N(x[2], x[1], 3)
    close(branching.project(trace, ["x", "z"]), steps + N(z, 1, 2))


# --- A bounded loop -------------------------------------------------------------------------------------------------


@gen
def looping(p):
    def body(carry):
        _, total = carry
        x = normal(total, 1.0) @ "x"
        return bernoulli(p) @ "go", total + x

    _, total = while_loop(lambda carry: carry[0] == 1, body, (jnp.int32(1), 0.0), 4)
    normal(total, 1.0) @ "y"
    return total


def looping_density(choices, p):
    """Return log density, return value and number of steps."""
    x, go, density, total = np.asarray(choices["x"].value), np.asarray(choices["go"].value), 0.0, 0.0
    for step in range(4):
        density, total = density + N(x[step], total, 1) + flip(p, go[step]), total + x[step]
        if not go[step]:
            break
    return density + N(float(choices["y"]), total, 1), total, step + 1


def test_densities_masks_and_results_of_a_bounded_loop():
    traces = jax.jit(jax.vmap(lambda key: looping.simulate(key, 0.6)))(jr.split(KEY, 8))
    expected = [looping_density(jax.tree.map(lambda leaf, i=i: leaf[i], traces.choices), 0.6) for i in range(8)]
    close(jnp.stack([traces.log_density, traces.retval, traces["x"].mask.sum(1)], 1), expected)
    close(jax.vmap(lambda choices: looping.log_density(choices, 0.6))(traces.choices), traces.log_density)
    assert len({steps for *_, steps in expected}) > 2


def test_moves_of_a_bounded_loop():
    seen = {"y": 1.0, "go": Masked(jnp.array([1, 0, 0, 0]), jnp.array([True, True, False, False]))}
    trace, weight = looping.generate(KEY, seen, 0.6)
    close(weight, N(1, float(trace.retval), 1) + np.log(0.6 * 0.4))
    close(jax.grad(lambda p: looping.log_density(trace.choices, p))(0.6), 1 / 0.6 - 1 / 0.4, 1e-9)
    after, weight, _ = looping.update(KEY, trace, {"y": 0.0}, 0.3)
    close(weight, looping_density(after.choices, 0.3)[0] - looping_density(trace.choices, 0.6)[0])


# --- Reversed scans in two levels of lanes --------------------------------------------------------------------------


@gen
def backwards(p):
    def step(c, x):
        c = normal(c + x, 1.0) @ "z"
        return c, c

    c, zs = lax.scan(step, p, jnp.array([1.0, 2.0, 3.0]), reverse=True)
    normal(zs[0], 1.0) @ "e"
    return c


@gen
def grid():
    row = lambda a: jax.vmap(lambda b: backwards(a + b) @ "m")(jnp.arange(2.0))
    return jax.vmap(row, out_axes=1)(jnp.arange(4.0))


def test_a_reversed_scan_is_indexed_by_its_inputs():
    density = backwards.log_density({"z": np.array([0.1, 0.2, 0.3]), "e": 0.0}, 0.0)
    close(density, N(0.3, 3.0, 1) + N(0.2, 2.3, 1) + N(0.1, 1.2, 1) + N(0, 0.1, 1))


def test_moves_of_scans_in_two_levels_of_lanes():
    trace = grid.simulate(KEY)
    assert jax.tree.map(jnp.shape, trace.choices) == {"m": {"z": (4, 2, 3), "e": (4, 2)}}
    close(trace.retval.T, trace["m/z"][..., 0])
    other, weight, discarded = grid.regenerate(jr.key(8), trace, ["m/z"])
    ends = lambda trace: N(np.asarray(trace["m/e"]), np.asarray(trace["m/z"])[..., 0], 1).sum()
    close(weight, ends(other) - ends(trace))
    assert (other["m/z"] != trace["m/z"]).all()
    close(discarded["m"]["z"], trace["m/z"])


def test_an_update_by_masked_values_changes_only_those():
    trace, mask = grid.simulate(KEY), np.zeros((4, 2, 3), bool)
    mask[1, 0, 2] = True
    given = {"m": {"z": Masked(jnp.ones((4, 2, 3)), jnp.asarray(mask))}}
    other, weight, _ = grid.update(KEY, trace, given)
    np.testing.assert_array_equal(other["m/z"] != trace["m/z"], mask)
    close(weight, grid.log_density(other.choices) - trace.log_density)
    old, new = np.asarray(trace["m/z"][1, 0]), np.asarray(other["m/z"][1, 0])
    close(weight, N(1, 4, 1) + N(new[1], 1 + 2, 1) - N(old[2], 4, 1) - N(old[1], old[2] + 2, 1), 1e-10)
    with pytest.raises(AddressError, match="m/z"):
        grid.generate(KEY, {"m": {"z": Masked(jnp.ones((4, 2, 3)), jnp.ones((4, 2), bool))}})


def test_traces_hold_arrays_and_no_python_numbers():
    program = gen(lambda p: (normal(p, 1.0) @ "x", bernoulli(0.5) @ "b")[0])
    trace = program.simulate(KEY, 0.0)
    for made, *_ in (
        program.generate(KEY, {"x": 0.3, "b": True}, 0.0),
        program.generate(KEY, {"x": np.float64(0.3), "b": np.int64(1)}, 0.0),
        program.update(KEY, trace, {"x": 0.3}),
    ):
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((made.choices, made.retval)))
        assert made["x"].shape == ()
    assert all(isinstance(leaf, jax.Array) for leaf in program.assess(KEY, {"x": 0.3, "b": 1}, 0.0))


# --- Conditions and weights -----------------------------------------------------------------------------------------


@gen
def inner(a):
    x = normal(a, 1.0) @ "x"
    return x + (normal(x, 2.0) @ "y")


@gen
def outer(a):
    r = inner(a) @ "i"
    s = inner(r) @ "j"
    factor(jnp.array([r, s]) * 0.1) @ "f"
    normal(s, jnp.ones(2)) @ "obs"
    return s


OBS = jnp.array([1.0, 2.0])


def outer_density(ix, jx, jy, j=1.0, obs=1.0):
    """The density at a = 1, i/y = 0.5 and obs = OBS, with the weights of j/* and obs."""
    r, s = ix + 0.5, jx + jy
    parts = N(ix, 1, 1) + N(0.5, ix, 2), N(jx, r, 1) + N(jy, jx, 2), N(np.asarray(OBS), s, 1).sum()
    return parts[0] + j * parts[1] + obs * parts[2] + 0.1 * (r + s)


def conditioned():
    weighted = condition(scale(outer, {"j/*": 0.5, "obs": 2.5}), {"i": {"y": 0.5}})
    return condition(condition(weighted, {"obs": OBS}), {"j": {"x": 0.2}})


def test_conditions_of_a_weighted_program():
    program, given = conditioned(), {"i": {"x": 0.3}, "j": {"y": -0.4}}
    expected = outer_density(0.3, 0.2, -0.4, j=0.5, obs=2.5)
    close(program.log_density(given, 1.0), expected)
    log_density, constrain = log_joint(program, {}, 1.0)
    assert constrain.size == 2
    close(log_density(constrain.inverse(given)), expected)


def test_generate_from_conditions_of_a_weighted_program():
    trace, weight = conditioned().generate(KEY, {"i": {"x": 0.3}}, 1.0)
    jy = float(trace["j/y"])
    expected = outer_density(0.3, 0.2, jy, j=0.5, obs=2.5)
    close(trace.log_density, expected)
    close(weight, expected - N(jy, 0.2, 2))


def test_weights_of_a_conditioned_program_reach_what_was_observed():
    program = condition(condition(outer, {"i": {"y": 0.5}}), {"obs": OBS})
    given = {"i": {"x": 0.3}, "j": {"x": 0.2, "y": -0.4}}
    close(scale(program, {"obs": 2.5, "j/*": 0.5}).log_density(given, 1.0), outer_density(0.3, 0.2, -0.4, 0.5, 2.5))
    close(scale(program, {"*": 0.0}).log_density(given, 1.0), 0.0)
    with pytest.raises(AddressError, match="obs"):
        scale(program, {"obs": jnp.ones(2)}).log_density(given, 1.0)


def test_a_conditioned_program_is_not_simulated_nor_conditioned_twice():
    with pytest.raises(PPLError, match="unnormalised"):
        conditioned().simulate(KEY, 1.0)
    with pytest.raises(AddressError, match="obs"):
        condition(conditioned(), {"obs": OBS}).log_density({"i": {"x": 0.3}, "j": {"y": -0.4}}, 1.0)


@gen
def steps():
    def step(c, _):
        c = normal(c, 1.0) @ "z"
        normal(c, 2.0) @ "y"
        return c, None

    lax.scan(step, 0.0, None, length=3)


@gen
def lanes_of_steps():
    jax.vmap(lambda _: steps() @ "s")(jnp.arange(2))


Z, Y = np.array([[0.1, 0.5, -0.2], [1.1, 1.5, 0.8]]), np.array([[1.0, 0.0, 2.0], [-1.0, 0.0, -2.0]])
LANES = {"s": {"z": Z, "y": Y}}


def test_weights_by_step_and_by_lane():
    prior, likelihood = N(Z, np.c_[np.zeros(2), Z[:, :2]], 1), N(Y, Z, 2)
    w = np.array([[0.5, 2.0, 3.0], [1.0, 1.0, 4.0]])
    by_step = scale(steps, {"y": w[0], "z": 1 / w[0]}).log_density({"z": Z[0], "y": Y[0]})
    close(by_step, w[0] @ likelihood[0] + prior[0] @ (1 / w[0]))
    close(scale(lanes_of_steps, {"s/y": w}).log_density(LANES), (w * likelihood).sum() + prior.sum())


def test_weights_by_batch_element():
    batch = gen(lambda: normal(jnp.zeros(2), 1.0) @ "x")
    weighted = scale(batch, {"x": jnp.array([1.0, 2.0])}).log_density({"x": OBS})
    close(weighted, N(np.asarray(OBS)) @ np.array([1, 2]))
    in_lanes = gen(lambda: jax.vmap(lambda _: batch() @ "l")(jnp.arange(3)))
    w, x = np.arange(6.0).reshape(3, 2), np.linspace(-1, 1, 6).reshape(3, 2)
    close(scale(in_lanes, {"l/x": w}).log_density({"l": {"x": x}}), (w * N(x)).sum())


@pytest.mark.parametrize(("weights", "named"), [({"q": 2.0}, '"q"'), ({"s/y": jnp.ones(5)}, '"s/y"')])
def test_weights_that_fit_no_choice_are_refused(weights, named):
    with pytest.raises(AddressError, match=named):
        scale(lanes_of_steps, weights).log_density(LANES)
