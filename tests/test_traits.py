"""What can be known of a program's choices: strategies, parts of densities, distributions and what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from ppl import enum, pathwise, reinforce
from ppl.transforms.traits import density_of, density_without, elements, estimated, exact_globs, specs
from ppl.transforms.views import parents, views

pytestmark = pytest.mark.x64


@ppl.gen
def inner(loc):
    return ppl.normal(loc, 2.0) @ "z"


@ppl.gen
def program(flag):
    b = ppl.bernoulli(0.3, grad=enum()) @ "b"
    jax.lax.cond(
        flag,
        lambda: ppl.normal(0.0, 1.0, grad=reinforce()) @ "c",
        lambda: ppl.normal(1.0, 1.0) @ "c",
    )
    z = inner(1.0 * b) @ "sub"
    x = jax.vmap(lambda loc: ppl.normal(loc + z, 1.0) @ "z")(jnp.arange(3.0))
    jax.lax.scan(lambda carry, _: (carry, ppl.normal(x.sum(), 1.0) @ "walk"), 0.0, None, 2)


CHOICES = {
    "b": 1,
    "c": 0.4,
    "sub": {"z": 0.7},
    "z": jnp.array([0.1, 0.2, 0.3]),
    "walk": jnp.zeros(2),
}


def test_strategies():
    """By full address; one for each choice that stands there; those of `with_grad` count."""
    found = program.strategies(True)
    assert list(found) == ["b", "c", "sub/z", "z", "walk"]
    assert found["b"] == (enum(),)
    assert set(found["c"]) == {reinforce(), pathwise()}
    assert found["z"] == (pathwise(),)
    assert ppl.with_grad(program, {"b": reinforce()}).strategies(True)["b"] == (reinforce(),)
    assert ppl.gen(lambda: ppl.bernoulli(0.5) @ "b").strategies() == {"b": (None,)}


def test_estimated_densities():
    assert estimated(program, (True,)) == []
    marginal = ppl.marginal(ppl.gen(lambda: ppl.normal(ppl.normal(0.0, 1.0) @ "u", 1.0) @ "z"), "z")
    nested = ppl.gen(lambda: (ppl.normal(0.0, 1.0) @ "a", marginal() @ "m"))
    assert estimated(nested, ()) == ["m/z"]
    assert nested.strategies()["m/z"] == (None,)


def test_density_of_very_addresses():
    """ "z" is not "sub/z", as it would be for a glob."""
    log_normal = lambda x, loc, scale=1.0: -0.5 * ((x - loc) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
    trace = ppl.Trace(CHOICES, None, 0.0, (True,))
    outer = sum(log_normal(x, loc + 0.7) for x, loc in zip([0.1, 0.2, 0.3], range(3), strict=True))
    np.testing.assert_allclose(density_of(program, trace, ["z"]), outer, rtol=1e-12)
    np.testing.assert_allclose(density_of(program, trace, ["sub/z"]), log_normal(0.7, 1.0, 2.0), rtol=1e-12)
    both = program.project(trace, "z")
    np.testing.assert_allclose(both, outer + log_normal(0.7, 1.0, 2.0), rtol=1e-12)
    assert density_of(program, trace, []) == 0


def test_density_without_very_addresses():
    """Factors stay; what is left out is not evaluated, be it NaN; choices made in the wrong place still give -inf."""
    total = program.log_density(CHOICES, True)
    trace = ppl.Trace(CHOICES, None, 0.0, (True,))
    left = density_without(program, CHOICES, (True,), ["z", "b"])
    np.testing.assert_allclose(left + density_of(program, trace, ["z", "b"]), total, rtol=1e-12)
    np.testing.assert_allclose(density_without(program, CHOICES, (True,), []), total, rtol=1e-12)

    @ppl.gen
    def weighted():
        ppl.normal(0.0, 1.0) @ "z"
        ppl.factor(2.5) @ "f"

    assert density_without(ppl.scale(weighted, {"f": 2.0}), {"z": jnp.inf}, (), ["z"]) == 5.0

    @ppl.gen
    def sometimes(flag):
        ppl.normal(0.0, 1.0) @ "a"
        jax.lax.cond(flag, lambda: ppl.normal(0.0, 1.0) @ "m", lambda: 0.0)

    choices = {"a": 0.0, "m": ppl.Masked(jnp.array(0.0), jnp.array(True))}
    assert np.isfinite(density_without(sometimes, choices, (jnp.array(True),), ["a"]))
    assert density_without(sometimes, choices, (jnp.array(False),), ["a"]) == -jnp.inf


def test_globs_of_very_addresses():
    """Bare addresses come first, so that longer ones override them; characters of globs stand for themselves."""
    assert list(exact_globs({"a/z": 1.0, "z": 0.0, "b/c/z": 2.0})) == ["z", "a/z", "b/c/z"]
    weighted = lambda weights: ppl.assess(program, exact_globs(weights))(CHOICES, True)[0]
    names = dict.fromkeys(program.addresses(True), 0.0)
    trace = ppl.Trace(CHOICES, None, 0.0, (True,))
    for name in names:
        np.testing.assert_allclose(weighted(names | {name: 1.0}), density_of(program, trace, [name]), rtol=1e-12)
    starred = ppl.gen(lambda: (ppl.normal(0.0, 1.0) @ "a*", ppl.normal(0.0, 1.0) @ "ab"))
    one = ppl.assess(starred, exact_globs({"a*": 0.0, "ab": 1.0}))({"a*": 3.0, "ab": 0.0})[0]
    np.testing.assert_allclose(one, -0.5 * np.log(2 * np.pi), rtol=1e-12)


def test_distributions_and_what_they_depend_on():
    """Choices in branches and scans are left out; dependence goes through other choices' values alone."""
    found = views(program, CHOICES, (True,))
    assert set(found) == {"b", "sub/z", "z"}
    loc, scale = found["z"].params
    np.testing.assert_allclose(jnp.broadcast_to(loc, (3,)), np.arange(3) + 0.7)
    np.testing.assert_allclose(scale, 1.0)
    np.testing.assert_allclose(found["sub/z"].params[0], 1.0)
    assert parents(program, CHOICES, (True,)) == {"b": set(), "sub/z": {"b"}, "z": {"sub/z"}}


