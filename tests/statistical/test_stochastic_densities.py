"""Stochastic densities: direct and reciprocal unbiasedness, nesting, constructs, bounds; exact, by enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from estimators import diwhvi, elbo, hvi, iwelbo, iwhvi
from ppl import bernoulli, enum, gen, normal, reinforce

pytestmark = pytest.mark.x64
ENUM = enum()
Q = {1: 0.62, 0: 0.38}  # The marginal of z.


@gen
def hierarchical(a):
    u = bernoulli(a, grad=ENUM) @ "u"
    bernoulli(jnp.where(u == 1, 0.9, 0.2), grad=ENUM) @ "z"


@gen
def two_points(a):
    z = bernoulli(0.3) @ "z"
    bernoulli(jnp.where(z == 1, 0.8, 0.1)) @ "x"


guide = gen(lambda a, observed: hierarchical.inline(a))
fair = gen(lambda kept, *args: bernoulli(0.5, grad=ENUM) @ "u")
fair_z = gen(lambda observed, *args: bernoulli(0.5, grad=ENUM) @ "z")


def mean(function, a=0.6):
    """Return the exact mean of a stochastic function."""
    return float(ppl.exact_gradient(function)(a).value)


def mean_given(program, z, function, a=0.6):
    """Return the exact mean of a function of the log density, given what was drawn; and that value's probability."""

    def weighed(a, apply):
        trace = ppl.simulate(program)(a)
        return jnp.where(trace["z"] == z, apply(trace.log_density), 0.0)

    probability = mean(lambda a: weighed(a, jnp.ones_like), a)
    return mean(lambda a: weighed(a, function), a) / probability, probability


# --- Section 4 of the mathematical reference: H2 and SIR ---------------------------------------------------------

H2 = {
    (1, 1): (-0.8778102, -0.1694315),
    (2, 1): (-0.6779230, -0.3237337),
    (5, 1): (-0.5444883, -0.4197643),
    (1, 0): (-1.2832753, -0.7105992),
    (2, 0): (-1.1254297, -0.8390916),
    (5, 0): (-1.0220599, -0.9185246),
}


@pytest.mark.parametrize(("particles", "z"), H2)
def test_marginal_is_unbiased_directly_and_reciprocally(particles, z):
    program = ppl.marginal(hierarchical, "z", proposal=fair, particles=particles)
    estimate = lambda a: ppl.assess(program)({"z": z}, a)[0]
    log_direct, log_reciprocal = H2[particles, z]
    assert abs(mean(lambda a: jnp.exp(estimate(a))) - Q[z]) < 1e-10
    assert abs(mean(estimate) - log_direct) < 1e-7
    reciprocal, probability = mean_given(program, z, lambda w: jnp.exp(-w))
    assert abs(probability - Q[z]) < 1e-10
    assert abs(reciprocal - 1 / Q[z]) < 1e-10
    assert abs(mean_given(program, z, lambda w: w)[0] - log_reciprocal) < 1e-7


BOUNDS = {
    "hvi": (lambda: hvi(two_points, guide, reverse), -1.5202557, 0.2817160),
    "iwhvi 2": (lambda: iwhvi(two_points, guide, reverse, 2), -1.3757613, 0.4007664),
    "iwhvi 5": (lambda: iwhvi(two_points, guide, reverse, 5), -1.2860377, 0.4794722),
    "diwhvi 2 1": (lambda: diwhvi(two_points, guide, reverse, 2, 1), -1.4088755, -0.0846737),
    "diwhvi 2 2": (lambda: diwhvi(two_points, guide, reverse, 2, 2), -1.2978558, 0.0956738),
}
reverse = gen(lambda kept, a, observed: bernoulli(0.5, grad=ENUM) @ "u")


@pytest.mark.parametrize("name", BOUNDS)
def test_hierarchical_bounds_to_the_printed_digits(name):
    make, value, gradient = BOUNDS[name]
    exact = ppl.exact_gradient(make())(0.6, {"x": 1})
    assert abs(exact.value - value) < 1e-7
    assert abs(exact.gradient - gradient) < 1e-7


