"""Distributions that are not of a family: foreign objects, priors known by their score, subsets, fresh keys.

Each follows the interface of [`Spec`][ppl.family.Spec]. What a foreign object closes over is taken out of it by tracing
its methods, so that its parameters become operands of the choice like any others.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from ppl import jaxprs
from ppl._errors import PPLError, user_source
from ppl.family import Family, Spec
from ppl.support import Support


def _unchecked(value, params):
    return jnp.ones(value.shape, bool)


_anywhere = Support("not checked", _unchecked, lambda value, _: value, everywhere=True)


@dataclasses.dataclass(frozen=True)
class Whole(Spec):
    """A distribution whose value is one event: all of its lanes are mapped over."""

    shape: tuple[int, ...] = ()
    dtype: Any = None
    ndims: tuple[int, ...] = ()

    @property
    def event_ndims(self) -> tuple[int, ...]:
        """Every axis of an operand belongs to it."""
        return self.ndims

    def batch_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """There is no batch."""
        return ()

    def check_events(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Operands are what the object made them."""

    def event_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape of a value."""
        return self.shape

    def value_dtype(self, dtypes: Sequence[Any]):
        """Return the dtype of a value."""
        return self.dtype

    def in_lanes(self, value: jax.Array, params: Sequence) -> tuple[jax.Array, tuple[int, ...]]:
        """Give a value the lanes of the parameters, where it has none of its own; return it and their shape."""
        own = [(value, len(self.shape)), *zip(params, self.ndims, strict=True)]
        lanes = np.broadcast_shapes(*(jnp.shape(x)[: jnp.ndim(x) - ndim] for x, ndim in own))
        shape = lanes + self.shape
        return value if value.shape == shape else jnp.broadcast_to(value, shape), lanes

    def over_lanes(self, function: Callable, shape: tuple[int, ...], laned: Sequence, params: Sequence) -> jax.Array:
        """Map a function of one lane's values and parameters over lanes of this shape."""
        params = [
            jnp.broadcast_to(param, shape + jnp.shape(param)[jnp.ndim(param) - ndim :])
            for param, ndim in zip(params, self.ndims, strict=True)
        ]
        for _ in shape:
            function = jax.vmap(function)
        return function(*laned, *params)


def unknown_support(name: str, discrete: bool) -> Family:
    """Return a family of which nothing is known but whether its values are discrete."""
    return Family(name, name, (), _anywhere, discrete=discrete)


def _traced(function: Callable, *avals) -> tuple[Any, list]:
    """Trace a function of these arguments; return its jaxpr without constants, and the constants."""
    return jaxprs.with_const_arguments(jaxprs.body_of(jax.make_jaxpr(function)(*avals)))


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign(Whole):
    """An object with `sample(key)` and `log_prob(value)`: the two methods as jaxprs, their constants as operands."""

    sampler: Any = None
    density: Any = None
    num_sampler: int = 0
    drawn: Any = None  # What the object itself draws; values of discrete choices are int32.

    __eq__, __hash__ = object.__eq__, object.__hash__  # the parents' compare shapes, and what is compiled is kept

    def __repr__(self) -> str:
        return str(self.family)

    def sample(self, key, params, shape):
        """Draw every lane with a key of its own."""
        draw = lambda key, *ops: jaxpr_as_fun(self.sampler)(*ops[: self.num_sampler], key)[0].astype(self.dtype)
        keys = jax.random.split(key, shape) if shape else key
        return self.over_lanes(draw, shape, [keys], params)

    def log_prob(self, value, params, mask=None, inside=False):
        """Evaluate the density of every lane; -inf where a value is none of the sampler's type."""
        evaluate = lambda x, *ops: jaxpr_as_fun(self.density)(*ops[self.num_sampler :], x)[0]
        value, lanes = self.in_lanes(value, params)
        value, valid = self._as_drawn(value)
        log_prob = self.over_lanes(evaluate, lanes, [value], params)
        if self.family.discrete and not inside:
            log_prob = jnp.where(valid.all(tuple(range(len(lanes), valid.ndim))), log_prob, -jnp.inf)
        return log_prob if mask is None else jnp.where(mask, log_prob, 0)

    def _as_drawn(self, value) -> tuple[jax.Array, jax.Array]:
        """Cast a value to the type that the object draws; say where that keeps it (0 stands in elsewhere)."""
        if not self.family.discrete:
            return value.astype(self.drawn), jnp.ones(value.shape, bool)
        cast = value.astype(np.int32)
        kept = (cast == value) & (cast.astype(self.drawn).astype(np.int32) == cast)
        kept &= (cast >= 0) | (not jnp.issubdtype(self.drawn, jnp.unsignedinteger))
        return jnp.where(kept, cast, 0).astype(self.drawn), kept


def _key_shape() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))  # Made here, a key would be a constant of the program.


def _one_array(name: str, result: Any, shape: tuple[int, ...] | None = None) -> Any:
    """Refuse what is not one array of numbers, or has another shape."""
    single = jax.tree.leaves(result) and jax.tree.structure(result) == jax.tree.structure(0)
    fits = single and not jnp.issubdtype(getattr(result, "dtype", np.float32), jax.dtypes.prng_key)
    if fits and shape in (None, np.shape(result)):
        return result
    got = f"shape {np.shape(result)}" if fits else f"{type(result).__name__} {result!r}"
    raise PPLError(
        f"{name} is not one array of numbers{'' if shape is None else ' of the shape of a value'}.",
        where=user_source(),
        expected="one array" if shape is None else f"one array of shape {shape}",
        got=got,
        remedy="make one choice for each part of a value, or put the parts into one array",
    )


