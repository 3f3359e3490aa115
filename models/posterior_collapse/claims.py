"""What theory and fits must agree on."""

from collections.abc import Mapping, Sequence

import numpy as np

from models.posterior_collapse.config import Config, Nonlinear
from models.posterior_collapse.linear import Fitted
from models.report import Claim

NUMBERS = "derivation, confirmed by minimising the loss: section 6 of our notes, to 1e-6"
COUNT = "target: section 7 of our notes, as many as linear theory says, give or take one"
VALUES = "target: section 7 of our notes, within 5 % where the moment is above 1.5 of the threshold"
DEAD = "theory: 0; bound: ours, where the moment is below 2/3 of the threshold"
PCA = "theory: no linear code of as many numbers leaves less (Eckart and Young 1936)"
GIVEN = "theory: inputs take moments away (Dang et al. 2024, theorem on CVAEs)"
LEARNED = "theory: the mean discarded moment (Tipping and Bishop 1999, eq. 8); bound: ours, 2 %"
TREND = "Dang et al. 2024, experiments; the direction follows from their theorems for linear programs"
DECODES = "measured before: .48 beside .71 of all squares"
SILENT = "theory: nothing (Dang et al. 2024, case 2); bound: ours, 0.05 nats"
ALIKE = "theory of linear optima; bound: ours, 5 % and 0.1 nats"


def of_numbers(errors: Mapping[str, float]) -> list[Claim]:
    """Claim that closed forms have the numbers of our notes."""
    return [Claim(f"the closed form of the {name} is right", NUMBERS, 1e-6, error) for name, error in errors.items()]


def of_linear(fitted: Sequence[Fitted]) -> list[Claim]:
    """Claim that training by ordinary gradients ends at the optimum."""
    claims = []
    for one in fitted:
        claims += _of_hierarchy(one) if "top" in one.expected else _of_one_level(one)
        if np.isfinite(one.error):
            claims.append(Claim(f"{one.name}: singular values", VALUES, 0.05, one.error))
        if np.isfinite(one.leftover):
            claims.append(Claim(f"{one.name}: collapsed modes", DEAD, 0.05, one.leftover))
    rates = {one.name: one.report.rate for one in fitted}
    for name, rate in rates.items():
        if name.startswith("cvae"):
            alone = rates[name.replace("cvae", "quarter_alone")]
            claims.append(Claim(f"{name}: fewer nats than without inputs", GIVEN, alone, rate))
    return claims


def _of_one_level(one: Fitted) -> list[Claim]:
    (predicted,) = one.report.prediction.active.values()
    (nats,) = one.report.prediction.nats.values()
    return [
        Claim(f"{one.name}: active latents", COUNT, 1.0, abs(one.report.active - predicted)),
        Claim(f"{one.name}: nats", ALIKE, 0.05 * nats + 0.1, abs(one.report.rate - nats)),
        Claim(f"{one.name}: decodes no better than PCA", PCA, one.residual, one.principal),
    ]


def _of_hierarchy(one: Fitted) -> list[Claim]:
    found, expected = one.count("top")
    claims = [Claim(f"{one.name}: active modes of z2", COUNT, 1.0, abs(found - expected))]
    for name in ("z1", "z2"):
        nats = one.report.prediction.nats[name]
        difference = abs(one.report[name].rate - nats)
        claims.append(Claim(f"{one.name}: nats of {name}", ALIKE, 0.05 * abs(nats) + 0.1, difference))
    if not expected:
        told = one.report["z2"].information.nats
        claims.append(Claim(f"{one.name}: z2 tells nothing", SILENT, 0.05, told))
    return claims


def of_noise(learned: float, best: float) -> list[Claim]:
    """Claim that a learned noise is what is discarded."""
    return [Claim("the learned noise is the mean discarded moment", LEARNED, 0.02, abs(learned**2 / best**2 - 1))]


def of_networks(metrics: Mapping[str, float], config: Nonlinear) -> list[Claim]:
    """Claim the trends of theory where it is silent."""
    betas, noises = config.betas, config.noises
    take = lambda pattern, values: [metrics[pattern.format(f"{value:g}")] for value in values]
    falls = lambda words, values: Claim(words, TREND, float(np.min(-np.diff(values))), 0.0)
    claims = [
        falls("networks: nats fall with beta", take("vae_beta_{}_nats", betas)),
        falls("networks: nats fall with the noise", take("vae_noise_{}_nats", noises)),
        falls("networks: z2's nats fall with b2", take("mhvae_b2_{}_z2_nats", betas)),
        falls("networks: z2's nats grow with b1", take("mhvae_b1_{}_z2_nats", betas)[::-1]),
        falls("networks: z2's nats fall with the noise", take("mhvae_noise_{}_z2_nats", noises)),
        falls("networks: nats fall with the correlation", take("correlation_{}_nats", config.correlations)),
    ]
    for beta in betas:
        alone, given = (metrics[f"quarter_{name}_beta_{beta:g}_nats"] for name in ("alone", "given"))
        claims.append(Claim(f"networks, beta {beta:g}: fewer nats given inputs", TREND, alone, given))
    if config.baselines:
        words = f"networks: a plain auto-encoder decodes better than {config.latents} principal components"
        claims.append(Claim(words, DECODES, metrics["principal_residual"], metrics["auto_encoder_residual"]))
    return claims


def of_run(
    errors: Mapping[str, float], fitted: Sequence[Fitted], metrics: Mapping[str, float], config: Config
) -> list[Claim]:
    """Put all claims of a run together."""
    claims = of_numbers(errors) + of_linear(fitted)
    if config.linear.rank:
        claims += of_noise(metrics["learned_noise"], metrics["best_noise"])
    return claims + (of_networks(metrics, config.nonlinear) if config.nonlinear else [])
