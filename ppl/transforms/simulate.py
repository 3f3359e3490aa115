"""`simulate`: a generative function becomes a stochastic function that returns a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ppl._errors import boundary
from ppl.generative import GenerativeFunction, Trace
from ppl.transforms.run import require_gf, run


@boundary
def simulate(gf: GenerativeFunction, weights: Mapping[str, Any] | None = None) -> Callable[..., Trace]:
    """Turn a generative function into a stochastic function that returns a [`Trace`][ppl.Trace].

    Args:
        gf: The generative function.
        weights: Factors of the log densities in the trace, by glob; scalars, or arrays over lanes and steps. They
            change what is added up, not what is drawn.

    Returns:
        A stochastic function of the same arguments: its random choices are the program's.

    Raises:
        PPLError: The program is unnormalised: it has a factor, or a prior known by its score.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda: ppl.normal(0.0, 1.0) @ "z")
        >>> trace = ppl.seed(ppl.simulate(model))(jax.random.key(0))
        >>> bool(abs(trace.log_density - model.log_density(trace.choices)) < 1e-6)
        True
    """
    require_gf(gf, "simulate")

    @boundary
    def simulated(*args: Any) -> Trace:
        return run(gf, {}, args, "observe", weights, normalised=True).trace

    return simulated