SIR = {1: (0.5, 2.0, 2.0), 2: (0.6370968, 1.5696203, 2.7555556), 5: (0.7280157, 1.3735968, 3.6766823)}


# A sampled index has noise of its own for each combination of the enumerated particles: 5 of them are too many.
INDICES = [*itertools.product(SIR, [enum()]), (1, reinforce()), (2, reinforce())]


@pytest.mark.parametrize(("particles", "index"), INDICES)
def test_normalize_is_unbiased_for_its_own_law(particles, index):
    probability, *reciprocals = SIR[particles]
    method = ppl.methods.sir(index)
    program = ppl.normalize(two_points, {"x": 1}, proposal=fair_z, particles=particles, method=method)
    for z, law, reciprocal in zip((1, 0), (probability, 1 - probability), reciprocals, strict=True):
        assert abs(mean(lambda a, z=z: jnp.exp(ppl.assess(program)({"z": z}, a)[0])) - law) < 1e-7
        found, drawn = mean_given(program, z, lambda w: jnp.exp(-w))
        assert abs(drawn - law) < 1e-7
        assert abs(found - reciprocal) < 1e-7


@pytest.mark.parametrize("particles", [1, 2, 3])
@pytest.mark.parametrize("index", [enum(), reinforce()], ids=str)
def test_elbo_of_sir_is_the_importance_weighted_bound(particles, index):
    proposal = gen(lambda a, observed: bernoulli(a, grad=ENUM) @ "z")
    posterior = ppl.normalize(two_points, proposal=proposal, particles=particles, method=ppl.methods.sir(index))
    found = ppl.exact_gradient(elbo(two_points, posterior))(0.5, {"x": 1})
    wanted = ppl.exact_gradient(iwelbo(two_points, proposal, particles))(0.5, {"x": 1})
    assert abs(found.value - wanted.value) < 1e-10
    assert abs(found.gradient - wanted.gradient) < 1e-10


# --- Nesting -----------------------------------------------------------------------------------------------------


@gen
def chain(a):
    """u1 -> u2 -> z: marginalised one after the other."""
    u = bernoulli(a, grad=ENUM) @ "u1"
    v = bernoulli(jnp.where(u == 1, 0.7, 0.25), grad=ENUM) @ "u2"
    bernoulli(jnp.where(v == 1, 0.9, 0.2), grad=ENUM) @ "z"


def chain_density(z, a):
    """Enumerate by hand."""
    total = 0.0
    for u, v in itertools.product((0, 1), repeat=2):
        p = (a if u else 1 - a) * abs((1 - v) - (0.7 if u else 0.25))
        total += p * abs((1 - z) - (0.9 if v else 0.2))
    return total


@pytest.mark.parametrize("inner_particles", [1, 2])
@pytest.mark.parametrize("proposed", [False, True])
def test_a_marginal_of_a_marginal(inner_particles, proposed):
    inner_proposal = gen(lambda kept, a: bernoulli(0.4, grad=ENUM) @ "u1") if proposed else None
    inner = ppl.marginal(chain, ("u2", "z"), proposal=inner_proposal, particles=inner_particles)
    outer = ppl.marginal(inner, "z", proposal=gen(lambda kept, a: bernoulli(0.3, grad=ENUM) @ "u2"), particles=2)
    for z in (0, 1):
        wanted = chain_density(z, 0.6)
        assert abs(mean(lambda a, z=z: jnp.exp(ppl.assess(outer)({"z": z}, a)[0])) - wanted) < 1e-10
        found, probability = mean_given(outer, z, lambda w: jnp.exp(-w))
        assert abs(probability - wanted) < 1e-10
        assert abs(found - 1 / wanted) < 1e-10


