"""Short forms: gradients of `expect(f)` with respect to arguments counted after the key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import PPLError, boundary, user_source
from ppl.transforms.expect import expect
from ppl.transforms.programs import check_key, keyed, name_of


def _is_differentiable(leaf: Any) -> bool:
    return jaxprs.is_traced_leaf(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _check_scalar(function: Callable, value: Any) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(value)]
    if shapes != [()]:
        raise PPLError(
            f"`{name_of(function)}` does not return a scalar, which a gradient needs.",
            where=user_source(),
            got=", ".join(str(shape) for shape in shapes),
            remedy="sum or average it, or differentiate `ppl.expect(f)` with `jax.jacobian`",
        )


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

    def pick(self, tangents: Sequence) -> list:
        """Return the tangents of these leaves, in their types."""
        leaves = jax.tree.flatten(list(tangents), is_leaf=lambda leaf: leaf is None)[0]
        if len(leaves) != len(self._leaves):
            raise PPLError(
                "The tangents do not have the structure of the primals.",
                where=user_source(),
                expected=f"{len(self._leaves)} leaves",
                got=f"{len(leaves)} leaves",
                remedy="give a tangent for each leaf, None where there is none",
            )
        chosen = [leaves[i] for i in self._chosen]
        return [jnp.asarray(t, x.dtype).reshape(x.shape) for t, x in zip(chosen, self.values, strict=True)]

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
    if not chosen:
        raise PPLError(
            f"Argument {argnums} of `{name_of(function)}` has nothing to differentiate.",
            where=user_source(),
            expected="at least one array or Python float of inexact type",
            got=", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "no leaves",
            remedy="convert it to float, or choose another argument with `argnums`",
        )
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

    @keyed(function)
    def differentiated(*args: Any):
        check_key(args[0] if args else None, f"value_and_grad({name_of(function)})")
        key = args[0]
        selected = select(function, args[1:], argnums)

        def of_leaves(values):
            result = expected(key, *selected.fill(values))
            _check_scalar(function, result[0] if has_aux else result)
            return result

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

    @keyed(function)
    def differentiated(*args: Any):
        result, gradient = both(*args)
        return (gradient, result[1]) if has_aux else gradient

    return differentiated


@boundary
def hessian(function: Callable, argnums: int = 0) -> Callable[..., Any]:
    """Return a function of `(key, *args)` that gives an unbiased Hessian of a stochastic objective.

    Args:
        function: A stochastic function that returns a scalar.
        argnums: Which argument, counted after the key.

    Returns:
        A function that returns the Hessian: the argument's structure, twice.

    Example:
        >>> import jax, ppl
        >>> cost = lambda p: ppl.bernoulli(p, grad=ppl.enum()).sample() * p
        >>> round(float(ppl.hessian(cost)(jax.random.key(0), 0.3)), 3)
        2.0
    """
    expected = expect(function)

    @keyed(function)
    def differentiated(*args: Any) -> Any:
        check_key(args[0] if args else None, f"hessian({name_of(function)})")
        selected = select(function, args[1:], argnums)
        rows = jax.hessian(lambda values: expected(args[0], *selected.fill(values)))(selected.values)
        return selected.restore([selected.restore(row) for row in rows])

    return differentiated


@boundary
def jvp(function: Callable) -> Callable[..., tuple[Any, Any]]:
    """Return a function that gives an unbiased value and directional derivative, in forward mode.

    Args:
        function: A stochastic function that returns a pytree of inexact arrays.

    Returns:
        A function of `(key, primals, tangents)`: tuples of the function's arguments and of their tangents (None, or
        anything, at leaves that are not arrays or Python floats of inexact type); it returns `(value, tangent)`.

    Example:
        >>> import jax, ppl
        >>> cost = lambda p: ppl.bernoulli(p, grad=ppl.enum()).sample() * 2.0
        >>> value, tangent = ppl.jvp(cost)(jax.random.key(0), (0.3,), (1.0,))
        >>> round(float(value), 3), round(float(tangent), 3)
        (0.6, 2.0)
    """
    expected = expect(function)

    @boundary
    def differentiated(
        key: jax.Array | None = None, primals: Sequence = (), tangents: Sequence = ()
    ) -> tuple[Any, Any]:
        check_key(key, f"jvp({name_of(function)})")
        if not (isinstance(primals, tuple) and isinstance(tangents, tuple) and len(primals) == len(tangents)):
            raise PPLError(
                "`jvp` takes tuples of primals and tangents of one length.",
                where=user_source(),
                got=f"{type(primals).__name__} and {type(tangents).__name__}",
                remedy="write `ppl.jvp(f)(key, (x,), (dx,))`",
            )
        selected = select(function, primals, tuple(range(len(primals))))
        directions = selected.pick(tangents)
        return jax.jvp(lambda values: expected(key, *selected.fill(values)), (selected.values,), (directions,))

    return differentiated
