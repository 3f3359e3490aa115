"""The experiments: chains of primitives that begin alike, streams that begin anywhere, and real movements."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from models.pv_rnn import fits, pictures, regression, sequences
from models.pv_rnn.config import Config
from models.pv_rnn.fits import Fit
from models.pv_rnn.generative import Parameters
from models.pv_rnn.regression import Window
from models.pv_rnn.sequences import Split
from models.registry import Context


class Fitter:
    """What makes the fits of one run: their settings, keys and checkpoints."""

    def __init__(self, context: Context, numbers: int, epochs: int):
        self.context, self.config, self.epochs = context, context.config, epochs
        self._network = context.config.network(numbers)
        self._optimizer = fits.optimizer_of(context.config.learning_rate, context.config.clip)

    def __call__(self, name: str, wanted: Sequence[Fit], *, encoder: bool = False, particles: int = 1):
        """Make fits at once; return the parameters of each, and the history."""
        context, config = self.context, self.config
        context.announce(f"fit {name}")
        init_key, fit_key = jr.split(jr.fold_in(context.key, sum(map(ord, name))))
        wanted = [Fit(config.code.encode(fit.data), fit.meta) for fit in wanted]
        if encoder:
            start = fits.amortised(wanted, self._network, config.code, init_key, sum(config.units))
        else:
            start = fits.table(wanted, self._network, config.code, init_key)
        files = context.checkpoint / name.replace(" ", "_")
        result = fits.train(
            start, wanted, self._optimizer, fit_key, steps=self.epochs, particles=particles,
            checkpoint=files, resume=context.resume,
        )  # fmt: skip
        return [fits.lane(result.params, number) for number in range(len(wanted))], result.history["value"]


class Predicted:
    """Squared errors of predictions after a window, by stream: with error regression, without, and by others."""

    def __init__(self, config: Config, test: np.ndarray, key: Key[Array, ""]):
        self.config, self.test, self.key = config, test, key
        self.window = config.code.encode(test[:, : config.window])
        self.truth = test[:, config.window : config.window + config.horizon]

    def none(self, params: Parameters) -> Float[np.ndarray, " n"]:
        """Let the prior run from rest: it has not seen the stream."""
        config, number = self.config, len(self.test) * self.config.samples
        free = fits.generate(params, number, config.window + config.horizon, jr.fold_in(self.key, 0))
        free = free[:, config.window :].reshape(len(self.test), config.samples, config.horizon, -1)
        return regression.squared_errors(free, self.truth)

    def filtered(self, params: Parameters) -> tuple[Float[np.ndarray, " n"], np.ndarray, np.ndarray]:
        """Let the posterior run over the window, and the prior on from there."""
        states, outputs = regression.ends(params, self.window, jr.fold_in(self.key, 1))
        rollouts = regression.predict(params, states, self.config.horizon, self.config.samples, jr.fold_in(self.key, 2))
        return regression.squared_errors(rollouts, self.truth), outputs, rollouts

    def regressed(self, params: Parameters, trust: float = 1.0) -> tuple[Float[np.ndarray, " n"], Array, Array]:
        """Train the vectors of the window first; with less trust in what was learned, more in the senses."""
        window = self.config.at._replace(meta=trust * self.config.meta)
        return self.filtered(regression.regress(params, self.window, window, jr.fold_in(self.key, 3)))


def chains(context: Context, metrics: dict, found: dict) -> None:
    """Fit sequences that begin alike, by several meta-priors; let the fits run freely."""
    config = context.config
    data = sequences.pfsm(config.sequences, config.held_out, config.length).train
    kinds, _ = sequences.classify(data)
    frequency, entropy = sequences.chance_of_c(kinds), sequences.branch_entropy(data)
    metrics |= {"frequency_of_C": frequency, "branch_entropy": entropy}
    fitter = Fitter(context, data.shape[-1], config.epochs)
    fitted, values = fitter("primitives", [Fit(data, meta) for meta in config.metas])
    named = {f"w_{meta:g}": params for meta, params in zip(config.metas, fitted, strict=True)}
    if config.particles > 1:
        (several,), _ = fitter("several particles", [Fit(data, config.meta)], particles=config.particles)
        named[f"particles_{config.particles}"] = several
        found["bounds"] = _bounds(context, data, several, named[f"w_{config.meta:g}"])
        metrics |= {f"bound_{name}": float(np.mean(bound)) for name, bound in found["bounds"].items()}
    found["chains"] = {}
    for number, (name, params) in enumerate(named.items()):
        keys = jr.split(jr.fold_in(context.key, number))
        measured = fits.reconstruct(params, config.code.encode(data), data, keys[0])
        free = fits.generate(params, config.generated, config.length, keys[1])
        kinds, distances = sequences.classify(free)
        chance, distance = sequences.chance_of_c(kinds), float(np.mean(distances))
        found["chains"][name] = (measured, free)
        metrics |= {
            f"error_{name}": measured.error,
            f"kl_{name}": measured.divergence,
            f"prior_scale_{name}": measured.prior_scale,
            f"chance_of_C_{name}": chance,
            f"distance_{name}": distance,
        }
    pictures.chains(context.out / "generated.png", data, found["chains"])
    pictures.training(context.out / "training.png", values)


def _bounds(context: Context, data: np.ndarray, several: Parameters, single: Parameters) -> dict[str, np.ndarray]:
    """Estimate the tempered bounds of every sequence, for both fits."""
    config, x = context.config, jnp.asarray(context.config.code.encode(data))
    estimate = partial(fits.bounds, x=x, meta=config.meta, particles=config.particles)
    one, more = estimate(several, key=jr.fold_in(context.key, 77))
    _, other = estimate(single, key=jr.fold_in(context.key, 78))
    return {"1": one, f"{config.particles}": more, f"{config.particles}_of_first_fit": other}


def streams(context: Context, metrics: dict, found: dict) -> None:
    """Fit sequences that begin anywhere; predict held-out ones."""
    config = context.config
    data = sequences.pfsm(config.sequences, config.held_out, config.length, random_phase=True)
    fitter = Fitter(context, data.train.shape[-1], config.epochs)
    (params,), values = fitter("streams", [Fit(data.train, config.meta)])
    key = jr.fold_in(context.key, 1)
    errors, outputs, rollouts = _compare(context, "streams", fitter, params, data, key, metrics)
    found["streams"] = errors
    pictures.predictions(context.out / "predictions.png", data.test, outputs, rollouts)
    if not config.metas:
        pictures.training(context.out / "training.png", values)
    if config.online:
        context.announce("follow streams online")
        found["online"] = _follow(context, params, data.test[: config.online], metrics)


def _compare(context: Context, name: str, fitter: Fitter, params: Parameters, data: Split, key, metrics: dict):
    """Predict held-out sequences with and without error regression, and by a variational RNN."""
    context.announce(f"error regression of {name}")
    predicted = Predicted(context.config, data.test, key)
    regressed, outputs, rollouts = predicted.regressed(params)
    errors = {"none": predicted.none(params), "regressed": regressed}
    errors["trusting"] = predicted.regressed(params, context.config.trust)[0]
    if context.config.amortised:
        (other,), _ = fitter(f"variational RNN to {name}", [Fit(data.train, context.config.meta)], encoder=True)
        errors["variational_rnn"] = predicted.filtered(other)[0]
    last = data.test[:, context.config.window - 1, None]
    errors["last_value"] = np.mean((predicted.truth - last) ** 2, axis=(1, 2))
    metrics |= {f"{name}_{kind}": float(np.mean(error)) for kind, error in errors.items()}
    metrics[f"{name}_window"] = float(np.mean((outputs - data.test[:, : context.config.window]) ** 2))
    return errors, outputs, rollouts


def _follow(context: Context, params: Parameters, test: np.ndarray, metrics: dict) -> dict[str, np.ndarray]:
    """Follow streams step by step, with Adam kept warm and with a fresh one; return errors by step."""
    config, errors = context.config, {}
    truth = np.stack([test[:, t + 1 : t + 1 + config.horizon] for t in range(config.length - config.horizon)], 1)
    for name, warm in (("warm", True), ("fresh", False)):
        window = Window(2 * sequences.STEPS, 20, config.rate, config.meta, warm)
        run = jax.jit(jax.vmap(regression.follow(params, window, config.horizon, 4)))
        x = jnp.asarray(config.code.encode(test))
        rollouts = np.asarray(run(jr.split(jr.fold_in(context.key, 5), len(test)), x))[:, : truth.shape[1]]
        errors[name] = np.mean((rollouts - truth[:, :, None]) ** 2, axis=(2, 3, 4))
        metrics[f"online_{name}"] = float(np.mean(errors[name][:, window.length :]))
    pictures.online(context.out / "online.png", test[0], rollouts[0], errors)
    return errors


def motions(context: Context, data: Split, metrics: dict, found: dict) -> None:
    """Fit real movements; predict held-out ones."""
    config = context.config
    settings = dataclasses.replace(config, meta=config.motion_meta, window=config.motion_length // 2)
    context = dataclasses.replace(context, config=settings)
    fitter = Fitter(context, data.train.shape[-1], config.motion_epochs)
    (params,), _ = fitter("movements", [Fit(data.train, settings.meta)])
    key = jr.fold_in(context.key, 2)
    found["movements"], outputs, rollouts = _compare(context, "movements", fitter, params, data, key, metrics)
    pictures.movements(context.out / "movements.png", data.test, outputs, rollouts)
