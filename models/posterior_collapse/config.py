"""Settings: what is fitted, for how long, and the paper's own scale."""

from dataclasses import dataclass

from models.posterior_collapse.fits import Setting, Training
from models.posterior_collapse.scale import Scale


@dataclass(frozen=True)
class Linear:
    """Linear programs, whose optima are known.

    Args:
        training: Of all of them.
        latents: Of the auto-encoder of whole images.
        vae: Its settings.
        cvae: Settings of conditional programs of a quarter.
        mhvae: Settings of the hierarchy of ten and ten latents, whose first scale is fixed at .5 (the authors' sizes).
        rank: Latents of the program whose noise is learned; 0 for none.
    """

    training: Training = Training(6000)
    latents: int = 64
    vae: tuple[Setting, ...] = (Setting(0.2), Setting(0.25), Setting(0.5), Setting(0.25, (4.0,)))
    cvae: tuple[Setting, ...] = (Setting(0.2), Setting(0.25))
    mhvae: tuple[Setting, ...] = tuple(Setting(0.5, (1.0, b2)) for b2 in (0.5, 1.5, 2.0))
    rank: int = 10


@dataclass(frozen=True)
class Nonlinear:
    """Networks of one hidden layer of rectified units.

    Args:
        training: Of all of them.
        latents: Of each level.
        hidden: Units of each path.
        noise: eta_dec where it is not varied.
        betas: Weights that are compared.
        noises: Noises that are compared, at weight 1.
        correlations: r of the synthetic pairs.
        baselines: Whether to train with a warm-up, and with free bits.
    """

    training: Training = Training(3000, 1e-3, 128)
    latents: int = 16
    hidden: int = 64
    noise: float = 0.25
    betas: tuple[float, ...] = (0.25, 1.0, 4.0)
    noises: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    correlations: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5, 1.0)
    baselines: bool = True


@dataclass(frozen=True)
class Config:
    """What a run does."""

    linear: Linear = Linear()
    nonlinear: Nonlinear | None = Nonlinear()
    largest: tuple[Scale, ...] = ()
    """The scales of `full`: one step of each is run, nothing is trained."""


QUICK = Config(
    Linear(Training(3000), latents=24, vae=(Setting(0.5), Setting(0.5, (0.25,))), cvae=(), mhvae=(), rank=0),
    nonlinear=None,
)
