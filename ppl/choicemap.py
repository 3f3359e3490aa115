"""Choice maps: nested dicts from addresses to values, and values that are there only in part (`Masked`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from jax.tree_util import GetAttrKey, register_pytree_with_keys_class

from ppl._errors import AddressError, boundary, did_you_mean, user_source

Path = tuple[str, ...]


@register_pytree_with_keys_class
class Masked:
    """A choice that is made only where `mask` is True.

    Attributes:
        value: The value; 0 where the choice is not made.
        mask: Booleans over the leading axes of `value`.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> ppl.Masked(jnp.array([1.0, 0.0]), jnp.array([True, False])).mask.sum().item()
        1
    """

    def __init__(self, value: Any, mask: Any):
        self.value, self.mask = value, mask

    def tree_flatten_with_keys(self):
        """Flatten for JAX."""
        return ((GetAttrKey("value"), self.value), (GetAttrKey("mask"), self.mask)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """Rebuild for JAX."""
        return cls(*children)

    def __repr__(self) -> str:
        return f"Masked(value={self.value!r}, mask={self.mask!r})"


def show(path: Path) -> str:
    """Write a path with "/" between its parts."""
    return "/".join(path)


def flatten(choices: Any, prefix: Path = ()) -> dict[Path, Any]:
    """List the leaves of nested dicts by path.

    Keys may be addresses with "/" between their parts, or tuples of strings.
    """
    if not isinstance(choices, Mapping):
        raise AddressError(
            "Choices are a nested dict from addresses to values.",
            where=user_source(),
            got=f"{type(choices).__name__}",
            remedy='write e.g. `{"z": 1.0, "group": {"x": 2.0}}`',
        )
    flat: dict[Path, Any] = {}
    for key, value in choices.items():
        path = (*prefix, *(key if isinstance(key, tuple) else str(key).split("/")))
        inner = flatten(value, path) if isinstance(value, Mapping) else {path: value}
        for inner_path, leaf in inner.items():
            _insert(flat, inner_path, leaf)
    return flat


def _insert(flat: dict[Path, Any], path: Path, leaf: Any) -> None:
    clash = next((other for other in flat if other[: len(path)] == path or path[: len(other)] == other), None)
    if clash is not None:
        raise AddressError(
            f'Two values are given for "{show(path)}".',
            where=user_source(),
            got=f'"{show(clash)}" and "{show(path)}"',
            remedy="give each address once",
        )
    flat[path] = leaf


def nest(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """Build nested dicts from leaves by path."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = nested
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = leaf
    return nested


@boundary
def merge(choices: Any, observed: Any) -> dict[str, Any]:
    """Unite two choice maps.

    Args:
        choices: Nested dict from addresses to values.
        observed: Another one, which shares no address with it.

    Raises:
        AddressError: The same address is in both.

    Example:
        >>> import ppl
        >>> ppl.merge({"z": 1.0}, {"group": {"x": 2.0}})
        {'z': 1.0, 'group': {'x': 2.0}}
    """
    flat = flatten(choices)
    for path, leaf in flatten(observed).items():
        _insert(flat, path, leaf)
    return nest(flat)


def lookup(choices: Any, address: Any) -> Any:
    """Return the value, or the nested choice map, at an address."""
    parts = address if isinstance(address, tuple) else (address,)
    path = tuple(part for piece in parts for part in str(piece).split("/"))
    node = choices
    for depth, part in enumerate(path):
        if not isinstance(node, Mapping) or part not in node:
            known = [show(p) for p in flatten(choices)]
            raise AddressError(
                f'There is no choice at "{show(path)}".',
                where=user_source(),
                expected=", ".join(f'"{name}"' for name in known) or "nothing: there are no choices",
                got=f'"{show(path[: depth + 1])}"',
                remedy=did_you_mean(show(path), known) or "look at `trace.choices`",
            )
        node = node[part]
    return node


def is_masked(leaf: Any) -> bool:
    """Tell a `Masked` leaf from an array, for `jax.tree.map`."""
    return isinstance(leaf, Masked)


def matches(glob: str, path: Path) -> bool:
    """Tell whether a glob matches a path, one of its ends (a bare address under any prefix), or a group around it."""
    parts = range(len(path))
    return any(fnmatchcase(show(path[i:]), glob) for i in parts) or any(
        fnmatchcase(show(path[:i]), glob) for i in parts[1:]
    )


def require_match(glob: str, paths: Iterable[Path]) -> list[Path]:
    """Return the paths that a glob matches; refuse a glob that matches none."""
    paths = list(paths)
    found = [path for path in paths if matches(glob, path)]
    if not found:
        known = [show(path) for path in paths]
        raise AddressError(
            f'No choice matches "{glob}".',
            expected=", ".join(f'"{name}"' for name in known) or "nothing: there are no choices",
            got=f'"{glob}"',
            remedy=did_you_mean(glob, [*known, *{path[-1] for path in paths}]) or "use an address, or a glob on paths",
        )
    return found


def select(selection: Any, paths: Iterable[Path]) -> set[Path]:
    """Return the paths that a selection (a glob, or a tuple or list of globs) matches."""
    globs = [selection] if isinstance(selection, str) else list(selection)
    paths = list(paths)
    return {path for glob in globs for path in require_match(glob, paths)}
