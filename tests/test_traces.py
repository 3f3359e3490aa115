"""Traces: shapes under nested constructs, and choices that are made only sometimes (`Masked`)."""

import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats as st
from jax import lax

import ppl
from ppl import Masked, bernoulli, categorical, dirichlet, gamma, gen, multivariate_normal, normal

KEY = jr.key(3)
BOTH = jnp.array([True, False])


def shape(program, *args):
    """Return the shape of the choice "z" in a trace, and check that assess agrees with it."""
    trace = jax.eval_shape(program.simulate, KEY, *args)
    leaf = trace["z"].value if isinstance(trace["z"], Masked) else trace["z"]
    jax.eval_shape(program.log_density, trace.choices, *args)
    return leaf.shape


# --- Axes --------------------------------------------------------------------------------------------------------


def vmapped(n, f):
    return lambda *xs: jax.vmap(lambda i: f(*xs, i))(jnp.arange(float(n))).sum()


def scanned(n, f, reverse=False):
    return lambda *xs: lax.scan(lambda c, i: (c + f(*xs, i), None), 0.0, jnp.arange(float(n)), reverse=reverse)[0]


def looped(n, f):
    return lambda *xs: lax.fori_loop(0, n, lambda i, c: c + f(*xs, i), 0.0)


def switched(f):
    return lambda *xs: lax.cond(sum(xs) > 1, lambda: f(*xs), lambda: 0.0)


def z(*xs):
    return (normal(sum(xs) * jnp.ones(7), 1.0) @ "z").sum()


SHAPES = [
    ("plain", z, ()),
    ("vmap", vmapped(2, z), (2,)),
    ("scan", scanned(2, z), (2,)),
    ("fori_loop", looped(2, z), (2,)),
    ("scan in vmap", vmapped(2, scanned(3, z)), (2, 3)),
    ("vmap in scan", scanned(3, vmapped(2, z)), (3, 2)),
    ("scan in scan", scanned(3, scanned(2, z, reverse=True)), (3, 2)),
    ("vmap in vmap", vmapped(3, vmapped(2, z)), (3, 2)),
    ("vmap of cond", vmapped(2, switched(z)), (2,)),
    ("vmap of scan of cond", vmapped(2, scanned(3, switched(z))), (2, 3)),
    ("scan of vmap of cond", scanned(3, vmapped(2, switched(z))), (3, 2)),
    ("cond of scan of vmap", lambda: switched(scanned(3, vmapped(2, z)))(1.0), (3, 2)),
    ("vmap of cond of scan", vmapped(2, switched(scanned(3, z))), (2, 3)),
    ("jit", vmapped(2, jax.jit(scanned(3, jax.checkpoint(vmapped(4, z))))), (2, 3, 4)),
    ("five levels", vmapped(2, scanned(3, vmapped(4, scanned(5, vmapped(6, z))))), (2, 3, 4, 5, 6)),
    ("five others", scanned(2, vmapped(3, scanned(4, switched(vmapped(5, scanned(6, z)))))), (2, 3, 4, 5, 6)),
]


@pytest.mark.parametrize(("name", "program", "axes"), SHAPES, ids=[row[0] for row in SHAPES])
def test_outer_axes_come_first(name, program, axes):
    assert shape(gen(program)) == (*axes, 7)


@pytest.mark.x64
@pytest.mark.parametrize(
    ("outer", "inner"), [(vmapped, scanned), (scanned, vmapped), (scanned, scanned), (looped, vmapped)]
)
def test_a_value_belongs_to_its_lane_and_step(outer, inner):
    program = gen(outer(2, inner(3, lambda i, j: normal(10 * i + j, 1.0) @ "z")))
    values = jr.normal(KEY, (2, 3))
    means = 10 * np.arange(2)[:, None] + np.arange(3)
    got = program.log_density({"z": values})
    np.testing.assert_allclose(got, st.norm(means, 1).logpdf(values).sum(), rtol=1e-12)


@pytest.mark.x64
def test_reversed_scans_are_indexed_by_their_inputs():
    program = gen(
        lambda: lax.scan(lambda c, x: (normal(c + x, 1.0) @ "z", None), 0.0, jnp.arange(3.0), reverse=True)[0]
    )
    values = np.array([0.3, -1.0, 2.0])
    means = np.arange(3) + np.array([-1.0, 2.0, 0.0])
    np.testing.assert_allclose(program.log_density({"z": values}), st.norm(means).logpdf(values).sum(), rtol=1e-12)


