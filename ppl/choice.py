"""The primitives of the language: a random choice, a density, and their rules under `jax.vmap` and `lax.cond`.

A random choice is ONE equation. Under `jax.vmap` it stays one equation that gains a *lane*, an axis of independent
draws; this holds even where no parameter is mapped. A choice in a branch of a `lax.cond` whose predicate is mapped
gains a *mask*, which says in which lanes it is made.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from ppl import jaxprs
from ppl._errors import AddressError, PPLError, StrategyError, boundary
from ppl.family import Spec
from ppl.strategies.protocol import Strategy, as_strategy

choice_p = Primitive("choice")
choice_p.multiple_results = True
density_p = Primitive("log_density")
call_p = Primitive("generative_call")
call_p.multiple_results = True
jaxprs.CHOICE_PRIMITIVES |= {choice_p, call_p}


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
        (mask,) = align(operands[-1:], event_ndims[-1:], [_only(lane, len(spec.names)) for lane in lanes], 0)
        mask = mask if mask.ndim == len(sizes) else mask.reshape((1,) * len(sizes))
    return View(spec, aligned, mask, sizes, batch_shape, spec.event_shape(shapes))


def _only(lane: Lane, operand: int) -> Lane:
    return Lane(lane.size, (lane.mapped[operand],), lane.depth)


def view_of(eqn, operands: Sequence) -> View:
    """Sort the operands of a choice's equation."""
    return view(eqn.params["spec"], eqn.params["lanes"], eqn.params["masked"], operands)


@choice_p.def_abstract_eval
def _choice_abstract(*avals, spec, lanes, masked, **_):
    sorted_out = _shape_view(spec, lanes, masked, avals)
    dtype = spec.value_dtype([aval.dtype for aval in avals[: len(spec.names)]])
    return [jax.core.ShapedArray(sorted_out[0] + sorted_out[1] + sorted_out[2], dtype)]


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


def _no_key(*_, label, source, **__):
    raise _needs_key(label, source)


choice_p.def_impl(_no_key)
mlir.register_lowering(choice_p, lambda ctx, *args, **params: _no_key(**params))


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
    inner = [Lane(lane.size, lane.mapped[1:], lane.depth) for lane in lanes]
    sorted_out = view(spec, inner, masked, operands)
    (value,) = align([value], [len(sorted_out.event_shape)], [_only(lane, 0) for lane in lanes], 0)
    log_prob = sorted_out.log_prob(value, inside)
    dtype = _density_dtype(value.dtype, [operand.dtype for operand in sorted_out.params])
    return jnp.broadcast_to(log_prob, sorted_out.shape).astype(dtype)


def _density_dtype(*dtypes):
    return jnp.result_type(*(dtype for dtype in jax.tree.leaves(dtypes) if jnp.issubdtype(dtype, jnp.inexact)))


@density_p.def_abstract_eval
def _density_abstract(value, *avals, spec, lanes, masked, **_):
    inner = [Lane(lane.size, lane.mapped[1:], lane.depth) for lane in lanes]
    sizes, batch_shape, _ = _shape_view(spec, inner, masked, avals)
    dtype = _density_dtype(*(aval.dtype for aval in (value, *avals[: len(spec.names)])))
    return jax.core.ShapedArray(sizes + batch_shape, dtype)


density_p.def_impl(lambda *args, **params: _density(*args, **params))
mlir.register_lowering(density_p, mlir.lower_fun(_density, multiple_results=False))


def _density_jvp(primals, tangents, **params):
    """Differentiate with respect to the operands that have a tangent only."""
    active = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def function(*varied):
        args = list(primals)
        for i, value in zip(active, varied, strict=True):
            args[i] = value
        return _density(*args, **params)

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
mlir.register_lowering(call_p, lambda ctx, *args, **params: _no_key(**params))


