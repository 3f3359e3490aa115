"""`generate`: observe some choices, sample the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ppl import choicemap
from ppl._errors import boundary
from ppl.generative import GenerativeFunction, Trace
from ppl.transforms.run import require_gf, run


@boundary
def generate(gf: GenerativeFunction) -> Callable[..., tuple[Trace, jax.Array]]:
    """Turn a generative function into one that observes some choices and samples the rest.

    Args:
        gf: The generative function.

    Returns:
        A stochastic function `(observed, *args) -> (trace, log_weight)`. The weight is the density of the observed
        choices given the sampled ones; its mean is the marginal density of the observed choices. A `Masked` value is
        observed where its mask is True and sampled elsewhere: partly missing data. In a `subsample` the weight, like
        the density, is multiplied by n / size, so it is unbiased for that of all elements.

    Raises:
        AddressError: An observed choice is unknown or has the wrong shape.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda: ppl.normal(0.0, 1.0) @ "z")
        >>> trace, log_weight = model.generate(jax.random.key(0), {})
        >>> float(log_weight)
        0.0
    """
    require_gf(gf, "generate")

    @boundary
    def generated(observed: Any, *args: Any) -> tuple[Trace, jax.Array]:
        outcome = run(gf, choicemap.flatten(observed), args, "observe", valued=True)
        return outcome.trace, outcome.log_weight

    return generated
