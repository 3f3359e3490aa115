"""Networks in the places of matrices: theory is silent about them, but its trends should hold."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from estimators import collapse_report, iwelbo
from estimators.diagnostics import CollapseReport
from models.evaluation import held_out
from models.posterior_collapse import digits
from models.posterior_collapse.config import Nonlinear
from models.posterior_collapse.fits import Setting, Task, Training, fit
from models.posterior_collapse.networks import Networks
from models.registry import Context

LOOKED_AT = 600
"""Rows of a report."""
PARTICLES = 100
BASELINES = {"plain": {}, "warm_up": {"warm_up": 0.5}, "free_bits": {"free_bits": 0.1}, "auto_encoder": {}}


def reports(
    task: Task, settings: list[Setting], training: Training, context: Context, name: str, number: int
) -> tuple[list[CollapseReport], list[Networks]]:
    """Fit a program at all settings; report collapse of each. Fits of one number have the same noise and start."""
    context.announce(f"fit networks: {name}")
    fit_key, report_key = jr.split(jr.fold_in(context.key, 1000 + number))
    files = context.checkpoint / name
    fits = fit(task, settings, training, fit_key, files=files, resume=context.resume)
    inputs = () if task.x is None else (task.x[:LOOKED_AT],)
    data = {"y": task.y[:LOOKED_AT]}
    look = lambda pair, params: collapse_report(*pair, params, data, *inputs, key=report_key, batched=True, samples=10)
    found = [look(task.pair(setting.noise), params) for setting, params in zip(settings, fits, strict=True)]
    return found, fits


def sweeps(config: Nonlinear, context: Context) -> dict[str, float]:
    """Return nats of the latents by program, weight and noise."""
    whole, quarter = digits.images(), digits.pairs("quarter")
    size = {"latents": config.latents, "hidden": config.hidden}
    betas = [Setting(config.noise, (beta,)) for beta in config.betas]
    noises = [Setting(noise) for noise in config.noises]
    metrics = {}
    found, _ = reports(Task("vae", y=whole, **size), betas + noises, config.training, context, "vae", 0)
    names = [f"vae_beta_{s.weights[0]:g}" for s in betas] + [f"vae_noise_{s.noise:g}" for s in noises]
    for name, report in zip(names, found, strict=True):
        metrics |= {f"{name}_nats": report.rate, f"{name}_active": report.active}
    for name, x in (("alone", None), ("given", quarter.x)):
        task = Task("vae" if x is None else "cvae", y=quarter.y, x=x, **size)
        found, _ = reports(task, betas, config.training, context, f"quarter_{name}", 1)
        metrics |= {f"quarter_{name}_beta_{s.weights[0]:g}_nats": r.rate for s, r in zip(betas, found, strict=True)}
    return metrics | hierarchy(config, context, Task("mhvae", y=whole, **size))


def hierarchy(config: Nonlinear, context: Context, task: Task) -> dict[str, float]:
    """Return nats and information of the second level by both weights and the noise."""
    cases = {f"b2_{beta:g}": Setting(config.noise, (1.0, beta)) for beta in config.betas}
    cases |= {f"b1_{beta:g}": Setting(config.noise, (beta, 1.0)) for beta in config.betas}
    cases |= {f"noise_{noise:g}": Setting(noise, (1.0, 1.0)) for noise in config.noises}
    found, _ = reports(task, list(cases.values()), config.training, context, "mhvae", 2)
    metrics = {}
    for name, report in zip(cases, found, strict=True):
        told = report["z2"].information
        metrics |= {f"mhvae_{name}_z2_nats": report["z2"].rate, f"mhvae_{name}_z2_told": told.nats}
        metrics |= {f"mhvae_{name}_z2_told_{end}": getattr(told, end) for end in ("low", "high")}
    return metrics


def correlations(config: Nonlinear, context: Context, dim: int = 16, n: int = 1000) -> dict[str, float]:
    """Return nats by the correlation of inputs and observations, both synthetic; noise .5 as the authors have it."""
    metrics = {}
    for r in config.correlations:
        pair = digits.correlated(n, dim, r)
        task = Task("cvae", config.latents, pair.y, pair.x, config.hidden)
        training = replace(config.training, batch_size=min(n, 128))
        (report,), _ = reports(task, [Setting(0.5)], training, context, f"correlation_{r:g}", 3)
        linear = report.prediction.nats["z"] if report.prediction else np.nan
        metrics |= {f"correlation_{r:g}_nats": report.rate, f"correlation_{r:g}_linear": linear}
    return metrics


def baselines(config: Nonlinear, context: Context) -> dict[str, float]:
    """Compare the plain objective with a warm-up, free bits, and no divergence at all: one program, one noise."""
    task = Task("vae", config.latents, digits.images(), hidden=config.hidden)
    metrics = {}
    for name, change in BASELINES.items():
        setting = Setting(config.noise, (0.0 if name == "auto_encoder" else 1.0,))
        training = replace(config.training, **change)
        (report,), (params,) = reports(task, [setting], training, context, f"baseline_{name}", 4)
        metrics |= {
            f"{name}_active": report.active,
            f"{name}_nats": report.rate,
            f"{name}_residual": residual(task, params),
        }
        if name != "auto_encoder":
            metrics[f"{name}_iwelbo"] = bound(task, setting, params, context.key)
    return metrics | {"principal_residual": principal(task)}


def residual(task: Task, params: Networks) -> float:
    """Return the mean square of what is not decoded from the mean code, per datum."""
    decode = lambda y: params.decoder(params.encoder(y)[0])
    return float(np.mean(np.sum(np.square(task.y - np.asarray(jax.jit(jax.vmap(decode))(*task.data))), axis=1)))


def principal(task: Task) -> float:
    """Return the mean square that as many principal components as latents leave."""
    return float(np.sum(np.linalg.svd(task.y, compute_uv=False)[task.latents :] ** 2) / len(task.y))


def bound(task: Task, setting: Setting, params: Networks, key: Key[Array, ""]) -> float:
    """Return the mean importance-weighted bound of the first rows, in nats."""
    rows: Float[Array, "n pixels"] = jnp.asarray(task.data[0][:200])
    objective = iwelbo(*task.pair(setting.noise), PARTICLES)
    return float(held_out(lambda params, y: objective(params, {"y": y}), params, rows, key, runs=2).mean())