def foreign(distribution: Any) -> tuple[Foreign, list]:
    """Take an object with `sample(key)` and `log_prob(value)` apart into a spec and operands."""
    takes_seed = "seed" in inspect.signature(distribution.sample).parameters
    draw = (lambda key: distribution.sample(seed=key)) if takes_seed else (lambda key: distribution.sample(key))
    name = type(distribution).__name__
    out = _one_array(f"What `sample` of {name} returns", jax.eval_shape(draw, _key_shape()))
    sampler, sampler_consts = _traced(draw, _key_shape())
    score = lambda x: jnp.sum(_one_array(f"What `log_prob` of {name} returns", distribution.log_prob(x)))
    density, density_consts = _traced(score, out)
    discrete = not jnp.issubdtype(out.dtype, jnp.inexact)
    operands = [*sampler_consts, *density_consts]
    spec = Foreign(
        unknown_support(name, discrete),
        tuple(f"operand{i}" for i in range(len(operands))),
        shape=out.shape,
        dtype=np.dtype(np.int32) if discrete else out.dtype,
        drawn=out.dtype,
        ndims=tuple(jnp.ndim(operand) for operand in operands),
        sampler=sampler,
        density=density,
        num_sampler=len(sampler_consts),
    )
    return spec, operands


@dataclasses.dataclass(frozen=True, eq=False)
class ScorePrior(Whole):
    """A density known by the gradient of its logarithm only: it has a tangent, its value is taken as 0."""

    score: Any = None
    can_sample: ClassVar[bool] = False

    __eq__, __hash__ = object.__eq__, object.__hash__  # as for foreign distributions

    def __repr__(self) -> str:
        return "score_prior"

    def sample(self, key, params, shape):
        """Never reached: generative functions refuse to sample such a choice."""
        raise AssertionError("a score prior cannot be sampled")

    def log_prob(self, value, params, mask=None, inside=False):
        """Return 0 with the tangent <score(x), dx>; the score and its parameters have none."""
        value, lanes = self.in_lanes(value, params)
        log_prob = self.over_lanes(self._one, lanes, [value], params)
        return log_prob if mask is None else jnp.where(mask, log_prob, 0)

    def _one(self, value, *operands):
        return _known_by_score(self.score, value, *operands)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _known_by_score(score, value, *operands):
    # Written as a function of all operands, so that under `vmap` it has lanes wherever its tangent has.
    return sum(jnp.where(operand == operand, 0, 0).sum() for operand in (value, *operands)).astype(value.dtype)


@_known_by_score.defjvp
def _(score, primals, tangents):
    value, *operands = primals
    direction = jax.lax.stop_gradient(jaxpr_as_fun(score)(*operands, value)[0])
    return _known_by_score(score, *primals), jnp.sum(direction * tangents[0])


def score_spec(score_fn: Callable, shape: tuple[int, ...]) -> tuple[ScorePrior, list]:
    """Take a score function apart into a spec and operands."""
    dtype = jnp.result_type(float)
    checked = lambda x: _one_array("A score", score_fn(x), shape)
    score, consts = _traced(checked, jax.ShapeDtypeStruct(shape, dtype))
    operands = [jax.lax.stop_gradient(const) for const in consts]
    ndims = tuple(jnp.ndim(operand) for operand in operands)
    names = tuple(f"operand{i}" for i in range(len(operands)))
    return ScorePrior(
        unknown_support("score_prior", False), names, shape=shape, dtype=dtype, ndims=ndims, score=score
    ), operands


@dataclasses.dataclass(frozen=True)
class Subset(Whole):
    """Distinct indices below n, in random order; all of them in order if size = n."""

    n: int = 1
    size: int = 1

    def sample(self, key, params, shape):
        """Draw every lane with a key of its own."""
        if self.size == self.n:
            return jnp.broadcast_to(jnp.arange(self.n, dtype=np.int32), (*shape, self.n))
        draw = lambda key: jax.random.choice(key, self.n, (self.size,), replace=False).astype(np.int32)
        keys = jax.random.split(key, shape) if shape else key
        return self.over_lanes(draw, shape, [keys], [])

    def log_prob(self, value, params, mask=None, inside=False):
        """Return the log of (n - size)! / n!, as every ordered subset is as likely; -inf elsewhere."""
        log_prob = 0.0 if self.size == self.n else math.lgamma(self.n - self.size + 1) - math.lgamma(self.n + 1)
        log_probs = jnp.full(value.shape[:-1], log_prob, jnp.result_type(float))
        if not inside:
            log_probs = jnp.where(self._contains(value), log_probs, -jnp.inf)
        return log_probs if mask is None else jnp.where(mask, log_probs, 0)

    def _contains(self, value):
        if self.size == self.n:
            return (value == jnp.arange(self.n)).all(-1)
        ordered = jnp.sort(value, axis=-1)
        distinct = (ordered[..., 1:] != ordered[..., :-1]).all(-1)
        return distinct & (value >= 0).all(-1) & (value < self.n).all(-1)


def subset(n: int, size: int) -> Subset:
    """Return the distribution of `size` distinct indices below n."""
    return Subset(unknown_support("subset", True), (), shape=(size,), dtype=np.dtype(np.int32), n=n, size=size)


@dataclasses.dataclass(frozen=True)
class FreshKey(Whole):
    """A key, different in every lane and step, without density or place in a trace."""

    silent: ClassVar[bool] = True

    def sample(self, key, params, shape):
        """Split the key over the lanes."""
        return jax.random.split(key, shape) if shape else key

    def log_prob(self, value, params, mask=None, inside=False):
        """Never reached: keys have no density."""
        raise AssertionError("a key has no density")


def fresh_key_spec() -> FreshKey:
    """Return the distribution of keys."""
    return FreshKey(unknown_support("fresh_key", True), (), dtype=_key_shape().dtype)
