"""The battery: one program for each construct, beside a plain-Python description of its law.

A program is `program(draw, theta)` where `draw(u)` makes a random choice of parameter u and `draw.coin(p)` a coin for
predicates; its law is `law(draw, theta)` where the same calls walk a tree of outcomes. Parameters stay in (0, 1) for
discrete draws; costs are polynomials in the draws, nonlinear, so that a Gauss rule makes normal draws exact as well.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl

THETA = np.array([0.45, 0.65])
SCALE = 0.8


@dataclasses.dataclass(frozen=True)
class Draw:
    """How the programs make choices: a family with a strategy, and a strategy for predicates."""

    family: str
    strategy: str
    predicate: str

    def __str__(self) -> str:
        return f"{self.family}-{self.strategy}" + (f"-{self.predicate}" if self.predicate != self.strategy else "")

    @property
    def is_exact(self) -> bool:
        """Tell whether the estimator has no noise at all."""
        return self.strategy == self.predicate == "enum"

    def choice(self, u):
        """Prepare a choice."""
        grad = getattr(ppl, self.strategy)()
        if self.family == "coin":
            return ppl.bernoulli(u, grad=grad)
        if self.family == "normal":
            return ppl.normal(2 * u, SCALE, grad=grad)
        return ppl.categorical(jnp.stack([1 - u, u * u, u * (1 - u)], axis=-1), grad=grad)

    def __call__(self, u):
        """Make an anonymous choice, as a float."""
        return self.choice(u).sample().astype(float)

    def coin(self, prob):
        """Make a choice of a predicate."""
        return ppl.bernoulli(prob, grad=getattr(ppl, self.predicate)()).sample()

    def die(self, u):
        """Make a choice among three branches."""
        probs = jnp.stack([1 - u, u * u, u * (1 - u)])
        return ppl.categorical(probs, grad=getattr(ppl, self.predicate)()).sample()


@dataclasses.dataclass(frozen=True)
class Law:
    """The same calls on a tree of outcomes."""

    family: str
    draws: Callable

    def __call__(self, u):
        """Draw a value."""
        if self.family == "coin":
            return self.draws.coin(u)
        return self.draws.normal(2 * u, SCALE, nodes=4) if self.family == "normal" else self.die(u)

    def coin(self, prob):
        """Draw a predicate."""
        return self.draws.coin(prob)

    def die(self, u):
        """Draw a branch."""
        return self.draws([1 - u, u * u, u * (1 - u)])


DRAWS = [Draw("coin", "reinforce", "reinforce"), Draw("coin", "enum", "enum"), Draw("die", "reinforce", "reinforce")]
DRAWS += [Draw("normal", "pathwise", "reinforce"), Draw("normal", "reinforce", "reinforce")]
CROSSED = [Draw("coin", "reinforce", "enum"), Draw("die", "enum", "reinforce"), Draw("normal", "pathwise", "enum")]


@dataclasses.dataclass(frozen=True)
class Case:
    """A construct: a program with choices in it, and its law."""

    program: Callable
    law: Callable
    predicates: bool = False

    def __str__(self) -> str:
        return self.program.__name__

    def draws(self) -> list[Draw]:
        """List the ways to make the choices; those that differ in the predicate's only where there is one."""
        return DRAWS + CROSSED * self.predicates


CASES: list[Case] = []


def case(law: Callable, predicates: bool = False) -> Callable:
    """Enter a program with its law in the registry."""

    def enter(program):
        CASES.append(Case(program, law, predicates))
        return program

    return enter


WEIGHTS = [1.0, 0.5, 0.8]
W = jnp.asarray(WEIGHTS)


def cost(x, t):
    """Cost of one draw, for JAX and for plain Python."""
    return (x + t) ** 2 + 0.3 * x


# --- One choice, and calls ---------------------------------------------------------------------------------------


def one_law(draw, theta):
    return cost(draw(theta[0]), theta[1]) * (1 + theta[0])


@case(one_law)
def plain(draw, theta):
    return cost(draw(theta[0]), theta[1]) * (1 + theta[0])


@case(one_law)
def jit(draw, theta):
    return jax.jit(lambda u: cost(draw(u), theta[1]))(theta[0]) * (1 + theta[0])


