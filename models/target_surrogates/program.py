"""Target-based surrogates: Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, ICML 2023, arXiv:2302.02607.

Many losses are h(theta) = loss(f(theta)), where f is cheap (logits, a guide's means, a policy's forces) and the loss is
dear (a simulator, an expert, particles). The gradient at the target f(theta) is paid once, and used for m cheap steps
on a quadratic surrogate. What is reproduced, on real data that pip installs:

- linear classifiers of digits and of tumours (`supervised.py`): at the same number of dear gradients, more inner steps
  reach a lower loss, for the best step size of each;
- an amortised guide whose exact posterior is known (`inference.py`): the same with noisy gradients of an ELBO, and what
  noise does to many inner steps;
- online imitation of an expert that balances a pole (`cart_pole.py`, `imitation.py`), in place of MuJoCo's walkers.

Beyond the paper: the dear part is any stochastic program, with any strategy for its choices; divergences of guides in
place of distances (a natural gradient); and inner loops that end where noise begins. The optimiser itself is
`estimators.target_surrogate`. What differs: the paper's figures are curves without numbers, and its larger networks and
data are run for one step only (`scale.py`).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import jax.random as jr
import optax

from estimators import NoiseAware
from models.registry import Context, Preset, Program
from models.report import Outcome
from models.target_surrogates import claims, exact, imitation, inference, pictures, scale, supervised
from models.target_surrogates.fits import best, surrogate


@dataclass(frozen=True)
class Config:
    """Which step sizes and numbers of inner steps are compared, and how long."""

    tasks: tuple[str, ...] = ("digits", "cancer")
    etas: tuple[float, ...] = (1.0, 2.0, 10.0)
    """In units of one example's loss."""
    inner: tuple[int, ...] = (1, 10, 100)
    steps: int = 200
    too_large: float | None = 100.0
    """A step size at which many inner steps are too many, for 500 steps."""
    rates: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    """Of Adam."""
    latents: int = 5
    shares: tuple[float, ...] = (0.25, 0.5)
    """Step sizes of inference, as shares of 1 / curvature."""
    guide_steps: int = 100
    runs: int = 4
    """Number of gradients that are averaged where noise is estimated; 0 leaves that out."""
    lessons: imitation.Rounds | None = imitation.Rounds()
    policy_etas: tuple[float, ...] = (0.25, 0.5)
    largest: scale.Scale | None = None
    """The scale of `full`: one step is run, nothing is trained."""


def run(context: Context) -> Outcome:
    """Check, train, compare, and draw."""
    config = context.config
    if config.largest is not None:
        return Outcome(scale.one_step(config.largest, context.key))
    metrics = exact.checks()
    for task in config.tasks:
        metrics |= classify(context, task)
    metrics |= infer(context)
    if config.lessons is not None:
        metrics |= imitate(context, config.lessons)
    return Outcome(metrics, claims.claims(metrics, config))


def classify(context: Context, task: str) -> dict[str, float]:
    """Compare numbers of inner steps, each at its best step size, and Adam."""
    config, key = context.config, context.key
    context.announce(f"classify {task}")
    curves = supervised.grid(task, config.etas, config.inner, config.steps, key)
    metrics = {f"{task}_eta{eta:g}_m{m}": curve[config.steps] for (eta, m), curve in curves.items()}
    shown = {}
    for m in config.inner:
        eta = best({eta: curves[eta, m] for eta in config.etas}, config.steps)
        shown[f"m = {m}, eta = {eta:g}"] = curves[eta, m]
        metrics[f"{task}_best_m{m}"] = curves[eta, m][config.steps]
    if config.rates:
        plain = supervised.adam(task, config.rates, config.steps, key)
        rate = best(plain, config.steps)
        shown[f"Adam, {rate:g}"] = plain[rate]
        metrics[f"{task}_adam"] = plain[rate][config.steps]
    if config.too_large is not None and task == "cancer":
        large = supervised.grid(task, (config.too_large,), config.inner[:2], 500, key)
        metrics |= {f"{task}_too_large_m{m}": curve[500] for (_, m), curve in large.items()}
    pictures.curves(context.out / f"{task}.png", shown, "loss of all data", f"{task}: one gradient, m steps")
    return metrics


