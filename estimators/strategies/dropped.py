"""The biased strategy that ignores that a choice depends on parameters."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from ppl import Strategy


@dataclasses.dataclass(frozen=True)
class dropped(Strategy):  # noqa: N801 - written like a call in programs: `grad=dropped()`.
    r"""Draw the choice and differentiate as if it had been given: the score term is left out. BIASED.

    For E k(x), x ~ p_theta, the estimate is k(x) with its own derivative: it misses E[k(x) d log p_theta(x)]. It is
    what filtering objectives often do with the choice of ancestors, for its low variance (Maddison et al. 2017,
    section 4; Naesseth et al. 2018; Le et al. 2018). Reports call it biased.

    Example:
        >>> import jax, ppl
        >>> from estimators import dropped
        >>> cost = lambda p: ppl.bernoulli(p, grad=dropped()).sample() * 1.0
        >>> float(ppl.grad(cost)(jax.random.key(0), 0.3))  # The derivative of the mean is 1.
        0.0
    """

    mode: ClassVar[Any] = "detached"
    unbiased: ClassVar[bool] = False
