"""The reparameterised gradient."""

from __future__ import annotations

import dataclasses

from ppl.strategies.protocol import Strategy


@dataclasses.dataclass(frozen=True)
class pathwise(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Differentiate the sampler: x = g(noise, parameters), and the tangent of x goes on into the program.

    Unbiased where the costs are absolutely continuous in x. One evaluation, usually the lowest variance. Gamma, beta,
    dirichlet, student_t and what is made of them use the implicit derivative of their samplers (Figurnov et al. 2018).
    Their second derivatives are right, too, by `ppl.hessian`, which takes them forwards over backwards.

    Where the value reaches the objective through a discontinuity (a comparison, `floor`, the edge of a support), this
    gradient is biased, and a derivative raises `UnsoundGradientError`.

    Attributes:
        unchecked: Leave this choice out of that check: you know that the costs are continuous in it.

    Example:
        >>> import jax, ppl
        >>> square = lambda loc: ppl.normal(loc, 1.0, grad=ppl.pathwise()).sample() ** 2
        >>> bool(jax.numpy.isfinite(ppl.grad(square)(jax.random.key(0), 0.5)))
        True
    """

    unchecked: bool = False
    mode = "path"

    def __str__(self) -> str:
        return "pathwise(unchecked)" if self.unchecked else "pathwise"

    def check(self, family) -> str | None:
        """Refuse discrete families, whose samplers are constant almost everywhere, and rejection samplers."""
        if family.discrete:
            return "a discrete value has no derivative"
        return None if family.reparameterised else "the derivative of its sampler is not that of the distribution"