def _call_batch(axis_data, values, dims, *, jaxpr, **params):
    body = jaxprs.body_of(jaxpr)
    moved = [value if dim is None else jnp.moveaxis(value, dim, 0) for value, dim in zip(values, dims, strict=True)]
    in_axes = [None if dim is None else 0 for dim in dims]
    run = lambda *args: jaxprs.map_axis(axis_data, lambda *xs: _Rebind(()).run(body, xs), in_axes, args)
    jaxpr, consts = jaxprs.with_const_arguments(jaxprs.body_of(jax.make_jaxpr(run)(*moved)))
    return call_p.bind(*consts, *moved, jaxpr=jaxpr, **params), [0] * len(body.outvars)


jaxprs.fancy_batchers[call_p] = _call_batch


# --- Rewriting a body: depth of lanes and masks -------------------------------------------------------------------


class _Rebind(jaxprs.Interpreter):
    """Bind every choice again; subclasses change operands and parameters on the way."""

    def enter(self, location, extra):
        return self

    def special(self, eqn, values):
        return eqn.primitive.bind(*values, **eqn.params)


class _Deepen(_Rebind):
    """Tell every choice that one more scan stands between it and the vmap being applied."""

    def special(self, eqn, values):
        if eqn.primitive is choice_p:
            return choice_p.bind(*values, **dict(eqn.params, depth=eqn.params["depth"] + 1))
        return call_p.bind(*values, **dict(eqn.params, jaxpr=_rewritten(eqn.params["jaxpr"], self)))


class _Mask(_Rebind):
    """Give every choice a mask: it is made only where the branch is taken."""

    def __init__(self, mask, guard):
        super().__init__(())
        self.mask, self.guard = mask, guard

    def special(self, eqn, values):
        if eqn.primitive is call_p:
            return self._call(eqn, values)
        params = dict(eqn.params, guards=(self.guard, *eqn.params["guards"]))
        if eqn.params["masked"]:
            values = [*values[:-1], values[-1] & self._laned(values[-1], eqn)]
        else:
            lanes = tuple(dataclasses.replace(lane, mapped=(*lane.mapped, False)) for lane in eqn.params["lanes"])
            values, params = [*values, self.mask], dict(params, masked=True, lanes=lanes)
        return choice_p.bind(*values, **params)

    def _laned(self, mask, eqn):
        return jnp.reshape(self.mask, (1,) * jnp.ndim(mask))

    def _call(self, eqn, values):
        body = jaxprs.body_of(eqn.params["jaxpr"])
        run = lambda mask, *args: _Mask(mask, self.guard).run(body, args)
        avals = [jax.ShapeDtypeStruct((), bool), *jaxprs.in_shapes(body)]
        jaxpr, consts = jaxprs.with_const_arguments(jaxprs.restage(run, avals))
        return call_p.bind(*consts, self.mask, *values, **dict(eqn.params, jaxpr=jaxpr))


def _rewritten(jaxpr, interpreter):
    body = jaxprs.body_of(jaxpr)
    return jax.make_jaxpr(lambda *args: interpreter.run(body, args))(*jaxprs.in_shapes(body))


_DEEPENED: dict[int, tuple[Any, Any]] = {}


def _deepened(jaxpr):
    known = _DEEPENED.get(id(jaxpr))
    if known is None or known[0] is not jaxpr:
        if len(_DEEPENED) > 1024:
            _DEEPENED.clear()
        known = _DEEPENED[id(jaxpr)] = (jaxpr, _rewritten(jaxpr, _Deepen(())))
    return known[1]


def _scan_batch(original, axis_data, values, dims, **params):
    """Batch a scan: lanes made by this vmap stand outside the scan's axis."""
    if jaxprs.body_holds_choice(jaxprs.body_of(params["jaxpr"])):
        params = dict(params, jaxpr=_deepened(params["jaxpr"]))
    return original(axis_data, values, dims, **params)


_fresh_guard = itertools.count()