def test_a_proposal_that_is_a_marginal_itself():
    deep = gen(lambda kept, a: bernoulli(jnp.where(bernoulli(0.5, grad=ENUM) @ "w" == 1, 0.8, 0.3), grad=ENUM) @ "u")
    program = ppl.marginal(hierarchical, "z", proposal=ppl.marginal(deep, "u"), particles=2)
    for z, wanted in Q.items():
        assert abs(mean(lambda a, z=z: jnp.exp(ppl.assess(program)({"z": z}, a)[0])) - wanted) < 1e-10
        assert abs(mean_given(program, z, lambda w: jnp.exp(-w))[0] - 1 / wanted) < 1e-10


def test_a_marginal_proposed_by_a_posterior():
    observe = gen(lambda kept, a: ppl.normalize(hierarchical, kept, particles=2).inline(a))
    program = ppl.marginal(hierarchical, "z", proposal=observe, particles=2)
    for z, wanted in Q.items():
        assert abs(mean(lambda a, z=z: jnp.exp(ppl.assess(program)({"z": z}, a)[0])) - wanted) < 1e-10
        assert abs(mean_given(program, z, lambda w: jnp.exp(-w))[0] - 1 / wanted) < 1e-10


# --- Constructs --------------------------------------------------------------------------------------------------

estimated = ppl.marginal(hierarchical, "z", proposal=fair, particles=2)


@gen
def lanes(a):
    jax.vmap(lambda p: estimated(p) @ "m")(jnp.array([0.6, 0.6]) + 0 * a)


@gen
def steps(a):
    jax.lax.scan(lambda _, p: (None, estimated(p) @ "m"), None, jnp.array([0.6, 0.6]) + 0 * a)


@gen
def scanned_lanes(a):
    body = lambda _, p: (None, jax.vmap(lambda _: estimated(p) @ "m")(jnp.arange(1)))
    jax.lax.scan(body, None, jnp.array([0.6, 0.6]) + 0 * a)


@gen
def separate(a):
    estimated(a) @ "first"
    estimated(a) @ "second"


@pytest.mark.parametrize("program", [lanes, steps, scanned_lanes], ids=lambda program: program.name)
def test_every_lane_and_step_has_a_density_of_its_own(program):
    shape = program.addresses(0.6)["m/z"].shape
    given = {"m": {"z": jnp.array([1, 0]).reshape(shape)}}
    assert abs(mean(lambda a: jnp.exp(ppl.assess(program)(given, a)[0])) - Q[1] * Q[0]) < 1e-10


def test_under_two_addresses():
    given = {"first": {"z": 1}, "second": {"z": 0}}
    assert abs(mean(lambda a: jnp.exp(ppl.assess(separate)(given, a)[0])) - Q[1] * Q[0]) < 1e-10
    trace = separate.simulate(jax.random.key(0), 0.6)
    assert sorted(trace.choices) == ["first", "second"]


@gen
def sometimes(a):
    on = bernoulli(0.25, grad=ENUM) @ "on"
    jax.lax.cond(on == 1, lambda: estimated(a) @ "m", lambda: {"z": jnp.int32(0)})


@pytest.mark.parametrize("mapped", [False, True])
def test_in_a_branch(mapped):
    mask = lambda on: {"on": on, "m": {"z": ppl.Masked(1, jnp.asarray(on == 1))}}
    log_density = lambda on, a: ppl.assess(sometimes)(mask(on), a)[0]
    if mapped:
        both = lambda a: jax.vmap(lambda on: jnp.exp(log_density(on, a)))(jnp.array([1, 0]))
        found = ppl.exact_gradient(lambda a, i: both(a)[i], 0)
        values = [float(found(0.6, i).value) for i in (0, 1)]
    else:
        values = [mean(lambda a, on=on: jnp.exp(log_density(on, a))) for on in (1, 0)]
    np.testing.assert_allclose(values, [0.25 * Q[1], 0.75], atol=1e-10)


def test_conditioned_on_what_is_kept():
    fixed = ppl.condition(separate, {"first": {"z": 1}})
    assert abs(mean(lambda a: jnp.exp(ppl.assess(fixed)({"second": {"z": 0}}, a)[0])) - Q[1] * Q[0]) < 1e-10
    with pytest.raises(ppl.PPLError, match="unnormalised"):
        fixed.simulate(jax.random.key(0), 0.6)


