"""The settings of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Key

from models.pv_rnn.codes import Code, Direct, Softmax
from models.pv_rnn.networks import Coupling, Form, Network, Sizes
from models.pv_rnn.regression import Window


def unbounded(x: Array) -> Array:
    """Return logits as they are."""
    return x


@dataclass(frozen=True)
class Config:
    """The sizes of T-GLean; its adaptive vectors for as many sequences as the code of Idei et al. 2022 has."""

    units: tuple[int, ...] = (60, 40, 20)
    latents: tuple[int, ...] = (6, 4, 2)
    taus: tuple[float, ...] = (2.0, 4.0, 8.0)
    coupling: Coupling = "bidirectional"
    form: Form = "adaptive"
    code: Code = Softmax()
    sequences: int = 48
    held_out: int = 48
    length: int = 200
    epochs: int = 100_000
    learning_rate: float = 1e-3
    clip: float = 5.0
    metas: tuple[float, ...] = (1.0, 0.1, 0.001)
    """Meta-priors of the fits to sequences that all begin alike; () makes none."""
    meta: float = 0.1
    """That of all other fits."""
    window: int = 24
    horizon: int = 8
    samples: int = 20
    """Of predictions."""
    iterations: int = 200
    rate: float = 0.1
    """Of error regression."""
    trust: float = 0.3
    """Of the senses: what the meta-prior is multiplied by in a second error regression."""
    generated: int = 200
    particles: int = 5
    """Of the importance-weighted fit; 1 makes none."""
    amortised: bool = True
    """Whether a variational RNN is fitted, to compare with."""
    motion_epochs: int = 20_000
    """Of the fits to real movements; 0 makes none."""
    motion_meta: float = 0.01
    """Their meta-prior."""
    motion_length: int = 100
    """Steps of every recording, at 10 Hz; vectors of half of them are trained by error regression."""
    online: int = 8
    """Streams that are followed step by step."""

    @property
    def sizes(self) -> Sizes:
        """Return the sizes of the layers."""
        return Sizes(self.units, self.latents, self.taus)

    def network(self, numbers: int) -> Callable[[Key[Array, ""]], Network]:
        """Return what draws a network for so many numbers in every step."""
        readout = jnp.tanh if isinstance(self.code, Direct) else unbounded
        outputs = self.code.outputs(numbers)
        return lambda key: Network(self.sizes, outputs, key, coupling=self.coupling, form=self.form, readout=readout)

    @property
    def at(self) -> Window:
        """Return the window of error regression."""
        return Window(self.window, self.iterations, self.rate, self.meta)


SMALL = partial(
    Config,
    units=(20, 10),
    latents=(1, 1),
    taus=(2.0, 8.0),
    code=Direct(),
    sequences=24,
    length=64,
    epochs=3_000,
    learning_rate=6e-3,
)
