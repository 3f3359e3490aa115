"""Target surrogates: classifiers, a guide with an exact posterior, a student of a pole; one run; the largest scale."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import models.target_surrogates
import ppl
from estimators import elbo, target_surrogate
from models.target_surrogates import cart_pole, exact, imitation, inference, scale, supervised
from models.target_surrogates.fits import best, surrogate
from ppl.training import Targeted

KEY = jr.key(3)


def test_exact_relations():
    found = exact.checks()
    assert found["exact_one_step"] <= 1e-12
    assert found["exact_least_gap"] >= -1e-12
    np.testing.assert_allclose(found["exact_projection_loss"], 0.2366604, atol=1e-7)


class TestSupervised:
    @pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("cancer", 2)])
    def test_a_start_knows_nothing(self, name, classes):
        found = supervised.task(name)
        np.testing.assert_allclose(found.all_loss(found.start), np.log(classes), rtol=1e-5)

    def test_more_inner_steps_reach_a_lower_loss(self):
        curves = supervised.grid("cancer", (10.0,), (1, 10, 100), 50, KEY)
        losses = [curves[10.0, m][50] for m in (1, 10, 100)]
        assert losses[0] > losses[1] > losses[2]

    def test_one_inner_step_is_gradient_descent_on_the_same_batches(self):
        """Two ways to train: through targets, and without."""
        found = supervised.task("cancer")
        logits = lambda weights, batch: batch["x"] @ weights
        f = Targeted(logits, found.loss)
        options = {"steps": 20, "key": KEY, "batch_size": 125}
        transform = target_surrogate(optax.sgd(0.1), 1.0, 1)
        through = ppl.minimize(f, found.start, found.data, transform, **options)
        plain = ppl.minimize(lambda w, b: f(w, b), found.start, found.data, optax.sgd(0.1), **options)
        np.testing.assert_allclose(through.params, plain.params, rtol=1e-5, atol=1e-6)

    def test_the_best_curve_is_finite(self):
        assert best({"a": {1: float("nan")}, "b": {1: 2.0}, "c": {1: 1.0}}, 1) == "c"


@pytest.fixture(scope="module")
def problem():
    """Probabilistic PCA of digits."""
    return inference.problem()


class TestInference:
    def test_the_start(self, problem):
        np.testing.assert_allclose(problem.gap(jnp.zeros_like(problem.encoder)), 32.83, atol=5e-3)
        np.testing.assert_allclose(problem.curvature, 19.31, atol=5e-3)
        np.testing.assert_allclose(problem.gap(problem.encoder), 0.0, atol=1e-6)

    def test_the_gap_is_that_of_the_elbo(self, problem):
        """The guide of the best encoder is the posterior: its ELBO is the evidence, without noise."""
        model, guide = inference.programs(problem)
        bound = lambda mean, x: ppl.expect(elbo(model, guide))(KEY, mean, {"x": x})
        means = problem.images @ problem.encoder
        evidence = jax.vmap(bound)(means[:20], problem.images[:20])
        again = jax.vmap(lambda mean, x: ppl.expect(elbo(model, guide))(jr.key(9), mean, {"x": x}))(
            means[:20], problem.images[:20]
        )
        np.testing.assert_allclose(evidence, again, rtol=1e-4, atol=1e-3)

    def test_gradients_at_the_target_are_unbiased(self, problem):
        """Their mean is that of the exact gap: precision (mean - best mean) / batch."""
        f, images = inference.objective(problem), problem.images[:3]
        means = jnp.ones((3, 5)) * 0.3
        draws = jax.vmap(lambda key: ppl.grad(f.objective)(key, means, images))(jr.split(KEY, 20_000))
        expected = (means - images @ problem.encoder) @ problem.precision / 3
        error = np.asarray(draws.std(0)) / np.sqrt(len(draws))
        assert (error > 0).all()
        assert (np.abs(draws.mean(0) - expected) <= 4.5 * error).all()
        bias = 6.5 * np.linalg.norm(error) / np.linalg.norm(expected)
        assert bias <= 0.02, f"detectable bias {bias}"

    def test_the_divergence_is_the_exact_gap(self, problem):
        means = jr.normal(KEY, (4, 5))
        off = means - problem.images[:4] @ problem.encoder
        expected = jnp.einsum("ni,ij,nj->", off, problem.precision, off) / 8
        found = inference.divergence(problem)(means, problem.images[:4] @ problem.encoder)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_more_inner_steps_close_the_gap_sooner(self, problem):
        eta = 0.25 / problem.curvature
        one, many = (inference.train(problem, surrogate(eta, m), 20, KEY)[20] for m in (1, 20))
        assert many < one / 2


class TestCartPole:
    def test_accelerations_solve_the_equations_of_motion(self):
        """Forces along the rail and torques about the pole's foot, as a linear system, independently."""
        states = jr.normal(KEY, (50, 4))
        forces = 10 * jr.normal(jr.key(5), (50,))
        found = np.stack(cart_pole.accelerations(states, forces), -1)
        for (_, _, angle, spin), force, (push, turn) in zip(np.asarray(states), np.asarray(forces), found, strict=True):
            mass, length, total = 0.1, 0.5, 1.1
            matrix = [[total, mass * length * np.cos(angle)], [np.cos(angle), 4 / 3 * length]]
            right = [force + mass * length * spin**2 * np.sin(angle), 9.8 * np.sin(angle)]
            np.testing.assert_allclose([push, turn], np.linalg.solve(matrix, right), rtol=1e-4, atol=1e-4)

    def test_the_expert_balances(self):
        assert imitation.upright(None, KEY) == 1.0

    def test_nobody_does_not(self):
        idle = imitation.start(imitation.Rounds(), KEY)
        assert imitation.upright(idle, KEY, seconds=5.0) < 0.1

    def test_the_expert_or_the_student_drives(self):
        """With beta = 1 the student's parameters do not matter, with beta = 0 they do."""
        idle = imitation.start(imitation.Rounds(), KEY)
        busy = dict(idle, outer=jnp.ones(32))
        for beta, same in ((1.0, True), (0.0, False)):
            settings = imitation.Rounds(beta=beta)
            drive = ppl.seed(imitation.drive(settings, cart_pole.expert()))
            assert drive(KEY, idle).shape == (100, 4)
            assert np.allclose(drive(KEY, idle), drive(KEY, busy)) is same

    def test_students_learn(self):
        losses, student = imitation.teach(imitation.Rounds(rounds=20), surrogate(0.5, 10), KEY)
        assert losses[-5:].mean() < losses[0] / 50
        assert imitation.upright(student, KEY) > 0.9


