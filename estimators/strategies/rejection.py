"""The reparameterised gradient of samplers that reject."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl import Strategy, StrategyError
from ppl._errors import user_source


@dataclasses.dataclass(frozen=True)
class rejection(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Differentiate the transformation of accepted noise, and charge its density (Naesseth et al. 2017, eq. 7 and 8).

    x = h(e, parameters), e the noise that a rejection sampler has accepted, of density pi(e) = p(h(e)) |dh/de|. The
    gradient is E[d k(h(e)) + k(h(e)) d log pi(e)]: reparameterised but for the part of the sampler that the noise's
    density still knows. e is found from a draw of x by the inverse of h, so nothing is rejected here. Costs must be
    continuous in x, which is checked. One evaluation of the costs and its derivative, beside that of the value.

    For gamma choices h is that of Marsaglia and Tsang (2000), with the concentration raised by `augment` and undone by
    as many uniform numbers (their section 4.1): the correction fades as that grows. Others bring their own h.

    Args:
        transform: `h(noise, **parameters)`, elementwise and increasing or decreasing in the noise.
        inverse: `inverse(value, **parameters)`, with `h(inverse(x)) = x`.
        log_accepted: `log pi(noise, **parameters)`; None computes it from the density of the choice.
        augment: At least 1; for gamma only.

    Raises:
        StrategyError: The choice is discrete, or not gamma and without a transformation; or the strategy of a later
            choice that depends on it has `estimate`.
        UnsoundGradientError: A cost jumps.

    Example:
        >>> import jax, ppl
        >>> from estimators import rejection
        >>> cost = lambda a: ppl.gamma(a, 1.0, grad=rejection()).sample() ** 2
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 4000), 2.5)
        >>> bool(abs(gradients.mean() - 6) < 0.3)
        True
    """

    transform: Callable[..., Any] | None = None
    inverse: Callable[..., Any] | None = None
    log_accepted: Callable[..., Any] | None = None
    augment: int = 3

    def __post_init__(self):
        if (self.transform is None) != (self.inverse is None) or self.augment < 1:
            raise StrategyError(
                "`rejection` takes a transformation with its inverse, and a positive `augment`.",
                where=user_source(),
                expected="both of `transform` and `inverse`, or neither; `augment` at least 1",
                got=f"transform={self.transform!r}, inverse={self.inverse!r}, augment={self.augment!r}",
                remedy="use `rejection()` for gamma choices",
            )

    def __str__(self) -> str:
        return "rejection" if self.transform is None else f"rejection({getattr(self.transform, '__name__', '...')})"

    def check(self, family) -> str | None:
        """Refuse discrete and vector-valued families, and those without a transformation."""
        if family.discrete or family.event_ndim:
            return "it is for continuous numbers"
        return None if self.transform is not None or family.name == "gamma" else "it knows h for gamma only"

    def estimate(self, key, d, k):
        """Return k(x) + k(x) log pi(e), the latter factor with the only tangents."""
        if self.transform is not None:
            x, log_accepted = self.accepted(d, lax.stop_gradient(d.sample(key)))
        else:
            x, log_accepted = _augmented(key, d, self.augment)
        cost = k(x)
        return cost + lax.stop_gradient(cost) * log_accepted

    def accepted(self, d, x):
        """Return a draw as a function of the parameters, and the log density of its noise."""
        return _accepted(d, x, self.transform, self.inverse, self.log_accepted)


def _accepted(d, x, transform, inverse, log_accepted=None):
    noise = lax.stop_gradient(inverse(x, **d.params))
    moved, slope = jax.jvp(lambda e: transform(e, **d.params), (noise,), (jnp.ones_like(noise),))
    if log_accepted is not None:
        return moved, log_accepted(noise, **d.params)
    return moved, d.log_prob(moved) + jnp.log(jnp.abs(slope))


def _augmented(key, d, augment: int):
    """Draw gamma(a) as gamma(a + B) prod_i u_i**(1 / (a + i - 1)), i = 1..B."""
    draw_key, uniform_key = jax.random.split(key)
    params = d.spread_params()
    raised = d.with_params(concentration=params["concentration"] + augment)
    x, log_accepted = _accepted(raised, lax.stop_gradient(raised.sample(draw_key)), marsaglia_tsang, noise_of)
    tiny = jnp.finfo(x.dtype).tiny
    logs = jnp.log(jax.random.uniform(uniform_key, (augment, *d.shape), x.dtype, minval=tiny))
    steps = jnp.arange(augment, dtype=x.dtype).reshape((-1,) + (1,) * len(d.shape))
    return x * jnp.exp((logs / (params["concentration"] + steps)).sum(0)), log_accepted


def marsaglia_tsang(noise, concentration, rate):
    """Return h(e) = (a - 1/3) (1 + e / sqrt(9 a - 3))**3 / rate, nearly gamma for normal e; a at least 1."""
    return (concentration - 1 / 3) * (1 + noise / jnp.sqrt(9 * concentration - 3)) ** 3 / rate


def noise_of(value, concentration, rate):
    """Return the e with h(e) = value."""
    return jnp.sqrt(9 * concentration - 3) * (jnp.cbrt(value * rate / (concentration - 1 / 3)) - 1)