def _cond_batch(original, axis_data, values, dims, *, branches, **params):
    """Batch a cond that makes choices under a mapped predicate: every branch runs, its choices masked."""
    bodies = [jaxprs.body_of(branch) for branch in branches]
    if dims[0] is None or not any(jaxprs.body_holds_choice(body) for body in bodies):
        return original(axis_data, values, dims, branches=branches, **params)
    identity = next(_fresh_guard)
    in_axes = [dim for dim in dims]

    def lane(index, *operands):
        outs = []
        for number, body in enumerate(bodies):
            taken = index.astype(np.int32) == number
            guarded = [guard_branch(taken, operand) for operand in operands]
            outs.append(_Mask(taken, (identity, number, len(bodies))).run(body, guarded))
        return [_select(index, results) for results in zip(*outs, strict=True)]

    outs = jaxprs.map_axis(axis_data, lane, in_axes, values)
    return outs, [0] * len(outs)


def guard_branch(taken, operand):
    """Keep the derivative of an operand to lanes that take the branch (0 * inf elsewhere would be NaN)."""
    if not jnp.issubdtype(jnp.result_type(operand), jnp.inexact):
        return operand
    return jnp.where(taken, operand, lax.stop_gradient(operand))


def _select(index, results):
    return lax.select_n(jnp.broadcast_to(index.astype(np.int32), jnp.shape(results[0])), *results)


jaxprs.wrap_batcher(jaxprs.scan_p, _scan_batch)
jaxprs.wrap_batcher(jaxprs.cond_p, _cond_batch)


def _choice_in_params(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "jaxpr") or hasattr(item, "eqns"):
                body = jaxprs.body_of(item)
                for eqn in body.eqns if jaxprs.body_holds_choice(body) else ():
                    if jaxprs.holds_choice(eqn):
                        return jaxprs.first_choice(eqn)
    return None


for _primitive in (jaxprs.jit_p, jaxprs.scan_p, jaxprs.cond_p, jaxprs.remat_p, jaxprs.while_p):
    jaxprs.guard_differentiation(_primitive, _choice_in_params)


# --- What a user writes ------------------------------------------------------------------------------------------

_OWN_FOLDER = str(Path(__file__).parent)


