"""Linear programs on real digits, trained by ordinary gradients, beside their optima."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import ppl
from estimators import collapse_report, elbo
from estimators.diagnostics import (
    CollapseReport,
    linear_hierarchy,
    linear_optimum,
    residual_moment,
    second_moment,
    spectrum,
)
from models.posterior_collapse import digits, programs, theory
from models.posterior_collapse.config import Linear
from models.posterior_collapse.fits import NAMES, Setting, Task, Training, fit
from models.posterior_collapse.networks import Networks
from models.registry import Context

CLEAR = 1.5
"""Modes whose moment is so many times the threshold are compared one by one; nearer ones take too long to settle."""
NEARLY = 0.05
"""Singular values below are nearly 0."""


@dataclass(frozen=True)
class Fitted:
    """A linear program beside theory.

    Attributes:
        name: Task and setting.
        report: Of collapse.
        found: Singular values, by role.
        expected: The same at the optimum.
        thresholds: Moments above which a mode is active, by role.
        moments: Of all modes, falling.
        residual: Mean square of what is not decoded from the mean code, per datum.
        principal: That of as many principal components as there are active latents; of the residual, if conditional.
        metrics: Numbers.
    """

    name: str
    report: CollapseReport
    found: Mapping[str, Float[np.ndarray, " k"]]
    expected: Mapping[str, Float[np.ndarray, " k"]]
    thresholds: Mapping[str, float]
    moments: Float[np.ndarray, " modes"]
    residual: float
    principal: float

    def clear(self, role: str) -> np.ndarray:
        """Say which modes are clearly active."""
        return self.moments[: len(self.expected[role])] > CLEAR * self.thresholds[role]

    @property
    def error(self) -> float:
        """Return the largest relative error of a singular value of a clearly active mode; NaN if there is none."""
        errors = [
            np.abs(self.found[role][self.clear(role)] / self.expected[role][self.clear(role)] - 1)
            for role in self.expected
        ]
        return float(np.concatenate(errors).max()) if sum(map(len, errors)) else np.nan

    @property
    def leftover(self) -> float:
        """Return the largest singular value of a clearly collapsed mode, 0 at the optimum; NaN if there is none."""
        dead = [
            self.found[role][CLEAR * self.moments[: len(self.expected[role])] < self.thresholds[role]]
            for role in self.expected
        ]
        return float(np.concatenate(dead).max()) if sum(map(len, dead)) else np.nan

    def count(self, role: str) -> tuple[int, int]:
        """Return the numbers of singular values that are not nearly 0: found, and expected."""
        return tuple(int(np.sum(values[role] > NEARLY)) for values in (self.found, self.expected))


def run(config: Linear, context: Context) -> list[Fitted]:
    """Fit auto-encoders of images, of three quarters of them alone and given the rest, and hierarchies."""
    whole, quarter = digits.images(), digits.pairs("quarter")
    tasks = {
        "vae": (Task("vae", config.latents, whole), config.vae),
        "quarter_alone": (Task("vae", 48, quarter.y), config.cvae),
        "cvae": (Task("cvae", 48, quarter.y, quarter.x), config.cvae),
        "mhvae": (Task("mhvae", 10, whole), config.mhvae),
    }
    fitted = []
    for number, (name, (task, settings)) in enumerate(tasks.items()):
        if not settings:
            continue
        context.announce(f"fit linear {name}")
        fit_key, report_key = jr.split(jr.fold_in(context.key, number))
        files = context.checkpoint / f"linear_{name}"
        found = fit(task, settings, config.training, fit_key, files=files, resume=context.resume)
        fitted += [
            compare(f"{name}, {label(setting)}", task, setting, params, report_key)
            for setting, params in zip(settings, found, strict=True)
        ]
    return fitted


def label(setting: Setting) -> str:
    """Write a setting as text."""
    weights = ", ".join(f"{weight:g}" for weight in setting.weights)
    return f"noise {setting.noise:g}, beta {weights}"


def compare(name: str, task: Task, setting: Setting, params: Networks, key: Key[Array, ""]) -> Fitted:
    """Put a trained program beside theory."""
    beta = dict(zip(NAMES[task.kind], setting.weights, strict=True))
    inputs = () if task.x is None else (task.x,)
    pair = task.pair(setting.noise)
    report = collapse_report(*pair, params, {"y": task.y}, *inputs, key=key, batched=True, beta=beta, samples=20)
    moment = second_moment(task.y) if task.x is None else residual_moment(task.y, task.x)
    moments = spectrum(moment)
    values = lambda matrix: np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    if task.kind == "mhvae":
        best = linear_hierarchy(moments, task.latents, task.fixed, betas=setting.weights, noise=setting.noise)
        whitened = np.asarray(params.encoder.loc.matrix, np.float64) @ _root(moment)
        found = {"encoder": values(whitened), "top": values(params.top.matrix)}
        expected = {"encoder": np.sort(best.encoder)[::-1], "top": np.sort(best.top)[::-1]}
        thresholds = _thresholds(task.fixed, setting)
    else:
        best = linear_optimum(moments, task.latents, beta=setting.weights[0], noise=setting.noise)
        found, expected = {"decoder": values(params.decoder.matrix)}, {"decoder": best.decoder}
        thresholds = {"decoder": setting.weights[0] * setting.noise**2}
    residual, principal = _residuals(task, params, moments, report)
    return Fitted(name, report, found, expected, thresholds, moments, residual, principal)


def _thresholds(fixed: float, setting: Setting) -> dict[str, float]:
    """Return the moments from which on each level of a hierarchy is active.

    Where the fixed scale is large, z2 models the noise of z1 in modes that are not: it is active in all.
    """
    (beta1, beta2), noise = setting.weights, setting.noise
    if beta1 * fixed**2 >= beta2 * noise**2:
        return {"encoder": beta2 * noise**2, "top": 0.0}
    return {"encoder": beta1 * fixed**2, "top": (beta2 * noise**2) ** 2 / (beta1 * fixed**2)}


def _root(moment: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(moment)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _residuals(task: Task, params: Networks, moments: np.ndarray, report: CollapseReport) -> tuple[float, float]:
    """Return what codes and as many principal components leave, in squares of all pixels."""
    if task.kind == "mhvae":
        return np.nan, np.nan
    rows = task.data[::-1]  # inputs come first
    codes = jax.vmap(lambda *row: params.encoder(*row)[0])(*rows)
    decoded = jax.vmap(params.decoder)(codes)
    direct = jax.vmap(params.direct)(task.data[1]) if params.direct is not None else 0.0
    left = np.asarray(task.data[0] - decoded - direct, np.float64)
    return float(np.mean(np.sum(left**2, axis=1))), float(moments[min(report.active, len(moments)) :].sum())


def learned_noise(rank: int, training: Training, key: Key[Array, ""]) -> tuple[float, float]:
    """Learn eta_dec with few latents; return it and the root mean discarded moment, its optimum."""
    task = Task("vae", rank, digits.images())
    init_key, fit_key = jr.split(key)
    start = {"networks": task.draw(init_key), "log_noise": jnp.zeros(())}

    def objective(params: dict) -> Array:
        pair = programs.vae(rank, jnp.exp(params["log_noise"]))
        return programs.of_rows(elbo(*pair), *task.data)(params["networks"])

    optimizer = optax.adam(optax.cosine_decay_schedule(training.rate, training.steps))
    found = ppl.maximize(objective, start, None, optimizer, steps=training.steps, key=fit_key).params
    return float(np.exp(found["log_noise"])), theory.best_noise(spectrum(second_moment(task.y)), rank)
