"""Variational inference for SDEs driven by fractional noise (Daems et al., ICLR 2024, arXiv:2310.12975).

Fractional Brownian motion replaces the white noise of a neural stochastic differential equation, so that its paths have
a memory. It is approximated by a weighted sum of Ornstein-Uhlenbeck processes that share one Brownian motion
(`noise.py`), with weights in closed form (`weights.py`), so that the state with these processes is Markov again
(`process.py`): the noise's steps are choices, the guide pushes them by a control, and the ELBO of the paths falls out
of their densities. The Hurst index, how rough paths are, is learned through the weights.

Reproduced are the bridge whose learned variance equals that of the exact posterior (`bridge.py`), learning the Hurst
index (`series.py`: exact synthetic paths, the volatility of the S&P 500; `nile.py`: a river), and the latent video
model with fractional and with Brownian noise (`video.py`). `linear.py` has what is exact, `solver.py` the same paths by
diffrax.

What differs: the guide learns the variance of every step, which the paper's cannot (`ratio`; both are in the report),
and a guide of Y(0), which the authors draw from the prior. The quick and default presets take narrower networks; their
videos are 8 x 8 digits in 16 x 16 frames, whose pixels are observed with a deviation of .2: at the paper's variance of
1/2 so small a frame says too little, and in a short run nothing but the mean image is learned. Steps are those of Euler
or Milstein, with `gamma_max * dt < 1/2` as the authors ask; the Nile's are exact. The authors' reading of the equation
of the video, Stratonovich, is kept.
"""

from dataclasses import dataclass, replace

from models.fractional_sde import experiments
from models.fractional_sde.bridge import BridgeConfig
from models.fractional_sde.full import one_step
from models.fractional_sde.nile import NileConfig
from models.fractional_sde.series import SeriesConfig
from models.fractional_sde.video import VideoConfig
from models.registry import Context, Preset, Program
from models.report import Outcome


@dataclass(frozen=True)
class Config:
    """Which experiments are run, and with which settings; the paper's video model alone unless said otherwise."""

    bridge: BridgeConfig | None = None
    guides: BridgeConfig | None = None
    nile: NileConfig | None = None
    series: SeriesConfig | None = None
    volatility: SeriesConfig | None = None
    days: int = 250
    video: VideoConfig | None = None
    full: VideoConfig | None = None


SMALL_BRIDGE = BridgeConfig(hurst=(0.2, 0.5, 0.8), steps_of_path=100, width=64, steps=3000, learning_rate=1e-2)
SMALL_VIDEO = VideoConfig(
    side=16, frames=12, known=8, dimension=4, number=4, features=64, content=32, width=32, convolutions=False, digits=1,
    speed=2, dataset="small", movies=4000, held_out=200, steps=1200, learning_rate=3e-3, pixel_scale=0.2,
)  # fmt: skip


def run(context: Context) -> Outcome:
    """Run the experiments that are configured."""
    config, outcomes = context.config, []
    check = replace(SMALL_BRIDGE, kind="II", end=1.0, scale=0.5)
    outcomes.append(experiments.exact_control(check, context))
    if config.nile:
        outcomes.append(experiments.river(config.nile, context))
    if config.bridge:
        outcomes.append(experiments.bridges(config.bridge, context))
    if config.guides:
        outcomes.append(experiments.guides(config.guides, context))
    if config.series:
        outcomes.append(experiments.recovery(config.series, context))
    if config.volatility:
        outcomes.append(experiments.volatility(config.volatility, config.days, context))
    if config.video:
        outcomes.append(experiments.movies(config.video, context))
    if config.full:
        outcomes.append(one_step(config.full, context))
    metrics = {name: value for outcome in outcomes for name, value in outcome.metrics.items()}
    return Outcome(metrics, [claim for outcome in outcomes for claim in outcome.claims])


PROGRAM = Program(
    name="fractional_sde",
    title="Variational Inference for SDEs Driven by Fractional Noise",
    paper="Daems, Opper, Crevecoeur & Birdal, ICLR 2024, arXiv:2310.12975",
    data="the Nile's annual flow (statsmodels), S&P 500 (arch), moving 8 x 8 digits (scikit-learn); full: moving MNIST",
    presets={
        "quick": Preset(Config(nile=NileConfig(steps=600, lanes=2, draws=1000)), "1 min, busy machine"),
        "default": Preset(
            Config(
                bridge=SMALL_BRIDGE,
                guides=replace(SMALL_BRIDGE, hurst=(0.3,), kind="II", end=1.0, steps=2000),
                nile=NileConfig(),
                series=SeriesConfig(),
                volatility=SeriesConfig(number=5, fastest=20.0, duration=6.0, substeps=1),
                video=SMALL_VIDEO,
            ),
            "6 min, busy machine",
        ),
        "full": Preset(Config(full=VideoConfig()), "one step: 5 min, busy machine"),
    },
    run=run,
)