@case(one_law)
def jit_of_a_choice_alone(draw, theta):
    return cost(jax.jit(draw)(theta[0]), theta[1]) * (1 + theta[0])


@case(one_law)
def checkpoint(draw, theta):
    return jax.checkpoint(lambda u: cost(draw(u), theta[1]))(theta[0]) * (1 + theta[0])


@case(one_law)
def checkpoint_of_a_choice_alone(draw, theta):
    return cost(jax.checkpoint(draw)(theta[0]), theta[1]) * (1 + theta[0])


def two_law(draw, theta):
    x, y = draw(theta[0]), draw(0.7 * theta[1])
    return cost(x, theta[1]) + cost(y, theta[0]) + x * y


@case(two_law)
def body_under_two_addresses(draw, theta):
    @ppl.gen
    def body(u):
        return (draw.choice(u) @ "x").astype(float)

    x, y = body(theta[0]) @ "a", body(0.7 * theta[1]) @ "b"
    return cost(x, theta[1]) + cost(y, theta[0]) + x * y


@case(two_law)
def nested_calls(draw, theta):
    @ppl.gen
    def inner(u):
        return (draw.choice(u) @ "x").astype(float)

    @ppl.gen
    def outer(u, t):
        x, y = inner.inline(u), inner(0.7 * t) @ "inner"
        return cost(x, t) + cost(y, u) + x * y

    return outer(theta[0], theta[1]) @ "outer"


# --- Scans -------------------------------------------------------------------------------------------------------


def steps_law(draw, theta):
    return sum(weight * cost(draw(theta[0] * weight), theta[1]) for weight in WEIGHTS)


@case(steps_law)
def scan_adding_costs_up(draw, theta):
    step = lambda total, w: (total + w * cost(draw(theta[0] * w), theta[1]), None)
    return lax.scan(step, 0.0, W)[0]


@case(steps_law)
def scan_stacking_costs(draw, theta):
    return lax.scan(lambda none, w: (none, w * cost(draw(theta[0] * w), theta[1])), None, W)[1].sum()


@case(steps_law)
def fori_loop(draw, theta):
    return lax.fori_loop(0, 3, lambda i, total: total + W[i] * cost(draw(theta[0] * W[i]), theta[1]), 0.0)


@case(steps_law)
def scan_of_a_jitted_and_checkpointed_step(draw, theta):
    @jax.checkpoint
    @jax.jit
    def step(total, w):
        return total + w * cost(draw(theta[0] * w), theta[1]), None

    return lax.scan(step, 0.0, W, reverse=True)[0]


def sum_squared_law(draw, theta):
    return sum(draw(theta[0] * weight) for weight in WEIGHTS) ** 2 * (1 + theta[1])


@case(sum_squared_law)
def scan_with_the_choice_in_the_carry(draw, theta):
    return lax.scan(lambda total, w: (total + draw(theta[0] * w), None), 0.0, W)[0] ** 2 * (1 + theta[1])


@case(sum_squared_law)
def scan_stacking_choices(draw, theta):
    return lax.scan(lambda none, w: (none, draw(theta[0] * w)), None, W)[1].sum() ** 2 * (1 + theta[1])


def chain_law(draw, theta, steps=(0, 1, 2)):
    x, total = 0.0, 0.0
    for i in steps:
        before, x = x, draw(theta[0] * (0.6 + 0.2 * x))
        total = total + WEIGHTS[i] * (x + theta[1] * before) ** 2
    return total + x * theta[0]


def chain(draw, theta, reverse=False):
    def step(carry, w):
        before, total = carry
        x = draw(theta[0] * (0.6 + 0.2 * before))
        return (x, total + w * (x + theta[1] * before) ** 2), None

    x, total = lax.scan(step, (0.0, 0.0), W, reverse=reverse)[0]
    return total + x * theta[0]


@case(chain_law)
def scan_of_a_chain(draw, theta):
    return chain(draw, theta)


@case(lambda draw, theta: chain_law(draw, theta, (2, 1, 0)))
def reverse_scan_of_a_chain(draw, theta):
    return chain(draw, theta, reverse=True)


