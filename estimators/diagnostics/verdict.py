"""One call that says whether a fit is to be trusted, why, and what to do next."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from estimators.diagnostics.pareto import pareto_k
from estimators.diagnostics.probes import at_choices, dream, from_guide, repeated, require_draws
from estimators.objectives.checks import require_programs
from ppl import GenerativeFunction, PPLError, check
from ppl._errors import boundary

Grade = Literal["good", "usable", "bad"]
MOST_K, GOOD_K = 0.7, 0.5
LEAST_ESS = 400
MOST_MISSED, FOLD = 0.05, 20.0
LEAST_INFORMED = 100
"""Our own choices, not from the literature: 5 % of the mass at ratios above 20, an effective size for seeing them."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        value: The number found.
        grade: "good", "usable" or "bad".
        rule: The thresholds, and where they come from.
        text: What it means here.
        remedy: What to do next; empty if nothing.
    """

    name: str
    value: float
    grade: Grade
    rule: str
    text: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is to be thought of a fit; printed as text, drawn by `picture`.

    Attributes:
        findings: What was looked at, in order.
        problems: Texts of what does not fit between the programs, as `ppl.check` has them; then nothing was run.
        notes: What could not be looked at, and why.
        elbo: Estimate of the ELBO, with `elbo_error`, its standard error.
        log_evidence: Estimate of log p(observed) from all draws.
        samples: Number of draws from the guide.
        evidence: What the picture is made of: log weights, and draws with weights by address.
    """

    findings: tuple[Finding, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    elbo: float = math.nan
    elbo_error: float = math.nan
    log_evidence: float = math.nan
    samples: int = 0
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def grade(self) -> Grade:
        """The worst of all grades."""
        grades = ["bad"] * bool(self.problems) + [finding.grade for finding in self.findings]
        return next((grade for grade in ("bad", "usable") if grade in grades), "good")

    @property
    def ok(self) -> bool:
        """Whether nothing is bad."""
        return self.grade != "bad"

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)

    def __str__(self) -> str:
        lines = [f"Verdict: {self.grade}"]
        lines += [f"  ! {line}" for problem in self.problems for line in problem.splitlines()]
        if self.samples:
            bounds = f"ELBO {self.elbo:.4g} ± {self.elbo_error:.2g}, log evidence about {self.log_evidence:.4g}"
            lines.append(f"  {bounds} ({self.samples} draws)")
        for finding in self.findings:
            lines.append(
                f"  {finding.grade:>6}  {finding.name} = {finding.value:.3g}: {finding.text}  [{finding.rule}]"
            )
            lines += [f"          next: {finding.remedy}"] if finding.remedy else []
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    __repr__ = __str__

    def picture(self, path: str | Path) -> None:
        """Draw the log weights, the grades, and the guide beside the reweighted draws; save it as an image."""
        from estimators.diagnostics.pictures import draw_verdict

        draw_verdict(self, Path(path))


@boundary
def verdict(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    params: Any,
    observed: Any,
    *inputs: Any,
    key: jax.Array,
    samples: int = 4000,
) -> Verdict:
    """Judge a fit: is the guide near enough to the posterior of the model for what one does with it?

    Looked at, in order: whether the programs fit (`ppl.check`); whether the guide draws where the model has no
    density; the tail of the importance weights (k-hat) and their effective size, which find a guide that is too narrow;
    and, by as many draws from the prior, posterior mass that the guide hardly ever draws: weights of the mixture of
    guide and prior are at most twice the likelihood (Owen and Zhou 2000), so they see what weights of the guide
    cannot, a missed mode above all. Where few draws of the prior come near the posterior (many dimensions, much data),
    the last cannot be told and a note says so: use `sandwich` with draws of a Markov chain.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        params: Parameters of the fit.
        observed: Observed choices.
        *inputs: Inputs of both programs.
        key: A key.
        samples: Number of draws from the guide, and from the prior, at least 100.

    Returns:
        A [`Verdict`][estimators.diagnostics.Verdict], which prints as text.

    Raises:
        PPLError: `samples` is not an int of at least 100.

    Example:
        >>> import jax, ppl
        >>> from estimators import verdict
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda scale, observed: ppl.normal(1.0, scale) @ "z")
        >>> judged = lambda scale: verdict(model, guide, scale, {"x": 2.0}, key=jax.random.key(0)).grade
        >>> judged(0.7), judged(0.2)
        ('good', 'bad')
    """
    require_programs("verdict", model=model, guide=guide)
    require_draws("verdict", "samples", samples, 100)
    found = check(model, guide, (params, observed, *inputs)).problems
    problems = tuple(text for text in found if "has no gradient strategy" not in text)  # nothing is differentiated here
    if problems:
        return Verdict((), problems, ())
    return _look(model, guide, (params, observed, *inputs), key, samples)


