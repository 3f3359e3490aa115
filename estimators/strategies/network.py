"""A function with parameters that a strategy learns, without its arrays: these are the operand of the choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl import Strategy, StrategyError
from ppl._errors import user_source


@dataclasses.dataclass(frozen=True, eq=False)
class WithNetwork(Strategy):
    """The base of strategies with a control variate `fn(params, value, *inputs)` that they learn.

    `params` is trained to make the variance of the gradient with respect to the parameters of this choice small: it
    gets the gradient of minus the square of that gradient's estimate, in the same pass as everything else, signed for
    ascent. What the function closes over must be constants: whatever is traced belongs into `params` or `inputs`.
    """

    learns = True

    fn: Callable[..., Any] | None
    params: Any = None
    inputs: tuple = ()
    layout: Any = None  # Tree structure, shapes and dtypes of params and inputs.

    def __init__(self, fn: Callable[..., Any], params: Any = None, *inputs: Any, layout: Any = None):
        leaves, treedef = jax.tree.flatten((params, inputs))
        if layout is None:
            _refuse_traced(fn, type(self).__name__)
            layout = treedef, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        for field, value in {"fn": fn, "params": params, "inputs": inputs, "layout": layout}.items():
            object.__setattr__(self, field, value)

    def __str__(self) -> str:
        return f"{type(self).__name__}({getattr(self.fn, '__name__', type(self.fn).__name__)})"

    __repr__ = __str__

    def operand(self) -> jax.Array:
        """Put parameters and (detached) inputs into one array."""
        leaves = jax.tree.leaves((self.params, jax.tree.map(lax.stop_gradient, self.inputs)))
        flat = [jnp.ravel(jnp.asarray(leaf, jnp.result_type(float))) for leaf in leaves]
        return jnp.concatenate(flat) if flat else jnp.zeros((0,))

    def static(self) -> Strategy:
        """Keep the function and the layout of what it takes."""
        return type(self)(self.fn, layout=self.layout)

    def control(self, d) -> Callable[[Any], jax.Array]:
        """Return the function of values over all elements of a choice."""
        flat = d.operand if d.operand.ndim == 1 else jnp.broadcast_to(d.operand, (*d.shape, d.operand.shape[-1]))

        def one(flat, value):
            params, inputs = self._unpacked(flat)
            number = self.fn(params, value, *inputs)
            if jnp.shape(number) != ():
                raise self._wrong(d, jnp.shape(number))
            return number

        for _ in d.shape:
            one = jax.vmap(one, (None if flat.ndim == 1 else 0, 0))
        return lambda value: one(flat, value)

    def _unpacked(self, flat):
        treedef, layout = self.layout
        parts = jnp.split(flat, np.cumsum([int(np.prod(shape)) for shape, _ in layout])[:-1])
        leaves = [part.reshape(shape).astype(dtype) for part, (shape, dtype) in zip(parts, layout, strict=False)]
        return jax.tree.unflatten(treedef, leaves)

    def _wrong(self, d, shape) -> StrategyError:
        return StrategyError(
            f"The control variate of `{self}` is not a number.",
            where=d.where,
            expected="a function of the value of one element that returns a scalar",
            got=f"shape {shape}",
            remedy="sum or index its result; lanes and batch are mapped over",
        )


def _refuse_traced(fn: Callable[..., Any], name: str) -> None:
    cells = [cell.cell_contents for cell in getattr(fn, "__closure__", None) or () if cell is not None]
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(cells)):
        raise StrategyError(
            f"The control variate of `{name}` closes over a traced array.",
            where=user_source(),
            expected="a function of `(params, value, *inputs)` and constants",
            got="a closure over an argument of the program, or what is computed from one",
            remedy=f"pass it as an input: `{name}(fn, params, array)`",
        )