def nested_law(draw, theta):
    total = 0.0
    for v in (1.0, 0.7):
        row = [draw(theta[0] * v * w) for w in (0.9, 0.6)]
        total = total + v * (row[0] + row[1] + theta[1]) ** 2 + cost(row[0], theta[1])
    return total


V, U = jnp.array([1.0, 0.7]), jnp.array([0.9, 0.6])


@case(nested_law)
def scan_in_scan(draw, theta):
    def outer(total, v):
        row = lax.scan(lambda none, w: (none, draw(theta[0] * v * w)), None, U)[1]
        return total + v * (row.sum() + theta[1]) ** 2 + cost(row[0], theta[1]), None

    return lax.scan(outer, 0.0, V)[0]


def through_law(draw, theta):
    state, total = 0.0, theta[1]
    for _ in range(2):
        for _ in range(2):
            state = state + draw(theta[0])
            total = total + state * state
        total = total + theta[1] * state * state
    return total


@case(through_law)
def state_carried_through_two_scans(draw, theta):
    """What an earlier step of the OUTER scan did is a past of its own to the inner one."""

    def inner(carry, _):
        state, total = carry
        state = state + draw(theta[0])
        return (state, total + state * state), None

    def outer(carry, _):
        state, total = lax.scan(inner, carry, None, 2)[0]
        return (state, total + theta[1] * state * state), None

    return lax.scan(outer, (0.0, theta[1]), None, 2)[0][1]


def read_inside_law(draw, theta):
    total = theta[1] * 0
    for w in WEIGHTS:
        total = total + w * draw(theta[0] * w) + 0.1 * total * total
    return total


@case(read_inside_law)
def scan_reading_its_accumulator(draw, theta):
    step = lambda total, w: (total + w * draw(theta[0] * w) + 0.1 * total * total, None)
    return lax.scan(step, theta[1] * 0, W)[0]


def inputs_law(draw, theta):
    xs, total = [draw(theta[0]), draw(theta[1])], 0.0
    for x in xs:
        total = total + cost(draw(0.5 * theta[0] * (1 + 0.2 * x)), x)
    return total


@case(inputs_law)
def choices_as_inputs_of_a_scan(draw, theta):
    step = lambda total, x: (total + cost(draw(0.5 * theta[0] * (1 + 0.2 * x)), x), None)
    return lax.scan(step, 0.0, jax.vmap(draw)(theta))[0]


# --- Lanes -------------------------------------------------------------------------------------------------------


@case(steps_law)
def vmap_of_separate_costs(draw, theta):
    return jax.vmap(lambda w: w * cost(draw(theta[0] * w), theta[1]))(W).sum()


@case(sum_squared_law)
def vmap_of_a_joint_cost(draw, theta):
    return jax.vmap(lambda w: draw(theta[0] * w))(W).sum() ** 2 * (1 + theta[1])


@case(lambda draw, theta: sum(draw(theta[0]) for _ in range(3)) ** 2 + theta[1])
def vmap_of_nothing_mapped(draw, theta):
    return jax.vmap(lambda: draw(theta[0]), axis_size=3)().sum() ** 2 + theta[1]


@case(sum_squared_law)
def batch_of_one_choice(draw, theta):
    return draw(theta[0] * W).sum() ** 2 * (1 + theta[1])


@case(nested_law)
def vmap_in_scan(draw, theta):
    def step(total, v):
        row = jax.vmap(lambda w: draw(theta[0] * v * w))(U)
        return total + v * (row.sum() + theta[1]) ** 2 + cost(row[0], theta[1]), None

    return lax.scan(step, 0.0, V)[0]


@case(nested_law)
def scan_in_vmap(draw, theta):
    def lane(v):
        row = lax.scan(lambda none, w: (none, draw(theta[0] * v * w)), None, U)[1]
        return v * (row.sum() + theta[1]) ** 2 + cost(row[0], theta[1])

    return jax.vmap(lane)(V).sum()


@case(nested_law)
def vmap_in_vmap(draw, theta):
    rows = jax.vmap(lambda v: jax.vmap(lambda w: draw(theta[0] * v * w), out_axes=0)(U), out_axes=1)(V)
    return (V * (rows.sum(0) + theta[1]) ** 2 + cost(rows[0], theta[1])).sum()


