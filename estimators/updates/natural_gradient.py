"""Natural gradients: steepest ascent in the guide's distribution, not in its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from estimators.objectives.checks import require_number, require_programs
from estimators.objectives.closed_divergence import closed_divergence
from ppl import GenerativeFunction, PPLError, StrategyError
from ppl._errors import boundary, user_source
from ppl.choicemap import show
from ppl.primitives import View
from ppl.transforms.views import parents, views


@boundary
def fisher_information(guide: GenerativeFunction) -> Callable[..., jax.Array]:
    """Return a function of `(params, observed, *inputs)` that gives the Fisher information of a mean-field guide.

    F = E_q[(d log q / d params)(d log q / d params)'], exactly: the second derivative of KL(q, q') in the parameters
    of q', at q' = q. Rows and columns are in the order of `jax.flatten_util.ravel_pytree(params)`.

    Args:
        guide: Called as `guide(params, observed, *inputs)`. Its choices are independent of each other, and of a family
            whose divergence from itself has a closed form (normal, gamma, beta, dirichlet, finite families, ...).

    Returns:
        The function; it gives a square matrix.

    Raises:
        StrategyError: A choice depends on another one, is made only sometimes or in a scan, or its family has no
            divergence in closed form.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import fisher_information
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params[0], params[1]) @ "z")
        >>> fisher_information(guide)(jnp.array([0.0, 0.5]), {}).tolist()  # 1 / s^2 and 2 / s^2
        [[4.0, 0.0], [0.0, 8.0]]
    """
    require_programs("fisher_information", guide=guide)

    @boundary
    def information(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        flat, restore = ravel_pytree(params)
        choices = some_choices(guide, (params, observed, *inputs))
        found = lambda flat: views(guide, choices, (restore(flat), observed, *inputs))
        require_mean_field(guide, choices, found(flat), (params, observed, *inputs))
        fixed = found(jax.lax.stop_gradient(flat))

        def divergence(flat: jax.Array) -> jax.Array:
            return sum(divergence_of(name, fixed[name], view) for name, view in found(flat).items())

        return jax.hessian(divergence)(flat)

    return information


@boundary
def natural_gradient(
    guide: GenerativeFunction, observed: Any, *inputs: Any, damping: Any = 0.0
) -> optax.GradientTransformation:
    """Make an optax transformation that turns gradients g into F^-1 g, F the guide's Fisher information (Amari 1998).

    In natural parameters and with a conjugate model, a step of size 1 reaches the optimum at once (Hoffman et al.
    2013; Khan and Lin 2017). Chain it with a plain step: `optax.chain(natural_gradient(guide, observed),
    optax.sgd(1.0))`. The whole of `params` belongs to the guide. Costs a d x d system for d numbers.

    Args:
        guide: Called as `guide(params, observed, *inputs)`; see [`fisher_information`][estimators.fisher_information].
        observed: Observed choices, as the guide is given them.
        *inputs: Inputs of the guide.
        damping: Added to the diagonal of F; needed where `params` has a direction that does not change the guide.

    Returns:
        The transformation; its `update` needs `params`.

    Raises:
        PPLError: `damping` is not a number of at least 0, or `update` is called without `params`.
        StrategyError: The guide has no Fisher information in closed form.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import natural_gradient
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params[0], params[1]) @ "z")
        >>> transform = natural_gradient(guide, {})
        >>> params = jnp.array([0.0, 0.5])
        >>> transform.update(jnp.array([1.0, 1.0]), transform.init(params), params)[0].tolist()
        [0.25, 0.125]
    """
    require_number(
        "natural_gradient", "damping", damping, "a number of at least 0", lambda x: np.isfinite(x) and x >= 0
    )
    information = fisher_information(guide)

    @boundary
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise PPLError(
                "`natural_gradient` needs the parameters at which the gradient was taken.",
                where=user_source(),
                remedy="call `update(grads, state, params)`",
            )
        flat, restore = ravel_pytree(updates)
        matrix = information(params, observed, *inputs)
        return restore(jnp.linalg.solve(matrix + damping * jnp.eye(len(flat), dtype=flat.dtype), flat)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def some_choices(guide: GenerativeFunction, args: tuple) -> Any:
    """Draw choices: which ones does not matter, as no distribution depends on them."""
    return guide.simulate(jax.random.key(0), *jax.tree.map(_detach, args)).choices


def _detach(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf


def require_mean_field(guide: GenerativeFunction, choices: Any, found: dict[str, View], args: tuple) -> None:
    """Refuse a guide whose choices depend on each other."""
    from ppl.choicemap import flatten

    names = [show(path) for path in flatten(choices)]
    before = parents(guide, choices, args)
    for name in names:
        if name not in found or before[name]:
            got = f"it depends on {sorted(before[name])}" if name in found else "it is not made just once"
            raise _no_information(name, "independent choices, each made once", got)


def divergence_of(name: str, q: View, p: View) -> jax.Array:
    """Return KL(q, p) in closed form, or refuse."""
    value = closed_divergence(q, p)
    if value is None:
        raise _no_information(name, "a family whose divergence has a closed form", str(q.spec.family))
    return jnp.sum(value)


def _no_information(name: str, expected: str, got: str) -> StrategyError:
    return StrategyError(
        f'The Fisher information of the choice at "{name}" is not known in closed form.',
        where=user_source(),
        expected=expected,
        got=got,
        remedy="use a mean-field guide, or a plain gradient",
    )