def infer(context: Context) -> dict[str, float]:
    """Compare distances, divergences, schedules and numbers of inner steps by the exact gap of a guide."""
    config, key = context.config, jr.fold_in(context.key, 1)
    context.announce("amortise a guide")
    problem = inference.problem(config.latents)
    fits = {}
    for share in config.shares:
        for name, (optimizer, runs) in arms(problem, share, config).items():
            fits[f"c{share:g}_{name}"] = inference.train(problem, optimizer, config.guide_steps, key, runs=runs)
    if config.rates:
        plain = {
            rate: inference.train(problem, optax.adam(rate), config.guide_steps, key, plain=True)
            for rate in config.rates
        }
        fits["adam"] = plain[best(plain, config.guide_steps)]
        fits["adam_early"] = plain[best(plain, 20)]
    pictures.guides(context.out / "guides.png", fits, config.shares[-1])
    at = sorted({20, config.guide_steps})
    metrics = {f"gap_{name}_at{steps}": curve[steps] for name, curve in fits.items() for steps in at}
    return metrics | {"gap_start": next(iter(fits.values()))[0], "curvature": problem.curvature}


def arms(problem: inference.Problem, share: float, config: Config) -> dict:
    """Return optimisers by name, each with the number of gradients that it averages."""
    eta, steps = share / problem.curvature, config.guide_steps
    found = {
        "m1": (surrogate(eta, 1), 1),
        "m20": (surrogate(eta, 20), 1),
        "m20_kl": (surrogate(share, 20, inference.divergence(problem)), 1),
        "m20_sqrt": (surrogate(lambda count: eta / jnp.sqrt(count + 1.0), 20), 1),
        "m20_exponential": (surrogate(optax.exponential_decay(eta, steps, 1 / steps), 20), 1),
    }
    if config.runs:
        found["m20_averaged"] = (surrogate(eta, 20), config.runs)
        found["m20_aware"] = (surrogate(eta, NoiseAware(20)), config.runs)
    return found


def imitate(context: Context, settings: imitation.Rounds) -> dict[str, float]:
    """Compare cumulative losses of students, who see the same noise, and say whether they can drive."""
    context.announce("imitate an expert")
    key, drive_key = jr.split(jr.fold_in(context.key, 2))
    metrics, curves = {"poles_of_expert": imitation.upright(None, drive_key)}, {}
    optimizers = {
        f"eta{eta:g}_m{m}": surrogate(eta, m) for eta in context.config.policy_etas for m in context.config.inner
    } | {f"adam{rate:g}": imitation.adam(rate) for rate in context.config.rates}
    for name, optimizer in optimizers.items():
        losses, student = imitation.teach(settings, optimizer, key)
        curves[name.replace("eta", "eta = ").replace("_m", ", m = ").replace("adam", "Adam, ")] = losses
        metrics[f"imitation_{name}"] = float(losses.sum())
        metrics[f"imitation_{name}_later"] = float(losses[1:].sum())
        metrics[f"poles_{name}"] = imitation.upright(student, drive_key)
    pictures.rounds(context.out / "imitation.png", curves)
    return metrics


QUICK = Config(
    tasks=("digits",),
    etas=(10.0,),
    too_large=None,
    rates=(),
    shares=(0.25,),
    guide_steps=20,
    runs=0,
    lessons=None,
)
PROGRAM = Program(
    name="target_surrogates",
    title="Target-based Surrogates for Stochastic Optimization",
    paper="Lavington, Vaswani, Babanezhad, Schmidt & Le Roux, ICML 2023, arXiv:2302.02607",
    data="8 x 8 digits and tumours, both from scikit-learn; a pole on a cart, simulated",
    presets={
        "quick": Preset(QUICK, "30 s on a busy machine"),
        "default": Preset(Config(), "3 min of computing, 7 min on a busy machine"),
        "full": Preset(Config(largest=scale.Scale()), "one step"),
    },
    run=run,
)
