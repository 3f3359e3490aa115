"""Divergences of two distributions in closed form: NumPyro's, and those of finite families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from ppl import GenerativeFunction
from ppl.choicemap import flatten, show
from ppl.primitives import View
from ppl.specs import Whole
from ppl.transforms.views import parents, views


def closed_divergences(
    model: GenerativeFunction, guide: GenerativeFunction, drawn: Any, choices: Any, model_args: tuple, args: tuple
) -> dict[str, jax.Array]:
    """Return KL(q_i, p_i) by address, over lanes and batch, where it is the mean of log q_i - log p_i in closed form.

    Given the choices before it, in the guide. Left out are choices whose prior depends on one that the guide makes with
    their help, and those that `views` leaves out.

    Args:
        model: The model.
        guide: The guide.
        drawn: The guide's choices.
        choices: The model's: these and the observed ones.
        model_args: Arguments of the model.
        args: Arguments of the guide.
    """
    ours, theirs = views(guide, drawn, args), views(model, choices, model_args)
    before, needed = parents(guide, drawn, args), parents(model, choices, model_args)
    names = [show(path) for path in flatten(drawn)]
    found = {}
    for name in ours.keys() & theirs.keys():
        free = needed[name].isdisjoint({name, *_helped_by(name, names, before)})
        value = closed_divergence(ours[name], theirs[name]) if free else None
        if value is not None:
            found[name] = value
    return {name: found[name] for name in names if name in found}


def _helped_by(name: str, names: list[str], before: Mapping[str, set[str]]) -> set[str]:
    """List the guide's choices whose distributions depend on a choice; those not known may."""
    found, last = {name}, 0
    while len(found) != last:
        last = len(found)
        found |= {other for other in names if other not in before or before[other] & found}
    return found


def closed_divergence(q: View, p: View) -> jax.Array | None:
    """Return KL(q, p) of two choices, over lanes and batch, or None if there is no closed form."""
    if q.shape != p.shape or q.event_shape != p.event_shape:
        return None
    if isinstance(q.spec, Whole) or isinstance(p.spec, Whole):  # foreign distributions, indices of subsamples
        return None
    if q.spec.family.enumerable and p.spec.family.enumerable:
        return _of_finite(q, p)
    from numpyro.distributions import kl_divergence  # importing NumPyro takes long

    try:
        value = kl_divergence(q.spec.numpyro(q.params), p.spec.numpyro(p.params))
    except NotImplementedError:  # this is how NumPyro says that a pair has no closed form
        return None
    return jnp.broadcast_to(value, q.shape)


def _of_finite(q: View, p: View) -> jax.Array | None:
    sizes = [one.spec.num_values([param.shape for param in one.params]) for one in (q, p)]
    if sizes[0] != sizes[1] or q.spec.first_value() != p.spec.first_value():
        return None
    ours, theirs = (_by_value(one) for one in (q, p))
    return jnp.sum(xlogy(ours, ours) - xlogy(ours, theirs), -1)


def _by_value(one: View) -> jax.Array:
    """Return probabilities over lanes and batch, then values: parameters that lanes share lack their axes."""
    found = jnp.moveaxis(one.spec.probabilities(one.params), 0, -1)
    return jnp.broadcast_to(found, (*one.shape, found.shape[-1]))