def test_dependence_through_a_loop_and_a_branch_is_seen():
    @ppl.gen
    def roundabout():
        a = ppl.normal(0.0, 1.0) @ "a"
        b = ppl.normal(0.0, 1.0) @ "b"
        looped = jax.lax.fori_loop(0, 3, lambda _, x: x + a, 0.0)
        ppl.normal(jax.lax.cond(b > 0, lambda: looped, lambda: 1.0), 1.0) @ "c"
        ppl.normal(jnp.where(b > 0, 0.0, 1.0), 1.0) @ "d"

    choices = dict.fromkeys("abcd", 0.5)
    assert parents(roundabout, choices, ()) == {"a": set(), "b": set(), "c": {"a", "b"}, "d": {"b"}}


def test_densities_element_by_element():
    """Lanes and steps first, then the batch, in scans and branches too; their sum is the log density."""

    @ppl.gen
    def mixed(flag):
        jax.vmap(lambda loc: ppl.normal(jnp.zeros(2) + loc, 1.0) @ "lanes")(jnp.arange(3.0))
        jax.lax.scan(lambda c, _: (c, ppl.normal(jnp.zeros((1, 2)), 1.0) @ "steps"), 0, None, 4)
        jax.lax.cond(flag, lambda: ppl.normal(jnp.zeros(5), 1.0) @ "branch", lambda: jnp.zeros(5))
        ppl.dirichlet(jnp.ones(3)) @ "event"

    drawn = mixed.simulate(jax.random.key(0), True)
    found = elements(mixed, drawn.choices, (True,))
    shapes = {name: (record.log_prob.shape, record.lead) for name, record in found.items()}
    assert shapes == {"lanes": ((3, 2), 1), "steps": ((4, 1, 2), 1), "branch": ((5,), 0), "event": ((), 0)}
    np.testing.assert_allclose(sum(record.log_prob.sum() for record in found.values()), drawn.log_density, rtol=1e-12)
    idle = mixed.simulate(jax.random.key(0), False)
    assert not elements(mixed, idle.choices, (False,))["branch"].log_prob.any()
    assert [str(spec.family) for spec in specs(mixed, (True,))["event"]] == ["dirichlet"]
