"""The auto-encoder's pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from models.pictures import curves, sheet
from models.vae.networks import Networks


def draw(
    out: Path,
    params: Networks,
    images: UInt8[Array, "n pixels"],
    labels: Int[np.ndarray, " n"],
    samples: Float[Array, "m pixels"],
    values: Mapping[str, Float[np.ndarray, " steps"]],
    held: Mapping[str, Float[np.ndarray, " n"]],
) -> None:
    """Save reconstructions and a latent traversal of held-out images, samples from the prior, and the training curve.

    Args:
        out: The folder.
        params: The trained networks.
        images: Held-out images.
        labels: Their digits.
        samples: Pixel probabilities of images drawn from the model.
        values: The training objective at each step, by fit.
        held: The held-out bounds of each image.
    """
    means, _ = jax.vmap(params.encoder)(images)
    decode = jax.vmap(lambda z: jax.nn.sigmoid(params.decoder(z)))
    _reconstructions(out / "reconstructions.png", images, decode(means), labels)
    sheet(_squares(samples, 12), out / "samples.png", "Latents drawn from the prior: probability of each pixel")
    _traversal(out / "traversal.png", decode, means, means[np.flatnonzero(labels == 3)[0]])
    curves(
        values,
        out / "training.png",
        "ELBO of the training minibatches, and held out after training",
        ylabel="nats per image",
        levels={"program, held out": held["elbo"].mean(), "by hand, held out": held["elbo_by_hand"].mean()},
    )


def _reconstructions(path: Path, images: Array, decoded: Array, labels: Int[np.ndarray, " n"]) -> None:
    """Show two held-out images of each digit above what is decoded from the mean of their guide."""
    chosen = np.stack([np.flatnonzero(labels == digit)[:2] for digit in range(10)], axis=1)
    rows = [_squares(part[row], 10) for row in chosen for part in (images, decoded)]
    names = ["data", "reconstruction"] * len(chosen)
    sheet(np.concatenate(rows), path, "Held-out digits and their reconstructions", rows=names)


def _traversal(
    path: Path, decode: Callable, means: Float[Array, "n latents"], origin: Float[Array, " latents"], most: int = 8
) -> None:
    """Move one image's latents one at a time, those first that vary most between images."""
    active = jnp.argsort(-jnp.std(means, axis=0))[:most]
    steps = jnp.linspace(-3, 3, 13)
    latents = jnp.broadcast_to(origin, (len(active), len(steps), len(origin)))
    latents = latents.at[jnp.arange(len(active))[:, None], jnp.arange(len(steps)), active[:, None]].set(steps)
    decoded = decode(latents.reshape(-1, len(origin)))
    title = "A held-out 3: one latent at a time set to a value, the others kept"
    rows, columns = [f"z[{i}]" for i in active], [f"{step:+.1f}" for step in steps]
    sheet(_squares(decoded, len(steps)), path, title, rows=rows, columns=columns)


def _squares(pixels: Array, columns: int) -> Float[np.ndarray, "rows columns side side"]:
    """Give flat images their height and width, and lay them out in rows."""
    side = round(pixels.shape[-1] ** 0.5)
    return np.asarray(pixels, np.float64).reshape(-1, columns, side, side)