# --- Branches ----------------------------------------------------------------------------------------------------


def cond_on_law(draw, theta):
    taken, x = draw.coin(theta[1]), draw(theta[0])
    return cost(x, theta[1]) if taken else 2 * x * x - theta[0] * x


@case(cond_on_law, predicates=True)
def cond_on_a_choice(draw, theta):
    taken, x = draw.coin(theta[1]), draw(theta[0])
    return lax.cond(taken == 1, lambda x: cost(x, theta[1]), lambda x: 2 * x * x - theta[0] * x, x)


def choice_in_cond_law(draw, theta):
    taken = draw.coin(theta[1])
    x = draw(theta[0]) if taken else 0.5 * draw(theta[1] * theta[0])
    return cost(x, theta[1]) + taken * theta[0]


@case(choice_in_cond_law, predicates=True)
def cond_on_a_choice_with_choices_inside(draw, theta):
    taken = draw.coin(theta[1])
    x = lax.cond(taken == 1, lambda: draw(theta[0]), lambda: 0.5 * draw(theta[1] * theta[0]))
    return cost(x, theta[1]) + taken * theta[0]


@case(lambda draw, theta: cost(0.5 * draw(theta[1] * theta[0]), theta[1]))
def choices_inside_a_fixed_cond(draw, theta):
    x = lax.cond(theta[0] > theta[1], lambda: draw(theta[0]), lambda: 0.5 * draw(theta[1] * theta[0]))
    return cost(x, theta[1])


def lanes_cond_law(draw, theta):
    return sum(cost(draw(theta[0]) if w > 0.6 else 0.5 * draw(theta[1] * w), w) for w in WEIGHTS)


@case(lanes_cond_law)
def vmap_of_cond_with_a_batched_predicate(draw, theta):
    def lane(w):
        return cost(lax.cond(w > 0.6, lambda: draw(theta[0]), lambda: 0.5 * draw(theta[1] * w)), w)

    return jax.vmap(lane)(W).sum()


def lanes_random_cond_law(draw, theta):
    total = 0.0
    for v in (1.0, 0.7):
        total = total + (draw(theta[0]) if draw.coin(v * theta[1]) else theta[0] * v)
    return total**2


@case(lanes_random_cond_law, predicates=True)
def vmap_of_cond_with_a_random_predicate(draw, theta):
    def lane(v):
        return lax.cond(draw.coin(v * theta[1]) == 1, lambda: draw(theta[0]), lambda: theta[0] * v)

    return jax.vmap(lane)(V).sum() ** 2


def switch_law(draw, theta):
    branch = draw.die(theta[1])
    x = [lambda: draw(theta[0]), lambda: theta[0] ** 2, lambda: draw(0.5 * theta[0]) + draw(theta[1])][branch]()
    return cost(x, theta[1])


@case(switch_law, predicates=True)
def switch_with_three_branches(draw, theta):
    branches = [lambda: draw(theta[0]), lambda: theta[0] ** 2, lambda: draw(0.5 * theta[0]) + draw(theta[1])]
    return cost(lax.switch(draw.die(theta[1]), branches), theta[1])


def deep_law(draw, theta):
    total = 0.0
    for v in (1.0, 0.7):
        x = theta[1] * v
        for _ in range(2):
            x = x + draw(theta[0] * v) if draw.coin(theta[1] * v) else 0.5 * x
        total = total + x * x
    return total


@case(deep_law, predicates=True)
def cond_in_scan_in_vmap(draw, theta):
    def lane(v):
        def step(x, _):
            taken = draw.coin(theta[1] * v)
            return lax.cond(taken == 1, lambda x: x + draw(theta[0] * v), lambda x: 0.5 * x, x), None

        return lax.scan(step, theta[1] * v, None, 2)[0] ** 2

    return jax.vmap(lane)(V).sum()


# --- Corners -----------------------------------------------------------------------------------------------------


@case(one_law)
def scan_of_length_one_and_an_unused_choice(draw, theta):
    draw(theta[1])
    step = lambda total, _: (total + cost(draw(theta[0]), theta[1]), draw(theta[1]))
    return lax.scan(step, 0.0, None, 1)[0] * (1 + theta[0])