def test_run(tmp_path, monkeypatch):
    """One small run of everything, its report and its pictures."""
    from models.__main__ import main
    from models.registry import Preset

    program = models.target_surrogates.PROGRAM
    config = dataclasses.replace(
        program.presets["default"].config,
        etas=(10.0,),
        inner=(1, 3, 10),
        steps=20,
        too_large=None,
        rates=(0.01,),
        shares=(0.5,),
        guide_steps=20,
        runs=2,
        lessons=imitation.Rounds(rounds=10, poles=2, steps=5),
        policy_etas=(0.5,),
    )
    presets = dict(program.presets, quick=Preset(config, "seconds"))
    monkeypatch.setattr(models.target_surrogates, "PROGRAM", dataclasses.replace(program, presets=presets))
    main(["run", "target_surrogates", "--preset", "quick", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"digits_best_m10", "gap_c0.5_m20_aware_at20", "imitation_eta0.5_m10"} <= set(report["metrics"])
    for name in ("digits.png", "cancer.png", "guides.png", "imitation.png"):
        assert (tmp_path / name).stat().st_size > 5_000


class TestScale:
    @pytest.mark.parametrize(("name", "count"), [("mnist", 535_818), ("paths", None)])
    def test_the_largest_programs_are_counted_and_lowered(self, name, count):
        """The paper's network by its sizes; lowered for GPU and TPU, not compiled here."""
        settings = scale.Scale()
        objective, params, optimizer = getattr(scale, name)(settings, KEY)
        step, trained = scale.step_of(objective, params, optimizer)
        total = sum(leaf.size for leaf in jax.tree.leaves(trained))
        assert total == count if count else total > 5_000_000
        batch = scale.batches(settings, 1, KEY)[name]
        leaves, treedef = jax.tree.flatten(eqx.filter(trained, eqx.is_array))
        traced = jax.jit(lambda leaves: jax.tree.leaves(step(KEY, jax.tree.unflatten(treedef, leaves), batch))).trace(
            leaves
        )
        for platform in ("cuda", "tpu"):
            assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()

    def test_one_step_of_small_ones(self, capsys):
        small = scale.Scale(layers=(9, 8, 4, 10), num_inner=3, frames=3, pixels=6, latents=2, hidden=8, substeps=2)
        found = scale.one_step(small, KEY)
        assert found["mnist_parameters"] == 9 * 8 + 8 + 8 * 4 + 4 + 4 * 10 + 10
        assert np.isfinite(list(found.values())).all()
        assert "parameters" in capsys.readouterr().out
