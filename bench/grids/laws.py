"""The laws of the grid's programs in plain arithmetic: outcomes with weights, and log densities.

A law is that of a guide and a model of two latent choices, whatever construct makes them:

    guide  z ~ first(theta_0), w ~ kind(theta_1 + a z),  model  z ~ first(0), w ~ kind(b z),
    x ~ normal(.8 z - .5 w + .2 theta_0, 1).

A coin of kind(u) has the logit u, a normal choice the mean u and the scale .8 (1 in the model). Outcomes are all values
of coins, and the nodes of Gauss's rule for normal choices.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

GUIDE_STEP, MODEL_STEP, SCALE, OBSERVED, NODES = 0.4, 0.3, 0.8, 0.7, 20


def log_density(kind: str, u, z, scale=SCALE):
    """Return the log density of a value of kind(u)."""
    if kind == "coin":
        return z * u - jax.nn.softplus(u)
    return -(((z - u) / scale) ** 2) / 2 - jnp.log(scale * jnp.sqrt(2 * jnp.pi))


def noise(kind: str, nodes: int = NODES):
    """Return what the outcomes of a choice are made of, and weights of the normal ones (1 for coins)."""
    if kind == "coin":
        return np.array([0.0, 1.0]), np.ones(2)
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return points, weights / weights.sum()


def outcome(kind: str, u, of, weight, scale=SCALE):
    """Return the value of kind(u) for a piece of noise, and the weight of that value."""
    if kind == "coin":
        return of + 0.0 * u, jax.nn.sigmoid(jnp.where(of > 0, u, -u))
    return u + scale * of, weight + 0.0 * u


class Table(NamedTuple):
    """All outcomes of two choices.

    Attributes:
        weights: Their probabilities (or Gauss's weights), shape (n,).
        z: The values, shape (n, 2).
        log_prior: Log densities of the latent choices in the model, shape (n,).
        log_lik: Those of the observation.
        log_q: Those of the guide.
    """

    weights: jax.Array
    z: jax.Array
    log_prior: jax.Array
    log_lik: jax.Array
    log_q: jax.Array

    @property
    def log_p(self):
        """Return log p(x, z)."""
        return self.log_prior + self.log_lik

    @property
    def log_w(self):
        """Return log p(x, z) - log q(z)."""
        return self.log_p - self.log_q


@dataclasses.dataclass(frozen=True)
class Law:
    """A law.

    Attributes:
        name: "chain", "apart" (the second choice does not see the first) or "mixed" (the first one is a coin).
        kind: "coin" or "normal".
    """

    name: str
    kind: str

    @property
    def kinds(self) -> tuple[str, str]:
        """Return the kinds of both choices."""
        return "coin" if self.name == "mixed" else self.kind, self.kind

    def step(self, of: str) -> float:
        """Return how the second choice depends on the first."""
        return 0.0 if self.name == "apart" else {"guide": GUIDE_STEP, "model": MODEL_STEP}[of]

    def outcomes(self, theta, of: str = "guide", nodes: int = NODES):
        """Return weights, shape (n,), and values, shape (n, 2), of the choices of guide or model."""
        scale = SCALE if of == "guide" else 1.0
        (one, weigh_one), (two, weigh_two) = (noise(kind, nodes) for kind in self.kinds)
        (one, two), (weigh_one, weigh_two) = _all_pairs(one, two), _all_pairs(weigh_one, weigh_two)
        z, p = outcome(self.kinds[0], theta[0], one, weigh_one, scale)
        w, q = outcome(self.kinds[1], theta[1] + self.step(of) * z, two, weigh_two, scale)
        return p * q, jnp.stack([z, w], 1)

    def log_q(self, theta, z):
        """Return the log density of the guide at a pair."""
        after = theta[1] + self.step("guide") * z[0]
        return log_density(self.kinds[0], theta[0], z[0]) + log_density(self.kinds[1], after, z[1])

    def log_prior(self, z):
        """Return the log density of the model's latent choices."""
        after = self.step("model") * z[0]
        return log_density(self.kinds[0], 0.0, z[0], 1.0) + log_density(self.kinds[1], after, z[1], 1.0)

    @staticmethod
    def log_lik(theta, z):
        """Return the log density of the observation."""
        return log_density("normal", 0.8 * z[0] - 0.5 * z[1] + 0.2 * theta[0], OBSERVED, 1.0)

    def log_p(self, theta, z):
        """Return log p(x, z)."""
        return self.log_prior(z) + self.log_lik(theta, z)

    def table(self, theta, drawn_at=None, nodes: int = NODES) -> Table:
        """Return all outcomes of the guide.

        Args:
            theta: Parameters of the densities, and of the outcomes unless these are drawn elsewhere.
            drawn_at: Parameters of the outcomes and their weights, such as detached ones.
            nodes: Of Gauss's rule.
        """
        weights, z = self.outcomes(theta if drawn_at is None else drawn_at, nodes=nodes)
        of = lambda function: jax.vmap(function)(z)
        log_lik = of(lambda z: self.log_lik(theta, z))
        return Table(weights, z, of(self.log_prior), log_lik, of(lambda z: self.log_q(theta, z)))


def _all_pairs(one, two):
    return tuple(jnp.asarray(part.ravel()) for part in np.meshgrid(one, two, indexing="ij"))
