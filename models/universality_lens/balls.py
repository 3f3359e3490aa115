"""How much of a prior is close to a hypothesis: weights of balls, also of those that no draw from the prior hits.

Splitting (Kahn and Harris 1951; Au and Beck 2001): a population of draws from the prior is moved inwards by levels. At
each level the nearest tenth survives; the weight is a tenth of the last one's, and Markov steps that leave the prior
restricted to the ball invariant make the population whole again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

SURVIVE = 0.1


@dataclass(frozen=True)
class Weights:
    """Log weights of balls of falling radius.

    Attributes:
        radius: Divergences from the hypothesis, per symbol.
        log_weight: log w(B(radius)).
    """

    radius: Float[np.ndarray, " levels"]
    log_weight: Float[np.ndarray, " levels"]

    def bound(self, n: int) -> float:
        """Return the best bound of the regret of n symbols: min over radii of n e - log w(B(e)), in nats; or +inf."""
        return float(np.min(n * self.radius - self.log_weight, initial=math.inf))


def ball_weights(
    divergence: Callable[[Float[Array, " k"]], Float[Array, ""]],
    size: int,
    key: Key[Array, ""],
    *,
    population: int = 1000,
    moves: int = 20,
    levels: int = 10,
) -> Weights:
    """Estimate the weight of balls under a standard normal prior of a vector.

    Args:
        divergence: Of a hypothesis from the truth, per symbol; at least 0, up to +inf.
        size: Length of the vector.
        key: A key.
        population: Number of hypotheses that are kept.
        moves: Markov steps of each between two levels: z' = sqrt(1 - s**2) z + s noise (Neal 1999), rejected outside.
        levels: Number of levels; the last ball has a weight of about 10**-levels.

    Raises:
        ValueError: The population is smaller than 20, or there are no levels.
    """
    if population < 20 or levels < 1:
        raise ValueError(f"splitting takes 20 hypotheses and 1 level at least, got {population} and {levels}")
    distances = jax.jit(jax.vmap(divergence))
    start_key, key = jr.split(key)
    points = jr.normal(start_key, (population, size))
    found, log_weight, scale = [], 0.0, 0.5
    for level in range(levels):
        far = np.asarray(distances(points), np.float64)
        order = np.sort(far)
        ranks = np.arange(math.ceil(SURVIVE * population), population + 1)
        found += [(order[rank - 1], log_weight + math.log(rank / population)) for rank in ranks[::-1]]
        radius = order[ranks[0] - 1]
        if not np.isfinite(radius):
            break
        log_weight += math.log(ranks[0] / population)
        chosen_key, move_key = jr.split(jr.fold_in(key, level))
        inside = jnp.asarray(np.flatnonzero(far <= radius))
        points = points[jr.choice(chosen_key, inside, (population,))]
        points, scale = _spread(distances, points, radius, scale, moves, move_key)
    finite = [pair for pair in found if np.isfinite(pair[0])]
    radii, weights = (np.array(part) for part in zip(*finite, strict=True)) if finite else (np.empty(0), np.empty(0))
    return Weights(radii, weights)


def _spread(distances: Callable, points: Array, radius: float, scale: float, moves: int, key) -> tuple[Array, float]:
    """Move hypotheses within a ball; the step size follows the share of moves that stay inside."""
    for move in range(moves):
        noise = jr.normal(jr.fold_in(key, move), points.shape)
        proposed = math.sqrt(1 - scale**2) * points + scale * noise
        stays = distances(proposed) <= radius
        points = jnp.where(stays[:, None], proposed, points)
        scale = float(np.clip(scale * math.exp(float(stays.mean()) - 0.3), 1e-3, 0.99))
    return points, scale
