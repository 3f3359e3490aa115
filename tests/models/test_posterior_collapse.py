"""Programs whose latents collapse: training, settings, networks, one run, the largest scale."""

import dataclasses
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import models.posterior_collapse
import ppl
from estimators.diagnostics import linear_optimum
from models.posterior_collapse import (
    checks,
    claims,
    config,
    digits,
    fits,
    linear,
    networks,
    nonlinear,
    programs,
    scale,
    theory,
)
from models.posterior_collapse.fits import Setting, Task, Training
from models.registry import Context

KEY = jr.key(4)
Y = np.random.default_rng(0).normal(size=(300, 5)) * np.array([2.0, 1.5, 1.0, 0.3, 0.1])


def test_settings_are_trained_apart():
    """Two settings at once: each ends at its own optimum, from its own start."""
    task = Task("vae", 3, Y - Y.mean(0))
    settings = [Setting(0.5), Setting(0.5, (12.0,))]
    found = fits.fit(task, settings, Training(3000), KEY)
    moments = np.linalg.eigvalsh(np.cov(Y.T, bias=True))[::-1]
    for setting, params in zip(settings, found, strict=True):
        exact = linear_optimum(moments, 3, beta=setting.weights[0], noise=0.5)
        values = np.linalg.svd(params.decoder.matrix, compute_uv=False)
        np.testing.assert_allclose(values, exact.decoder, rtol=0.05, atol=0.05)
    assert exact.active == 1


def test_zeros_are_a_saddle():
    """From zeros the mean gradient leads nowhere: why matrices start at .1."""
    moment = jnp.asarray(Y.T @ Y / len(Y))
    zeros = {"U": jnp.zeros((5, 2)), "W": jnp.zeros((2, 5)), "log_scale": jnp.zeros(2)}
    slope = jax.grad(theory.vae_loss)(zeros, moment, 1.0, 0.5, 1.0)
    assert not any(np.any(leaf) for leaf in slope.values())
    better = zeros | {"U": 0.1 * jnp.eye(5, 2), "W": 0.1 * jnp.eye(2, 5)}
    assert theory.vae_loss(better, moment, 1.0, 0.5, 1.0) < theory.vae_loss(zeros, moment, 1.0, 0.5, 1.0)


def test_the_first_scale_of_a_hierarchy_is_not_trained():
    task = Task("mhvae", 2, Y, fixed=0.7)
    (params,) = fits.fit(task, [Setting(0.5, (1.0, 1.0))], Training(20), KEY)
    np.testing.assert_allclose(np.exp(params.encoder.log_scale), 0.7, rtol=1e-6)
    assert not np.allclose(params.upper.log_scale, 0.0)


@pytest.mark.parametrize("kind", ["vae", "cvae", "mhvae"])
@pytest.mark.parametrize("hidden", [None, 4])
def test_every_program_is_sound(kind, hidden):
    task = Task(kind, 3, Y, Y[:, :2] if kind == "cvae" else None, hidden)
    model, guide = task.pair(0.5)
    inputs = () if task.x is None else (jnp.asarray(task.x[0]),)
    report = ppl.check(model, guide, (task.draw(KEY), {"y": jnp.asarray(task.y[0])}, *inputs))
    assert report.ok, report.problems


def test_free_bits():
    """Latents below their free nats cost them; those above cost what they take: the weighed ELBO's mean."""
    task = Task("vae", 3, Y)
    params = task.draw(KEY)
    value = lambda free, beta: float(
        ppl.expect(lambda p: programs.with_free_bits(task.pair(0.5), {"z": beta}, free)(p, *task.data))(KEY, params)
    )
    np.testing.assert_allclose(value(1e3, 1.0) - value(1e3, 0.0), -3e3, rtol=1e-6)
    loc, log_scale = jax.vmap(params.encoder)(task.data[0])
    nats = 0.5 * (loc**2 + log_scale**2 - 1) - jnp.log(log_scale)
    np.testing.assert_allclose(value(0.0, 1.0) - value(0.0, 0.0), -jnp.mean(jnp.sum(nats, 1)), rtol=1e-5)


