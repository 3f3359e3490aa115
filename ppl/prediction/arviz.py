"""`to_arviz`: draws as ArviZ takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ppl import choicemap
from ppl._errors import PPLError, boundary, user_source
from ppl.choicemap import Masked
from ppl.prediction.predict import Predictions
from ppl.transforms.records import spread

if TYPE_CHECKING:
    import xarray


@boundary
def to_arviz(
    draws: Predictions,
    *,
    prior: Predictions | None = None,
    chains: int = 1,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
) -> xarray.DataTree:
    """Hand draws to ArviZ, for its summaries, plots and comparisons of models.

    Needs `arviz-base`, of the extra `arviz`: the part of ArviZ 1 that makes xarray's `DataTree`.

    Args:
        draws: What `predict` returned for a guide, or for draws of Markov chains.
        prior: What it returned for `guide=None`.
        chains: Number of chains that the draws consist of, one after the other.
        dims: Names of the axes of choices, by address: `{"theta": ["school"]}`.
        coords: Labels along named axes: `{"school": ["A", "B"]}`.

    Returns:
        A tree with the groups `posterior`, `posterior_predictive`, `log_likelihood`, `observed_data` (with `prior` also
        `prior` and `prior_predictive`); arrays lead with the axes `chain` and `draw`. Nested addresses are joined by
        ".": a "/" would be a group. Choices that are not made are NaN.

    Raises:
        PPLError: `arviz-base` is not installed, the draws are none, or do not divide into chains.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "y")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(1.0, 0.5) @ "z")
        >>> draws = ppl.predict(model, guide, {}, {"y": 2.0}, key=jax.random.key(0), samples=10)
        >>> tree = ppl.to_arviz(draws, chains=2)
        >>> sorted(tree.children), tree.posterior["z"].shape
        (['log_likelihood', 'observed_data', 'posterior', 'posterior_predictive'], (2, 5))
    """
    arviz_base = _arviz_base()
    _require_draws(draws, prior)
    names = lambda choices: _named(choices, chains)
    groups = {"posterior": names(draws.latents), "posterior_predictive": names(draws.predictive)}
    groups |= {"log_likelihood": names(draws.log_likelihood), "observed_data": _named(draws.observed, None)}
    if prior is not None:
        groups |= {"prior": _named(prior.latents, 1), "prior_predictive": _named(prior.predictive, 1)}
    groups = {name: group for name, group in groups.items() if group}
    dims = {name.replace("/", "."): list(axes) for name, axes in (dims or {}).items()}
    return arviz_base.from_dict(groups, dims=dims, coords=dict(coords or {}))


def _arviz_base():
    try:
        import arviz_base
    except ImportError:
        raise PPLError(
            "`to_arviz` needs the package `arviz-base`, which is not installed.",
            where=user_source(),
            expected="arviz-base 0.5 or later",
            got="no module `arviz_base`",
            remedy="pip install 'programmable-vi[arviz]'",
        ) from None
    return arviz_base


def _require_draws(draws: Any, prior: Any) -> None:
    fine = isinstance(draws, Predictions) and draws.observed is not None
    if not fine or not (prior is None or (isinstance(prior, Predictions) and prior.observed is None)):
        raise PPLError(
            "`to_arviz` takes draws of a posterior, and of a prior as `prior=`.",
            where=user_source(),
            expected="`ppl.predict(model, guide, ...)`, and `ppl.predict(model, None, ...)` as `prior=`",
            got=type(prior if fine else draws).__name__ + (" of a prior" if isinstance(draws, Predictions) else ""),
            remedy="draw from the posterior by `ppl.predict` with a guide",
        )


def _named(choices: Any, chains: int | None) -> dict[str, np.ndarray]:
    """Name arrays by their paths; put the axes of chains and draws in front, if there are draws."""
    flat = {".".join(path): _array(leaf) for path, leaf in choicemap.flatten(choices).items()}
    return flat if chains is None else {name: _chained(name, x, chains) for name, x in flat.items()}


def _array(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, Masked):
        return np.asarray(leaf)
    mask = jnp.asarray(leaf.mask)
    return np.asarray(jnp.where(spread(mask, jnp.ndim(leaf.value)), leaf.value, jnp.nan))


def _chained(name: str, x: np.ndarray, chains: int) -> np.ndarray:
    if isinstance(chains, bool) or not isinstance(chains, int) or chains < 1 or len(x) % chains:
        raise PPLError(
            "The draws do not divide into chains.",
            where=user_source(),
            expected=f"`chains=` a divisor of {len(x)}, the number of draws",
            got=repr(chains),
            remedy="give the number of chains whose draws were joined, one after the other",
        )
    return x.reshape(chains, -1, *x.shape[1:])
