"""The compiled part of training: a chunk of steps in one `lax.scan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.tree_util import keystr, tree_leaves_with_path

from ppl._errors import PPLError
from ppl.training.placement import Placement
from ppl.training.sources import Examples
from ppl.training.targeted import Targeted, check_updates
from ppl.transforms import value_and_grad


class Carry(NamedTuple):
    """What a step changes: trained leaves, optimiser state, user state."""

    params: Any
    opt_state: Any
    state: Any


class Constants(NamedTuple):
    """What a chunk reads.

    Attributes:
        fixed: The leaves of the parameters that are not trained.
        examples: What its steps see.
        key: Its `fold_in` with a step is that step's key.
        start: First step of the chunk.
        stop: End of the chunk: steps from here on change nothing.
        streak: Number of skipped steps just before the chunk.
    """

    fixed: Any
    examples: Examples
    key: Any
    start: Any
    stop: Any
    streak: Any


def as_arrays(tree: Any) -> Any:
    """Turn numbers and NumPy arrays into strongly typed JAX arrays; leave other leaves alone."""

    def convert(leaf):
        if not eqx.is_array_like(leaf):
            return leaf
        leaf = jnp.asarray(leaf)
        return jnp.asarray(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf  # else it compiles twice

    return jax.tree.map(convert, tree)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a chunk is compiled for.

    Attributes:
        f: The user's function.
        optimizer: An optax transformation that takes extra arguments.
        sign: 1 to climb, -1 to descend.
        has_state: Whether f takes and returns a state.
        length: Number of steps of the loop.
        limit: Number of skipped steps in a row after which nothing changes any more.
        placement: Where batches lie.
        shardings: Where the arrays of the carry lie, or None.
    """

    f: Callable
    optimizer: Any
    sign: float
    has_state: bool
    length: int
    limit: int
    placement: Placement
    shardings: Any


def make_chunk(settings: Settings) -> Callable:
    """Return `chunk(constants, carry) -> (carry, record)`, to be compiled with its carry donated.

    The scan always has `length` steps, of which those from `stop` on change nothing: a shorter last chunk needs no
    second compilation. Nor does a step change anything whose value or gradient norm is not finite, or that comes after
    `limit` such steps. The record has, for each step, `value`, `grad_norm` and `culprit`: one plus the position of the
    first bad leaf, or 0.
    """

    def chunk(constants, carry):
        arrays, static = eqx.partition(carry, eqx.is_array)

        def body(loop, step):
            old, streak = loop
            new, record = _propose(settings, constants, eqx.combine(old, static), step)
            finite = jnp.isfinite(record["value"]) & jnp.isfinite(record["grad_norm"])
            alive = (step < constants.stop) & (streak < settings.limit)
            kept = jax.tree.map(lambda a, b: jnp.where(finite & alive, a, b), eqx.filter(new, eqx.is_array), old)
            kept = settings.placement.keep(kept, settings.shardings)
            streak = jnp.where(alive, jnp.where(finite, 0, streak + 1), streak)
            return (kept, streak), settings.placement.keep_whole(record)

        steps = constants.start + jnp.arange(settings.length, dtype=jnp.int32)
        (arrays, _), record = jax.lax.scan(body, (arrays, jnp.asarray(constants.streak)), steps)
        return eqx.combine(arrays, static), record

    return chunk


def _propose(settings: Settings, constants: Constants, carry: Carry, step: Any) -> tuple[Carry, dict]:
    """Return what would come after a step, and the record of the step."""
    import optax

    (value, state), grads, extra = _differentiate(settings, constants, carry, step)
    downhill = jax.tree.map(lambda grad: -settings.sign * jnp.conj(grad), grads)
    updates, opt_state = settings.optimizer.update(
        downhill, carry.opt_state, carry.params, value=-settings.sign * value, **extra
    )
    if extra:
        check_updates(updates, carry.params)
    norm, culprit = _norm(grads)
    record = {"value": value, "grad_norm": norm, "culprit": culprit}
    return Carry(optax.apply_updates(carry.params, updates), opt_state, state), record


def _differentiate(settings: Settings, constants: Constants, carry: Carry, step: Any) -> tuple:
    """Return the value and the new state, the gradient, and what the optimizer is told besides."""
    step_key = jr.fold_in(constants.key, step)
    if isinstance(settings.f, Targeted):
        if settings.has_state:
            raise PPLError(
                "A `Targeted` objective has no state.", remedy="leave `state` out, or train a plain function"
            )
        batch = settings.placement.keep_split(constants.examples.batch(step))
        whole = lambda trained: eqx.combine(trained, constants.fixed)
        value, grads, extra = settings.f.gradient(step_key, whole, carry.params, batch, settings.sign)
        return (value, None), grads, extra
    objective, args = objective_of(settings, constants, carry, step)
    result, grads = value_and_grad(objective, has_aux=settings.has_state)(step_key, *args)
    return (result if settings.has_state else (result, None)), grads, {}


def objective_of(settings: Settings, constants: Constants, carry: Carry, step: Any) -> tuple[Callable, tuple]:
    """Return what is differentiated in a step, and its arguments: trained leaves, other parameters, state, batch."""
    batch = settings.placement.keep_split(constants.examples.batch(step))
    arrays, static = eqx.partition((constants.fixed, carry.state, batch), eqx.is_array)

    def objective(trained, *arrays):
        fixed, state, batch = eqx.combine(arrays, static)
        optional = [state] * settings.has_state + [batch] * (batch is not None)
        result = settings.f(eqx.combine(trained, fixed), *optional)
        return _check_pair(result, state) if settings.has_state else _check_scalar(result)

    objective.__name__ = getattr(settings.f, "__name__", type(settings.f).__name__)  # for error messages
    return objective, (carry.params, *arrays)


def _norm(grads):
    """Return the norm of all gradients and the culprit: one plus the position of the first bad leaf, or 0."""

    def square(grad):
        size = jnp.abs(grad)
        return jnp.sum(jnp.square(size.astype(jnp.promote_types(size.dtype, jnp.float32))))

    squares = [square(grad) for grad in jax.tree.leaves(grads)]
    bad = jnp.stack([jnp.zeros((), bool), *(~jnp.isfinite(square) for square in squares)])
    return jnp.sqrt(sum(squares)), jnp.argmax(bad)


def _check_scalar(value):
    if jnp.shape(value) != ():
        raise PPLError("f must return a scalar.", expected="its mean or sum", got=f"shape {jnp.shape(value)}")
    return value


def _check_pair(result, state):
    """Return the value and the arrays of the new state, which must be like those of the old one."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise PPLError("f must return a pair.", expected="(value, new_state)", got=type(result).__name__)
    new_state = as_arrays(result[1])
    before, after = _signature(state), _signature(new_state)
    for path in {**before, **after}:
        if before.get(path) != after.get(path):
            raise PPLError(
                f"f must return a state like the one it was given, but state{path} differs.",
                expected=before.get(path, "no such leaf"),
                got=after.get(path, "no such leaf"),
            )
    return _check_scalar(result[0]), eqx.filter(new_state, eqx.is_array)


def _signature(tree):
    leaves = tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
