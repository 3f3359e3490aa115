"""Draws made together: the noise of many small choices in one call of the generator.

A sampler is traced once and split in two: what depends on the key alone (bits, uniform or normal numbers) and what
needs the parameters. The first part is evaluated for the keys of many choices under one `jax.vmap`, the second for
each choice. Every choice keeps its own key, so that its numbers are the same as if drawn alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ppl import jaxprs
from ppl.family import Spec
from ppl.hashed import hashed

Shape = tuple[int, ...]
Avals = tuple[tuple[Shape, Any], ...]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A sampler in two parts.

    Attributes:
        body: The whole sampler, a function of the key and the parameters, without inner jits around both.
        first: Indices of the equations that need the key alone.
        noise: Variables that these hand to the others.
    """

    body: jaxprs.Body
    first: tuple[int, ...]
    noise: tuple[Any, ...]

    def draw(self, key) -> list:
        """Evaluate the part that needs the key alone."""
        env: dict[Any, Any] = {self.body.invars[0]: key, **self._consts()}
        return self._run(env, self.first, self.noise)

    def finish(self, noise: Sequence, params: Sequence):
        """Make a value of noise and parameters."""
        env = {**dict(zip(self.body.invars[1:], params, strict=True)), **self._consts()}
        env.update(zip(self.noise, noise, strict=True))
        rest = [index for index in range(len(self.body.eqns)) if index not in set(self.first)]
        return self._run(env, rest, self.body.outvars)[0]

    def _consts(self) -> dict:
        return dict(zip(self.body.constvars, self.body.consts, strict=True))

    def _run(self, env, indices, outs) -> list:
        read = lambda var: var.val if isinstance(var, jaxprs.Literal) else env[var]
        for index in indices:
            eqn = self.body.eqns[index]
            env.update(zip(eqn.outvars, jaxprs.bind(eqn, [read(var) for var in eqn.invars]), strict=True))
        return [read(var) for var in outs]


@functools.lru_cache(maxsize=1024)
def split_sampler(spec: Spec, avals: Avals, shape: Shape, key_dtype: Any) -> Sampler:
    """Trace and split the sampler of a distribution with parameters of these shapes and dtypes."""
    structs = [jax.ShapeDtypeStruct((), key_dtype), *(jax.ShapeDtypeStruct(*aval) for aval in avals)]
    body = jaxprs.restage(lambda key, *params: spec.sample(key, params, shape), structs)
    body = jaxprs.restage(lambda *args: _inline(body, args, [True] + [False] * len(avals)), structs)
    known, first, read = {body.invars[0], *body.constvars}, [], list(body.outvars)
    for index, eqn in enumerate(body.eqns):
        variables = [var for var in eqn.invars if not isinstance(var, jaxprs.Literal)]
        if all(var in known for var in variables):
            known.update(eqn.outvars)
            first.append(index)
        else:
            read += variables
    noise = [var for var in dict.fromkeys(read) if not isinstance(var, jaxprs.Literal) and var in known]
    return Sampler(body, tuple(first), tuple(var for var in noise if var not in body.constvars))


def _inline(body: jaxprs.Body, args: Sequence, of_key: Sequence[bool]) -> list:
    """Evaluate a body, writing out the jits whose arguments are both noise and parameters."""
    env: dict[Any, Any] = dict(zip([*body.constvars, *body.invars], [*body.consts, *args], strict=True))
    from_key = {var for var, yes in zip(body.invars, of_key, strict=True) if yes} | set(body.constvars)
    noisy = lambda var: isinstance(var, jaxprs.Literal) or var in from_key
    read = lambda var: var.val if isinstance(var, jaxprs.Literal) else env[var]
    for eqn in body.eqns:
        values, flags = [read(var) for var in eqn.invars], [noisy(var) for var in eqn.invars]
        if eqn.primitive is jaxprs.jit_p and any(flags) and not all(flags):
            outs = _inline(jaxprs.read_call(eqn), values, flags)
        else:
            outs = jaxprs.bind(eqn, values)
        env.update(zip(eqn.outvars, outs, strict=True))
        from_key.update(eqn.outvars if all(flags) else ())
    return [read(var) for var in body.outvars]


