"""The pathwise gradient of samplers without an explicit inverse."""

from __future__ import annotations

import dataclasses

from ppl import Strategy


@dataclasses.dataclass(frozen=True)
class implicit(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Differentiate the sampler implicitly: dx = -(dF / dtheta) / p(x), F the distribution function.

    For gamma, beta, dirichlet, student_t and what is made of them; `pathwise()` does the same there, and this name says
    so in the program (Figurnov, Mohamed and Mnih 2018, eq. 5).

    Example:
        >>> import jax, ppl
        >>> from estimators import implicit
        >>> cost = lambda a: ppl.gamma(a, 1.0, grad=implicit()).sample()
        >>> bool(jax.numpy.isfinite(ppl.grad(cost)(jax.random.key(0), 2.5)))
        True
    """

    mode = "path"

    def check(self, family) -> str | None:
        """Refuse families whose samplers are explicit."""
        return None if family.implicit else "its sampler has no implicit derivative (use `pathwise()` or `reinforce()`)"
