"""The exact gradient by summing over a finite support."""

from __future__ import annotations

import dataclasses

from ppl.strategies.protocol import Strategy


@dataclasses.dataclass(frozen=True)
class enum(Strategy):  # noqa: N801
    """Sum every dependent cost over all values of the choice: sum_v p(v) c(v), without noise.

    Only for finite supports. A cost that depends on several enumerated choices is evaluated on their product; costs
    that depend on different ones are summed apart.

    Example:
        >>> import jax, ppl
        >>> cost = lambda p: (ppl.bernoulli(p, grad=ppl.enum()).sample() - 0.45) ** 2
        >>> round(float(ppl.grad(cost)(jax.random.key(0), 0.3)), 4)
        0.1
    """

    mode = "enumerate"

    def check(self, family) -> str | None:
        """Refuse families without a finite support."""
        return None if family.enumerable else "its support is not finite"