def test_warm_up():
    """At its first step a warm-up has no divergence."""
    task = Task("vae", 3, Y)
    params = jax.tree.map(lambda leaf: leaf[None], task.draw(KEY))
    of = lambda **change: fits._of_settings(task, [Setting(0.5)], dataclasses.replace(Training(100), **change))
    run = lambda objective, step: float(ppl.expect(objective)(KEY, params, jnp.float32(step), task.data)[0])
    warm, plain = of(warm_up=0.5), of()
    silent = fits._of_settings(task, [Setting(0.5, (0.0,))], Training(100))
    np.testing.assert_allclose(run(warm, 0), run(silent, 0), rtol=1e-6)
    np.testing.assert_allclose(run(warm, 50), run(plain, 50), rtol=1e-6)
    assert run(warm, 0) > run(warm, 25) > run(warm, 50)


class TestComparison:
    def fitted(self, **change):
        task = Task("vae", 3, Y - Y.mean(0))
        exact = linear_optimum(np.linalg.eigvalsh(np.cov(Y.T, bias=True))[::-1], 3, noise=0.5)
        vectors = np.linalg.eigh(np.cov(Y.T, bias=True))[1][:, ::-1][:, :3]
        where = lambda p: (p.decoder.matrix, p.encoder.loc.matrix, p.encoder.log_scale)
        theta = np.sqrt(exact.moments[:3])
        encoder = (exact.encoder / theta)[:, None] * vectors.T
        best = (vectors * exact.decoder, encoder, np.log(exact.scale))
        params = eqx.tree_at(where, task.draw(KEY), tuple(jnp.asarray(part) for part in best))
        return linear.compare("vae, exact", task, Setting(0.5), params, KEY)

    def test_an_optimum_holds_all_claims(self):
        found = self.fitted()
        assert found.error < 1e-5
        assert found.count("decoder") == (3, 3)
        assert all(claim.holds for claim in claims.of_linear([found]))
        assert np.isnan(found.leftover)

    def test_a_bad_fit_does_not(self):
        found = self.fitted()
        worse = dataclasses.replace(found, found={"decoder": 0.9 * found.expected["decoder"]})
        failed = [claim.claim for claim in claims.of_linear([worse]) if claim.failed]
        assert failed == ["vae, exact: singular values"]
        quiet = dataclasses.replace(found, report=dataclasses.replace(found.report, latents=()))
        assert [claim.claim for claim in claims.of_linear([quiet]) if claim.failed] == [
            "vae, exact: active latents",
            "vae, exact: nats",
        ]

    def test_thresholds_of_hierarchies(self):
        assert linear._thresholds(0.5, Setting(0.5, (1.0, 0.5))) == {"encoder": 0.125, "top": 0.0}
        found = linear._thresholds(0.5, Setting(0.5, (1.0, 2.0)))
        assert found == {"encoder": 0.25, "top": 1.0}  # theta > b2 noise^2 / (sqrt(b1) s1) = 1


def test_numbers_of_the_report():
    assert max(checks.errors().values()) < 1e-6


def test_parts_of_a_digit():
    """A quarter is the lower left, a half the left; together with the rest they are the image."""
    whole, pair = digits.images(), digits.pairs("quarter")
    np.testing.assert_allclose(whole.mean(0), 0, atol=1e-12)
    np.testing.assert_array_equal(pair.x[3], whole[3].reshape(8, 8)[4:, :4].ravel())
    np.testing.assert_allclose(np.sum(pair.x**2) + np.sum(pair.y**2), np.sum(whole**2))
    np.testing.assert_array_equal(digits.pairs("half").x[3], whole[3].reshape(8, 8)[:, :4].ravel())


def run_small(tmp_path, monkeypatch, small):
    """Run the quick preset with other settings; return its report."""
    from models.__main__ import main
    from models.registry import Preset

    program = models.posterior_collapse.PROGRAM
    presets = dict(program.presets, quick=Preset(small, "seconds"))
    monkeypatch.setattr(models.posterior_collapse, "PROGRAM", dataclasses.replace(program, presets=presets))
    monkeypatch.setattr(nonlinear, "LOOKED_AT", 20)
    main(["run", "posterior_collapse", "--preset", "quick", "--out", str(tmp_path)])
    return json.loads((tmp_path / "report.json").read_text())


