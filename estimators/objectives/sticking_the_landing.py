"""The evidence lower bound with the path derivative alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from estimators.objectives.checks import require_programs
from estimators.objectives.guides import detached, require_exact
from ppl import GenerativeFunction, assess, merge, simulate
from ppl._errors import boundary


@boundary
def sticking_the_landing(model: GenerativeFunction, guide: GenerativeFunction) -> Callable[..., jax.Array]:
    """Make the ELBO whose gradient leaves out the guide's own score (Roeder, Wu and Duvenaud 2017, eq. 8).

    The density of the guide is assessed at detached parameters. What is left out, the partial derivative of
    log q(z; params) at fixed z, has mean 0, so the gradient stays unbiased. Where the guide is the posterior,
    log p - log q does not depend on z, and a pathwise gradient has no variance: it sticks the landing.

    Choices keep their strategies, and what is said of the score holds for all of them. Costs one more evaluation of
    the guide's density. Lower variance near the optimum; far away, or with reinforce, it may be higher.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`; its density is exact, and only `params` is trained in it
            (derivatives with respect to `observed` and `inputs` keep their score).

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        AddressError: The guide's and the observed choices together are not the model's.
        StrategyError: The density of the guide is an estimate: assessed once more it would be another one.

    Example:
        >>> import jax, ppl
        >>> from estimators import sticking_the_landing
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.normal(params, 0.5**0.5) @ "z"
        >>> grad = ppl.grad(sticking_the_landing(model, guide))
        >>> abs(round(float(grad(jax.random.key(0), 1.0, {"x": 2.0})), 5))
        0.0
    """
    require_programs("sticking_the_landing", model=model, guide=guide)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        require_exact("sticking_the_landing", guide, params, observed, *inputs)
        choices = simulate(guide)(params, observed, *inputs).choices
        log_joint, _ = assess(model)(merge(choices, observed), params, *inputs)
        log_prob, _ = assess(guide)(choices, detached(params), observed, *inputs)
        return log_joint - log_prob

    return objective
