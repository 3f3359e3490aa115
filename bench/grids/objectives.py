"""The objectives of the grid: how each is made, where it runs, and what its gradient is exactly. One line each.

`exact(law, theta)` has the exact mean of the objective's gradient as its derivative. Objectives that are biased for
what they are named after (self-normalised weights, logs of means) are held to the mean of their own definition with as
many particles: a sum over all pairs of outcomes.
"""

import dataclasses
from collections.abc import Callable

import estimators as es
from bench.grids import expectations as exact
from bench.grids.constructs import CONSTRUCTS

APART = ("auxiliary", "filter")
EVERYWHERE = tuple(name for name in CONSTRUCTS if name not in APART)
ALONE = tuple(name for name in EVERYWHERE if name != "below enum")  # scores need continuous choices alone
BOTH, COIN, NORMAL = ("coin", "normal"), ("coin",), ("normal",)


@dataclasses.dataclass(frozen=True)
class Objective:
    """An objective of the grid.

    Attributes:
        make: Makes it of the programs of a construct.
        exact: Maps a law and parameters to a number with the exact mean gradient as its derivative.
        constructs: Where it runs.
        everywhere: Whether with each strategy in each of them; else with each strategy in one of them, in turn.
        kinds: For which kinds of choices: those with scores are for continuous ones; for normal choices, averages of w
            itself have tails too heavy for a z-test (far from the posterior, w^2 has hardly a mean).
    """

    make: Callable
    exact: Callable
    constructs: tuple[str, ...] = EVERYWHERE
    kinds: tuple[str, ...] = BOTH
    everywhere: bool = False


OBJECTIVES = {
    "elbo": Objective(es.elbo, exact.elbo, everywhere=True),
    "iwelbo(2)": Objective(lambda m, g: es.iwelbo(m, g, 2), exact.iwelbo, everywhere=True),
    "vimco(2)": Objective(lambda m, g: es.vimco(m, g, 2), exact.iwelbo),
    "dreg(2)": Objective(lambda m, g: es.dreg(m, g, 2), exact.iwelbo),
    "sticking_the_landing": Objective(es.sticking_the_landing, exact.elbo),
    "analytic_kl_elbo": Objective(es.analytic_kl_elbo, exact.elbo),
    "tempered_elbo(0.5)": Objective(lambda m, g: es.tempered_elbo(m, g, 0.5), exact.tempered(0.5)),
    "renyi(0.5, 2)": Objective(lambda m, g: es.renyi(m, g, 0.5, 2), exact.renyi(0.5)),
    "cubo(2)": Objective(lambda m, g: es.cubo(m, g, 2), exact.renyi(-1.0)),
    "exp_cubo": Objective(es.exp_cubo, exact.power(2.0), kinds=COIN),
    "exp_cubo(order 0.5)": Objective(lambda m, g: es.exp_cubo(m, g, order=0.5), exact.power(0.5)),
    "f_divergence(hellinger)": Objective(
        lambda m, g: es.f_divergence(m, g, es.divergences.squared_hellinger, log_evidence=-1.2),
        exact.hellinger(-1.2),
        kinds=COIN,
    ),
    "f_divergence(kl_reverse)": Objective(
        lambda m, g: es.f_divergence(m, g, es.divergences.kl_reverse, log_evidence=-1.2), exact.minus_elbo
    ),
    "f_divergence(kl_forward)": Objective(
        lambda m, g: es.f_divergence(m, g, es.divergences.kl_forward, log_evidence=-1.2),
        exact.forward_divergence(-1.2),
        kinds=COIN,
    ),
    "f_divergence(total_variation, 2)": Objective(
        lambda m, g: es.f_divergence(m, g, es.divergences.total_variation, 2), exact.total_variation, kinds=COIN
    ),
    "f_divergence(jensen_shannon, 2)": Objective(
        lambda m, g: es.f_divergence(m, g, es.divergences.jensen_shannon, 2), exact.jensen_shannon
    ),
    "forward_kl(2)": Objective(lambda m, g: es.forward_kl(m, g, 2), exact.wake_q),
    "wake_p(2)": Objective(lambda m, g: es.wake_p(m, g, 2), exact.wake_p),
    "wake_q(2)": Objective(lambda m, g: es.wake_q(m, g, 2), exact.wake_q),
    "sleep_q": Objective(es.sleep_q, exact.sleep_q),
    "thermodynamic(2, left)": Objective(lambda m, g: es.thermodynamic(m, g, 2), exact.thermodynamic((0.0, 0.5))),
    "thermodynamic(2, right)": Objective(
        lambda m, g: es.thermodynamic(m, g, 2, side="right"), exact.thermodynamic((0.5, 1.0))
    ),
    "fisher_divergence": Objective(es.fisher_divergence, exact.fisher, ALONE, NORMAL),
    "score_matching": Objective(es.score_matching, exact.score_matching, ALONE, NORMAL),
    "kernel_stein(2)": Objective(lambda m, g: es.kernel_stein(m, g, 2, 1.5), exact.kernel_stein(1.5), ALONE, NORMAL),
    "annealed(2)": Objective(lambda m, g: es.annealed(m, g, 2, 0.2, 0.5), exact.annealed(0.2, 0.5), ALONE, NORMAL),
    "hvi": Objective(es.hvi, exact.hierarchical(1, 1), ("auxiliary",)),
    "iwhvi(2)": Objective(lambda m, g, r: es.iwhvi(m, g, r, 2), exact.hierarchical(1, 2), ("auxiliary",)),
    "diwhvi(2, 1)": Objective(lambda m, g, r: es.diwhvi(m, g, r, 2, 1), exact.hierarchical(2, 1), ("auxiliary",)),
    "smc_elbo(2)": Objective(lambda i, s, p: es.smc_elbo(i, s, p, 2), exact.filtering, ("filter",)),
}
