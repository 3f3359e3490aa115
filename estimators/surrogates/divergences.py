"""How far a target may move: squared distance, or divergence of the distributions that targets are parameters of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.checks import require_programs
from estimators.updates.natural_gradient import divergence_of, require_mean_field, some_choices
from ppl import GenerativeFunction
from ppl._errors import boundary
from ppl.transforms.views import views


@dataclasses.dataclass(frozen=True)
class Euclidean:
    """Half the squared distance, D(z, z_t) = w / 2 ||z - z_t||^2.

    Args:
        per_example: Whether losses are means over the leading axis of length B. Then w = 1 / B, and `eta` is compared
            with the smoothness of one example's loss (logistic: 1/4, so eta <= 4). Otherwise w = 1, and `eta` is in
            units of the whole loss: 4 B for a mean of B logistic losses, 4 for their sum.

    Example:
        >>> import jax.numpy as jnp
        >>> from estimators import Euclidean
        >>> float(Euclidean()(jnp.ones(4), jnp.zeros(4))), float(Euclidean(per_example=True)(jnp.ones(4), jnp.zeros(4)))
        (2.0, 0.5)
    """

    per_example: bool = False

    def __call__(self, z: Any, before: Any) -> jax.Array:
        """Return the divergence of two targets."""
        squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), z, before)
        return self.weight(before) / 2 * sum(jax.tree.leaves(squares))

    def weight(self, z: Any) -> float:
        """Return w."""
        return 1 / jax.tree.leaves(z)[0].shape[0] if self.per_example else 1.0


@boundary
def kl_divergence(guide: GenerativeFunction, observed: Any, *inputs: Any) -> Callable[[Any, Any], jax.Array]:
    """Return D(z, z_t) = KL(q_z, q_{z_t}), for targets that are the parameters of a mean-field guide.

    A step then is a natural-gradient step (Amari 1998): exactly, if z are mean parameters, for which the minimum of
    <G, z> + KL / eta is a step of -eta G in natural parameters; otherwise to first order in eta.

    Args:
        guide: Called as `guide(z, observed, *inputs)`; its choices are independent, of families whose divergence from
            themselves has a closed form.
        observed: Observed choices, as the guide is given them.
        *inputs: Inputs of the guide.

    Returns:
        A function of two targets.

    Raises:
        PPLError: `guide` is no program.
        StrategyError: When called: a choice depends on another, or its divergence has no closed form.

    Example:
        >>> import ppl
        >>> from estimators import kl_divergence
        >>> divergence = kl_divergence(ppl.gen(lambda z, observed: ppl.normal(z, 2.0) @ "x"), {})
        >>> float(divergence(1.0, 0.0))
        0.125
    """
    require_programs("kl_divergence", guide=guide)

    def divergence(z: Any, before: Any) -> jax.Array:
        choices = some_choices(guide, (before, observed, *inputs))
        new, old = (views(guide, choices, (one, observed, *inputs)) for one in (z, before))
        require_mean_field(guide, choices, new, (before, observed, *inputs))
        return sum(divergence_of(name, view, old[name]) for name, view in new.items())

    return divergence
