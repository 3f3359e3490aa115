"""A distribution of angles, in turns."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import i0e
from jaxtyping import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class Toward:
    """The angle u, in turns from 0 to 1, towards a point (x, y): a von Mises distribution.

        r(u) = exp(c (x cos(2 pi u) + y sin(2 pi u))) / I0(c sqrt(x**2 + y**2)).

    If u is uniform and (x, y) is drawn from a normal around the point on a circle in that direction, with independent
    coordinates of one scale, this is the law of u given (x, y): by Bayes' rule, c is the radius over the squared scale.
    It is smooth in (x, y) where the angle of the point, by atan2, jumps by a turn.

    Args:
        point: The point (x, y); not the origin.
        concentration: c, positive, per unit of length.
    """

    point: Float[Array, "2"]
    concentration: Float[Array, ""]

    def log_prob(self, u: Float[Array, ""]) -> Float[Array, ""]:
        """Return the log density, as x cos + y sin - r = -|(x, y) - r (cos, sin)|**2 / (2 r), without cancellation."""
        angle = 2 * math.pi * u
        radius = jnp.linalg.norm(self.point)
        gap = self.point - radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        kernel = -self.concentration * jnp.sum(gap**2) / (2 * radius)
        return kernel - jnp.log(i0e(self.concentration * radius))

    def sample(self, key: Key[Array, ""]) -> Float[Array, ""]:
        """Draw an angle."""
        x, y = self.point
        radius = jnp.linalg.norm(self.point)
        turned = dist.VonMises(jnp.arctan2(y, x), self.concentration * radius).sample(key)
        return jax.lax.stop_gradient(turned / (2 * math.pi) % 1.0)
