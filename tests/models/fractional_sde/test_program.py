"""Movies, networks and the video model; claims that fail where they should; runs that write report and pictures."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from models.fractional_sde import claims, experiments, full, networks, nile, series, video
from models.fractional_sde.movies import move
from models.fractional_sde.process import State
from models.fractional_sde.program import PROGRAM, SMALL_BRIDGE, SMALL_VIDEO, Config, run
from models.registry import Context

KEY = jr.key(0)
TINY = dataclasses.replace(
    SMALL_VIDEO, movies=40, held_out=6, features=8, content=4, width=8, steps=3, batch_size=4, draws=2
)
LARGE = PROGRAM.preset("full").config.full


# --- Movies ------------------------------------------------------------------------------------------------------


def test_digits_move_by_whole_pixels_and_stay_in_the_frame():
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3) / 9
    movies = move(image, 50, side=8, frames=10, fastest=2, seed=0)
    assert movies.shape == (50, 10, 8, 8)
    np.testing.assert_allclose(movies.sum((2, 3)), image.sum(), rtol=1e-6)  # nothing is cut off
    places = np.stack(np.unravel_index(movies.reshape(50, 10, -1).argmax(-1), (8, 8)), -1)
    steps = np.diff(places, axis=1)
    assert np.abs(steps).max() <= 2
    assert (steps != 0).any()
    again = move(image, 50, side=8, frames=10, fastest=2, seed=0)
    np.testing.assert_array_equal(movies, again)
    assert not np.array_equal(movies, move(image, 50, side=8, frames=10, fastest=2, seed=1))


def test_between_walls_nothing_changes_its_velocity():
    movies = move(np.ones((1, 2, 2), np.float32), 200, side=30, frames=4, fastest=2, seed=0)
    corners = np.stack([movies.any(axis).argmax(-1) for axis in (3, 2)], -1)
    steps = np.diff(corners, axis=1)
    far = ((corners > 4) & (corners < 24)).all((1, 2))
    assert far.sum() > 20
    np.testing.assert_array_equal(steps[far][:, 0], steps[far][:, -1])


def test_several_digits_lie_over_one_another():
    movies = move(np.ones((1, 4, 4), np.float32), 20, side=8, frames=3, fastest=1, digits=2, seed=0)
    assert movies.max() == 1
    assert (movies.sum((2, 3)) > 16).any()


# --- Networks ----------------------------------------------------------------------------------------------------


def test_each_scale_looks_at_its_own_coordinate():
    diffusion = networks.Diffusion(3, 8, KEY)
    jacobian = jax.jacobian(lambda x: diffusion(0.0, x))(jnp.array([0.3, -1.0, 2.0]))
    np.testing.assert_array_equal(jacobian - jnp.diag(jnp.diag(jacobian)), 0.0)
    assert (jnp.diag(jacobian) != 0).all()
    assert (diffusion(0.0, jnp.zeros(3)) > 0).all()


@pytest.mark.parametrize("ratio", [True, False])
def test_a_control_begins_at_zero(ratio):
    control = networks.Control(2, 3, 4, 8, KEY, ratio=ratio)
    u, log_ratio = control(0.0, State(jnp.ones(2), jnp.ones((2, 3))), jnp.ones(4))
    np.testing.assert_array_equal([u, log_ratio], np.zeros((2, 2)))


def test_convolutions_keep_the_shapes_of_the_paper():
    reads, draws = networks.ConvolutionalFrames(64, 64, KEY), networks.ConvolutionalImages(64, 64, 64, 6, KEY)
    assert jax.eval_shape(reads, jnp.zeros((64, 64))).shape == (64,)
    frame = jax.eval_shape(draws, jnp.zeros(64), jnp.zeros(6))
    assert frame.shape == (64, 64)
    assert [conv.out_channels for conv in reads.convolutions] == [64, 128, 256, 256]
    assert [conv.out_channels for conv in draws.convolutions] == [256, 128, 64, 64]


# --- The video model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [True, False])
def test_model_and_guide_of_a_movie_fit_together(memory):
    task, params = video.task_of(TINY, TINY.frames, memory=memory), video.Video(TINY, memory, KEY)
    movie = jnp.asarray(video.movies_of(TINY)[0][0], float)
    report = ppl.check(video.model, video.guide, (params, {"frames": movie}, movie, task))
    assert report.ok, report


def test_an_untrained_guide_costs_what_its_start_costs():
    """The control is zero: of the divergence only that of x0 is left."""
    task, params = video.task_of(TINY, TINY.frames, memory=True), video.Video(TINY, True, KEY)
    movie = jnp.asarray(video.movies_of(TINY)[0][0], float)
    drawn = video.guide.simulate(KEY, params, {"frames": movie}, movie, task)
    choices = {**drawn.choices, "frames": movie}
    trace, _ = video.model.generate(KEY, choices, params, movie, task)
    step = float(task.steps.length[0])
    log_prior = -0.5 * jnp.sum(drawn["dB"] ** 2) / step - 0.5 * drawn["dB"].size * np.log(2 * np.pi * step)
    np.testing.assert_allclose(video.model.project(trace, "dB"), log_prior, rtol=1e-5)
    np.testing.assert_allclose(video.guide.project(drawn, "dB"), log_prior, rtol=1e-5)


def test_a_prediction_keeps_the_known_path_and_differs_afterwards():
    params = eqx.tree_at(lambda p: p.start_log_scale, video.Video(TINY, True, KEY), -jnp.ones(TINY.dimension))
    movie = video.movies_of(TINY)[1][:1]
    drawn = video.predictions(params, movie, TINY, KEY, memory=True)
    assert drawn.shape == (1, 2, TINY.frames, 16, 16)
    later = movie.copy()
    later[:, TINY.known :] = 0.0
    np.testing.assert_array_equal(drawn, video.predictions(params, later, TINY, KEY, memory=True))  # they were not seen
    assert np.abs(drawn[0, 0] - drawn[0, 1]).max() > 0


def test_copies_and_their_errors():
    movies = np.zeros((2, 5, 4, 4))
    movies[:, 3:] = 1.0
    copy = video.copied(movies, 3)
    assert copy.shape == movies.shape
    np.testing.assert_array_equal(video.squared_error(copy, movies, 3), [1.0, 1.0])
    np.testing.assert_array_equal(video.squared_error(video.copied(movies, 4), movies, 4), [0.0, 0.0])


# --- Full scale --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [True, False])
def test_a_step_of_the_papers_scale_lowers_for_accelerators(memory):
    key, params, movies = full.abstract(LARGE, 1, memory=memory)
    arrays, static = eqx.partition(params, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    step = full.step_of(LARGE, memory=memory)
    traced = jax.jit(lambda key, arrays, movies: step(key, eqx.combine(arrays, static), movies)[0]).trace(
        key, arrays, movies
    )
    for platform in ("cuda", "tpu"):
        assert "stablehlo" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_one_step_reports_its_size(tmp_path):
    outcome = full.one_step(TINY, Context(Config(full=TINY), 0, tmp_path))
    assert outcome.metrics["full_fractional_parameters"] > outcome.metrics["full_brownian_parameters"] > 1000
    assert all(np.isfinite(value) for value in outcome.metrics.values())


# --- Claims ------------------------------------------------------------------------------------------------------


def failed(found):
    return [claim.claim for claim in found if claim.failed]


def test_claims_fail_where_they_should():
    draws = np.random.default_rng(0).normal(size=400)
    good = claims.of_nile(draws - 637.2, draws - 654.7, 0.79, -637.0)
    assert not failed(good)
    assert len(failed(claims.of_nile(draws - 637.2, draws - 645.0, 0.95, -639.0))) == 3
    assert len(failed(claims.of_nile(draws - 637.2, draws - 654.7, 0.6, -637.0))) == 1
    assert failed(claims.of_synthetic({0.3: 0.41, 0.5: 0.45})) == [claims.of_synthetic({0.3: 0.41})[0].claim]
    ratio = np.ones(100)
    assert not failed(claims.of_curves({0.2: ratio}))
    ratio[50] = 0.85
    assert failed(claims.of_curves({0.2: ratio}))
    assert not failed(claims.of_guides(draws - 4.0, draws - 1.6, -1.5))
    assert len(failed(claims.of_guides(draws - 2.0, draws - 2.1, -1.5))) == 2
    assert failed(claims.of_volatility(0.6))
    assert not failed(claims.of_volatility(0.2))
    assert failed(claims.of_constant(0.5))
    errors = {"copy": np.full(400, 0.07), "fractional": 0.05 + 0.01 * draws, "brownian": 0.08 + 0.01 * draws}
    names = failed(claims.of_video({"fractional": draws, "brownian": draws + 0.1}, errors))
    assert any("brownian predicts" in name for name in names)
    assert not any("fractional predicts" in name for name in names)


# --- Runs --------------------------------------------------------------------------------------------------------


def context(tmp_path):
    return Context(None, 0, tmp_path)


def test_the_experiments_with_bridges_write_what_they_should(tmp_path):
    small = dataclasses.replace(SMALL_BRIDGE, hurst=(0.6,), steps_of_path=100, width=4, lanes=2, steps=3, draws=20)
    found = experiments.bridges(small, context(tmp_path))
    assert {"bridge_0.6_elbo", "bridge_0.6_evidence"} == set(found.metrics)
    assert (tmp_path / "bridges.png").stat().st_size > 10_000
    found = experiments.guides(dataclasses.replace(small, hurst=(0.3,), kind="II"), context(tmp_path))
    assert len(found.claims) == 2


def test_the_experiments_with_series_write_what_they_should(tmp_path):
    config = series.SeriesConfig(fastest=20.0, substeps=2, paths=2, steps=2, lanes=2)
    found = experiments.recovery(config, context(tmp_path))
    assert len(found.claims) == 3
    found = experiments.volatility(config, 25, context(tmp_path))
    assert 0 < found.metrics["volatility_hurst"] < 1
    assert (tmp_path / "volatility.png").stat().st_size > 10_000


def test_the_experiment_with_movies_writes_what_it_should(tmp_path):
    found = experiments.movies(TINY, context(tmp_path))
    assert {"video_fractional_elbo", "video_brownian_elbo", "video_copy_psnr", "video_hurst"} <= set(found.metrics)
    assert (tmp_path / "movie.png").stat().st_size > 5_000


def test_a_short_run_writes_report_and_picture(tmp_path):
    config = Config(nile=nile.NileConfig(steps=5, lanes=2, draws=50))
    outcome = run(Context(config, 0, tmp_path))
    assert len(outcome.claims) == 5
    assert (tmp_path / "nile.png").stat().st_size > 10_000


@pytest.mark.slow
def test_all_claims_of_quick_hold(tmp_path):
    outcome = run(Context(PROGRAM.preset("quick").config, 0, tmp_path))
    assert outcome.claims
    assert not failed(outcome.claims)
