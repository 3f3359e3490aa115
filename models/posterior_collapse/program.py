"""Beyond Vanilla Variational Autoencoders: Dang, Tran, Nguyen and Ho, ICLR 2024, arXiv:2306.05023.

When does the best beta-VAE ignore its latents? For linear decoders the answer is a closed form: a direction of the data
gets a latent if its moment exceeds beta noise^2, and none otherwise. Here:

- the theorems on VAEs, conditional VAEs and hierarchies (`estimators.diagnostics.linear_theory`, `theory.py`);
- the same programs trained by ordinary gradients on real digits, which must land there (`linear.py`);
- networks in the place of matrices, whose trends must be those of theory (`nonlinear.py`), beside a warm-up, free bits,
  a plain auto-encoder and principal components;
- beyond the paper: `estimators.collapse_report`, which measures and predicts collapse of any program in one call, where
  the authors have a script for each; and a learned noise, with which collapse is the choice of a rank.

What differs from the paper: digits of 8 x 8 pixels in place of MNIST (its sizes are in `scale.py`), data centred, Adam
with a rate that falls to 0; KL and squared error without the factor of 2 between them that the authors' networks have.
"""

from models.posterior_collapse import checks, claims, linear, nonlinear, pictures, scale
from models.posterior_collapse.config import QUICK, Config
from models.posterior_collapse.linear import Fitted
from models.registry import Context, Preset, Program
from models.report import Outcome


def run(context: Context) -> Outcome:
    """Check closed forms, fit, compare, draw."""
    config = context.config
    if config.largest:
        return Outcome(
            {name: value for one in config.largest for name, value in scale.one_step(one, context.key).items()}
        )
    errors = checks.errors()
    fitted = linear.run(config.linear, context)
    metrics = {f"closed_form_{name}_error": error for name, error in errors.items()} | of_linear(fitted)
    if config.linear.rank:
        context.announce("learn the noise")
        found = linear.learned_noise(config.linear.rank, config.linear.training, context.key)
        metrics |= dict(zip(("learned_noise", "best_noise"), found, strict=True))
    pictures.values(context.out / "values.png", fitted)
    fitted[0].report.picture(context.out / "collapse.png")
    print(fitted[0].report)
    if config.nonlinear is not None:
        metrics |= of_networks(context, fitted)
    return Outcome(metrics, claims.of_run(errors, fitted, metrics, config))


def of_linear(fitted: list[Fitted]) -> dict[str, float]:
    """Name the numbers of linear programs."""
    metrics = {}
    for one in fitted:
        for latent in one.report.latents:
            name = f"{one.name}: {latent.address}"
            metrics |= {f"{name} active": int(latent.active.sum()), f"{name} nats": latent.rate}
            metrics[f"{name} tells"] = latent.information.nats
            if one.report.prediction is not None:
                metrics[f"{name} nats in theory"] = one.report.prediction.nats[latent.address]
                metrics[f"{name} modes in theory"] = one.report.prediction.active[latent.address]
        metrics[f"{one.name}: error of values"] = one.error
    return metrics


def of_networks(context: Context, fitted: list[Fitted]) -> dict[str, float]:
    """Fit networks, and draw."""
    config = context.config.nonlinear
    metrics = nonlinear.sweeps(config, context) | nonlinear.correlations(config, context)
    if config.baselines:
        metrics |= nonlinear.baselines(config, context)
    pictures.rates(context.out / "rates.png", fitted, metrics, config)
    pictures.hierarchy(context.out / "hierarchy.png", metrics, config)
    pictures.correlation(context.out / "correlation.png", metrics, config)
    return metrics


PROGRAM = Program(
    name="posterior_collapse",
    title="Beyond Vanilla Variational Autoencoders: Detecting Posterior Collapse",
    paper="Dang, Tran, Nguyen & Ho, ICLR 2024, arXiv:2306.05023",
    data="8 x 8 digits from scikit-learn; synthetic pairs; full: one image of MNIST (fetch mnist), or noise",
    presets={
        "quick": Preset(QUICK, "31 s"),
        "default": Preset(Config(), "5 min, estimated from 12 to 18 min on a busy machine"),
        "full": Preset(Config(largest=scale.SCALES), "one step of each program"),
    },
    run=run,
)
