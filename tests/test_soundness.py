"""Soundness of pathwise gradients: refused where they are biased, accepted where they are right, both by quadrature."""

import inspect
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from estimators import elbo
from ppl import UnsoundGradientError, gen, normal
from ppl.analysis.smoothness import smoothness
from ppl.transforms.programs import stage_program
from tests import quadrature
from tests.soundness_programs import ACCEPTED, CONSERVATIVE, REFUSED

LOC = 0.37
BIASED, UNBIASED = 5e-3, 1e-3


def marked_line(function, mark="# HERE"):
    """Return file and line of the marked line of a function, as messages show it."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    (number,) = [first + i for i, line in enumerate(lines) if mark in line]
    return f"{inspect.getsourcefile(function)}:{number}"


def program_of(function, **strategy):
    """Return the program that applies a function to a normal value."""

    @gen
    def program(loc):
        z = normal(loc, 1.0, **strategy) @ "z"  # CHOICE
        return function(z)

    return program


def verdict(program, *args):
    """Judge a program by its staged body."""
    staged = stage_program(program, args)
    return smoothness(staged.staged.body, staged.places, [False] * len(staged.staged.body.outvars))


@pytest.mark.parametrize("name", [*REFUSED, *CONSERVATIVE])
def test_refused_with_both_lines(name):
    function = {**REFUSED, **CONSERVATIVE}[name]
    program = program_of(function)
    with pytest.raises(UnsoundGradientError) as caught:
        ppl.grad(program)(jr.key(0), LOC)
    text = str(caught.value)
    assert "'z'" in text
    assert marked_line(program_of, "# CHOICE") in text
    assert marked_line(function) in text
    assert "reinforce()" in text
    assert "assume_continuous" in text
    assert "unchecked=True" in text
    assert ".py" in caught.value.details["where"]
    assert np.isfinite(ppl.expect(program)(jr.key(0), LOC))  # A value alone never raises.


@pytest.mark.parametrize("name", REFUSED)
def test_refused_is_biased(name):
    """The pathwise gradient that is refused would be wrong: its mean, and that what is meant is that gradient."""
    function = REFUSED[name]
    assert quadrature.bias(function) > BIASED
    check_pathwise(function, grad=ppl.pathwise(unchecked=True))


@pytest.mark.parametrize("name", CONSERVATIVE)
def test_conservative_refusal_is_unbiased(name):
    """These the analysis cannot tell from biased ones: the user's word makes them pass."""
    function = CONSERVATIVE[name]
    assert quadrature.bias(function) < UNBIASED
    check_pathwise(ppl.assume_continuous(function))


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_is_unbiased(name):
    function = ACCEPTED[name]
    assert quadrature.bias(function) < UNBIASED
    check_pathwise(function)


def check_pathwise(function, **strategy):
    """The gradient of a run is the function's derivative at the value drawn."""
    drawn = ppl.seed(program_of(lambda z: z))(jr.key(3), LOC)
    _, gradient = ppl.jvp(program_of(function, **strategy))(jr.key(3), (LOC,), (1.0,))
    np.testing.assert_allclose(gradient, jax.jvp(function, (drawn,), (jnp.ones_like(drawn),))[1], rtol=1e-5, atol=1e-6)


def test_enough_programs():
    assert len(REFUSED) >= 30
    assert len(ACCEPTED) >= 40


# --- Where the choice stands -------------------------------------------------------------------------------------


def in_jit(function):
    return lambda loc: jax.jit(lambda: function(normal(loc, 1.0) @ "z"))()


def in_checkpoint(function):
    return lambda loc: jax.checkpoint(lambda mean: function(normal(mean, 1.0) @ "z"))(loc)


def in_scan(function):
    def program(loc):
        step = lambda carry, x: (carry + function(normal(loc + x, 1.0) @ "z"), None)
        return lax.scan(step, 0.0, jnp.arange(2.0))[0]

    return program


def in_carry(function):
    def program(loc):
        def step(carry, x):
            new = normal(0.5 * carry, 1.0) @ "z"
            return new, function(new)

        return lax.scan(step, loc, jnp.arange(2.0))[1].sum()

    return program


