"""The prior density of latent choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ppl import GenerativeFunction, assess, merge
from ppl.choicemap import flatten, show
from ppl.transforms.traits import exact_globs


def log_prior(model: GenerativeFunction) -> Callable[..., jax.Array]:
    """Return a stochastic function of `(params, observed, *inputs, choices)`: log p of the choices not observed."""

    def run(params: Any, observed: Any, *rest: Any) -> jax.Array:
        *inputs, choices = rest
        weights = {show(path): 1.0 for path in flatten(choices)} | {show(path): 0.0 for path in flatten(observed)}
        return assess(model, exact_globs(weights))(merge(choices, observed), params, *inputs)[0]

    return run