def test_run(tmp_path, monkeypatch):
    """A small run of linear programs, its report and pictures."""
    small = config.Linear(
        Training(30), 4, vae=(Setting(0.5),), cvae=(Setting(0.5),), mhvae=(Setting(0.5, (1.0, 2.0)),), rank=2
    )
    report = run_small(tmp_path, monkeypatch, config.Config(small, nonlinear=None))
    assert "learned_noise" in report["metrics"]
    words = [claim["claim"] for claim in report["claims"]]
    assert "cvae, noise 0.5, beta 1: fewer nats than without inputs" in words
    assert "mhvae, noise 0.5, beta 1, 2: active modes of z2" in words
    for name in ("values", "collapse"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000


@pytest.mark.slow
def test_run_of_networks(tmp_path, monkeypatch):
    """The same of networks: many programs, each compiled once."""
    of_networks = config.Nonlinear(
        Training(5, 1e-3, 64), latents=2, hidden=4, betas=(0.5, 2.0), noises=(0.5, 1.0), correlations=(0.0, 1.0)
    )
    small = config.Linear(Training(5), 4, vae=(Setting(0.5),), cvae=(), mhvae=(), rank=0)
    report = run_small(tmp_path, monkeypatch, config.Config(small, of_networks))
    assert {"vae_beta_2_nats", "mhvae_b2_2_z2_told", "free_bits_iwelbo"} <= set(report["metrics"])
    assert "networks: nats fall with the correlation" in [claim["claim"] for claim in report["claims"]]
    for name in ("rates", "hierarchy", "correlation"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000


class TestScale:
    @pytest.mark.parametrize("one", scale.SCALES, ids=lambda one: one.name)
    def test_counted_and_lowered(self, one):
        """The authors' sizes; lowered for GPU and TPU at their batch, not compiled here."""
        step = scale.step_of(one)
        leaves = jax.tree.leaves(eqx.filter(step.params, lambda x: isinstance(x, jax.ShapeDtypeStruct)))
        assert sum(math.prod(leaf.shape) for leaf in leaves) == one.parameters
        y, x = one.pixels
        rows = tuple(jax.ShapeDtypeStruct((one.batch_size, n), jnp.float32) for n in (y, x) if n)
        arrays, static = eqx.partition(step.params, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        traced = jax.jit(lambda key, arrays, rows: step.run(key, eqx.combine(arrays, static), rows)).trace(
            KEY, arrays, rows
        )
        for platform in ("cuda", "tpu"):
            assert "stablehlo.dot_general" in traced.lower(lowering_platforms=(platform,)).as_text()

    def test_one_step(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setenv("PROGRAMMABLE_VI_DATA", str(tmp_path))
        found = scale.one_step(scale.SCALES[1], KEY)
        assert found["mnist_cvae_relu_gradient_norm"] > 0
        assert "noise of the same shape (MNIST was not fetched)" in capsys.readouterr().out

    def test_the_quarter_of_an_image(self):
        image = jnp.arange(784.0).reshape(1, 28, 28)
        y, x = scale.rows_of(scale.SCALES[0], image)
        assert (y.shape, x.shape) == ((1, 588), (1, 196))
        np.testing.assert_array_equal(x[0].reshape(14, 14), image[0, 14:, :14])


def test_the_preset_of_full_runs_steps_only(monkeypatch, tmp_path):
    monkeypatch.setattr(scale, "one_step", lambda one, key: {one.name: 1.0})
    context = Context(models.posterior_collapse.PROGRAM.presets["full"].config, 0, tmp_path)
    assert len(models.posterior_collapse.PROGRAM.run(context).metrics) == 4


def test_a_scale_by_one_path():
    """Amortised scales start near 1 and stay positive."""
    guide = networks.Amortised((5,), 3, 4, KEY)
    scales = jax.vmap(lambda y: guide(y)[1])(jnp.asarray(1e3 * Y))
    assert (scales > 0).all()
    np.testing.assert_allclose(guide(jnp.zeros(5))[1], 1.0, atol=0.6)