def test_lanes_of_events_and_of_unmapped_parameters():
    for build, event in (
        (lambda: dirichlet(jnp.ones(3)), (3,)),
        (lambda: multivariate_normal(jnp.zeros(2), jnp.eye(2)), (2,)),
        (lambda: categorical(jnp.ones((5, 3)) / 3), (5,)),
        (lambda: gamma(jnp.ones((2, 1)), jnp.ones(4)), (2, 4)),
    ):
        program = gen(lambda build=build: jax.vmap(lambda _: build() @ "z", axis_size=6)(jnp.arange(6)))
        assert shape(program) == (6, *event)


def test_vmap_axes_of_any_position():
    data = jnp.arange(24.0).reshape(2, 3, 4)
    program = gen(lambda x: jax.vmap(lambda row: normal(row, 1.0) @ "z", in_axes=1, out_axes=2)(x))
    assert shape(program, data) == (3, 2, 4)
    value = jnp.moveaxis(data, 1, 0) + 0.5
    np.testing.assert_allclose(program.log_density({"z": value}, data), 24 * st.norm().logpdf(0.5), rtol=1e-6)
    assert jax.eval_shape(program.simulate, KEY, data).retval.shape == (2, 4, 3)


def test_traces_under_vmap_gain_a_leading_axis():
    program = gen(lambda x: normal(x, 1.0) @ "z")
    several = jax.vmap(program.simulate, (0, None))(jr.split(KEY, 3), 0.5)
    assert several["z"].shape == several.log_density.shape == several.retval.shape == (3,)
    assert several.args[0].shape == (3,)
    flat, layout = jax.tree.flatten(several)
    assert jax.tree.unflatten(layout, flat)["z"] is several["z"]


def test_a_trace_prints_its_choices():
    text = repr(gen(lambda: (normal() @ ("a", "b"), vmapped(2, switched(z))())).simulate(KEY))
    assert "a/b" in text
    assert re.search(r"z: Masked \S+\[2, 7\]", text)


# --- Choices that are made only sometimes ------------------------------------------------------------------------


@gen
def one(made):
    """Make the choice or do not."""
    return lax.cond(made, lambda: normal(0.0, 1.0) @ "z", lambda: 0.0)


@gen
def several(made):
    return jax.vmap(lambda m: lax.cond(m, lambda: normal(0.0, 1.0) @ "z", lambda: 0.0))(made)


@gen
def steps(made):
    return lax.scan(lambda c, m: (c, lax.cond(m, lambda: normal(0.0, 1.0) @ "z", lambda: 0.0)), 0, made)[1]


SOME = jnp.array([True, False, True])
VALUES = jnp.array([0.3, 9.0, -1.0])
EXPECTED = st.norm().logpdf([0.3, -1.0]).sum()
SEVERAL = pytest.mark.parametrize("gf", [several, steps], ids=["vmap", "scan"])


@SEVERAL
def test_a_conditional_choice_is_masked_and_zero_where_it_is_idle(gf):
    trace = gf.simulate(KEY, SOME)
    assert isinstance(trace["z"], Masked)
    np.testing.assert_array_equal(trace["z"].mask, SOME)
    np.testing.assert_array_equal(np.asarray(trace["z"].value) != 0, SOME)
    np.testing.assert_array_equal(trace.retval, trace["z"].value)
    np.testing.assert_allclose(trace.log_density, st.norm().logpdf(trace["z"].value[SOME]).sum(), rtol=1e-6)


@SEVERAL
@pytest.mark.parametrize("idle", [0.0, 9.0, np.nan, np.inf])
def test_assess_takes_masked_or_plain_and_never_reads_idle_values(gf, idle):
    values = VALUES.at[1].set(idle)
    for given in (values, Masked(values, SOME)):
        density, gradient = jax.value_and_grad(
            lambda v, given=given: gf.log_density({"z": Masked(v, SOME) if isinstance(given, Masked) else v}, SOME)
        )(values)
        np.testing.assert_allclose(density, EXPECTED, rtol=1e-6)
        np.testing.assert_allclose(gradient, [-0.3, 0.0, 1.0], rtol=1e-6)


