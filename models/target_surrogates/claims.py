"""What more inner steps must show."""

from collections.abc import Mapping

from models.report import Claim

EXACT = "derivation: the first inner gradient is that of the loss; bound: 1e-12"
MAJORISES = "theory: the descent lemma, at eta = 1 / L"
PROJECTION = "closed form: theta - eta (X'X)^-1 X'G, whose loss is 0.2366604; bound: 1e-6"
MORE = "the paper's figures: more inner steps, a lower loss at equal numbers of gradients"
TOO_LARGE = "measured before: at eta = 100 and 500 steps, 0.0937 with 10 inner steps and 0.0509 with one"
HALF = "measured before: after 20 steps the gap with 20 inner steps is less than half of that with one"
FLOOR = "derivation: a noisy target that is fitted better leaves more noise, at a constant eta"
DECAY = "theory: the noise that is left is proportional to eta; bound: the gap at a constant eta"
NATURAL = "derivation: the divergence is the loss's own curvature, so all directions shrink alike; bound: Euclidean"
AWARE = "derivation: an inner loop that ends where noise begins fits less of it; bound: the whole loop's gap"
ONLINE = "the paper's figures: a cumulative loss no larger than with one inner step (online gradient descent)"
POLES = "the student's aim; bound: what the expert reaches less 5 in 100"


def claims(metrics: Mapping[str, float], config) -> list[Claim]:
    """Turn relations into claims `measured >= bound`."""
    found = [
        Claim("one inner step is plain gradient descent", EXACT, 1e-12, metrics["exact_one_step"]),
        Claim("the surrogate lies above the loss", MAJORISES, metrics["exact_least_gap"], -1e-12),
        Claim(
            "the surrogate's minimum is a projection",
            PROJECTION,
            1e-6,
            abs(metrics["exact_projection_loss"] - 0.2366604),
        ),
    ]
    for task in config.tasks:
        found += _fewer_gradients(metrics, task, config.inner)
    if "cancer_too_large_m10" in metrics:
        large = [metrics[f"cancer_too_large_m{m}"] for m in config.inner[:2]]
        words = "cancer: too large a step hurts more inner steps more"
        found.append(Claim(words, TOO_LARGE, large[1], large[0], "open"))  # with two seeds of three
    for share in config.shares:
        found += _guides(metrics, share, config)
    return found + (_students(metrics, config) if config.lessons is not None else [])


def _fewer_gradients(metrics: Mapping[str, float], task: str, inner: tuple[int, ...]) -> list[Claim]:
    losses = [metrics[f"{task}_best_m{m}"] for m in inner]
    return [
        Claim(f"{task}: {b} inner steps reach a lower loss than {a}", MORE, loss, lower)
        for a, b, loss, lower in zip(inner, inner[1:], losses, losses[1:], strict=False)
    ]


def _guides(metrics: Mapping[str, float], share: float, config) -> list[Claim]:
    gap = lambda name, steps: metrics[f"gap_c{share:g}_{name}_at{steps}"]
    found = [
        Claim(f"guide, c = {share:g}: 20 inner steps halve the early gap", HALF, gap("m1", 20) / 2, gap("m20", 20))
    ]
    if share == 0.25:  # at 0.5 both have reached their noise by then
        words = "guide, c = 0.25: a divergence is faster than a distance"
        found.append(Claim(words, NATURAL, gap("m20", 20), gap("m20_kl", 20)))
    last = config.guide_steps
    if last >= 100:
        words = f"guide, c = {share:g}: the noise left with 20 inner steps is larger"
        found.append(Claim(words, FLOOR, gap("m20", last), gap("m1", last)))
        if share == 0.5:  # from 0.25 the steps are soon too small to arrive in time
            for schedule in ("sqrt", "exponential"):
                words = f"guide, c = {share:g}: a decaying step ({schedule}) leaves less noise"
                found.append(Claim(words, DECAY, gap("m20", last), gap(f"m20_{schedule}", last)))
        if config.runs:
            words = f"guide, c = {share:g}: inner loops that end at the noise leave less of it"
            found.append(Claim(words, AWARE, gap("m20_averaged", last), gap("m20_aware", last)))
    return found


def _students(metrics: Mapping[str, float], config) -> list[Claim]:
    found = []
    most = config.inner[-1]
    for eta in config.policy_etas:
        one, many = (metrics[f"imitation_eta{eta:g}_m{m}"] for m in (config.inner[0], most))
        found.append(Claim(f"imitation, eta = {eta:g}: {most} inner steps lose no more in all", ONLINE, one, many))
        poles = metrics[f"poles_eta{eta:g}_m{most}"]
        words = f"imitation, eta = {eta:g}: the student balances the pole"
        found.append(Claim(words, POLES, poles, metrics["poles_of_expert"] - 0.05))
    return found
