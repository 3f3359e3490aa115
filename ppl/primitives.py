"""The primitives of the language: a random choice, a density, and what JAX has to know about them.

A random choice is ONE equation. Under `jax.vmap` it stays one equation that gains a *lane*, an axis of independent
draws; this holds even where no parameter is mapped. A choice in a branch of a `lax.cond` whose predicate is mapped
gains a *mask*, which says in which lanes it is made.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from ppl import jaxprs
from ppl._errors import ControlFlowError, PPLError, StrategyError, boundary
from ppl.draws import OwnKey, Source
from ppl.family import Spec
from ppl.refusals import refuse_or_collect

choice_p = Primitive("choice")
choice_p.multiple_results = True
density_p = Primitive("log_density")
call_p = Primitive("generative_call")
call_p.multiple_results = True
factor_p = Primitive("factor")
factor_p.multiple_results = True
jaxprs.CHOICE_PRIMITIVES |= {choice_p, call_p, factor_p}


@dataclasses.dataclass(frozen=True)
class Lane:
    """An axis of independent draws, made by one `jax.vmap`.

    Attributes:
        size: Number of lanes.
        mapped: For each operand, whether it has this axis (leading, in the order of the lanes).
        depth: Number of scans between the choice and the vmap: the lane's axis stands outside theirs in a trace.
    """

    size: int
    mapped: tuple[bool, ...]
    depth: int


# --- Operands with lanes -----------------------------------------------------------------------------------------


def lane_shapes(shapes: Sequence[tuple[int, ...]], lanes: Sequence[Lane]) -> list[tuple[int, ...]]:
    """Return the operands' shapes in one lane."""
    return [shape[sum(lane.mapped[i] for lane in lanes) :] for i, shape in enumerate(shapes)]


def align(operands: Sequence, event_ndims: Sequence[int], lanes: Sequence[Lane], batch_ndim: int) -> list:
    """Reshape operands so that lane and batch axes broadcast against one another."""
    aligned = []
    for i, (operand, event_ndim) in enumerate(zip(operands, event_ndims, strict=True)):
        mapped = [lane.mapped[i] for lane in lanes]
        operand = jnp.asarray(operand)  # Literals of a jaxpr are scalars of a type of their own.
        shape, num_mapped = operand.shape, sum(mapped)
        own = shape[num_mapped:]
        if any(mapped):
            lead = tuple(lane.size if on else 1 for lane, on in zip(lanes, mapped, strict=True))
            fill = (1,) * (batch_ndim - (len(own) - event_ndim))
            operand = operand if lead + fill + own == shape else jnp.reshape(operand, lead + fill + own)
        aligned.append(operand)
    return aligned


def _add_lane(axis_data, values, dims, lanes: tuple[Lane, ...], depth: int) -> tuple[list, tuple[Lane, ...]]:
    """Put a new lane in front of the others."""
    moved = [value if dim is None else jnp.moveaxis(value, dim, 0) for value, dim in zip(values, dims, strict=True)]
    lane = Lane(axis_data.size, tuple(dim is not None for dim in dims), depth)
    return moved, (lane, *lanes)


