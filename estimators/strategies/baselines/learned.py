"""A baseline that learns to predict the costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from ppl.strategies import Learned


@dataclasses.dataclass(frozen=True, eq=False)
class learned(Learned):  # noqa: N801 - baselines read as words at the choice.
    """Subtract `fn(params, *inputs)`, trained by regression on the costs (Mnih and Gregor 2014, section 2.3.1).

    The inputs are whatever is known before the choice is made: data, or choices made earlier. They are detached, and so
    is what `fn` closes over. Neither value nor gradient of anything but `params` changes in the mean, whatever `params`
    are. Let c be the cost charged to an element of the choice: `params` get the gradient of -E (c - b)**2 / 2 with c
    fixed, signed for ascent, in the same pass as everything else, so `ppl.maximize` trains them beside the model.

    Args:
        fn: Maps `params` and the inputs to one number for each lane and batch element of the choice (under `jax.vmap`,
            in `lax.scan`: for this lane and step); what broadcasts to that will do.
        params: A pytree, an argument of the program (or part of one).
        inputs: Arrays, or pytrees of them.

    Raises:
        StrategyError: The value of `fn` does not broadcast to the elements of the choice.

    Example:
        >>> import ppl
        >>> from estimators import learned, reinforce
        >>> def cost(args):
        ...     logits, level = args
        ...     coin = ppl.bernoulli(logits=logits, grad=reinforce(learned(lambda b: b, level))).sample()
        ...     return (coin + 3.0) ** 2
        >>> untrained, trained = (ppl.exact_gradient(cost)((0.0, level)) for level in (0.0, 12.5))
        >>> [round(float(x), 4) for x in (*untrained.gradient, *trained.gradient)]  # of logits and level
        [1.75, 12.5, 1.75, 0.0]
        >>> round(float(untrained.variance[0]), 4), round(float(trained.variance[0]), 4)
        (39.0625, 0.0)
    """

    fn: Callable | None
    params: Any = None
    inputs: tuple = ()
    name: str = ""

    def __init__(self, fn: Callable | None, params: Any = None, *inputs: Any, name: str = ""):
        name = name or getattr(fn, "__name__", type(fn).__name__)
        for field, value in {"fn": fn, "params": params, "inputs": inputs, "name": name}.items():
            object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        return f"learned({self.name})"

    def operand(self) -> Any:
        """Evaluate the function; what it closes over is detached like its inputs."""
        leaves, treedef = jax.tree.flatten((self.params, self.inputs))
        arrays = [leaf for leaf in leaves if _is_array(leaf)]

        def run(*given):
            given = iter(given)
            params, inputs = jax.tree.unflatten(treedef, [next(given) if _is_array(leaf) else leaf for leaf in leaves])
            return self.fn(params, *jax.tree.map(_detached, inputs))

        closed, captured = jax.closure_convert(run, *arrays)
        return closed(*arrays, *lax.stop_gradient(captured))

    def static(self) -> learned:
        """Keep the name alone."""
        return learned(None, name=self.name)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, float))


def _detached(leaf: Any) -> Any:
    return lax.stop_gradient(leaf) if _is_array(leaf) else leaf
