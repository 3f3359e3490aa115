"""Stochastic densities: generative functions whose density is an estimate, as one equation of a program.

A marginal or a normalised program cannot say what its density is, only estimate it. Its equation carries two programs:

- `simulate`: draws the values x that it keeps, with a weight w for which E[exp(-w) | x] = 1 / p(x);
- `estimate`: takes values x, and draws a weight w for which E[exp(w)] = p(x).

Dividing by what was sampled and multiplying by what was not, ratios of densities stay unbiased at any depth of nesting
(Lew et al. 2023; Becker et al. 2024, section 5). Both programs make random choices without addresses, which become
those of whatever program the equation ends up in: they have strategies like any others. Under `jax.vmap` the two are
mapped as a whole, so every lane has a weight of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from ppl import jaxprs
from ppl._errors import PPLError, boundary
from ppl.choicemap import Path, show
from ppl.primitives import Lane
from ppl.specs import Whole, unknown_support

stochastic_p = Primitive("stochastic_density")
stochastic_p.multiple_results = True
jaxprs.CHOICE_PRIMITIVES |= {stochastic_p}


@dataclasses.dataclass(frozen=True)
class Kept:
    """A choice that such a program keeps: its address in it, and its value in one lane."""

    path: Path
    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(frozen=True)
class View:
    """An equation with its operands sorted out.

    Attributes:
        operands: What both programs take.
        mask: Where the choices are made (shape of the lanes), or None.
    """

    eqn: Any
    operands: list
    mask: Any

    @property
    def num_kept(self) -> int:
        """Number of values that are kept."""
        return len(self.eqn.params["kept"])

    def simulate(self, run: Callable) -> tuple[list, list, Any]:
        """Draw: values, results, weights of the lanes. `run` evaluates a body on arguments."""
        *outs, weight = run(jaxprs.body_of(self.eqn.params["simulate"]), self.operands)
        return outs[: self.num_kept], outs[self.num_kept :], self.weigh(weight)

    def estimate(self, run: Callable, values: Sequence) -> tuple[list, Any]:
        """Estimate the density of values: results, weights of the lanes."""
        *outs, weight = run(jaxprs.body_of(self.eqn.params["estimate"]), [*values, *self.operands])
        return outs, self.weigh(weight)

    def weigh(self, weight):
        """Leave out lanes in which nothing is chosen."""
        return weight if self.mask is None else jnp.where(self.mask, weight, 0)


def view_of_stochastic(eqn, values: Sequence) -> View:
    """Sort the operands of an equation."""
    masked = eqn.params["masked"]
    return View(eqn, list(values[:-1] if masked else values), values[-1] if masked else None)


@stochastic_p.def_abstract_eval
def _abstract(*_, simulate, **__):
    outs = jaxprs.body_of(simulate).outvars[:-1]
    return [ShapedArray(var.aval.shape, var.aval.dtype) for var in outs]


@boundary
def _no_key(*_, label, source, **__):
    raise PPLError(
        "A random choice is made outside any transformation: it has no source of randomness.",
        where=f"{label!r} at {source}",
        expected="a program run through `ppl.seed(f)(key, ...)`, `gf.simulate(key, ...)` or `ppl.expect(f)(key, ...)`",
        got="a plain call",
        remedy="give it a key: ppl.seed",
    )


stochastic_p.def_impl(_no_key)
mlir.register_lowering(stochastic_p, _no_key)
ad.primitive_jvps[stochastic_p] = lambda primals, tangents, **params: _no_key(**params)


# --- The rules of vmap -------------------------------------------------------------------------------------------


def _batch(axis_data, values, dims, *, simulate, estimate, kept, lanes, depth, masked, **params):
    moved = [value if dim is None else jnp.moveaxis(value, dim, 0) for value, dim in zip(values, dims, strict=True)]
    in_axes = [None if dim is None else 0 for dim in dims]
    if masked:
        moved[-1] = moved[-1] if in_axes[-1] == 0 else jnp.broadcast_to(moved[-1], (axis_data.size, *moved[-1].shape))
    count = len(moved) - masked
    lane = Lane(axis_data.size, (), depth)
    sizes = (lane.size, *(inner.size for inner in lanes))
    given = [jax.ShapeDtypeStruct(sizes + one.shape, one.dtype) for one in kept]
    avals = [jax.typeof(operand) for operand in moved[:count]]
    mapped = _mapped(axis_data, simulate, in_axes[:count], avals)
    scored = _mapped(axis_data, estimate, [0] * len(kept) + in_axes[:count], [*given, *avals])
    outs = stochastic_p.bind(
        *moved,
        simulate=mapped,
        estimate=scored,
        kept=kept,
        lanes=(lane, *lanes),
        depth=0,
        masked=masked,
        **params,
    )
    return outs, [0] * len(outs)


def rebound(body: jaxprs.Body, args: Sequence) -> list:
    """Evaluate a program, binding its choices again."""
    from ppl.batching import Rebind

    return Rebind(()).run(body, args)


def _mapped(axis_data, jaxpr, in_axes, avals):
    body = jaxprs.body_of(jaxpr)
    run = lambda *xs: rebound(body, xs)
    return jax.make_jaxpr(lambda *xs: jaxprs.map_axis(axis_data, run, in_axes, xs))(*avals)


jaxprs.fancy_batchers[stochastic_p] = _batch


def rewritten(eqn, values: Sequence, walk: Callable, **changes: Any) -> list:
    """Bind an equation again whose two programs are walked by `walk(body, args)`."""
    params = dict(eqn.params, **changes)
    for half in ("simulate", "estimate"):
        body = jaxprs.body_of(params[half])
        params[half] = jax.make_jaxpr(lambda *xs, body=body: walk(body, xs))(*jaxprs.in_shapes(body))
    return stochastic_p.bind(*values, **params)


# --- Places in traces --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class KeptSpec(Whole):
    """The distribution of a kept choice: known by the program that it is part of only."""

    def __repr__(self) -> str:
        return self.family.name


@dataclasses.dataclass(frozen=True)
class Stand:
    """What stands for the equation of a kept choice, so that it has a place like any other choice."""

    params: dict
    outvars: list
    primitive: Any
    invars: tuple = ()


def kept_choices(eqn, choice_p) -> Iterator[Stand]:
    """List stand-ins for the choices that an equation keeps."""
    params = eqn.params
    for one, var in zip(params["kept"], eqn.outvars, strict=False):
        path = (*params["address"], *one.path)
        spec = KeptSpec(unknown_support("marginal", not jnp.issubdtype(one.dtype, jnp.inexact)), ())
        spec = dataclasses.replace(spec, shape=one.shape, dtype=one.dtype)
        shared = {name: params[name] for name in ("lanes", "masked", "depth", "guards", "source")}
        own = {"spec": spec, "address": path, "label": show(path), "strategy": None, "steps": 0, "digest": None}
        yield Stand(shared | own, [var], choice_p)


def inner_labels(body: jaxprs.Body, prefix: Path = ()) -> Iterator[Path]:
    """List the paths of choices that stand inside stochastic densities: they are in no trace, but have strategies."""
    for eqn in body.eqns:
        if not jaxprs.holds_choice(eqn):
            continue
        nested = (*prefix, *(eqn.params.get("address") or ()))
        if eqn.primitive is stochastic_p:
            for inner in jaxprs.inner_bodies(eqn):
                yield from _labels(inner, nested)
        else:
            for inner in jaxprs.inner_bodies(eqn):
                yield from inner_labels(inner, nested if eqn.primitive.name == "generative_call" else prefix)


def _labels(body: jaxprs.Body, prefix: Path) -> Iterator[Path]:
    for eqn in body.eqns:
        if eqn.primitive.name == "choice" and not eqn.params["spec"].silent:
            yield (*prefix, *eqn.params["label"].split("/"))
        for inner in jaxprs.inner_bodies(eqn):
            yield from _labels(inner, prefix)
