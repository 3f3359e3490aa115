"""Lanes of an enumerated choice that some cost mixes are in step for as long as nothing mixes them.

The bound of K particles, log mean_k w_k, mixes the lanes of every choice that the particles make: each joint value of
all K counts. What a weight w_k is made of, often all that is expensive, looks at the values of particle k alone. So the
lanes of such a choice take their values in step, as if no cost mixed them, and what is computed lane by lane has one
axis of V values. An operation that mixes lanes is given its operands for all V**K joint values: lane k of a joint
value is lane k at the value of k.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ppl.analysis.dependence import Deps, Location, Together, in_order, site_shape
from ppl.analysis.plan import Plan, num_values
from ppl.analysis.positions import Position
from ppl.transforms.axes import Val
from ppl.transforms.classes import by_choice, classes_of


def axes_in_step(plan: Plan, vals: Iterable[Val]) -> set[Location]:
    """Return the choices whose lanes are in step in some values, though a cost mixes them."""
    if not plan.in_step:
        return set()
    found = set()
    for val in vals:
        classes = classes_of(val)
        found |= plan.in_step.intersection(val.axes if classes is None else classes.sites)
    return found


def mixed_among(vals: Iterable[Val]) -> set[Location]:
    """Return the choices of whose lanes some value has all joint values."""
    return {axis.location for val in vals for axis in val.axes if isinstance(axis, Together)}


def all_joint(plan: Plan, val: Val, sites: Iterable[Location], deps: Deps) -> Val:
    """Give a value an axis of all joint values of the lanes of some choices, in place of those in step.

    Args:
        plan: The plan.
        val: The value.
        sites: The choices; those that the value does not have in step change nothing.
        deps: Its dependencies: they say along which of its axes the lanes of each choice lie.
    """
    sites = axes_in_step(plan, [val]).intersection(sites)
    val = by_choice(val) if sites else val
    for site in in_order(sites):
        val = _joint(plan, val, site, deps[site])
    return val


def _joint(plan: Plan, val: Val, site: Location, position: Position) -> Val:
    """Read each lane of a value at its own part of each joint value of the lanes of one choice."""
    place = plan.places[site]
    shape, joint, count = site_shape(place.eqn), plan.joint[site], num_values(place)
    sizes = [shape[axis] for axis in joint]
    lanes, lead = math.prod(sizes), len(val.axes)
    where = [lead + position[axis][0] for axis in joint]
    raw = jnp.moveaxis(val.raw, val.axes.index(site), 0)
    raw = jnp.moveaxis(raw, where, range(raw.ndim - len(where), raw.ndim))
    rest = raw.shape[1 : raw.ndim - len(where)]
    raw = raw.reshape(count, *rest, lanes)
    spread = [_at_lane(raw[..., lane], lane, lanes) for lane in range(lanes)]
    raw = jnp.stack(spread, axis=-1).reshape(count**lanes, *rest, *sizes)
    raw = jnp.moveaxis(raw, range(raw.ndim - len(where), raw.ndim), where)
    axes = tuple(in_order({*val.axes, Together(site)} - {site}))
    others = tuple(axis for axis in val.axes if axis != site)
    moved = [axis for axis in axes if axis != Together(site)]
    raw = jnp.transpose(raw, [0, *(1 + others.index(axis) for axis in moved), *range(lead, raw.ndim)])
    return Val(jnp.moveaxis(raw, 0, axes.index(Together(site))), axes, val.surrogate)


def _at_lane(raw, lane: int, lanes: int):
    """Spread what one lane has for each of its values over all joint values, an axis for each lane."""
    count, rest = raw.shape[0], raw.shape[1:]
    own = raw.reshape(*(count if other == lane else 1 for other in range(lanes)), *rest)
    return jnp.broadcast_to(own, (count,) * lanes + rest)


def mixed_in(plan: Plan, vals: Sequence[Val], deps: Deps, weights: Mapping[Any, Val]) -> set[Location]:
    """Return the choices of whose lanes a term needs all joint values.

    They are those that it has itself, those that the probability of a choice that it depends on has, and those in step
    that the parameters of any of these depend on: the probability of joint values needs joint values.

    Args:
        plan: The plan.
        vals: The term and what it is multiplied with.
        deps: Its dependencies.
        weights: Probabilities of enumerated choices.
    """
    if not plan.in_step:
        return set()
    found, left = set(), list(mixed_among([*vals, *(weights[key] for key in deps if key in weights)]))
    while left:
        site = left.pop()
        if site not in found:
            found.add(site)
            left += axes_in_step(plan, [weights[site]]) - {site}
    return found


def spread_over(val: Val, sites: Sequence[Location], plan: Plan, choice: Location) -> Val:
    """Give a number for each lane of a choice, its score or probability, all joint values of other choices."""
    return all_joint(plan, val, set(sites) - {choice}, plan.flow.sites[choice])