def test_generate_weighs_by_the_estimate():
    weigh = lambda a: jnp.exp(ppl.generate(separate)({"first": {"z": 1}}, a)[1])
    assert abs(mean(weigh) - Q[1]) < 1e-10


def test_numbers_per_key():
    run = lambda key: ppl.seed(lambda: ppl.assess(separate)({"first": {"z": 1}, "second": {"z": 0}}, 0.6)[0])(key)
    keys = jax.random.split(jax.random.key(3), 5)
    eager = np.array([run(key) for key in keys])
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(keys), eager, rtol=1e-12)
    assert len(set(eager.tolist())) > 1


# --- Gradients ---------------------------------------------------------------------------------------------------


def test_gradients_of_pathwise_auxiliaries_by_quadrature():
    """The marginal of z = u + noise is a normal; its exact ELBO is in closed form as M grows, and a mean at M = 2."""

    @gen
    def noisy(params):
        u = normal(params, 1.0) @ "u"
        normal(u, 0.5) @ "z"

    reverse = gen(lambda kept, params: normal(0.8 * kept["z"] + 0.2 * params, math.sqrt(0.2)) @ "u")
    program = ppl.marginal(noisy, "z", proposal=reverse, particles=2)  # The reverse is exact: no noise in the density.
    value, gradient = ppl.value_and_grad(lambda m: ppl.assess(program)({"z": 1.3}, m)[0])(jax.random.key(0), 0.4)
    assert abs(value - (-0.5 * 0.81 / 1.25 - 0.5 * math.log(2 * math.pi * 1.25))) < 1e-10
    assert abs(gradient - 0.9 / 1.25) < 1e-10


def test_strategies_inside_can_be_changed_from_outside():
    program = ppl.with_grad(iwhvi(two_points, guide, reverse, 2), {"u": reinforce(), "z": reinforce()})
    exact = ppl.exact_gradient(program)(0.6, {"x": 1})
    assert abs(exact.gradient - 0.4007664) < 1e-7
    assert exact.variance > 0.1
    inside = ppl.with_grad(ppl.marginal(hierarchical, "z", proposal=fair, particles=2), {"u": reinforce()})
    assert abs(mean(lambda a: jnp.exp(ppl.assess(inside)({"z": 1}, a)[0])) - Q[1]) < 1e-10
    with pytest.raises(ppl.AddressError, match="No choice matches"):
        ppl.with_grad(estimated, {"nowhere": reinforce()}).simulate(jax.random.key(0), 0.6)


# --- Bad input ---------------------------------------------------------------------------------------------------


def test_some_of_what_is_kept():
    both = ppl.marginal(chain, ("u2", "z"))
    with pytest.raises(ppl.AddressError, match="given, others are not"):
        both.generate(jax.random.key(0), {"z": 1}, 0.6)


def test_nothing_kept():
    with pytest.raises(ppl.PPLError, match="keeps at least one"):
        ppl.marginal(chain, ())
    with pytest.raises(ppl.AddressError, match="No choice matches"):
        ppl.marginal(chain, "zz").simulate(jax.random.key(0), 0.6)


def test_a_proposal_of_other_choices():
    wrong = ppl.marginal(hierarchical, "z", proposal=gen(lambda kept, a: bernoulli(0.5) @ "v"))
    with pytest.raises(ppl.AddressError, match='needs a choice at "v"'):
        ppl.seed(lambda: ppl.assess(wrong)({"z": 1}, 0.6))(jax.random.key(0))


@pytest.mark.parametrize("particles", [0, -1, 2.0, True])
def test_numbers_of_particles(particles):
    with pytest.raises(ppl.PPLError, match="positive number of particles"):
        ppl.marginal(hierarchical, "z", particles=particles)
    with pytest.raises(ppl.PPLError, match="positive number of particles"):
        ppl.normalize(hierarchical, {"z": 1}, particles=particles)
