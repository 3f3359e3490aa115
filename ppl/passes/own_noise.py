"""Choices of location and scale taken apart: standard noise, and what is made of it.

The density of such a choice at its own value is one of the noise, which has no derivative, less the logarithm of the
scale: that z less loc, divided by the scale, is the noise again, nobody but us can tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from ppl import jaxprs
from ppl.distributions import samplers
from ppl.family import Family, Parameter, Spec
from ppl.primitives import Lane, choice_p, density_p, view_of
from ppl.support import real

NOISE = Spec(
    Family("standard_normal", "Normal", (Parameter("zeros"),), real, sampler=samplers.standard_normal), ("zeros",)
)
"""Standard normal noise of the shape of its operand, by the numbers that `normal` draws."""

_FAMILIES = ("normal", "log_normal")


def find_own(body: jaxprs.Body, definitions: dict, live: Sequence[int], unsound: Iterable[int]) -> set[int]:
    """List the choices, by index, whose density is taken at their own value; those refused a derivative are kept."""
    found = set()
    for index in live:
        eqn = body.eqns[index]
        drawn = definitions.get(eqn.invars[0]) if eqn.primitive is density_p and _is_var(eqn.invars[0]) else None
        if drawn is not None and _is_own(eqn, body.eqns[drawn]):
            found.add(drawn)
    return found - set(unsound)


def _is_var(atom) -> bool:
    return not isinstance(atom, jaxprs.Literal)


def _is_own(density, choice) -> bool:
    if choice.primitive is not choice_p or choice.params["spec"] != density.params["spec"]:
        return False
    params = choice.params
    lanes = tuple(Lane(lane.size, (True, *lane.mapped), lane.depth) for lane in params["lanes"])
    named = type(params["spec"]) is Spec and params["spec"].family.name in _FAMILIES
    pathwise = params["strategy"] is not None and params["strategy"].mode == "path"
    plain = named and pathwise and not params["masked"]
    same = len(choice.invars) == 2 and all(a is b for a, b in zip(choice.invars, density.invars[1:], strict=True))
    default = jnp.result_type(float)
    of_one_type = all(var.aval.dtype == default for var in (*choice.invars, *choice.outvars))
    return (
        plain
        and same
        and of_one_type
        and [lane.mapped for lane in lanes] == [lane.mapped for lane in density.params["lanes"]]
    )


def draw(eqn, operands: Sequence, **changes) -> list[jax.Array]:
    """Draw a choice: its value, the standard noise that it is made of, and its logarithm where that is normal."""
    sorted_out = view_of(eqn, operands)
    zeros = jnp.zeros(sorted_out.batch_shape, jnp.result_type(float))
    lanes = tuple(Lane(lane.size, (False,), lane.depth) for lane in eqn.params["lanes"])
    (noise,) = choice_p.bind(zeros, **dict(eqn.params, spec=NOISE, lanes=lanes, **changes))
    loc, scale = sorted_out.params
    located = loc + noise * scale
    return [jnp.exp(located), noise, located] if _is_log(eqn) else [located, noise, located]


def log_density(eqn, loc, log_scale, noise: jax.Array, located: jax.Array) -> jax.Array:
    """Evaluate the density of a choice (its equation) at the value that it has made of its noise."""
    _, log_scale = view_of(eqn, [loc, log_scale]).params
    log_prob = -0.5 * jnp.square(noise) - (log_scale + math.log(2 * math.pi) / 2)
    return log_prob - located if _is_log(eqn) else log_prob


def _is_log(eqn) -> bool:
    return eqn.params["spec"].family.name == "log_normal"