@SEVERAL
@pytest.mark.parametrize("mask", [[True, True, True], [True, False, False], [False, True, False], [False] * 3], ids=str)
def test_a_mask_that_is_not_the_programs_has_density_zero(gf, mask):
    """Marked made but not visited, or visited but marked not made."""
    for run in (gf.log_density, jax.jit(gf.log_density)):
        assert run({"z": Masked(VALUES, jnp.array(mask))}, SOME) == -jnp.inf


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_masks_of_a_scalar_cond(made, marked):
    expected = st.norm().logpdf(0.3) * made if made == marked else -np.inf
    for value in (made, jnp.array(made)):
        np.testing.assert_allclose(one.log_density({"z": Masked(0.3, marked)}, value), expected, rtol=1e-6)
        np.testing.assert_allclose(one.log_density({"z": 0.3}, value), st.norm().logpdf(0.3) * made, rtol=1e-6)


def test_a_mask_on_a_choice_that_is_always_made():
    program = gen(lambda: normal(0.0, 1.0) @ "z")
    assert program.log_density({"z": Masked(0.3, True)}) == program.log_density({"z": 0.3})
    assert program.log_density({"z": Masked(0.3, False)}) == -jnp.inf


@pytest.mark.parametrize("through", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"])
def test_one_address_in_both_branches_is_one_plain_choice(through):
    scalar = gen(lambda p: lax.cond(p, lambda: normal(1.0) @ "z", lambda: normal(-1.0) @ "z"))
    mapped = gen(lambda ps: jax.vmap(through(lambda p: scalar.inline(p)))(ps))
    third = lambda i: lax.switch(i, [lambda k=k: normal(float(k)) @ "z" for k in range(3)])
    switch = gen(lambda: jax.vmap(through(third))(jnp.arange(3)))
    for program, args, means in ((scalar, (True,), 1.0), (mapped, (BOTH,), [1.0, -1.0]), (switch, (), [0.0, 1.0, 2.0])):
        trace = program.simulate(KEY, *args)
        assert not isinstance(trace["z"], Masked)
        np.testing.assert_allclose(trace.log_density, st.norm(means).logpdf(trace["z"]).sum(), rtol=1e-6)
        np.testing.assert_allclose(program.log_density(trace.choices, *args), trace.log_density, rtol=1e-6)


def test_one_address_in_some_branches_stays_masked():
    third = [lambda: normal(0.0) @ "z", lambda: normal(1.0) @ "z", lambda: 0.0]
    program = gen(lambda: jax.vmap(lambda i: lax.switch(i, third))(jnp.arange(3)))
    trace = program.simulate(KEY)
    np.testing.assert_array_equal(trace["z"].mask, [True, True, False])
    assert trace["z"].value[2] == 0
    np.testing.assert_allclose(trace.log_density, program.log_density(trace.choices), rtol=1e-6)


def test_masks_of_nested_conds_multiply():
    def lane(p, q):
        return lax.cond(p, lambda: lax.cond(q, lambda: normal(2.0) @ "z", lambda: normal() @ "y"), lambda: 0.0)

    program = gen(lambda: jax.vmap(lambda p: jax.vmap(lambda q: lane(p, q))(BOTH))(BOTH))
    trace = program.simulate(KEY)
    np.testing.assert_array_equal(trace["z"].mask, [[True, False], [False, False]])
    np.testing.assert_array_equal(trace["y"].mask, [[False, True], [False, False]])
    expected = st.norm(2).logpdf(trace["z"].value[0, 0]) + st.norm().logpdf(trace["y"].value[0, 1])
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-6)


def test_masked_choices_in_nested_calls():
    inner = gen(lambda p: lax.cond(p, lambda: normal() @ "z", lambda: 0.0))
    program = gen(lambda: jax.vmap(lambda p: inner(p) @ "a")(BOTH))
    outside = gen(lambda: jax.vmap(lambda p: lax.cond(p, lambda: inner(True) @ "a", lambda: 0.0))(BOTH))
    for gf in (program, outside):
        trace = gf.simulate(KEY)
        np.testing.assert_array_equal(trace["a", "z"].mask, BOTH)
        assert gf.log_density(trace.choices) == trace.log_density
        assert trace["a/z"].value[1] == 0


def test_observing_a_conditional_choice():
    trace, log_weight = several.generate(KEY, {"z": VALUES}, SOME)
    np.testing.assert_allclose([log_weight, trace.log_density], EXPECTED, rtol=1e-6)
    np.testing.assert_array_equal(trace["z"].value, VALUES * SOME)


# --- Idle lanes do no harm ---------------------------------------------------------------------------------------


def lanes_of(taken):
    return jax.vmap(lambda x, m: lax.cond(m, taken, lambda x: x, x))