# --- The choice --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class View:
    """A choice's equation with its operands sorted out.

    Attributes:
        spec: The distribution.
        params: Parameters, aligned: lane and batch axes broadcast.
        mask: Where the choice is made (shape of the lanes), or None.
        lane_sizes: Sizes of the lanes.
        batch_shape: Shape of the distribution's batch.
        event_shape: Shape of one value's event.
    """

    spec: Spec
    params: list
    mask: Any
    lane_sizes: tuple[int, ...]
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the density: lanes, then batch."""
        return self.lane_sizes + self.batch_shape

    def spread_mask(self, event: bool) -> Any:
        """Return the mask with axes for the batch, and for the event if asked."""
        mask = jnp.broadcast_to(self.mask, self.mask.shape)
        return mask.reshape(mask.shape + (1,) * (len(self.batch_shape) + event * len(self.event_shape)))

    def draw(self, key) -> jax.Array:
        """Draw every lane and batch element in one call; where the choice is not made the value is 0."""
        if isinstance(key, Source):
            value = key.sample(self.spec, self.params, self.shape, len(self.lane_sizes))
        else:
            value = self.spec.sample(key, self.params, self.shape)
        return value if self.mask is None else jnp.where(self.spread_mask(True), value, jnp.zeros_like(value))

    def log_prob(self, value, inside: bool = False) -> jax.Array:
        """Evaluate the density of every lane and batch element; 0 where the choice is not made."""
        mask = None if self.mask is None else self.spread_mask(False)
        return self.spec.log_prob(value, self.params, mask, inside)


def view(spec: Spec, lanes: Sequence[Lane], masked: bool, operands: Sequence) -> View:
    """Sort the operands of a choice."""
    shapes = lane_shapes([jnp.shape(operand) for operand in operands], lanes)
    shapes = shapes[: len(spec.names)]
    batch_shape = spec.batch_shape(shapes)
    event_ndims = spec.event_ndims + (0,) * masked
    aligned = align(operands[: len(spec.names)], spec.event_ndims, lanes, len(batch_shape))
    sizes = tuple(lane.size for lane in lanes)
    mask = None
    if masked:
        (mask,) = align(operands[-1:], event_ndims[-1:], [_only(lane, -1) for lane in lanes], 0)
        mask = mask if mask.ndim == len(sizes) else mask.reshape((1,) * len(sizes))
    return View(spec, aligned, mask, sizes, batch_shape, spec.event_shape(shapes))


def _only(lane: Lane, operand: int) -> Lane:
    return Lane(lane.size, (lane.mapped[operand],), lane.depth)


def view_of(eqn, operands: Sequence) -> View:
    """Sort the operands of a choice's equation."""
    return view(eqn.params["spec"], eqn.params["lanes"], eqn.params["masked"], operands)


@functools.partial(jax.jit, static_argnames=("spec", "lanes", "masked"), inline=True)
def _draw_once(key, *operands, spec, lanes, masked):
    return view(spec, lanes, masked, operands).draw(key)


def draw(spec: Spec, lanes: Sequence[Lane], masked: bool, key: Any, operands: Sequence) -> jax.Array:
    """Draw a choice from a key or another source; choices of one kind are traced, and differentiated, once."""
    key = key.of(spec) if isinstance(key, OwnKey) else key
    if isinstance(key, Source):
        return view(spec, lanes, masked, operands).draw(key)
    return _draw_once(key, *operands, spec=spec, lanes=tuple(lanes), masked=masked)


@choice_p.def_abstract_eval
def _choice_abstract(*avals, spec, lanes, masked, **_):
    sorted_out = _shape_view(spec, lanes, masked, avals)
    dtype = spec.value_dtype([aval.dtype for aval in avals[: len(spec.names)]])
    return [ShapedArray(sorted_out[0] + sorted_out[1] + sorted_out[2], dtype)]


def _shape_view(spec, lanes, masked, avals):
    shapes = lane_shapes([aval.shape for aval in avals], lanes)[: len(spec.names)]
    return tuple(lane.size for lane in lanes), spec.batch_shape(shapes), spec.event_shape(shapes)


def _needs_key(label: str, source: str) -> PPLError:
    return PPLError(
        "A random choice is made outside any transformation: it has no source of randomness.",
        where=f"{label!r} at {source}",
        expected="a program run through `ppl.seed(f)(key, ...)`, `gf.simulate(key, ...)` or `ppl.expect(f)(key, ...)`",
        got="a plain call",
        remedy="give it a key: ppl.seed",
    )


@boundary
def _no_key(*_, label, source, **__):
    raise _needs_key(label, source)


choice_p.def_impl(_no_key)
mlir.register_lowering(choice_p, _no_key)


@boundary
def _choice_jvp(primals, tangents, *, label, source, **_):
    raise StrategyError(
        "A derivative is taken through a random choice inside a stochastic function.",
        where=f"{label!r} at {source}",
        expected="derivatives taken of `ppl.expect(f)` or `ppl.seed(f)`",
        got="`jax.grad`, `jax.jvp` or `jax.linearize` around a random choice",
        remedy="use `ppl.grad(f)` on the whole program",
    )


