"""What guides share: initial parameters, and the small functions that their programs are written in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from ppl import choicemap
from ppl._errors import AddressError, PPLError, boundary, user_source
from ppl.choicemap import show
from ppl.continuity import assume_continuous
from ppl.guides.bijectors import bijector
from ppl.guides.latents import Latents


def initial(guide: dict[str, Any], params: Any) -> dict[str, Any]:
    """Return the parameters of guide and model."""
    return {"guide": guide, "model": params}


def starting_point(latents: Latents, start: Any) -> jax.Array:
    """Return the unconstrained vector of the choices to start from; zeros, if there are none.

    Raises:
        AddressError: A choice is missing, unknown, or has the wrong shape.
    """
    if start is None:
        return jnp.zeros(latents.size, latents.dtype)
    values = choicemap.flatten(start)
    shapes = {latent.path: latent.shape for latent in latents.choices}
    if {path: jnp.shape(value) for path, value in values.items()} != shapes:
        raise AddressError(
            f"`start` does not hold the unobserved choices of `{latents.model}`.",
            where=user_source(),
            expected=", ".join(f'"{show(path)}" of shape {shape}' for path, shape in shapes.items()),
            got=", ".join(f'"{show(path)}" of shape {jnp.shape(value)}' for path, value in values.items()),
            remedy="give every unobserved choice once, e.g. the choices of a trace without the observed ones",
        )
    parts = [bijector(part.support, part.bounds)._inverse(jnp.asarray(values[part.path])) for part in latents.choices]
    return jnp.concatenate([jnp.ravel(part) for part in parts]).astype(latents.dtype)


def require_scale(scale: Any) -> float:
    """Refuse an initial standard deviation that is not a positive number."""
    if isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 < scale < float("inf"):
        return float(scale)
    raise PPLError(
        "`scale` is the initial standard deviation of every unconstrained number.",
        where=user_source(),
        expected="a positive number",
        got=repr(scale),
        remedy="leave it out, or give e.g. `scale=0.1`",
    )


def lower(raw: jax.Array) -> jax.Array:
    """Make a Cholesky factor of any square matrix: its lower part, with exp of the diagonal.

    Args:
        raw: Array of shape (n, n).

    Example:
        >>> import jax.numpy as jnp
        >>> from ppl.guides import lower
        >>> lower(jnp.array([[0.0, 5.0], [2.0, 0.0]])).tolist()
        [[1.0, 0.0], [2.0, 1.0]]
    """
    return jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diag(raw)))


def raw_lower(factor: jax.Array) -> jax.Array:
    """Return the matrix of which `lower` makes this Cholesky factor."""
    return jnp.tril(factor, -1) + jnp.diag(jnp.log(jnp.diag(factor)))


@boundary
def unconstrain(support: str, value: jax.Array, *, low: Any = None, high: Any = None) -> jax.Array:
    """Return the unconstrained form of a choice made by `onto`, as a vector.

    Args:
        support: Name of the support.
        value: The value, all of it one event.
        low: Lower edge of an interval.
        high: Upper edge.

    Example:
        >>> from ppl.guides import unconstrain
        >>> unconstrain("positive", 1.0).tolist()
        [0.0]
    """
    free = bijector(support, {"low": low, "high": high})._inverse(jnp.asarray(value))
    return assume_continuous(jnp.ravel(free))  # The inverse of a smooth map, whatever its code compares on the way.


def whiten(scale_tril: jax.Array, deviation: jax.Array) -> jax.Array:
    """Return the noise e of a deviation L e, L of shape (n, n) and lower triangular.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppl.guides import whiten
        >>> whiten(jnp.array([[2.0]]), jnp.array([3.0])).tolist()
        [1.5]
    """
    return assume_continuous(solve_triangular(scale_tril, deviation, lower=True))


def learn(
    mean: jax.Array, root: jax.Array, factor: jax.Array, scale: jax.Array, deviation: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Update the belief N(mean, root root') about common factors u by a deviation = factor u + scale e.

    The usual formulas of factor analysis, in the form of a square root (Bierman 1977, chapter II).

    Args:
        mean: Shape (r,).
        root: Shape (r, r).
        factor: Shape (n, r).
        scale: Shape (n,).
        deviation: Shape (n,).

    Returns:
        The new mean and root.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppl.guides import learn
        >>> mean, root = learn(jnp.zeros(1), jnp.eye(1), jnp.ones((1, 1)), jnp.ones(1), jnp.array([3.0]))
        >>> round(float(mean[0]), 4), round(float(root[0, 0] ** 2), 4)
        (1.5, 0.5)
    """
    seen = factor @ root / scale[:, None]
    cholesky = jnp.linalg.cholesky(jnp.eye(root.shape[0], dtype=root.dtype) + seen.T @ seen)
    new = solve_triangular(cholesky, root.T, lower=True).T
    innovation = factor.T @ ((deviation - factor @ mean) / scale**2)
    return assume_continuous((mean + new @ (new.T @ innovation), new))
