"""Exact marginals: finite auxiliary choices are summed out."""

from __future__ import annotations

import dataclasses
from typing import Any

from ppl import choicemap
from ppl._errors import PPLError, user_source
from ppl.stochastic.function import Halves
from ppl.transforms.marginal import Marginalisation


@dataclasses.dataclass(frozen=True)
class exact:  # noqa: N801 - written like a call in programs: `ppl.methods.exact()`.
    r"""Sum auxiliary choices with finitely many values out of a marginal, by variable elimination.

    The density of the kept choices x is

        log p(x) = log sum_u prod_i f_i(u, x),

    a factor f_i for each choice: its density or probability, a table over just those auxiliary choices u that it
    depends on. They are summed out one by one, the cheapest first (Zhang and Poole 1994), in logarithms; lanes of
    `jax.vmap` and elements of batches stay apart where no factor mixes them (Obermeyer et al. 2019). So n points of a
    mixture of k cost n k, and a `jax.lax.scan` that hands on the value of a choice, such as a hidden Markov model,
    T k^2 in a program whose size does not depend on T (forward recursion; Rabiner 1989).

    No noise: the density, and its derivatives of every order, are exact. A density of 0 is -inf with the derivative 0.

    Args:
        max_states: Largest number of joint values of choices that are summed at once.
        parallel: Whether the steps of a hidden Markov model are multiplied as a tree of matrices, T k^3 operations in
            log2(T) levels, or one after the other, T k^2 in T. None: one after the other on a CPU, and as a tree on
            other devices, unless it has more than 256 states or 2**28 numbers.

    Raises:
        StrategyError: An auxiliary choice is continuous or has infinitely many values, or too many joint values meet.
        ControlFlowError: One is made in a branch, or a scan hands on more than the last values of choices.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> @ppl.gen
        ... def mixture():
        ...     k = ppl.bernoulli(0.25) @ "k"
        ...     ppl.bernoulli(jnp.where(k == 1, 0.9, 0.1)) @ "x"
        >>> x = ppl.marginal(mixture, keep="x", method=ppl.methods.exact())
        >>> round(float(jnp.exp(x.log_density({"x": 1}))), 4)
        0.3
    """

    max_states: int = 2**16
    parallel: bool | None = None

    def __post_init__(self):
        if not self.max_states >= 1:
            raise PPLError("`exact` sums over at least one value.", where=user_source(), got=repr(self.max_states))

    def marginal(self, problem: Marginalisation) -> Halves:
        """Return the two halves, of which one draws and both sum."""
        from ppl.summation.evaluate import log_sum  # It takes transformations to pieces that import methods.

        def estimate(kept: Any, *args: Any):
            return kept, log_sum(problem.gf, choicemap.flatten(kept), args, self.max_states, self.parallel)

        def draw(*args: Any):
            kept, rest, log_joint, _ = problem.run_forward(args)
            return kept, kept, estimate(kept, *args)[1] if rest else log_joint

        return draw, estimate