def in_vmap(function):
    return lambda loc: jax.vmap(lambda x: function(normal(loc + x, 1.0) @ "z"))(jnp.arange(3.0)).sum()


def in_batch(function):
    return lambda loc: function(normal(loc * jnp.ones(3), 1.0) @ "z").sum()


def in_cond(function):
    def program(loc):
        return lax.cond(jnp.abs(loc) < 9, lambda: function(normal(loc, 1.0) @ "z"), lambda: normal(loc, 2.0) @ "z")

    return program


def in_call(function):
    inner = gen(lambda loc: normal(loc, 1.0) @ "z")
    return lambda loc: function(inner(loc) @ "inner")


def behind_another(function):
    def program(loc):
        first = normal(loc, 1.0, grad=ppl.pathwise()) @ "z"
        return function(normal(first, 1.0) @ "second")

    return program


def in_objective(function):
    @gen
    def model(loc):
        z = normal(0.0, 1.0) @ "z"
        normal(function(z), 1.0) @ "x"

    @gen
    def guide(loc, observed):
        normal(loc, 1.0) @ "z"

    return lambda loc: elbo(model, guide)(loc, {"x": 0.5})


PLACES = [in_jit, in_checkpoint, in_scan, in_carry, in_vmap, in_batch, in_cond, in_call, behind_another, in_objective]


def as_program(place, function):
    program = place(function)
    return program if place is in_objective else gen(program)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_choice_in_a_construct(place):
    """Refused and accepted alike wherever the choice stands; also through jit and under `seed`."""
    bad, good = (as_program(place, function) for function in (jnp.floor, jax.nn.elu))
    for gradient in (ppl.grad(bad), jax.jit(ppl.grad(bad)), jax.grad(ppl.seed(bad), argnums=1)):
        with pytest.raises(UnsoundGradientError, match="z'"):
            gradient(jr.key(0), LOC)
    assert np.isfinite(ppl.grad(good)(jr.key(0), LOC))
    assert np.isfinite(jax.grad(ppl.seed(good), argnums=1)(jr.key(0), LOC))
    assert np.isfinite(ppl.seed(bad)(jr.key(0), LOC))


# --- When errors fire --------------------------------------------------------------------------------------------


def test_zero_tangents_pass():
    def cost(params, untrained):
        return jnp.floor(normal(untrained, 1.0).sample()) * params

    assert np.isfinite(ppl.grad(cost)(jr.key(0), 0.5, 0.3))
    with pytest.raises(UnsoundGradientError):
        ppl.grad(lambda untrained: cost(0.5, untrained))(jr.key(0), 0.3)


def test_auxiliary_results_may_jump():
    def cost(loc):
        z = normal(loc, 1.0).sample()
        return z**2, jnp.floor(z)

    gradient, _ = ppl.grad(cost, has_aux=True)(jr.key(0), 0.3)
    assert np.isfinite(gradient)
    with pytest.raises(UnsoundGradientError):
        jax.jacobian(ppl.expect(cost), argnums=1)(jr.key(0), 0.3)


def test_what_does_not_reach_the_result_may_jump():
    def cost(loc):
        z = normal(loc, 1.0).sample()
        jnp.floor(z)
        return z**2

    assert np.isfinite(ppl.grad(cost)(jr.key(0), 0.3))


def test_other_strategies_may_jump():
    program = program_of(lambda z: jnp.floor(z) ** 2)
    gradients = jax.vmap(ppl.grad(ppl.with_grad(program, {"z": ppl.reinforce()})), (0, None))(
        jr.split(jr.key(0), 3), LOC
    )
    assert np.std(gradients) > 0


def test_jump_in_the_parameter_of_another_choice():
    """A coin whose probability jumps: charging its score does not help the normal value before it."""

    def cost(loc, smooth):
        z = normal(loc, 1.0, grad=ppl.pathwise()).sample()
        logits = z if smooth else jnp.sign(z)
        return 1.0 * ppl.bernoulli(logits=logits, grad=ppl.enum()).sample()

    assert np.isfinite(ppl.grad(lambda loc: cost(loc, True))(jr.key(0), LOC))
    with pytest.raises(UnsoundGradientError):
        ppl.grad(lambda loc: cost(loc, False))(jr.key(0), LOC)


