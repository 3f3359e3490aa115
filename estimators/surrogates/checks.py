"""Checks of what a surrogate is made from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from ppl import PPLError
from ppl._errors import user_source


def require_steps(number: Any) -> int:
    """Return a number of inner steps, or refuse it."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise PPLError(
            "`target_surrogate` takes a positive number of inner steps.",
            where=user_source(),
            expected="an int of at least 1, or `NoiseAware(most)`",
            got=repr(number),
            remedy="give num_inner=1 for plain gradient steps",
        )
    return number


def check_call(params: Any, target_fn: Any) -> None:
    """Refuse a call without what the inner steps need."""
    missing = [name for name, thing in (("params", params), ("target_fn", target_fn)) if thing is None]
    if missing:
        raise PPLError(
            f"`target_surrogate` needs {' and '.join(missing)} to make inner steps.",
            where=user_source(),
            expected="update(target_grad, state, params, target_fn=f)",
            remedy="train a `ppl.training.Targeted` objective, which gives all of it",
        )


def check_target(target_fn: Callable, params: Any, grad: Any) -> Any:
    """Return the target, or refuse a gradient that does not fit it, or a target that is random."""
    before = target_fn(params)
    if _signature(before) != _signature(grad):
        of_params = _signature(grad) == _signature(params)
        raise PPLError(
            "The gradient is not like the target.",
            where=user_source(),
            expected=f"the shapes of target_fn(params): {_signature(before)}",
            got=f"{'those of params: ' * of_params}{_signature(grad)}",
            remedy="give the gradient with respect to the target" + ", not to the parameters" * of_params,
        )
    _check_finite(grad)
    _check_deterministic(target_fn, params)
    return before


def _signature(tree: Any) -> dict[str, tuple[int, ...]]:
    return {keystr(path): jnp.shape(leaf) for path, leaf in tree_leaves_with_path(tree)}


def _check_finite(grad: Any) -> None:
    """Refuse concrete gradients that are not finite; training itself skips such steps."""
    for path, leaf in tree_leaves_with_path(grad):
        if not isinstance(leaf, jax.core.Tracer) and not np.all(np.isfinite(leaf)):
            raise PPLError(
                f"The gradient at the target{keystr(path)} is not finite.",
                where=user_source(),
                got=f"{int(np.sum(~np.isfinite(leaf)))} of {np.size(leaf)} numbers",
                remedy="look at the loss at this target; `ppl.minimize` skips such steps and says where they begin",
            )


def _check_deterministic(target_fn: Callable, params: Any) -> None:
    """Refuse a target whose second trace differs from the first: noise from outside of JAX, or a counter."""
    first, second = (jax.make_jaxpr(lambda params: target_fn(params))(params) for _ in range(2))
    consts = lambda traced: [c for c in traced.consts if not isinstance(c, jax.core.Tracer) and hasattr(c, "dtype")]
    plain = lambda c: np.asarray(jax.random.key_data(c) if jnp.issubdtype(c.dtype, jax.dtypes.prng_key) else c)
    same = len(consts(first)) == len(consts(second)) and all(
        np.array_equal(plain(a), plain(b), equal_nan=plain(a).dtype.kind == "f")
        for a, b in zip(consts(first), consts(second), strict=True)
    )
    text = lambda traced: re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))  # functions are shown by where they lie
    if text(first) != text(second) or not same:
        raise PPLError(
            "The target is not the same function each time: the inner steps would start from a stale target.",
            where=user_source(),
            expected="a deterministic `target_fn`",
            remedy="fix its dropout mask or batch for the step, or draw what is random in the loss",
        )