class Source:
    """Where a choice gets its noise, if not from a key of its own; stands in for the key when it is drawn."""

    def sample(self, spec: Spec, params: Sequence, shape: Shape, num_lanes: int):
        """Draw values of batch shape `shape`, whose first axes are the lanes."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class OwnKey(Source):
    """A key folded for one choice, of which nothing else is drawn."""

    key: Any

    def of(self, spec: Spec):
        """Return the key for the sampler of a distribution."""
        return _own(spec, self.key)

    def sample(self, spec, params, shape, num_lanes):
        """Draw with the key."""
        return spec.sample(self.of(spec), params, shape)


def _own(spec: Spec, keys):
    """Let samplers of our own read one number off a key.

    Others get it as it is: they may hand it on, or ask for this very generator (JAX's Poisson sampler does).
    """
    return hashed(keys) if type(spec) is Spec and spec.family.sampler is not None else keys


class Roots:
    """The keys of the choices of a program, folded from its key all at once.

    Args:
        key: The program's key.
        digests: The names of the choices, as numbers.
    """

    def __init__(self, key, digests: Sequence[int]):
        self.rows = {digest: row for row, digest in enumerate(digests)}
        self.keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.array(digests, np.uint32))

    def holds(self, digest) -> bool:
        """Tell whether the key of a choice is among them."""
        return digest in self.rows

    def one(self, digest: int):
        """Return the key of a choice."""
        return jax.lax.index_in_dim(self.keys, self.rows[digest], keepdims=False)

    def some(self, digests: Sequence[int]):
        """Return the keys of several choices, stacked."""
        rows = [self.rows[digest] for digest in digests]
        if rows != list(range(rows[0], rows[0] + len(rows))):
            return self.keys[np.array(rows)]
        return jax.lax.slice_in_dim(self.keys, rows[0], rows[0] + len(rows))


class Group:
    """Choices whose noise is drawn together, at the first of their draws.

    Args:
        keys: Returns the keys of all of them, stacked.
    """

    def __init__(self, keys: Callable[[], Any]):
        self.keys = keys
        self.sampler: Sampler | None = None
        self.kind: Any = None
        self.noise: list[list] = []

    def sample(self, number: int, spec: Spec, params: Sequence, shape: Shape):
        """Draw the choice of this number; None, if its parameters have other shapes than those of the first."""
        avals = tuple((param.shape, param.dtype) for param in params)
        if self.sampler is None:
            keys = _own(spec, self.keys())
            self.kind, self.sampler = (spec, avals, shape), split_sampler(spec, avals, shape, keys.dtype)
            stacked = jax.vmap(self.sampler.draw)(keys)
            self.noise = [[noise[i] for i in range(len(keys))] for noise in stacked]
        if self.kind != (spec, avals, shape):
            return None
        return self.sampler.finish([rows[number] for rows in self.noise], params)


@dataclasses.dataclass(frozen=True)
class Member(Source):
    """The place of a choice in a group; `key` returns its own key, for a draw that does not fit the group's."""

    group: Group
    number: int
    key: Callable[[], Any]

    def sample(self, spec, params, shape, num_lanes):
        """Take the noise from the group."""
        value = self.group.sample(self.number, spec, params, shape)
        return spec.sample(_own(spec, self.key()), params, shape) if value is None else value


@dataclasses.dataclass(frozen=True)
class StepKeys(Source):
    """One key for each step of the loops that a choice has left: the same as inside them.

    Attributes:
        key: The key of the choice.
        steps: Number of lanes that have been steps.
        lanes: Number of lanes of the choice in the program; a draw may have more, in front.
    """

    key: Any
    steps: int
    lanes: int

    def sample(self, spec, params, shape, num_lanes):
        """Draw under `jax.vmap` over the steps."""
        return _each_step(self.key, spec, params, shape, num_lanes - self.lanes, self.steps)


@dataclasses.dataclass(frozen=True)
class LaneKeys(Source):
    """One key for each of the first lanes of a choice, which have been choices of their own.

    Attributes:
        keys: Their keys, stacked.
    """

    keys: Any

    def sample(self, spec, params, shape, num_lanes):
        """Draw under `jax.vmap` over these lanes."""
        return _each_key(self.keys, spec, params, shape, 0, 0)


def _each_step(key, spec: Spec, params: Sequence, shape: Shape, at: int, steps: int):
    if not steps:
        return spec.sample(_own(spec, key), params, shape)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(shape[at], dtype=np.uint32))
    return _each_key(keys, spec, params, shape, at, steps - 1)


def _each_key(keys, spec: Spec, params: Sequence, shape: Shape, at: int, steps: int):
    axes, sliced = [], []
    for param, ndim in zip(params, spec.event_ndims, strict=True):
        laned = param.ndim == len(shape) + ndim  # Others have no lanes at all.
        shared = laned and param.shape[at] != shape[at]
        sliced.append(param.squeeze(at) if shared else param)
        axes.append(at if laned and not shared else None)
    inner = shape[:at] + shape[at + 1 :]
    step = lambda key, *params: _each_step(key, spec, params, inner, at, steps)
    return jax.vmap(step, in_axes=(0, *axes), out_axes=at)(keys, *sliced)


def is_counter_based(key) -> bool:
    """Tell whether keys under `jax.vmap` give the numbers that each of them gives alone."""
    return str(jax.random.key_impl(key)) in ("threefry2x32", "fry")