def test_stop_gradient_is_a_decision_and_is_reported():
    function = lambda z: jnp.floor(lax.stop_gradient(z)) + z  # DETACHED
    program = program_of(function)
    assert ppl.grad(program)(jr.key(0), LOC) == 1.0
    found = verdict(program, LOC)
    assert not found.unsound
    assert list(found.detached.values()) == [(marked_line(function, "# DETACHED"),)]
    assert not verdict(program_of(jax.nn.logsumexp), LOC).detached  # What JAX detaches inside is no decision.


# --- Whose code it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["library", "user"])
def test_trust_does_not_depend_on_cached_traces(first):
    """JAX traces `jnp.where` once for a shape, whoever calls it first."""
    size = {"library": 7, "user": 11}[first]
    draw = lambda loc: normal(loc * jnp.ones(size), 1.0).sample()
    library = lambda loc: jax.nn.elu(draw(loc)).sum()
    user = lambda loc: jnp.where(draw(loc) > 0, draw(loc), jnp.expm1(draw(loc))).sum()
    for _ in range(2):
        for program in (library, user) if first == "library" else (user, library):
            if program is library:
                assert np.isfinite(ppl.grad(program)(jr.key(0), LOC))
            else:
                with pytest.raises(UnsoundGradientError, match=re.escape(__file__)):
                    ppl.grad(program)(jr.key(0), LOC)


def test_modules():
    mlp = eqx.nn.MLP(2, "scalar", 4, 2, activation=jax.nn.leaky_relu, key=jr.key(1))
    cost = lambda mlp: mlp(normal(jnp.ones(2), 1.0).sample()) + normal(mlp(jnp.ones(2)), 1.0).sample()
    assert np.isfinite(jax.tree.leaves(ppl.grad(cost)(jr.key(0), mlp))[0]).all()
    stepped = lambda mlp: jnp.sign(normal(mlp(jnp.ones(2)), 1.0).sample())
    with pytest.raises(UnsoundGradientError, match="sign"):
        ppl.grad(stepped)(jr.key(0), mlp)


def test_library_of_the_users_own():
    """A user's own copy of elu is the user's selection, whatever its name."""

    @jax.jit
    def elu(x):
        return jnp.where(x > 0, x, jnp.expm1(jnp.where(x > 0, 0.0, x)))

    with pytest.raises(UnsoundGradientError):
        ppl.grad(program_of(elu))(jr.key(0), LOC)


def test_foreign_samplers():
    """A mixture's sampler jumps between its components as the weights move; that of one normal does not."""

    def mixture(logits):
        parts = dist.Normal(jnp.array([-1.0, 2.0]), 1.0)
        mixed = dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)
        return ppl.choice(mixed, grad=ppl.pathwise()).sample() ** 2

    with pytest.raises(UnsoundGradientError):
        ppl.grad(mixture)(jr.key(0), jnp.array([0.1, 0.4]))
    single = lambda loc: ppl.choice(dist.Normal(loc, 1.0), grad=ppl.pathwise()).sample() ** 2
    assert np.isfinite(ppl.grad(single)(jr.key(0), 0.5))


# --- Supports ----------------------------------------------------------------------------------------------------


def objective_of(prior, posterior):
    """Return an ELBO whose model chooses from `prior()`, and whose guide from `posterior(params)`."""

    @gen
    def model(params):
        z = prior() @ "z"
        normal(z, 1.0) @ "x"

    @gen
    def guide(params, observed):
        posterior(params) @ "z"

    return lambda params: elbo(model, guide)(params, {"x": 0.4})


