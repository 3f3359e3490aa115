"""How numbers are observed: as they are, with normal errors, or as soft codes over bins (the form of 2019)."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ppl import choice, normal


class Direct(eqx.Module):
    """x ~ N(output, scale**2) for each number.

    Args:
        scale: Of the errors; with 1 the log density is half the squared error, but for a constant.
        bounded: Whether outputs are those of a tanh, so that no datum outside of (-1, 1) can be met.
    """

    scale: float = eqx.field(static=True, default=1.0)
    bounded: bool = eqx.field(static=True, default=True)

    def outputs(self, numbers: int) -> int:
        """Return how many outputs say so many numbers."""
        return numbers

    def encode(self, data: np.ndarray) -> np.ndarray:
        """Return what is observed of data.

        Raises:
            ValueError: If outputs cannot reach a datum.
        """
        worst = data.flat[np.argmax(np.abs(data))]
        if self.bounded and not abs(worst) < 1:
            raise ValueError(f"outputs of a tanh lie between -1 and 1, but there is a target {worst}: scale the data.")
        return data

    def observe(self, outputs: Float[Array, "steps numbers"]) -> None:
        """Make the choice of all observations."""
        normal(outputs, self.scale) @ "x"

    def mean(self, outputs: Float[Array, "steps numbers"]) -> Float[Array, "steps numbers"]:
        """Return the expected numbers."""
        return outputs


class Softmax(eqx.Module):
    """Each number is a distribution over bins, and so is what is observed of it: a Gaussian kernel around the number.

    The log density is sum_b target_b log softmax(output)_b: a one-hot choice's, linear in the target, so that soft
    targets give the cross-entropy.

    Args:
        bins: Number of bins.
        lowest, highest: Their first and last centre.
        spread: Variance of the kernel: 0.05 reaches the neighbours, as a standard deviation it would hardly.
    """

    bins: int = eqx.field(static=True, default=10)
    lowest: float = eqx.field(static=True, default=-1.25)
    highest: float = eqx.field(static=True, default=1.25)
    spread: float = eqx.field(static=True, default=0.05)

    @property
    def centres(self) -> np.ndarray:
        """Return the centres of the bins."""
        return np.linspace(self.lowest, self.highest, self.bins)

    def outputs(self, numbers: int) -> int:
        """Return how many outputs say so many numbers."""
        return self.bins * numbers

    def encode(self, data: np.ndarray) -> np.ndarray:
        """Return what is observed of data: along a new last axis the share of every bin.

        Raises:
            ValueError: If the bins do not cover a datum.
        """
        for worst in (np.min(data), np.max(data)):
            if not self.lowest <= worst <= self.highest:
                raise ValueError(f"the bins cover [{self.lowest}, {self.highest}], but there is a target {worst}.")
        logits = -((data[..., None] - self.centres) ** 2) / (2 * self.spread)
        kernel = np.exp(logits - logits.max(-1, keepdims=True))
        return (kernel / kernel.sum(-1, keepdims=True)).astype(np.float32)

    def observe(self, outputs: Float[Array, "steps outputs"]) -> None:
        """Make the choice of all observations."""
        jax.vmap(jax.vmap(lambda logits: choice(OneHot(logits)) @ "x"))(self._by_number(outputs))

    def mean(self, outputs: Float[Array, "steps outputs"]) -> Float[Array, "steps numbers"]:
        """Return the expected numbers."""
        return jax.nn.softmax(self._by_number(outputs)) @ jnp.asarray(self.centres, outputs.dtype)

    def _by_number(self, outputs):
        return outputs.reshape(*outputs.shape[:-1], -1, self.bins)


Code = Direct | Softmax


@dataclasses.dataclass(frozen=True)
class OneHot:
    """A bin, as a vector of one 1 and zeros."""

    logits: Float[Array, " bins"]

    def log_prob(self, value: Float[Array, " bins"]) -> Float[Array, ""]:
        """Return the log probability; of a soft target, minus the cross-entropy."""
        return jnp.sum(value * jax.nn.log_softmax(self.logits))

    def sample(self, key: Key[Array, ""]) -> Float[Array, " bins"]:
        """Draw a bin."""
        return jax.nn.one_hot(jax.random.categorical(key, self.logits), len(self.logits))
