"""The auto-encoder with the importance-weighted bound."""

from bench.programs.vae import guide, model, over_images
from estimators import iwelbo


def objective(particles, **_):
    """Return the mean bound of a batch."""
    return over_images(iwelbo(model, guide, particles))