INSIDE = {
    "gamma under exponential": (lambda: ppl.exponential(1.0), lambda p: ppl.gamma(jnp.exp(p), 1.0)),
    "log_normal under half_normal": (lambda: ppl.half_normal(1.0), lambda p: ppl.log_normal(p, 1.0)),
    "log_normal under gamma": (lambda: ppl.gamma(2.0, 1.0), lambda p: ppl.log_normal(p, 1.0)),
    "uniform under uniform": (lambda: ppl.uniform(0.0, 1.0), lambda p: ppl.uniform(0.0, jax.nn.sigmoid(p))),
    "beta under uniform": (lambda: ppl.uniform(-1.0, 2.0), lambda p: ppl.beta(jnp.exp(p), 1.5)),
    "truncated under truncated": (
        lambda: ppl.truncated_normal(0.0, 1.0, low=0.0, high=3.0),
        lambda p: ppl.truncated_normal(p, 1.0, low=0.0, high=2.0),
    ),
    "normal under normal": (lambda: ppl.normal(0.0, 1.0), lambda p: ppl.normal(p, 1.0)),
    "pareto under exponential": (lambda: ppl.exponential(1.0), lambda p: ppl.pareto(jnp.exp(p), 3.0)),
}
BEYOND = {
    "normal under exponential": (lambda: ppl.exponential(1.0), lambda p: ppl.normal(p, 1.0)),
    "normal under half_normal": (lambda: ppl.half_normal(1.0), lambda p: ppl.normal(p, 1.0)),
    "normal under uniform": (lambda: ppl.uniform(0.0, 1.0), lambda p: ppl.normal(p, 1.0)),
    "normal under beta": (lambda: ppl.beta(2.0, 2.0), lambda p: ppl.normal(p, 0.1)),
    "gamma under uniform": (lambda: ppl.uniform(0.0, 1.0), lambda p: ppl.gamma(jnp.exp(p), 1.0)),
    "uniform under a narrower one": (lambda: ppl.uniform(0.0, 0.5), lambda p: ppl.uniform(0.0, jax.nn.sigmoid(p))),
    "normal under truncated": (lambda: ppl.truncated_normal(low=0.0), lambda p: ppl.normal(p, 1.0)),
    "normal under von_mises": (lambda: ppl.von_mises(0.0, 1.0), lambda p: ppl.normal(p, 1.0)),
}


@pytest.mark.parametrize("name", INSIDE)
def test_guide_inside_the_model(name):
    gradient = ppl.grad(objective_of(*INSIDE[name]))(jr.key(0), LOC)
    assert np.isfinite(gradient)


@pytest.mark.parametrize("name", BEYOND)
def test_guide_beyond_the_model(name):
    objective = objective_of(*BEYOND[name])
    with pytest.raises(UnsoundGradientError, match="edge"):
        ppl.grad(objective)(jr.key(0), LOC)
    assert not np.isnan(ppl.expect(objective)(jr.key(0), LOC))


@pytest.mark.parametrize("shared", [True, False])
def test_edges_that_are_choices(shared):
    """An edge chosen before, the same in model and guide, does not pass through the value; another might."""

    @gen
    def model(params):
        edge = ppl.gamma(2.0, 1.0) @ "edge"
        z = ppl.uniform(0.0, edge) @ "z"
        normal(z, 1.0) @ "x"

    @gen
    def guide(params, observed):
        edge = ppl.log_normal(params, 1.0) @ "edge"
        ppl.uniform(0.0, edge if shared else 2.0 * edge) @ "z"

    objective = lambda params: elbo(model, guide)(params, {"x": 0.4})
    if shared:
        assert np.isfinite(ppl.grad(objective)(jr.key(0), LOC))
    else:
        with pytest.raises(UnsoundGradientError, match="edge"):
            ppl.grad(objective)(jr.key(0), LOC)


def test_simplex():
    prior = lambda: ppl.dirichlet(jnp.ones(3))
    chosen = objective_like(prior, lambda p: ppl.dirichlet(jnp.exp(p) * jnp.ones(3)).sample())
    computed = objective_like(prior, lambda p: jax.nn.softmax(normal(p * jnp.ones(3), 1.0).sample()))
    free = objective_like(prior, lambda p: normal(p * jnp.ones(3), 1.0).sample())
    for cost in (chosen, computed):
        assert np.isfinite(ppl.grad(cost)(jr.key(0), LOC))
    with pytest.raises(UnsoundGradientError, match="simplex"):
        ppl.grad(free)(jr.key(0), LOC)


