"""The networks of Kingma & Welling 2014, appendix C: one hidden layer of tanh units each way."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, Num


class Encoder(eqx.Module):
    """The Gaussian MLP of appendix C.2: an image to location and scale of its latents."""

    hidden: eqx.nn.Linear
    loc: eqx.nn.Linear
    log_variance: eqx.nn.Linear

    def __init__(self, pixels: int, latents: int, hidden: int, key: Key[Array, ""]):
        hidden_key, loc_key, variance_key = jr.split(key, 3)
        self.hidden = eqx.nn.Linear(pixels, hidden, key=hidden_key)
        self.loc = eqx.nn.Linear(hidden, latents, key=loc_key)
        self.log_variance = eqx.nn.Linear(hidden, latents, key=variance_key)

    def __call__(self, image: Num[Array, " pixels"]) -> tuple[Float[Array, " latents"], Float[Array, " latents"]]:
        """Return location and scale."""
        features = jnp.tanh(self.hidden(image.astype(jnp.float32)))
        return self.loc(features), jnp.exp(self.log_variance(features) / 2)


class Decoder(eqx.Module):
    """The Bernoulli MLP of appendix C.1: latents to the logits of an image."""

    hidden: eqx.nn.Linear
    logits: eqx.nn.Linear

    def __init__(self, mean: Float[Array, " pixels"], latents: int, hidden: int, key: Key[Array, ""]):
        hidden_key, logits_key = jr.split(key)
        self.hidden = eqx.nn.Linear(latents, hidden, key=hidden_key)
        logits = eqx.nn.Linear(hidden, len(mean), key=logits_key)
        self.logits = eqx.tree_at(lambda layer: layer.bias, logits, jax.scipy.special.logit(mean))

    def __call__(self, z: Float[Array, " latents"]) -> Float[Array, " pixels"]:
        """Return one logit for each pixel."""
        return self.logits(jnp.tanh(self.hidden(z)))


class Networks(eqx.Module):
    """The parameters of model and guide.

    Args:
        mean: Probability of each pixel before training. With the mean image the latents need not learn the background
            first, and no region of the prior is left without it.
        latents: Number of latents.
        hidden: Number of hidden units each way.
        key: Of the initial weights.
    """

    encoder: Encoder
    decoder: Decoder

    def __init__(self, mean: Float[Array, " pixels"], latents: int, hidden: int, key: Key[Array, ""]):
        encoder_key, decoder_key = jr.split(key)
        self.encoder = Encoder(len(mean), latents, hidden, encoder_key)
        self.decoder = Decoder(mean, latents, hidden, decoder_key)
