"""Short forms: gradients of `expect(f)` with respect to arguments counted after the key."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import PPLError, boundary, user_source
from ppl.transforms.expect import expect
from ppl.transforms.programs import check_key, name_of


def _is_differentiable(leaf: Any) -> bool:
    return jaxprs.is_traced_leaf(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


@dataclasses.dataclass(frozen=True)
class Selected:
    """The leaves of some arguments that are differentiated.

    Attributes:
        values: These leaves, as arrays.
    """

    values: list
    _args: list
    _numbers: tuple[int, ...]
    _leaves: list
    _treedef: Any
    _chosen: list[int]
    _single: bool

    def fill(self, values: Sequence) -> list:
        """Return all arguments, with other values for these leaves."""
        leaves, args = list(self._leaves), list(self._args)
        for i, leaf in zip(self._chosen, values, strict=True):
            leaves[i] = leaf
        for number, value in zip(self._numbers, jax.tree.unflatten(self._treedef, leaves), strict=True):
            args[number] = value
        return args

    def restore(self, values: Sequence) -> Any:
        """Return values, one for each leaf, in the structure of the arguments; None at all other leaves."""
        leaves: list[Any] = [None] * len(self._leaves)
        for i, leaf in zip(self._chosen, values, strict=True):
            leaves[i] = leaf
        restored = jax.tree.unflatten(self._treedef, leaves)
        return restored[0] if self._single else tuple(restored)


def select(function: Callable, args: Sequence, argnums: int | tuple[int, ...]) -> Selected:
    """Pick the arrays and Python floats among the arguments to be differentiated."""
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    if not all(isinstance(number, int) and -len(args) <= number < len(args) for number in numbers):
        raise PPLError(
            f"`{name_of(function)}` has no argument {argnums} to differentiate.",
            where=user_source(),
            got=f"{len(args)} arguments after the key",
            remedy="count arguments from 0, without the key",
        )
    leaves, treedef = jax.tree.flatten([args[number] for number in numbers])
    chosen = [i for i, leaf in enumerate(leaves) if _is_differentiable(leaf)]
    values = [jnp.asarray(leaves[i]) for i in chosen]
    return Selected(values, list(args), numbers, leaves, treedef, chosen, not isinstance(argnums, tuple))


@boundary
def value_and_grad(
    function: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Return a function of `(key, *args)` that gives an unbiased value and gradient of a stochastic objective.

    Args:
        function: A stochastic function that returns a scalar (with `has_aux`, a pair of that and anything).
        argnums: Which argument (or arguments), counted after the key, to differentiate.
        has_aux: Whether the function returns `(value, aux)`.

    Returns:
        A function that returns `(value, gradient)`, or `((value, aux), gradient)`. The gradient has the argument's
        structure: arrays and Python floats are differentiated, other leaves become None.

    Example:
        >>> import jax, ppl
        >>> cost = lambda p: ppl.bernoulli(p, grad=ppl.enum()).sample() * 2.0
        >>> value, gradient = ppl.value_and_grad(cost)(jax.random.key(0), 0.3)
        >>> round(float(value), 3), round(float(gradient), 3)
        (0.6, 2.0)
    """
    expected = expect(function, has_aux)

    @functools.wraps(function, updated=())
    @boundary
    def differentiated(*args: Any):
        check_key(args[0] if args else None, f"value_and_grad({name_of(function)})")
        key = args[0]
        selected = select(function, args[1:], argnums)
        of_leaves = lambda values: expected(key, *selected.fill(values))
        result, gradient = jax.value_and_grad(of_leaves, has_aux=has_aux)(selected.values)
        return result, selected.restore(gradient)

    return differentiated


@boundary
def grad(function: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function of `(key, *args)` that gives an unbiased gradient of a stochastic objective.

    Args:
        function: A stochastic function that returns a scalar (with `has_aux`, a pair of that and anything).
        argnums: Which argument (or arguments), counted after the key, to differentiate.
        has_aux: Whether the function returns `(value, aux)`.

    Returns:
        A function that returns the gradient, or `(gradient, aux)`.

    Example:
        >>> import jax, ppl
        >>> cost = lambda p: ppl.bernoulli(p, grad=ppl.enum()).sample() * 2.0
        >>> round(float(ppl.grad(cost)(jax.random.key(0), 0.3)), 3)
        2.0
    """
    both = value_and_grad(function, argnums, has_aux)

    @functools.wraps(function, updated=())
    @boundary
    def differentiated(*args: Any):
        result, gradient = both(*args)
        return (gradient, result[1]) if has_aux else gradient

    return differentiated
