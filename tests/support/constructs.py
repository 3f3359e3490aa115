"""The constructs of the support matrix: a program for each beside a plain-Python description of its law.

Costs of lanes stay apart unless the construct is about their meeting. Where `tests/cases.py` has the program, it is
taken from there.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

import ppl
from estimators import elbo, iwelbo, mvd, reinforce
from tests import cases
from tests.cases import WEIGHTS, U, V, W, cost


@dataclasses.dataclass(frozen=True)
class Construct:
    """A row of the matrix.

    Attributes:
        name: As the table shows it.
        program: Maps a way to draw and theta to a cost.
        law: The same on a tree of outcomes.
        derivative: What is asked for: "gradient", "hessian", "jvp", "aux" (a gradient beside an auxiliary result) or
            "results" (the gradients of several).
        predicate: The strategy of predicates, where the construct is about it.
        is_sampled: For which ways to draw the estimator's noise is not finite: programs that draw continuous noise,
            and direct strategies of a choice on which others depend, which are drawn anew for each of its values.
    """

    name: str
    program: Callable
    law: Callable
    derivative: str = "gradient"
    predicate: ppl.Strategy | None = None
    is_sampled: Callable = lambda draw: False

    def __str__(self) -> str:
        return self.name


ALWAYS = lambda draw: True
IF_DIRECT = lambda draw: draw.is_direct
UNLESS_ENUM = lambda draw: draw.strategy != ppl.enum()

CONSTRUCTS: list[Construct] = []


def row(name: str, law: Callable, **properties) -> Callable:
    """Enter a program with its law in the matrix."""

    def enter(program):
        CONSTRUCTS.append(Construct(name, program, law, **properties))
        return program

    return enter


def taken(name: str, case: str, **properties) -> None:
    """Enter a program of the battery of constructs."""
    found = next(one for one in cases.CASES if str(one) == case)
    CONSTRUCTS.append(Construct(name, found.program, found.law, **properties))


one_law = cases.one_law
taken("plain", "plain")


@row("float64", one_law)
def float64(draw, theta):
    assert theta.dtype == jnp.float64
    return cases.plain(draw, theta)


# --- Functions -------------------------------------------------------------------------------------------------------

taken("jit", "jit")


@row("jit in jit", one_law)
def jit_in_jit(draw, theta):
    return jax.jit(lambda u: jax.jit(lambda v: cost(draw(v), theta[1]))(u) * (1 + u))(theta[0])


taken("checkpoint", "checkpoint")
taken("nested call", "nested_calls")


@row("call in a scan", cases.steps_law)
def call_in_scan(draw, theta):
    inner = ppl.gen(lambda u: (draw.choice(u) @ "x").astype(float))

    @ppl.gen
    def outer(theta):
        step = lambda total, w: (total + w * cost(inner(theta[0] * w) @ "inner", theta[1]), None)
        return lax.scan(step, 0.0, W)[0]

    return outer(theta) @ "outer"


# --- Lanes -----------------------------------------------------------------------------------------------------------

taken("vmap", "vmap_of_separate_costs")
taken("vmap, one cost of all lanes", "vmap_of_a_joint_cost")


def grid_law(draw, theta):
    return sum(v * w * cost(draw(theta[0] * v * w), theta[1]) for v in (1.0, 0.7) for w in (0.9, 0.6))


@row("vmap of vmap", grid_law)
def vmap_of_vmap(draw, theta):
    lane = lambda v, w: v * w * cost(draw(theta[0] * v * w), theta[1])
    return jax.vmap(lambda v: jax.vmap(lambda w: lane(v, w))(U), out_axes=1)(V).sum()


@row("batch of one choice", cases.steps_law)
def batch(draw, theta):
    return (W * cost(draw(theta[0] * W), theta[1])).sum()


def masked_law(draw, theta):
    total = 0.0
    for v in (1.0, 0.7):
        total = total + v * cost(draw(theta[0]) if draw.coin(v * theta[1]) else theta[0] * v, theta[1])
    return total


@row("masked lanes", masked_law, is_sampled=IF_DIRECT)
def masked_lanes(draw, theta):
    def lane(v):
        x = lax.cond(draw.coin(v * theta[1]) == 1, lambda: draw(theta[0]), lambda: theta[0] * v)
        return v * cost(x, theta[1])

    return jax.vmap(lane)(V).sum()


# --- Loops -----------------------------------------------------------------------------------------------------------

taken("scan, costs within the step", "scan_adding_costs_up")
taken("scan, value in the carry", "scan_of_a_chain", is_sampled=IF_DIRECT)
taken("scan, reverse", "reverse_scan_of_a_chain", is_sampled=IF_DIRECT)
taken("scan of scan", "scan_in_scan")
taken("vmap of scan", "scan_in_vmap")


@row("scan of vmap", grid_law)
def scan_of_vmap(draw, theta):
    lane = lambda v, w: v * w * cost(draw(theta[0] * v * w), theta[1])
    return lax.scan(lambda total, v: (total + jax.vmap(lambda w: lane(v, w))(U).sum(), None), 0.0, V)[0]


taken("fori_loop", "fori_loop")


def while_law(draw, theta):
    total = 0.0
    for _ in range(2):
        total = total + cost(draw(theta[0]), theta[1])
        if not draw.coin(theta[1]):
            break
    return total * total


@row("while_loop", while_law, is_sampled=IF_DIRECT)
def while_loop(draw, theta):
    def step(carry):
        total, _ = carry
        return total + cost(draw(theta[0]), theta[1]), draw.coin(theta[1])

    start = jnp.zeros(()), jnp.ones((), jnp.int32)
    return ppl.while_loop(lambda carry: carry[1] == 1, step, start, max_steps=2)[0] ** 2


# --- Branches --------------------------------------------------------------------------------------------------------

taken("cond", "choices_inside_a_fixed_cond")


@row("switch", lambda draw, theta: cost(draw(0.5 * theta[0]) + draw(theta[1]), theta[1]))
def switch(draw, theta):
    branches = [lambda: draw(theta[0]), lambda: theta[0] ** 2, lambda: draw(0.5 * theta[0]) + draw(theta[1])]
    return cost(lax.switch((theta[0] < 1).astype(int) + 1, branches), theta[1])


taken("vmap of cond, mapped predicate", "vmap_of_cond_with_a_batched_predicate")
taken("cond on a choice of the same strategy", "cond_on_a_choice_with_choices_inside", is_sampled=IF_DIRECT)
UPSTREAM = {reinforce(): lambda draw: False, ppl.enum(): lambda draw: False, mvd(): UNLESS_ENUM}
for strategy, sampled in UPSTREAM.items():
    name = f"cond on a choice by {strategy}"
    taken(name, "cond_on_a_choice_with_choices_inside", predicate=strategy, is_sampled=sampled)
taken("switch on a choice", "switch_with_three_branches", is_sampled=IF_DIRECT)


# --- Downstream ------------------------------------------------------------------------------------------------------


def after_coin_law(draw, theta):
    x = draw.coin(theta[1])
    return cost(draw(theta[0] * (0.6 + 0.2 * x)), theta[1]) * (1 + x)


def after(strategy):
    def program(draw, theta):
        x = ppl.bernoulli(theta[1], grad=strategy).sample()
        return cost(draw(theta[0] * (0.6 + 0.2 * x)), theta[1]) * (1 + x)

    return program


for strategy, sampled in UPSTREAM.items():
    row(f"downstream of {strategy}", after_coin_law, is_sampled=sampled)(after(strategy))


def after_normal_law(draw, theta):
    y = draw.draws.normal(theta[1], 0.5, nodes=24)
    return cost(draw(theta[0] / (1 + np.exp(-y))), theta[1]) + y * theta[0]


@row("downstream of pathwise", after_normal_law, is_sampled=ALWAYS)
def after_pathwise(draw, theta):
    y = ppl.normal(theta[1], 0.5, grad=ppl.pathwise()).sample()
    return cost(draw(theta[0] * jax.nn.sigmoid(y)), theta[1]) + y * theta[0]


# --- Objectives ------------------------------------------------------------------------------------------------------


def log_weight_law(draw, u, t, y=0.5):
    z = draw.fine(u)
    log_lik = -0.5 * (y - z - t) ** 2 - 0.5 * math.log(2 * math.pi)
    return draw.log_prob(0.3, z) + log_lik - draw.log_prob(u, z)


def programs(draw):
    @ppl.gen
    def model(theta):
        z = draw.prior() @ "z"
        ppl.normal(z.astype(float) + theta[1], 1.0) @ "y"

    return model, ppl.gen(lambda theta, observed: draw.choice(theta[0]) @ "z")


@row("elbo", lambda draw, theta: log_weight_law(draw, theta[0], theta[1]))
def in_elbo(draw, theta):
    return elbo(*programs(draw))(theta, {"y": 0.5})


def iwelbo_law(draw, theta):
    weights = [np.exp(log_weight_law(draw, theta[0], theta[1])) for _ in range(2)]
    return np.log(sum(weights) / 2)


@row("iwelbo, a log of a mean", iwelbo_law)
def in_iwelbo(draw, theta):
    return iwelbo(*programs(draw), particles=2)(theta, {"y": 0.5})


YS = (0.5, -0.2, 0.9)


def subsample_law(draw, theta):
    index = draw.draws([1 / 3] * 3)  # Either of both elements has this law, and an ELBO adds up.
    return 3 * log_weight_law(draw, theta[0] * WEIGHTS[index], theta[1], YS[index])


@row("subsample", subsample_law, is_sampled=ALWAYS)
def in_subsample(draw, theta):
    def item(i, theta):
        z = draw.prior() @ "z"
        ppl.normal(z.astype(float) + theta[1], 1.0) @ "y"

    local = ppl.gen(lambda i, theta: draw.choice(theta[0] * W[i]) @ "z")
    model = ppl.gen(lambda theta: ppl.subsample(3, 2, ppl.gen(item))(theta) @ "data")
    guide = ppl.gen(lambda theta, observed: ppl.subsample(3, 2, local)(theta) @ "data")
    return elbo(model, guide)(theta, {"data": {"y": jnp.asarray(YS)}})


# --- Derivatives and results -----------------------------------------------------------------------------------------


def pair_law(draw, theta):
    x, y = draw(theta[0]), draw(theta[0] * theta[1])
    return cost(x, theta[1]) * (1 + theta[0]) + x * y


def pair(draw, theta):
    x, y = draw(theta[0]), draw(theta[0] * theta[1])
    return cost(x, theta[1]) * (1 + theta[0]) + x * y


row("second derivative", pair_law, derivative="hessian")(pair)
row("forward mode", pair_law, derivative="jvp")(pair)


def aux_law(draw, theta):
    x = draw(theta[0])
    return cost(x, theta[1]) * (1 + theta[0]), x * x


@row("has_aux", aux_law, derivative="aux")
def with_aux(draw, theta):
    x = draw(theta[0])
    return cost(x, theta[1]) * (1 + theta[0]), x * x


def results_law(draw, theta):
    x, y = draw(theta[0]), draw(theta[1])
    return cost(x, theta[1]), x * y * theta[0], y * y


@row("several results", results_law, derivative="results")
def several_results(draw, theta):
    x, y = draw(theta[0]), draw(theta[1])
    return {"a": cost(x, theta[1]), "b": jnp.stack([x * y * theta[0], y * y])}


# --- What the strategies assume --------------------------------------------------------------------------------------


def jump_law(draw, theta):
    return (draw(theta[0]) > 0.5) * (1 + theta[1])


@row("discontinuous cost", jump_law)
def jump(draw, theta):
    return (draw(theta[0]) > 0.5) * (1 + theta[1])


def moving_law(draw, theta):
    points, weights = np.polynomial.legendre.leggauss(4)
    return draw.draws(list(weights / 2), [theta[0] * (1 + point) / 2 for point in points]) ** 2 * (1 + theta[1])


@row("moving support", moving_law, is_sampled=ALWAYS)
def moving_support(draw, theta):
    from tests.support.ways import all_values, edge

    strategy = edge() if draw.strategy == all_values() else draw.strategy
    return ppl.uniform(0.0, theta[0], grad=strategy).sample() ** 2 * (1 + theta[1])


@row("fresh_key beside it", one_law, is_sampled=ALWAYS)
def beside_a_fresh_key(draw, theta):
    noise = 0.5 + jr.uniform(ppl.fresh_key())
    return cost(draw(theta[0]), theta[1]) * (1 + theta[0]) * noise