ad.primitive_jvps[choice_p] = _choice_jvp


def _choice_batch(axis_data, values, dims, *, lanes, depth, **params):
    moved, lanes = _add_lane(axis_data, values, dims, lanes, depth)
    return choice_p.bind(*moved, lanes=lanes, depth=0, **params), [0]


jaxprs.fancy_batchers[choice_p] = _choice_batch


# --- The density -------------------------------------------------------------------------------------------------


def _density(value, *operands, spec, lanes, masked, inside, **_):
    """Evaluate a density: operands are the value, the parameters, and the mask if there is one."""
    value, sorted_out = _view_of_density(value, operands, spec, lanes, masked)
    log_prob = sorted_out.log_prob(value, inside)
    dtype = _density_dtype(value.dtype, [operand.dtype for operand in sorted_out.params])
    return jnp.broadcast_to(log_prob, sorted_out.shape).astype(dtype)


def _view_of_density(value, operands: Sequence, spec: Spec, lanes: Sequence[Lane], masked: bool) -> tuple[Any, View]:
    """Line the value up with the other operands, and sort these."""
    inner = [Lane(lane.size, lane.mapped[1:], lane.depth) for lane in lanes]
    sorted_out = view(spec, inner, masked, operands)
    (value,) = align([value], [len(sorted_out.event_shape)], [_only(lane, 0) for lane in lanes], 0)
    return value, sorted_out


def view_of_density(eqn, operands: Sequence) -> list:
    """Return the value and the parameters of a density's equation, which broadcast against one another."""
    params = eqn.params
    value, sorted_out = _view_of_density(operands[0], operands[1:], params["spec"], params["lanes"], params["masked"])
    return [value, *sorted_out.params]


def _density_dtype(*dtypes):
    inexact = [dtype for dtype in jax.tree.leaves(dtypes) if jnp.issubdtype(dtype, jnp.inexact)]
    return jnp.result_type(*inexact) if inexact else jnp.result_type(float)


@density_p.def_abstract_eval
def _density_abstract(value, *avals, spec, lanes, masked, **_):
    inner = [Lane(lane.size, lane.mapped[1:], lane.depth) for lane in lanes]
    sizes, batch_shape, _ = _shape_view(spec, inner, masked, avals)
    dtype = _density_dtype(*(aval.dtype for aval in (value, *avals[: len(spec.names)])))
    return ShapedArray(sizes + batch_shape, dtype)


_density_once = jax.jit(_density, static_argnames=("spec", "lanes", "masked", "inside"), inline=True)


def evaluate_density(eqn, operands: Sequence) -> jax.Array:
    """Evaluate a density's equation; densities of one kind are traced, and differentiated, once."""
    params = eqn.params
    static = {name: params[name] for name in ("spec", "lanes", "masked", "inside")}
    return _density_once(*operands, **static)


def evaluate_density_with(eqn, operands: Sequence, lanes: tuple[Lane, ...]) -> jax.Array:
    """Evaluate a density's equation with other lanes."""
    params = eqn.params
    static = {"spec": params["spec"], "lanes": lanes, "masked": params["masked"], "inside": params["inside"]}
    return _density_once(*operands, **static)


density_p.def_impl(lambda *args, label, **params: _density_once(*args, **params))
mlir.register_lowering(density_p, mlir.lower_fun(_density, multiple_results=False))


def _density_jvp(primals, tangents, *, label, **params):
    """Differentiate with respect to the operands that have a tangent only."""
    active = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def function(*varied):
        args = list(primals)
        for i, value in zip(active, varied, strict=True):
            args[i] = value
        return _density_once(*args, **params)

    return jax.jvp(function, tuple(primals[i] for i in active), tuple(tangents[i] for i in active))


ad.primitive_jvps[density_p] = _density_jvp


def _density_batch(axis_data, values, dims, *, lanes, **params):
    if all(dim is None for dim in dims):
        return density_p.bind(*values, lanes=lanes, **params), None
    moved, lanes = _add_lane(axis_data, values, dims, lanes, 0)
    return density_p.bind(*moved, lanes=lanes, **params), 0


