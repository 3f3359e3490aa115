"""The compiled part of training: a chunk of steps in one `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.tree_util import keystr, tree_leaves_with_path

from ppl._errors import PPLError
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
        data: All examples.
        key: Its `fold_in` with a step is that step's key.
        start: First step of the chunk.
        stop: End of the chunk: steps from here on change nothing.
        rows: Row indices of the batch of each step, or None for all data at every step.
        first: Step of the first batch in `rows`.
    """

    fixed: Any
    data: Any
    key: Any
    start: Any
    stop: Any
    rows: Any
    first: Any

    def batch(self, step: Any) -> Any:
        """Gather the examples that this step sees."""
        if self.rows is None:
            return self.data
        return jax.tree.map(lambda leaf: leaf[self.rows[step - self.first]], self.data)


def as_arrays(tree: Any) -> Any:
    """Turn numbers and NumPy arrays into strongly typed JAX arrays; leave other leaves alone."""

    def convert(leaf):
        if not eqx.is_array_like(leaf):
            return leaf
        leaf = jnp.asarray(leaf)
        return jnp.asarray(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf  # else it compiles twice

    return jax.tree.map(convert, tree)


def own(tree: Any) -> Any:
    """Copy the arrays of a pytree, so that a chunk may overwrite them in place."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True) if eqx.is_array(leaf) else leaf, as_arrays(tree))


def make_chunk(f: Callable, optimizer: Any, *, sign: float, has_state: bool, length: int) -> Callable:
    """Return `chunk(constants, carry) -> (carry, record)`, compiled at its first call; `carry` is overwritten.

    The scan always has `length` steps, of which those from `stop` on change nothing: a shorter last chunk needs no
    second compilation. Nor does a step change anything whose value or gradient norm is not finite. The record has,
    for each step, `value`, `grad_norm` and `culprit`: one plus the position of the first bad leaf, or 0.
    """
    import optax

    optimizer = optax.with_extra_args_support(optimizer)

    def propose(constants, carry, step):
        value, state, grads = _evaluate(f, has_state, constants, carry, step)
        downhill = jax.tree.map(lambda grad: -sign * jnp.conj(grad), grads)
        updates, opt_state = optimizer.update(downhill, carry.opt_state, carry.params, value=-sign * value)
        norm, culprit = _norm(grads)
        record = {"value": value, "grad_norm": norm, "culprit": culprit}
        return Carry(optax.apply_updates(carry.params, updates), opt_state, state), record

    def chunk(constants, carry):
        arrays, static = eqx.partition(carry, eqx.is_array)

        def body(old, step):
            new, record = propose(constants, eqx.combine(old, static), step)
            finite = jnp.isfinite(record["value"]) & jnp.isfinite(record["grad_norm"])
            accept = finite & (step < constants.stop)
            return jax.tree.map(lambda a, b: jnp.where(accept, a, b), eqx.filter(new, eqx.is_array), old), record

        arrays, record = jax.lax.scan(body, arrays, constants.start + jnp.arange(length, dtype=jnp.int32))
        return eqx.combine(arrays, static), record

    return eqx.filter_jit(chunk, donate="all-except-first")


def _evaluate(f, has_state, constants, carry, step):
    """Return the value, new state and gradients of one step."""
    arrays, static = eqx.partition((constants.fixed, carry.state, constants.batch(step)), eqx.is_array)

    def objective(trained, arrays):
        fixed, state, batch = eqx.combine(arrays, static)
        optional = [state] * has_state + [batch] * (batch is not None)
        result = f(eqx.combine(trained, fixed), *optional)
        return _check_pair(result, state) if has_state else _check_scalar(result)

    objective.__name__ = getattr(f, "__name__", type(f).__name__)  # for error messages
    step_key = jr.fold_in(constants.key, step)
    result, grads = value_and_grad(objective, has_aux=has_state)(step_key, carry.params, arrays)
    return (*result, grads) if has_state else (result, None, grads)


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
