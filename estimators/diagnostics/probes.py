"""Draws with densities, many at once: what the diagnostics look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from estimators.objectives.dreams import dreamt
from ppl import GenerativeFunction, PPLError, assess, merge, seed, simulate
from ppl._errors import user_source


def require_draws(usage: str, name: str, number: Any, least: int) -> None:
    """Refuse a number of draws that is too small."""
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise PPLError(
            f"`{usage}` takes another `{name}`.",
            where=user_source(),
            expected=f"an int of at least {least}",
            got=repr(number),
            remedy="take more draws",
        )


def repeated(function: Callable, key: jax.Array, times: int, *args: Any, over: Any = None) -> Any:
    """Run a stochastic function of `(*args)`, or of `(*args, row)` for the rows of a pytree, many times."""
    keys = jax.random.split(key, times)
    if over is None:
        return jax.jit(jax.vmap(lambda key: seed(function)(key, *args)))(keys)
    return jax.jit(jax.vmap(lambda key, row: seed(function)(key, *args, row)))(keys, over)


def from_guide(model: GenerativeFunction, guide: GenerativeFunction) -> Callable[..., tuple]:
    """Return a stochastic function of `(params, observed, *inputs)`: choices, log p(x, z), log q(z)."""

    def run(params: Any, observed: Any, *inputs: Any) -> tuple:
        drawn = simulate(guide)(params, observed, *inputs)
        log_joint, _ = assess(model)(merge(drawn.choices, observed), params, *inputs)
        return drawn.choices, log_joint, drawn.log_density

    return run


def at_choices(model: GenerativeFunction, guide: GenerativeFunction) -> Callable[..., tuple]:
    """Return a stochastic function of `(params, observed, *inputs, choices)`: log p(x, z), log q(z)."""

    def run(params: Any, observed: Any, *rest: Any) -> tuple:
        *inputs, choices = rest
        log_joint, _ = assess(model)(merge(choices, observed), params, *inputs)
        return log_joint, assess(guide)(choices, params, observed, *inputs)[0]

    return run


def dream(model: GenerativeFunction) -> Callable[..., tuple]:
    """Return a stochastic function of `(params, observed, *inputs)`: latent choices and observations of the model."""
    return lambda params, observed, *inputs: dreamt(model, params, observed, *inputs)