def objective_like(prior, value):
    """Return the log density of a computed value."""
    return lambda params: prior().log_prob(value(params))


# --- assume_continuous -------------------------------------------------------------------------------------------


def test_assume_continuous_is_the_identity():
    tree = {"a": jnp.arange(3.0), "b": (jnp.ones(()),)}
    marked = ppl.assume_continuous(tree)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), tree, marked))
    function = lambda x: ppl.assume_continuous(jnp.sin(x))
    assert jax.grad(function)(0.3) == jax.grad(jnp.sin)(0.3)
    assert jax.hessian(function)(0.3) == jax.hessian(jnp.sin)(0.3)
    np.testing.assert_array_equal(jax.vmap(function)(jnp.arange(3.0)), jnp.sin(jnp.arange(3.0)))


def test_assume_continuous_leaves_nothing_in_compiled_code():
    texts = []
    for mark in (lambda x: x, ppl.assume_continuous):

        def loss(x, mark=mark):
            return jnp.sum(mark(jnp.sin(x)) ** 2)

        loss.__name__ = "loss"
        text = jax.jit(jax.value_and_grad(loss)).lower(jnp.ones(3)).as_text()
        texts.append(re.sub(r"loc\(.*?\)", "", text))
    assert texts[0] == texts[1]


def test_assume_continuous_ends_where_a_new_discontinuity_begins():
    cost = lambda loc: jnp.floor(ppl.assume_continuous(jnp.abs(normal(loc, 1.0).sample())))
    with pytest.raises(UnsoundGradientError, match="floor"):
        ppl.grad(cost)(jr.key(0), LOC)


def test_assume_continuous_keeps_sums_apart():
    """Marked sums are still sums of terms: a coin is not charged with the cost of another."""

    def cost(p, mark):
        coins = [ppl.bernoulli(p, grad=ppl.reinforce()).sample() for _ in range(2)]
        return mark(sum((coin - 0.45) ** 2 for coin in coins))

    marked, plain = (ppl.exact_gradient(lambda p, m=m: cost(p, m))(0.3) for m in (ppl.assume_continuous, lambda x: x))
    assert abs(marked.gradient - plain.gradient) < 1e-6
    assert abs(marked.variance - plain.variance) < 1e-6


def test_assume_continuous_refuses_integers():
    with pytest.raises(ppl.PPLError, match="inexact"):
        ppl.assume_continuous(jnp.arange(3))


# --- Loops -------------------------------------------------------------------------------------------------------


def test_carries_are_not_as_small_as_they_start():
    """What is known of the first carry is not known of the next: neither for comparisons nor for supports."""

    def compared(loc):
        step = lambda carry, _: (carry + normal(loc, 1.0).sample() * (carry < 1.0), None)
        return lax.scan(step, 0.0, None, length=3)[0]

    def scored(loc):
        def step(carry, _):
            new = carry + normal(loc, 1.0).sample()
            return new, jnp.exp(ppl.uniform(-1.0, 1.0).log_prob(carry))

        return lax.scan(step, 0.0, None, length=3)[1].sum()

    def stopped(loc):
        return ppl.while_loop(lambda c: c < 1.0, lambda c: c + jnp.exp(normal(loc, 1.0).sample()), 0.0, max_steps=4)

    for cost in (compared, scored, stopped):
        with pytest.raises(UnsoundGradientError):
            ppl.grad(cost)(jr.key(0), LOC)


def test_solvers():
    """An adaptive solver compares inside; the field is the user's."""
    import diffrax

    def solve(field):
        def cost(loc):
            z = normal(loc, 1.0).sample()
            control = diffrax.PIDController(rtol=1e-3, atol=1e-3)
            term = diffrax.ODETerm(lambda t, y, args: field(y, z))
            return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.1, z, stepsize_controller=control).ys[0]

        return cost

    assert np.isfinite(ppl.grad(solve(lambda y, z: -y * z))(jr.key(0), LOC))
    with pytest.raises(UnsoundGradientError):
        ppl.grad(solve(lambda y, z: jnp.where(y > z, 1.0, -1.0)))(jr.key(0), LOC)
