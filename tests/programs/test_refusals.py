"""What has no meaning is refused where it is written, beside the battery of `test_errors`."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import ppl
from estimators import iwelbo
from ppl import (
    AddressError,
    ControlFlowError,
    PPLError,
    StrategyError,
    UnsoundGradientError,
    assess,
    bernoulli,
    expect,
    gen,
    log_joint,
    merge,
    normal,
    reinforce,
    score_prior,
    seed,
    uniform,
    with_grad,
)
from tests.programs.replay import KEY

two = gen(lambda p: (normal(p, 1.0) @ "x", bernoulli(0.5) @ "b")[0])


# --- Addresses -------------------------------------------------------------------------------------------------------


@gen
def path_and_call():
    normal(0.0, 1.0) @ ("a", "b")
    gen(lambda: normal(0.0, 1.0) @ "b")() @ "a"


@gen
def choice_and_prefix():
    normal(0.0, 1.0) @ "a"
    normal(0.0, 1.0) @ ("a", "b")


ADDRESSES = {
    "a path and a call": (lambda: path_and_call.simulate(KEY), '"a/b"'),
    "a choice and a path below it": (lambda: choice_and_prefix.simulate(KEY), '"a"'),
    "update": (lambda: two.update(KEY, two.simulate(KEY, 0.0), {"z": 1.0}), '"z"'),
    "project": (lambda: two.project(two.simulate(KEY, 0.0), "z"), '"z"'),
    "with_grad": (lambda: ppl.grad(with_grad(lambda p: normal(p) @ "b", {"c": reinforce}))(KEY, 0.3), '"c"'),
    "merge of two branches": (lambda: merge({"a": {"b": 1}}, {"a": {"b": 2}}), '"a/b"'),
    "merge of a leaf and a branch": (lambda: merge({"a": 1}, {"a": {"b": 2}}), '"a"'),
}


@pytest.mark.parametrize("case", ADDRESSES)
def test_an_address_that_clashes_or_is_not_there_is_named(case):
    run, named = ADDRESSES[case]
    with pytest.raises(AddressError, match=named):
        run()


# --- Derivatives -----------------------------------------------------------------------------------------------------


def steps_of_coins(p):
    return lax.scan(lambda c, _: (c + (bernoulli(p) @ "b"), None), 0.0, None, length=2)[0]


scored_uniform = with_grad(lambda p: (uniform(0.0, p) @ "b") ** 2, {"b": reinforce})
DERIVATIVES = {
    "coins in a seeded scan": (lambda: jax.grad(seed(steps_of_coins), argnums=1)(KEY, 0.3), StrategyError),
    "the density of a simulated coin": (
        lambda: jax.grad(lambda p: gen(lambda: bernoulli(p) @ "b").simulate(KEY).log_density)(0.3),
        StrategyError,
    ),
    "a foreign choice without a strategy": (
        lambda: ppl.grad(lambda p: (ppl.choice(dist.Normal(p, 1.0)) @ "b") ** 2)(KEY, 0.3),
        StrategyError,
    ),
    "a moving support": (lambda: ppl.grad(scored_uniform)(KEY, 0.3), UnsoundGradientError),
}


@pytest.mark.parametrize("case", DERIVATIVES)
def test_a_derivative_without_an_estimator_names_the_choice(case):
    run, error = DERIVATIVES[case]
    with pytest.raises(error, match="'b'"):
        run()


def test_a_derivative_needs_an_inexact_argument():
    with pytest.raises(PPLError, match="nothing to differentiate"):
        ppl.grad(lambda n: normal(n * 1.0, 1.0) @ "x")(KEY, 3)


# --- Python's control flow -------------------------------------------------------------------------------------------


def branch_of_python(p):
    return 1.0 if bernoulli(p) @ "b" else 0.0  # <-


def number_of_python(p):
    return float(normal(p, 1.0) @ "x")  # <-


@pytest.mark.parametrize("program", [branch_of_python, number_of_python], ids=lambda program: program.__name__)
@pytest.mark.parametrize("run", [lambda f: gen(f).simulate(KEY, 0.3), lambda f: seed(f)(KEY, 0.3)], ids=["gen", "seed"])
def test_python_control_flow_on_a_choice_names_the_line(run, program):
    lines, start = inspect.getsourcelines(program)
    marked = start + next(i for i, line in enumerate(lines) if line.rstrip().endswith("# <-"))
    with pytest.raises(ControlFlowError, match=rf"{re.escape(__file__)}:{marked}(?!\d)"):
        run(program)


# --- Priors known by their score -------------------------------------------------------------------------------------


@gen
def scored(p):
    normal(score_prior(lambda x: -x, (2,)) @ "i", 1.0) @ "y"


guide = gen(lambda p, observed: normal(p * jnp.ones(2), 0.5) @ "i")
density = lambda p: assess(scored)({"i": jnp.ones(2) * p, "y": jnp.zeros(2)}, 0.0)[0]
SEEN = {"y": jnp.zeros(2)}
SCORED = {
    "generate": lambda: scored.generate(KEY, {"i": jnp.zeros(2), **SEEN}, 0.0),
    "log_joint": lambda: log_joint(scored, SEEN, 0.0)[0](jnp.ones(2)),
    "iwelbo": lambda: expect(iwelbo(scored, guide, 3))(KEY, 0.1, SEEN),
    "gradient of iwelbo": lambda: ppl.grad(iwelbo(scored, guide, 3))(KEY, 0.1, SEEN),
    "exp": lambda: expect(lambda p: jnp.exp(density(p)))(KEY, 0.1),
    "gradient of exp": lambda: ppl.grad(lambda p: jnp.exp(density(p)))(KEY, 0.1),
}


@pytest.mark.parametrize("use", SCORED)
def test_the_value_of_a_prior_known_by_its_score_is_refused(use):
    with pytest.raises(StrategyError, match="score"):
        SCORED[use]()
