"""Driving noise with memory: a weighted sum of Ornstein-Uhlenbeck processes that share one Brownian motion."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from models.fractional_sde.weights import Kind, geometric_rates, optimal_weights

HURST_EDGE = 0.02


def hurst_of(raw: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Map any number to a Hurst index: a sigmoid, onto (0.02, 0.98), beyond which weights degenerate; 0 to 1/2."""
    return HURST_EDGE + (1 - 2 * HURST_EDGE) * jax.nn.sigmoid(raw)


class Noise(eqx.Module):
    """Noise Bhat = sum_k weights_k (Y_k - Y_k(0)), with dY_k = -rates_k Y_k dt + dB.

    Attributes:
        rates: Of mean reversion, per unit of time; fixed.
        weights: Learned through H; with a leading axis of steps where H changes in time.
        stationary: Whether the processes have a past (type I), or start at zero (type II).
    """

    rates: tuple[float, ...] = eqx.field(static=True)
    weights: Float[Array, "*steps k"]
    stationary: bool = eqx.field(static=True)

    @property
    def gammas(self) -> Float[Array, " k"]:
        """Return the rates as an array."""
        return jnp.asarray(self.rates)

    def per_step(self, steps: int) -> Float[Array, "steps k"]:
        """Return the weights of every step."""
        return jnp.broadcast_to(self.weights, (steps, len(self.rates)))

    def past(self, standard: Float[Array, "*s k"]) -> Float[Array, "*s k"]:
        """Return the processes' values at time 0 from standard normal numbers; zeros where there is no past."""
        return standard @ jnp.asarray(self.past_factor().T) if self.stationary else jnp.zeros_like(standard)

    def past_factor(self) -> Float[np.ndarray, "k k"]:
        """Return the Cholesky factor of the covariance at time 0, of entries 1 / (rate_i + rate_j): a Cauchy matrix."""
        rates = np.asarray(self.rates)
        if not self.stationary:
            return np.zeros((len(rates), len(rates)))
        covariance = 1.0 / (rates[:, None] + rates)
        return np.linalg.cholesky(covariance + 1e-9 * np.eye(len(rates)))


def fractional(
    hurst: Float[Array, "*steps"] | float, *, number: int, fastest: float, horizon: float, kind: Kind
) -> Noise:
    """Approximate fractional Brownian motion by a Markov process (Daems et al. 2024).

    Args:
        hurst: H, or one for each step (a multifractional process).
        number: K, of Ornstein-Uhlenbeck processes.
        fastest: Their largest rate; the smallest is its reciprocal.
        horizon: T, over which the approximation is best on average.
        kind: "I" with stationary increments, "II" without a past.

    Raises:
        SettingError: If one of these is out of range.

    Example:
        >>> noise = fractional(0.3, number=5, fastest=20.0, horizon=6.0, kind="II")
        >>> [round(float(weight), 3) for weight in noise.weights]
        [0.876, -0.178, 0.474, 0.096, 1.186]
    """
    rates = geometric_rates(number, fastest)
    return Noise(tuple(rates.tolist()), optimal_weights(rates, hurst, horizon, kind), kind == "I")


def brownian() -> Noise:
    """Return Brownian motion in the same form: one process of rate 0 and weight 1, the paper's baseline.

    Example:
        >>> brownian().stationary
        False
    """
    return Noise((0.0,), jnp.ones(1), False)