IDLE = {  # parameters that are no numbers where the choice is not made
    "log": lambda x: normal(jnp.log(x), 1.0) @ "z",
    "root": lambda x: normal(0.0, jnp.sqrt(x)) @ "z",
    "negative scale": lambda x: gamma(x, x) @ "z",
    "zero divided": lambda x: normal(1.0 / jnp.maximum(x, 0.0), 1.0) @ "z",
    "not a number": lambda x: normal(jnp.where(x > 0, x, jnp.nan), 1.0) @ "z",
    "probability": lambda x: (bernoulli(logits=jnp.log(x)) @ "z") * x,
}


@pytest.mark.parametrize("name", IDLE)
def test_idle_lanes_give_finite_densities_and_gradients(name):
    program = gen(lambda x: lanes_of(IDLE[name])(x, x > 0))
    x = jnp.array([0.7, -1.0, 0.0])
    trace = program.simulate(KEY, x)
    assert jnp.isfinite(trace.log_density)
    np.testing.assert_array_equal(trace["z"].mask, x > 0)
    density, gradient = jax.value_and_grad(lambda x: program.log_density(trace.choices, x))(x)
    np.testing.assert_allclose(density, trace.log_density, rtol=1e-6)
    assert jnp.isfinite(gradient).all()
    assert gradient[0] != 0
    assert (gradient[1:] == 0).all()


@pytest.mark.parametrize("name", [name for name in IDLE if name != "probability"])
def test_idle_lanes_give_finite_sample_derivatives(name):
    objective = lambda x: jnp.sum(jnp.where(x > 0, lanes_of(IDLE[name])(x, x > 0), 0.0))
    value, gradient = ppl.value_and_grad(objective)(KEY, jnp.array([0.7, -1.0, 0.0]))
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


# --- Programs without choices ------------------------------------------------------------------------------------

PLAIN_JAX = """
    import re, sys
    import jax, jax.numpy as jnp
    from jax import lax
    {prelude}
    x, p, xs = jnp.arange(3.0), jnp.array([True, False, True]), jnp.ones((3, 4))
    cond = lambda p, x: lax.cond(p, jnp.sin, lambda y: jax.nn.relu(y) * 2, x)
    switch = lambda i, x: lax.switch(i, [jnp.sin, jnp.cos, jax.checkpoint(jnp.tanh)], x)
    scan = lambda c, xs: lax.scan(lambda c, x: (cond(c > x, c + x), c * x), c, xs)
    loop = lambda x: lax.while_loop(lambda c: c < 5, lambda c: cond(c > 1, c) + 1, x)
    fori = lambda x: lax.fori_loop(0, 3, lambda i, c: switch(i, c), x)
    cases = [
        (jax.vmap(cond), p, x), (jax.vmap(cond, (None, 0)), True, x), (jax.vmap(cond, (0, None)), p, 1.0),
        (jax.vmap(switch), jnp.arange(3), x), (jax.vmap(scan), x, xs), (jax.vmap(scan, (None, 0)), 0.5, xs),
        (jax.vmap(loop), x), (jax.vmap(fori), x), (jax.vmap(jax.vmap(cond, (None, 0)), (0, None)), p, x),
        (jax.vmap(jax.jit(jax.checkpoint(scan))), x, xs), (lambda c, y: scan(c, y), 0.5, xs[0]),
        (jax.vmap(jax.grad(lambda x, y: scan(x, y)[0])), x, xs), (jax.jacfwd(jax.vmap(cond, (0, 0)), 1), p, x),
        (jax.vmap(lambda x: lax.psum(cond(x > 0, x), "i"), axis_name="i"), x),
        (jax.hessian(lambda x: scan(x, xs[0])[0]), 0.3), (jax.linearize, fori, 0.3),
    ]
    for function, *args in cases:
        if function is jax.linearize:
            jaxpr = jax.make_jaxpr(jax.linearize(*args)[1])(1.0)
        else:
            jaxpr = jax.make_jaxpr(function)(*args)
        print(re.sub("0x[0-9a-f]+", "", str(jaxpr)))
"""
USED = """
    import ppl
    program = ppl.gen(lambda: jax.vmap(lambda p: lax.cond(p, lambda: ppl.normal() @ "z", lambda: 0.0))(jnp.ones(2) > 0))
    program.simulate(jax.random.key(0))
"""


def test_programs_without_choices_are_as_if_ppl_had_never_been_imported(run_python):
    without = run_python(PLAIN_JAX.format(prelude="assert 'ppl' not in sys.modules"))
    assert without.count("lambda") > 15
    assert run_python(PLAIN_JAX.format(prelude=USED.strip())) == without
