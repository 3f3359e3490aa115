"""One optimizer, or several for several parts of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
from jax.tree_util import keystr, tree_leaves_with_path

from ppl._errors import PPLError, did_you_mean

if TYPE_CHECKING:
    import optax


def as_optimizer(optimizer: Any, params: Any, trained: Any) -> optax.GradientTransformationExtraArgs:
    """Join a prefix pytree of optax transformations into one, of which each updates its own part.

    Args:
        optimizer: One transformation, or a pytree of them that is a prefix of `params`.
        params: The parameters.
        trained: The same with None in place of the leaves that are not trained.

    Raises:
        PPLError: If a leaf is no transformation, or the pytree is not a prefix of `params`.
    """
    import optax

    if is_optimizer(optimizer):
        return optax.with_extra_args_support(optimizer)
    parts = tree_leaves_with_path(optimizer, is_leaf=is_optimizer)
    for path, part in parts or [((), optimizer)]:
        if not is_optimizer(part):
            raise PPLError(
                f"`optimizer{keystr(path)}` must be an optax transformation.",
                expected='optax.adam(1e-3), or several: {"model": optax.adam(1e-3), "guide": optax.sgd(0.1)}',
                got=repr(part),
            )
    _check_parts(optimizer, params)
    names = iter([f"optimizer{keystr(path)}" for path, _ in parts])
    named = jax.tree.map(lambda _: next(names), optimizer, is_leaf=is_optimizer)
    labels = jax.tree.map(lambda name, part: jax.tree.map(lambda _: name, part), named, trained)
    return optax.partition({f"optimizer{keystr(path)}": part for path, part in parts}, labels)


def is_optimizer(leaf: Any) -> bool:
    """Tell whether this is like an optax transformation."""
    return all(callable(getattr(leaf, name, None)) for name in ("init", "update"))


def _check_parts(optimizer: Any, params: Any) -> None:
    """Refuse optimizers that are not a prefix of the parameters, with the names that differ."""
    remedy = None
    if isinstance(optimizer, Mapping) and isinstance(params, Mapping):
        missing, unknown = params.keys() - optimizer.keys(), optimizer.keys() - params.keys()
        remedy = did_you_mean(str(min(missing, key=str)), map(str, unknown)) if missing and unknown else None
    try:
        jax.tree.map(lambda *_: None, optimizer, params, is_leaf=is_optimizer)
    except ValueError as error:
        raise PPLError(
            "`optimizer` does not have the structure of `params`: every part needs one optimizer, and only one.",
            expected=f"an optimizer for each of {_names(params)}",
            got=f"optimizers for {_names(optimizer)}" if isinstance(optimizer, Mapping) else str(error),
            remedy=remedy,
        ) from None


def _names(tree: Any) -> str:
    if isinstance(tree, Mapping):
        return ", ".join(repr(name) for name in tree)
    return type(tree).__name__
