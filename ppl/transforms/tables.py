"""Tables of enumerated values: what is the same in all lanes is computed once, and all values are scored at once.

Every lane of an enumerated choice takes its values in the same order, so the table of its values, and what is indexed
with it, has one row for all lanes. Written out, `locs[k]` would gather, and its derivative scatter, lane by lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ppl.analysis.dependence import in_order
from ppl.analysis.rules import is_elementwise
from ppl.primitives import Lane, density_p, view
from ppl.transforms.axes import Axes, Val, under, union
from ppl.transforms.trailing import of_last, with_last


class LogMasses:
    """Log probabilities of enumerated choices: those of a choice under its own parameters are computed once.

    The probability that a cost is weighted with is their exponential, so that one derivative serves both.
    """

    def __init__(self):
        self.known: dict[Any, tuple[Any, list, Val]] = {}

    def probabilities(self, here, sorted_out, vals: Sequence[Val], axes: Axes) -> Val:
        """Return the probability of each value of a choice; uniform where it is not made.

        Args:
            here: The choice.
            sorted_out: Its operands, sorted out.
            vals: Its operands.
            axes: Enumerated choices that they depend on.
        """
        spec, logs = sorted_out.spec, None
        if spec.family.log_masses is not None and sorted_out.mask is None:
            logs = spec.family.log_masses(spec.named(sorted_out.params), dict(spec.known))
        probs = spec.probabilities(sorted_out.params) if logs is None else logs
        missing = (1,) * (len(sorted_out.shape) - (probs.ndim - 1))
        probs = probs.reshape((probs.shape[0], *missing, *probs.shape[1:]))
        probs = jnp.broadcast_to(probs, (probs.shape[0], *sorted_out.shape))
        if sorted_out.mask is not None:
            probs = jnp.where(sorted_out.spread_mask(False), probs, 1 / len(probs))
        out = tuple(in_order({*axes, here}))
        val = Val(jnp.moveaxis(probs, 0, out.index(here)), out)
        if logs is None:
            return val
        val = with_last(val)
        self.known[here] = spec, list(vals), val
        return Val(jnp.exp(val.raw), out) if val.last is None else of_last(jnp.exp(val.last), val.raw.shape[1:], out)

    def read(self, eqn, vals: Sequence[Val]) -> Val | None:
        """Return the density of all values of a choice under its own parameters; None, if an equation is not that."""
        if eqn.primitive is not density_p or vals[0].values is None or eqn.params["masked"]:
            return None
        spec, operands, logs = self.known.get(vals[0].axes[0], (None, (), None))
        same = len(operands) == len(vals) - 1 and all(
            one.raw is other.raw and one.axes == other.axes for one, other in zip(operands, vals[1:], strict=True)
        )
        if spec != eqn.params["spec"] or not same or not operands:
            return None
        shape = tuple(eqn.outvars[0].aval.shape)
        return (
            logs if logs.raw.shape[len(logs.axes) :] == shape and logs.raw.dtype == eqn.outvars[0].aval.dtype else None
        )


def evaluate_uniform(eqn, vals: Sequence[Val]) -> Val | None:
    """Evaluate an equation once for all lanes in which its operands agree; None, where that is not known."""
    if not any(val.uniform is not None for val in vals) or len(eqn.outvars) != 1:
        return None
    if not all(_is_shared(val, var, i, eqn) for i, (val, var) in enumerate(zip(vals, eqn.invars, strict=True))):
        return None
    params = _params(eqn, vals)
    if params is None:
        return None
    small = [Val(val.raw if val.uniform is None else val.uniform, val.axes) for val in vals]
    raw, axes = under(lambda *raws: eqn.primitive.bind(*raws, **params), small)
    shape = raw.shape[: len(axes)] + tuple(eqn.outvars[0].aval.shape)
    return Val(jnp.broadcast_to(raw, shape), axes, None, raw)


def _is_shared(val: Val, var, number: int, eqn) -> bool:
    """Tell whether an operand is the same in all lanes, or is what is indexed."""
    if val.uniform is not None:
        return number != 0 or eqn.primitive.name != "gather"
    return not var.aval.shape or (eqn.primitive.name == "gather" and number == 0)


def _params(eqn, vals: Sequence[Val]) -> dict[str, Any] | None:
    """Return the parameters with which an equation is bound on smaller operands."""
    name, params = eqn.primitive.name, eqn.primitive.get_bind_params(eqn.params)
    if is_elementwise(name):
        shapes = {val.uniform.shape[len(val.axes) :] for val in vals if val.uniform is not None}
        return params if len(shapes) == 1 else None
    if name == "gather":
        numbers = params["dimension_numbers"]
        return None if numbers.operand_batching_dims else params
    if name == "squeeze":
        return params
    if name == "broadcast_in_dim" and len(vals) == 1:
        return {**params, "shape": _broadcast_shape(params, vals[0])}
    return None


def _broadcast_shape(params, val: Val) -> tuple[int, ...]:
    """Keep what is 1 for all lanes; new axes are written out later."""
    own = val.uniform.shape[len(val.axes) :]
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], own, strict=True):
        shape[axis] = size
    return tuple(shape)


def evaluate_all(eqn, vals: Sequence[Val]) -> Val | None:
    """Evaluate the density of all values of an enumerated choice at once; None, where it is not of such a table."""
    if eqn.primitive is not density_p or vals[0].values is None or eqn.params["masked"]:
        return None
    (site,), operands, spec = vals[0].axes, vals[1:], eqn.params["spec"]
    if site in union(operands) or not spec.family.enumerable:
        return None
    lanes = [Lane(lane.size, lane.mapped[1:], lane.depth) for lane in eqn.params["lanes"]]
    shapes = view(spec, lanes, False, [jnp.zeros(var.aval.shape, var.aval.dtype) for var in eqn.invars[1:]])
    first = spec.first_value()
    if (first, spec.num_values([param.shape for param in shapes.params])) != vals[0].values:
        return None

    def score(*raws):
        found = view(spec, lanes, False, raws)
        log_probs = spec.log_probabilities(found.params)
        missing = (1,) * (len(found.shape) + 1 - log_probs.ndim)
        log_probs = log_probs.reshape(log_probs.shape[:1] + missing + log_probs.shape[1:])
        small[:] = [log_probs.astype(eqn.outvars[0].aval.dtype)]
        return jnp.broadcast_to(log_probs, (len(log_probs), *found.shape)).astype(eqn.outvars[0].aval.dtype)

    small: list[Any] = []
    raw, axes = under(score, operands)
    if not axes:
        return with_last(Val(raw, (site,)), jnp.moveaxis(small[0], 0, -1))
    out = tuple(in_order({*axes, site}))
    return Val(jnp.moveaxis(raw, len(axes), out.index(site)), out)