def _look(model: GenerativeFunction, guide: GenerativeFunction, args: tuple, key: jax.Array, samples: int) -> Verdict:
    """Judge programs that fit."""
    guide_key, prior_key, cross_key = jax.random.split(key, 3)
    params, observed, *inputs = args
    drawn, log_joint, log_q = _numpy(repeated(from_guide(model, guide), guide_key, samples, *args))
    log_weights = log_joint - log_q
    findings = _of_weights(log_weights)
    evidence = {"log_weights": log_weights, "guide": drawn}
    notes: list[str] = []
    try:
        prior = repeated(dream(model), prior_key, samples, *args)[0]
        joint, ours = _numpy(repeated(at_choices(model, guide), cross_key, samples, *args, over=prior))
        log_prior = _log_prior(model, params, inputs, drawn, prior, observed, cross_key)
    except PPLError as error:
        notes.append(f"what the guide misses was not looked at: {error.what}")
        log_evidence = _log_mean(log_weights)
    else:
        mixed, log_evidence, more, remarks = _of_mixture(log_joint, log_q, joint, ours, *log_prior)
        findings, notes = findings + more, notes + remarks
        evidence |= {"prior": _numpy(prior), "mixed": mixed}
    finite = log_weights[np.isfinite(log_weights)]
    elbo = float(log_weights.mean()) if len(finite) == samples else -math.inf
    error = float(finite.std() / math.sqrt(max(len(finite), 1))) if len(finite) else math.nan
    return Verdict(tuple(findings), (), tuple(notes), elbo, error, log_evidence, samples, evidence)


def _numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def _log_mean(log_weights: np.ndarray) -> float:
    return float(jax.nn.logsumexp(jnp.asarray(log_weights)) - math.log(len(log_weights)))


def _log_prior(model, params, inputs, drawn, prior, observed, key) -> tuple[np.ndarray, np.ndarray]:
    """Return log p(z) of both sets of draws: the density of the latent choices, without that of the observations."""
    from estimators.diagnostics.prior import log_prior

    run = lambda params, choices: log_prior(model)(params, observed, *inputs, choices)
    count = len(jax.tree.leaves(drawn)[0])
    return tuple(np.asarray(repeated(run, key, count, params, over=one)) for one in (drawn, prior))


def _of_weights(log_weights: np.ndarray) -> list[Finding]:
    """Judge the weights of the guide's own draws."""
    size = len(log_weights)
    outside = float(np.mean(~np.isfinite(log_weights)))
    findings = [
        Finding(
            "outside",
            outside,
            "bad" if outside else "good",
            "0: the ELBO is -inf otherwise",
            f"{100 * outside:.2g} % of the guide's draws have no density in the model" if outside else "no draw is",
            "give the guide a support inside the model's: another family, or a bijection" if outside else "",
        )
    ]
    if outside == 1:
        return findings
    k = float(pareto_k(jnp.asarray(log_weights)))
    limit = min(1 - 1 / math.log10(size), MOST_K)
    grade: Grade = "good" if k < min(GOOD_K, limit) else "usable" if k < limit else "bad"
    text = {
        "good": "the weights have a light tail",
        "usable": "the weights have a heavy tail; means of bounded functions are right after reweighting",
        "bad": "the tail of the weights is too heavy: the guide is narrower than the posterior somewhere",
    }
    remedy = "a richer guide (`guides.full`, `guides.flow`), or an objective that covers: `wake_q`, or `cubo`"
    rule = f"good below {GOOD_K}, bad from {limit:.2g} (Vehtari et al. 2024)"
    findings.append(Finding("k_hat", k, grade, rule, text[grade], remedy if grade == "bad" else ""))
    shares = np.asarray(jax.nn.softmax(jnp.asarray(log_weights)))
    effective = float(1 / np.sum(shares**2))
    enough = effective >= LEAST_ESS or effective >= size / 2
    few = "few of the guide's draws carry the weight: reweighted means are noisy"
    findings.append(
        Finding(
            "ess",
            effective,
            "good" if enough else "usable" if effective >= size / 100 else "bad",
            f"good from {LEAST_ESS} (Vehtari et al. 2021) or half the draws, bad below 1 %",
            "enough of the draws count" if enough else few,
            "" if enough else "take more samples, or a richer guide",
        )
    )
    return findings


def _of_mixture(log_joint, log_q, joint, ours, log_prior_of_guide, log_prior_of_prior):
    """Judge what the guide misses, by the draws of guide and prior together."""
    all_joint = np.concatenate([log_joint, joint])
    all_q = np.concatenate([log_q, ours])
    all_prior = np.concatenate([log_prior_of_guide, log_prior_of_prior])
    log_weights = all_joint - (np.logaddexp(all_q, all_prior) - math.log(2))
    log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)
    log_evidence = _log_mean(log_weights)
    if not math.isfinite(log_evidence):
        return np.zeros(len(log_weights)), log_evidence, [], ["no draw of guide or prior has a density in the model"]
    shares = np.exp(log_weights - log_weights.max())
    shares = shares / shares.sum()
    effective = float(1 / np.sum(shares**2))
    seldom = all_joint - log_evidence - all_q > math.log(FOLD)
    missed = float(shares[seldom].sum())
    of_prior = shares[len(log_joint) :]
    informed = float(of_prior.sum() ** 2 / np.sum(of_prior**2)) if of_prior.sum() > 0 else 0.0
    notes = []
    if informed < LEAST_INFORMED and missed <= MOST_MISSED:
        notes.append(
            f"few draws of the prior come near the posterior (effective size {informed:.0f} < {LEAST_INFORMED}): what "
            "the guide misses may not have been seen; use `sandwich` with draws of a Markov chain"
        )
    bad = missed > MOST_MISSED
    text = f"{100 * missed:.2g} % of the posterior's mass lies where the guide draws over {FOLD:.0f} times too seldom"
    finding = Finding(
        "missed",
        missed,
        "bad" if bad else "good",
        f"bad above {MOST_MISSED}, our choice; effective size {effective:.0f}",
        text,
        "several starts, a mixture guide (a discrete choice that picks the mode), or a wider support" if bad else "",
    )
    return shares, log_evidence, [finding], notes
