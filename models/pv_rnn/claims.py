"""What the fits must show."""

from collections.abc import Mapping, Sequence

import numpy as np

from models.pv_rnn.config import Config
from models.report import Claim

STRUCTURE = "the paper's abstract: a meta-prior between high and low finds the probabilities of the data"
COLLAPSE = "the paper's abstract, and equation of the objective: w is the price of a nat"
PROTOTYPE = "a prototype before this program: 17 times lower with one seed; bound, written down before: 5 times"
TIGHTER = "Burda et al. 2016, theorem 1, which holds for any weights; bound: 3 standard errors of the paired difference"
PAPER = "the paper's abstract, there on a robot's movements; bound: 2 standard errors of the paired difference"


def claims(config: Config, metrics: Mapping[str, float], found: Mapping) -> list[Claim]:
    """List the relations of what was fitted."""
    made = []
    if "chains" in found:
        made += of_meta_prior([f"w_{meta:g}" for meta in sorted(config.metas, reverse=True)], metrics)
        made += of_structure(config, metrics)
    if "bounds" in found:
        one, several = found["bounds"]["1"], found["bounds"][f"{config.particles}"]
        made.append(Claim.paired("a bound with more particles is higher", TIGHTER, several, one, errors=3))
        claim = "fitting by more particles makes their bound higher than fitting by one does"
        source = "our conjecture; bound: 2 standard errors of the paired difference"
        other = found["bounds"][f"{config.particles}_of_first_fit"]
        made.append(Claim.paired(claim, source, several, other, errors=2, status="open"))
    made += of_predictions("streams that begin anywhere", found["streams"], factor=5.0)
    if "movements" in found:
        made += of_movements(found["movements"])
    return made


def of_meta_prior(names: Sequence[str], metrics: Mapping[str, float]) -> list[Claim]:
    """Claim that fits with less meta-prior reconstruct better and diverge more; `names` are from high to low."""
    made = []
    for high, low in zip(names, names[1:], strict=False):
        better = metrics[f"error_{high}"] - metrics[f"error_{low}"]
        more = metrics[f"kl_{low}"] - metrics[f"kl_{high}"]
        made.append(Claim(f"the training error falls from {high} to {low}", COLLAPSE, better, 0.0))
        made.append(Claim(f"the divergence rises from {high} to {low}", COLLAPSE, more, 0.0))
    return made


def of_structure(config: Config, metrics: Mapping[str, float]) -> list[Claim]:
    """Claim that the middle meta-prior finds the frequency of C, the information of a branch, and the primitives."""
    high, low, middle = max(config.metas), min(config.metas), config.meta
    gap = lambda meta: abs(metrics[f"chance_of_C_w_{meta:g}"] - metrics["frequency_of_C"])
    ratio = metrics[f"kl_w_{middle:g}"] / metrics["branch_entropy"]
    closer = metrics[f"distance_w_{low:g}"] - metrics[f"distance_w_{middle:g}"]
    near = "the frequency of C after A is found within 0.1"
    information = "derivation: the branches must be said; bound: 0.7 to 2 times their entropy, written down before"
    return [
        Claim(near, STRUCTURE, 0.1 - gap(middle), 0.0),
        Claim("it is found better than with the highest meta-prior", STRUCTURE, gap(high) - gap(middle), 0.0),
        Claim("the divergence is at least 0.7 of the entropy of the branches", information, ratio, 0.7),
        Claim("the divergence is at most twice the entropy of the branches", information, -ratio, -2.0),
        Claim("free runs are nearer to primitives than with the lowest meta-prior", STRUCTURE, closer, 0.0),
    ]


def of_predictions(name: str, errors: Mapping[str, np.ndarray], factor: float) -> list[Claim]:
    """Claim that error regression predicts better by a factor, and better than a variational RNN."""
    ratio = float(np.mean(errors["none"]) / np.mean(errors["regressed"]))
    made = [Claim(f"error regression predicts {name} {factor:g} times better than none", PROTOTYPE, ratio, factor)]
    return made + beside_variational_rnn(name, errors)


def beside_variational_rnn(name: str, errors: Mapping[str, np.ndarray]) -> list[Claim]:
    """Claim that error regression predicts better than a variational RNN does, with either trust in the prior."""
    if "variational_rnn" not in errors:
        return []
    claim, other = f"error regression predicts {name} better than a variational RNN", -errors["variational_rnn"]
    return [
        Claim.paired(claim, PAPER, -errors["regressed"], other, errors=2, status="open"),
        Claim.paired(
            f"{claim}, with less trust in the prior", PAPER, -errors["trusting"], other, errors=2, status="open"
        ),
    ]


def of_movements(errors: Mapping[str, np.ndarray]) -> list[Claim]:
    """Claim that real movements are predicted better with error regression than without, and than by others."""
    regressed = -errors["regressed"]
    claim = "error regression predicts real movements better than"
    known = "the paper's abstract; bound: 2 standard errors of the paired difference"
    made = [
        Claim.paired(f"{claim} none", known, regressed, -errors["none"], errors=2),
        Claim.paired(f"{claim} the last value", known, regressed, -errors["last_value"], errors=2, status="open"),
    ]
    return made + beside_variational_rnn("real movements", errors)
