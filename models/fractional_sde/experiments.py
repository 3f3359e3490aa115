"""The experiments of the report: each fits, measures, draws, and returns metrics and claims."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import ppl
from models.evaluation import held_out
from models.fractional_sde import bridge, claims, exact, linear, nile, pictures, series, video
from models.fractional_sde.noise import fractional, hurst_of
from models.registry import Context
from models.report import Outcome


def exact_control(config: bridge.BridgeConfig, context: Context) -> Outcome:
    """Check that log p - log q does not depend on the path if the control is exact: type II, H = 0.8."""
    task = bridge.task_of(config, 0.8)
    _, found = bridge.exact_posterior(config, task)
    observed = {"end": jnp.asarray(config.end)}
    context.announce("exact control of a bridge")
    known = bridge.Guide(linear.feedback, None), (found.control, jnp.asarray(task.steps.length))

    def one(key):
        guide = ppl.gen(lambda: bridge.push(task, *known))
        drawn = guide.simulate(key)
        log_joint, _ = bridge.model.assess(key, ppl.merge(drawn.choices, observed), None, task)
        return log_joint - drawn.log_density

    draws = np.asarray(jax.jit(jax.vmap(one))(jr.split(context.key, 200)), np.float64)
    metrics = {"exact_control_elbo": draws.mean(), "exact_control_evidence": float(found.log_evidence)}
    return Outcome(metrics, claims.of_constant(claims.spread_of(draws)))


def bridges(config: bridge.BridgeConfig, context: Context) -> Outcome:
    """Learn bridges at several Hurst indices; compare variances with algebra."""
    metrics, ratios, curves = {}, {}, {}
    for number, hurst in enumerate(config.hurst):
        context.announce(f"bridge, H = {hurst}")
        task = bridge.task_of(config, hurst)
        fit_key, measure_key = jr.split(jr.fold_in(context.key, number))
        saves = {"checkpoint": context.checkpoint / f"bridge_{hurst}", "resume": context.resume}
        fitted = bridge.fit(config, task, fit_key, **saves)
        draws, paths = bridge.measure(fitted.params, config, task, measure_key)
        system, found = bridge.exact_posterior(config, task)
        _, wanted = map(np.asarray, linear.moments(system, found))
        ratios[hurst], curves[hurst] = paths.var(0) / wanted, (paths.var(0), wanted)
        metrics[f"bridge_{hurst}_elbo"] = draws.mean()
        metrics[f"bridge_{hurst}_evidence"] = float(found.log_evidence)
    times = config.duration * np.arange(1, config.steps_of_path + 1) / config.steps_of_path
    pictures.variances(context.out / "bridges.png", times, curves)
    return Outcome(metrics, claims.of_curves(ratios))


def guides(config: bridge.BridgeConfig, context: Context) -> Outcome:
    """Compare the paper's guide with one that learns the variance of each step."""
    (hurst,) = config.hurst
    task, draws = bridge.task_of(config, hurst), {}
    _, found = bridge.exact_posterior(config, task)
    for name, ratio in (("paper", False), ("ratio", True)):
        context.announce(f"guide of a bridge: {name}")
        saves = {"checkpoint": context.checkpoint / f"guide_{name}", "resume": context.resume}
        fitted = bridge.fit(config, task, jr.fold_in(context.key, 20), ratio=ratio, **saves)
        draws[name], _ = bridge.measure(fitted.params, config, task, jr.fold_in(context.key, 21))
    metrics = {f"guide_{name}_elbo": values.mean() for name, values in draws.items()}
    metrics["guide_evidence"] = float(found.log_evidence)
    return Outcome(metrics, claims.of_guides(draws["paper"], draws["ratio"], float(found.log_evidence)))


def river(config: nile.NileConfig, context: Context) -> Outcome:
    """Learn the Hurst index of the Nile; compare with Brownian noise and with the exact evidence."""
    values, draws, fitted = nile.flows(), {}, {}
    for name, learn in (("learned", True), ("half", False)):
        context.announce(f"Nile, H {name}")
        saves = {"checkpoint": context.checkpoint / f"nile_{name}", "resume": context.resume}
        fitted[name] = nile.fit(values, config, jr.fold_in(context.key, 30), learn_hurst=learn, **saves).params
        draws[name] = nile.measure(fitted[name], values, config, jr.fold_in(context.key, 31))
    hurst = float(hurst_of(fitted["learned"].prior.hurst))
    evidence = nile.exact_evidence(fitted["learned"].prior, values, config)
    metrics = {f"nile_elbo_{name}": found.mean() for name, found in draws.items()}
    metrics |= {"nile_hurst": hurst, "nile_evidence": evidence}
    _profile(
        values, config, context, {"H learned": (hurst, draws["learned"].mean()), "H = 1/2": (0.5, draws["half"].mean())}
    )
    return Outcome(metrics, claims.of_nile(draws["learned"], draws["half"], hurst, evidence))