def user_source() -> str:
    """Return file and line of the innermost frame outside this package and JAX."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OWN_FOLDER, _JAX_FOLDER)):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown source"


_JAX_FOLDER = str(Path(jax.__file__).parent)


def as_path(address: Any) -> tuple[str, ...]:
    """Check an address: a non-empty string without "/", or a tuple of such strings."""
    parts = address if isinstance(address, tuple) else (address,)
    if parts and all(isinstance(part, str) and part and "/" not in part for part in parts):
        return parts
    raise AddressError(
        "This is not an address.",
        where=user_source(),
        expected='a non-empty string without "/", or a tuple of such strings',
        got=repr(address),
        remedy='write `... @ "z"`, or `... @ ("group", "z")` for nested addresses',
    )


@dataclasses.dataclass
class Frame:
    """What is being traced: whose body, and the choices and calls made in it that are not yet used."""

    name: str
    pending: list[Any] = dataclasses.field(default_factory=list)


_frames: list[Frame] = []


class tracing:  # noqa: N801 - a context manager, used as a word.
    """Collect the choices and calls made while a body is traced, and refuse those that are never used."""

    def __init__(self, name: str):
        self.frame = Frame(name)

    def __enter__(self) -> Frame:
        _frames.append(self.frame)
        return self.frame

    def __exit__(self, kind, error, traceback) -> None:
        _frames.pop()
        forgotten = [item for item in self.frame.pending if not item.used]
        if kind is None and forgotten:
            raise AddressError(
                f"`{self.frame.name}` makes a {forgotten[0].noun} that is never addressed.",
                where=f"`{forgotten[0]}` at {forgotten[0].source}",
                expected='`... @ "address"` (or `.sample()` in an objective)',
                got="neither",
                remedy=f'write `{forgotten[0]} @ "name"`',
            )


def note_pending(item: Any) -> None:
    """Remember a choice or call that must be used before tracing ends."""
    if _frames:
        _frames[-1].pending.append(item)


class Choice:
    """A distribution about to be chosen from: `@ "address"`, `.sample()`, or `.log_prob(x)`."""

    noun = "random choice"

    def __init__(self, spec: Spec, params: Sequence, strategy: Any, default: Strategy | None):
        self.spec, self.params, self.source = spec, list(params), user_source()
        self.strategy = as_strategy(strategy) or default
        self.used = False
        self._check()
        note_pending(self)

    def __repr__(self) -> str:
        return f"{self.spec.family}(...)"

    def _check(self) -> None:
        shapes = [jnp.shape(param) for param in self.params]
        for name, shape, ndim in zip(self.spec.names, shapes, self.spec.event_ndims, strict=True):
            if len(shape) < ndim:
                raise PPLError(
                    f"`{self.spec.family}` takes a parameter `{name}` with at least {ndim} axes.",
                    where=self.source,
                    got=f"shape {shape}",
                )
        try:
            self.spec.batch_shape(shapes)
        except ValueError:
            listed = ", ".join(f"{name} {shape}" for name, shape in zip(self.spec.names, shapes, strict=True))
            raise PPLError(
                f"The parameters of `{self.spec.family}` do not broadcast.", where=self.source, got=listed
            ) from None
        reason = self.strategy.check(self.spec.family) if self.strategy is not None else None
        if reason:
            raise StrategyError(
                f"`{self.strategy}` does not apply to `{self.spec.family}`: {reason}.",
                where=self.source,
                remedy=f"use one of: {', '.join(sound_strategies(self.spec.family))}",
            )

    @boundary
    def __matmul__(self, address: Any) -> jax.Array:
        """Make the choice under an address."""
        self.used = True
        path = as_path(address)
        return self._bind(path, "/".join(path))

    @boundary
    def sample(self) -> jax.Array:
        """Make the choice without an address: for objectives, not for the body of a `@gen` function."""
        self.used = True
        return self._bind(None, self.spec.family.name)

    def _bind(self, address, label):
        (value,) = bind_choice(
            self.params, spec=self.spec, address=address, label=label, strategy=self.strategy, source=self.source
        )
        return value

    @boundary
    def log_prob(self, value: Any) -> jax.Array:
        """Evaluate the log density of a value, elementwise over the batch; -inf outside the support."""
        self.used = True
        value, params = self._broadcast(jnp.asarray(value))
        return bind_density(value, params, spec=self.spec, lanes=(), masked=False, inside=False, label=str(self))

    def _broadcast(self, value) -> tuple[jax.Array, list]:
        """Give a value and the first parameter the batch axes of both."""
        spec, (first, *rest) = self.spec, self.params
        if not spec.family.discrete and not jnp.issubdtype(value.dtype, jnp.inexact):
            value = value.astype(first.dtype)
        shapes = [param.shape for param in self.params]
        event = spec.event_shape(shapes)
        own = value.shape[: value.ndim - len(event)]
        try:
            if value.shape[len(own) :] != event:
                raise ValueError
            batch = np.broadcast_shapes(own, spec.batch_shape(shapes))
        except ValueError:
            raise PPLError(
                f"A value does not broadcast against the parameters of `{spec.family}`.",
                where=self.source,
                expected=f"batch shape {spec.batch_shape(shapes)} and event shape {event}",
                got=f"shape {value.shape}",
            ) from None
        first = jnp.broadcast_to(first, batch + first.shape[first.ndim - spec.event_ndims[0] :])
        return jnp.broadcast_to(value, batch + event), [first, *rest]


def sound_strategies(family) -> list[str]:
    """Name the built-in strategies that apply to a family."""
    from ppl.strategies import enum, pathwise, reinforce

    return [f"{s}()" for s in (pathwise(), enum(), reinforce()) if not s.check(family)]


def bind_choice(operands, *, spec, address, label, strategy, source, lanes=(), masked=False, depth=0, guards=()):
    """Bind the primitive of a choice."""
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
    )


def bind_density(value, operands, *, spec, lanes, masked, inside, label):
    """Bind the primitive of a density; `lanes` map over the value first, then the operands."""
    return density_p.bind(value, *operands, spec=spec, lanes=tuple(lanes), masked=masked, inside=inside, label=label)
