"""AIR: canvases, windows, gradients beside those written by hand, a few steps; slow: objects are counted right."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from models.air import floor
from models.air.canvases import paste
from models.air.networks import Networks
from models.air.objectives import STRATEGIES, objective_of, of_batch
from models.air.program import PROGRAM, accuracy, look, run
from models.air.scenes import guide, model
from models.air.windows import attend, place
from models.registry import Context

KEY = jr.key(0)
MOST = 3
SMALL = Networks(16, 6, 4, 12, 12, KEY)


def some_images(number=8):
    return jr.uniform(jr.key(1), (number, 16, 16))


def test_canvases_hold_as_many_digits_as_they_say_none_over_another(digits):
    made = paste(digits.train, 300, side=32, shrink=2.0, most=2, seed=3)
    assert made.images.shape == (300, 32, 32)
    assert ((made.boxes[:, :, 2] > 0).sum(1) == made.counts).all()
    assert set(made.counts) == {0, 1, 2}
    for image, boxes, count in zip(made.images, made.boxes.astype(int), made.counts, strict=True):
        covered = np.zeros((32, 32), int)
        for row, column, size in boxes[:count]:
            covered[row : row + size, column : column + size] += 1
        assert covered.max(initial=0) <= 1
        assert not image[covered == 0].any()
        assert image.max() <= 1
    again = paste(digits.train, 300, side=32, shrink=2.0, most=2, seed=3)
    np.testing.assert_array_equal(made.images, again.images)


def test_what_is_placed_is_read_again():
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, 6), jnp.linspace(-1, 1, 6), indexing="ij")
    patch = 1 + 0.3 * x + 0.2 * y  # Bilinear interpolation is exact on it.
    where = jnp.array([jnp.log(2.0), 0.1, -0.2])
    inside = attend(place(patch, where, 101), where.at[0].set(jnp.log(2.5)), 6)
    np.testing.assert_allclose(inside, 1 + 0.3 * 0.8 * x + 0.2 * 0.8 * y, atol=2e-2)
    assert place(patch, jnp.array([0.0, 5.0, 0.0]), 16).max() == 0


@pytest.mark.parametrize("strategy", ["enum", "mvd", "reinforce", "reinforce_lanes"])
def test_values_and_gradients_are_those_written_by_hand(strategy):
    """Means over many keys of our estimator and of the exact sum over presence; where and what are drawn in both."""
    objective = of_batch(objective_of(strategy, MOST))
    images = some_images(4)
    picked = lambda params: jnp.stack([params.decoder.layers.out.bias[0], *params.attention.predict.out.bias[:2]])
    ours = lambda key: picked(ppl.grad(objective)(key, SMALL, images))
    hand = lambda key: picked(jax.grad(floor.elbo_by_sum, argnums=1)(key, SMALL, images, MOST))
    keys = jr.split(KEY, 600)
    a, b = (np.asarray(jax.jit(jax.vmap(f))(keys), np.float64) for f in (ours, hand))
    error = np.sqrt((a.var(0) + b.var(0)) / len(keys))
    print(strategy, a.mean(0), b.mean(0), error)
    assert (error > 0).all()
    assert (np.abs(a.mean(0) - b.mean(0)) < 4.5 * error).all()


def test_enumeration_does_no_more_products_than_by_hand():
    images = some_images()
    ours = ppl.value_and_grad(of_batch(objective_of("enum", MOST)))
    by_hand = lambda key, params, images: jax.value_and_grad(floor.elbo_by_sum, argnums=1)(key, params, images, MOST)
    mine, theirs = (ppl.reports.costs(f)(KEY, SMALL, images) for f in (ours, by_hand))
    print(mine, theirs)
    assert mine.matmul_flops == theirs.matmul_flops


def test_presence_stops_at_the_first_no_and_counts_are_compared():
    present, where, canvas = look(SMALL, some_images(50), MOST, KEY)
    present = np.asarray(present)
    assert (np.diff(present, axis=1) <= 0).all()
    assert where.shape == (50, MOST, 3)
    assert canvas.shape == (50, 16, 16)
    assert accuracy(present, present.sum(1)) == 1.0
    assert accuracy(present, present.sum(1) + 1) == 0.0


def test_model_and_guide_fit_together():
    chosen = ppl.with_grad(guide, {"present": STRATEGIES["enum"]})
    report = ppl.check(model, chosen, (SMALL, {"image": some_images(1)[0]}, MOST))
    assert report.ok, report


@pytest.mark.parametrize("strategy", ["enum", "reinforce"])
def test_a_step_of_the_paper_lowers_for_accelerators(strategy):
    config = dataclasses.replace(PROGRAM.preset("full").config, batch_size=2)
    sizes = config.side, config.window, config.code, config.recurrent, config.hidden
    params = jax.eval_shape(lambda: Networks(*sizes, KEY))
    images = jax.ShapeDtypeStruct((config.batch_size, config.side, config.side), jnp.float32)
    step = ppl.value_and_grad(of_batch(objective_of(strategy, config.steps_of_guide)))
    traced = jax.jit(step).trace(KEY, params, images)
    for platform in ("cuda", "tpu"):
        assert "stablehlo" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_a_short_run_writes_report_and_pictures(tmp_path):
    config = dataclasses.replace(
        PROGRAM.preset("quick").config, images=100, held_out=30, steps=3, batch_size=4, recurrent=8, hidden=8, code=4
    )
    outcome = run(Context(config, 0, tmp_path))
    assert set(outcome.metrics) == {"accuracy_enum", "held_out_elbo_enum", "parameters", "step_matmul_gflop"}
    for picture in ("found_enum.png", "training_enum.png"):
        assert (tmp_path / picture).stat().st_size > 5_000
    assert [claim.bound for claim in outcome.claims] == [0.95]


def test_the_papers_scale_makes_one_step_without_an_accelerator(tmp_path):
    if jax.default_backend() != "cpu":
        pytest.skip("an accelerator would make the fits")
    outcome = run(Context(PROGRAM.preset("full").config, 0, tmp_path))
    by_hand = Networks(50, 28, 50, 256, 200, KEY)
    assert outcome.metrics["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(by_hand))
    assert outcome.metrics["step_matmul_gflop"] > 1
    assert outcome.metrics["step_gradient_norm"] > 0
    assert outcome.metrics["real_canvas"] in (0, 1)


@pytest.mark.slow
def test_objects_are_counted_right_after_a_thousand_steps(tmp_path):
    outcome = run(Context(PROGRAM.preset("quick").config, 0, tmp_path))
    assert outcome.metrics["accuracy_enum"] > 0.95