def _profile(values: np.ndarray, config: nile.NileConfig, context: Context, bounds: dict) -> None:
    hursts, number = np.linspace(0.45, 0.97, 27), len(values)
    times = np.arange(1, number + 1) / number
    noises = [fractional(jnp.asarray(hurst), **nile.grid_of(config), kind="I") for hurst in hursts]
    ours = [exact.best_evidence(values, exact.increments(exact.approximate_covariance(n, times))) for n in noises]
    wanted = [exact.best_evidence(values, exact.fgn_covariance(number, 1 / number, hurst)) for hurst in hursts]
    evidences = {"fractional Gaussian noise": np.array(wanted), f"approximation, K = {config.number}": np.array(ours)}
    pictures.profile(context.out / "nile.png", hursts, evidences, bounds)


def recovery(config: series.SeriesConfig, context: Context) -> Outcome:
    """Learn the Hurst index of exact fractional Brownian motion."""
    learned, metrics = {}, {}
    grid = series.grid_of(30, config)
    for number, hurst in enumerate((0.3, 0.5, 0.7)):
        context.announce(f"synthetic paths, H = {hurst}")
        values = series.synthetic(hurst, 0.05, (config.paths, 30), seed=number)
        saves = {"checkpoint": context.checkpoint / f"synthetic_{hurst}", "resume": context.resume}
        begin, key = series.start(scale=1.0, error=0.05), jr.fold_in(context.key, 40 + number)
        params = series.fit(values, begin, grid, key, ("hurst",), **saves).params
        learned[hurst] = metrics[f"synthetic_{hurst}_learned"] = float(hurst_of(params.prior.hurst))
    return Outcome(metrics, claims.of_synthetic(learned))


def volatility(config: series.SeriesConfig, days: int, context: Context) -> Outcome:
    """Learn the Hurst index of the logarithm of daily ranges of the S&P 500."""
    context.announce("S&P 500, log ranges")
    values = series.log_ranges(days)
    values, grid = values - values.mean(), series.grid_of(days, config)
    saves = {"checkpoint": context.checkpoint / "volatility", "resume": context.resume}
    begin = series.start(scale=1.0, error=0.4)
    learn = ("hurst", "mean", "log_scale", "log_error")
    fitted = series.fit(values[None], begin, grid, jr.fold_in(context.key, 50), learn, **saves).params
    hurst = float(hurst_of(fitted.prior.hurst))
    levels = series.levels(fitted, values, grid, jr.fold_in(context.key, 51))
    title = f"Log of the daily range of the S&P 500 (centred), and its level: H = {hurst:.2f}"
    pictures.series(context.out / "volatility.png", np.arange(days), values, levels, title, "log range")
    metrics = {"volatility_hurst": hurst, "volatility_scale": float(jnp.exp(fitted.prior.log_scale))}
    metrics["volatility_error"] = float(jnp.exp(fitted.prior.log_error))
    return Outcome(metrics, claims.of_volatility(hurst))


def movies(config: video.VideoConfig, context: Context) -> Outcome:
    """Fit the latent video model with fractional and with Brownian noise: same data, seeds and steps."""
    train, test = video.movies_of(config)
    copy = video.copied(test, config.known)
    bounds, metrics, shown = {}, {}, {}
    errors = {"copy": video.squared_error(copy, test, config.known)}
    for name, memory in (("fractional", True), ("brownian", False)):
        context.announce(f"video, {name} noise")
        saves = {"checkpoint": context.checkpoint / f"video_{name}", "resume": context.resume}
        params = video.fit(config, train, jr.fold_in(context.key, 60), memory=memory, **saves).params
        one = video.of_movie(video.task_of(config, config.frames, memory=memory))
        bounds[name] = held_out(one, params, jnp.asarray(test), jr.fold_in(context.key, 61), runs=10)
        drawn = video.predictions(params, test, config, jr.fold_in(context.key, 62), memory=memory)
        errors[name], shown[name] = video.squared_error(drawn.mean(1), test, config.known), drawn[0]
        metrics[f"video_{name}_elbo"] = bounds[name].mean()
        if memory:
            metrics["video_hurst"] = float(hurst_of(params.hurst))
    metrics |= {f"video_{name}_psnr": float(-10 * np.log10(found.mean())) for name, found in errors.items()}
    pictures.frames(context.out / "movie.png", test[0], shown, config.known)
    return Outcome(metrics, claims.of_video(bounds, errors))