jaxprs.fancy_batchers[density_p] = _density_batch


# --- The nested call ---------------------------------------------------------------------------------------------


@call_p.def_abstract_eval
def _call_abstract(*_, jaxpr, **__):
    return [var.aval for var in jaxprs.body_of(jaxpr).outvars]


call_p.def_impl(_no_key)
mlir.register_lowering(call_p, _no_key)


@boundary
def _call_jvp(primals, tangents, *, label, source, **_):
    raise ControlFlowError(
        "A derivative is taken inside a stochastic function, through a nested call that makes choices.",
        where=f"{label!r} at {source}",
        expected="derivatives taken outside, of `ppl.expect(f)` or `ppl.seed(f)`",
        got="`jax.grad`, `jax.jvp` or `jax.linearize` around the call",
        remedy="take `ppl.grad` of the whole program",
    )


ad.primitive_jvps[call_p] = _call_jvp


# --- The factor --------------------------------------------------------------------------------------------------


@factor_p.def_abstract_eval
def _factor_abstract(*_, **__):
    return []


factor_p.def_impl(_no_key)
mlir.register_lowering(factor_p, _no_key)
ad.primitive_jvps[factor_p] = _choice_jvp


def _factor_batch(axis_data, values, dims, **params):
    """Count the factor once in every lane."""
    (weight,), (dim,) = values, dims
    shape = (axis_data.size, *jnp.shape(weight))
    weight = jnp.broadcast_to(weight, shape) if dim is None else jnp.moveaxis(weight, dim, 0)
    return factor_p.bind(weight, **params), []


jaxprs.fancy_batchers[factor_p] = _factor_batch


# --- The mark of a continuous value ------------------------------------------------------------------------------

continuous_p = Primitive("assume_continuous")
continuous_p.def_impl(lambda x: x)
continuous_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(continuous_p, lambda context, x: [x])
ad.primitive_jvps[continuous_p] = lambda primals, tangents: (continuous_p.bind(*primals), *tangents)
jaxprs.fancy_batchers[continuous_p] = lambda axis_data, values, dims: (continuous_p.bind(*values), *dims)


# --- The guard of a jump -----------------------------------------------------------------------------------------

guard_p = Primitive("jump_guard")
guard_p.def_impl(lambda x, jump: x)
guard_p.def_abstract_eval(lambda x, jump: x)
mlir.register_lowering(guard_p, lambda context, x, jump: [x])
jaxprs.fancy_batchers[guard_p] = lambda axis_data, values, dims, jump: (guard_p.bind(*values, jump=jump), *dims)


@boundary
def _guard_jvp(primals, tangents, *, jump):
    if not isinstance(tangents[0], ad.Zero):
        refuse_or_collect(jump.error)
    return guard_p.bind(*primals, jump=jump), tangents[0]


ad.primitive_jvps[guard_p] = _guard_jvp


# --- Binding -----------------------------------------------------------------------------------------------------


def bind_choice(
    operands, *, spec, address, label, strategy, source, lanes=(), masked=False, depth=0, guards=(), baseline=False
):
    """Bind the primitive of a choice as it is made: no pass has moved it yet.

    Operands are the parameters, the value of a learned baseline if there is one (`baseline`), and the mask.
    Passes set `steps`, the number of its first lanes that have been the steps of loops, and `digest`, its name as a
    number, which its place no longer gives.
    """
    return choice_p.bind(
        *operands,
        spec=spec,
        address=address,
        label=label,
        strategy=strategy,
        source=source,
        lanes=lanes,
        masked=masked,
        depth=depth,
        guards=guards,
        baseline=baseline,
        steps=0,
        digest=None,
    )


def bind_density(value, operands, *, spec, lanes, masked, inside, label):
    """Bind the primitive of a density; `lanes` map over the value first, then the operands."""
    return density_p.bind(value, *operands, spec=spec, lanes=tuple(lanes), masked=masked, inside=inside, label=label)
