"""PV-RNN as a program: its data, fits as lanes, error regression, bad input, its full scale, one run."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import models.pv_rnn
import ppl
from models import data
from models.__main__ import main
from models.pv_rnn import fits, program, regression, sequences
from models.pv_rnn.checks import exact
from models.pv_rnn.claims import of_meta_prior, of_predictions, of_structure
from models.pv_rnn.codes import Direct, Softmax
from models.pv_rnn.config import SMALL, Config
from models.pv_rnn.fits import Fit
from models.pv_rnn.generative import Parameters, guide, meta_prior
from models.pv_rnn.networks import Network, Sizes
from models.pv_rnn.regression import Window
from models.pv_rnn.scale import by_sizes, flops_by_sizes, step_flops
from models.registry import Context, Preset

SIZES = Sizes((4, 3), (1, 1), (2.0, 8.0))
TINY = SMALL(
    units=(4, 3), sequences=4, held_out=5, length=32, epochs=12, metas=(), window=16, horizon=4,
    samples=3, iterations=4, generated=6, particles=2, amortised=False, motion_epochs=0, online=0,
)  # fmt: skip


def tiny(key: int = 0, outputs: int = 2, **options) -> Network:
    return Network(SIZES, outputs, jr.key(key), **options)


def table(number: int, steps: int) -> Parameters:
    return Parameters(tiny(), 0.3 * jr.normal(jr.key(5), (number, steps, 4)))


# --- Data -------------------------------------------------------------------------------------------------------


def test_primitives_set_out_from_one_point_and_differ():
    shapes = sequences.primitives()
    np.testing.assert_allclose(shapes[:, 0], [[0.8, 0.0]] * 3, atol=1e-12)
    np.testing.assert_allclose(np.mean((shapes[1] - shapes[2]) ** 2), 0.32)  # to predict B when C comes


def test_chains_follow_the_machine():
    kinds, distances = sequences.classify(sequences.pfsm(400, 1, 64).train)
    assert (kinds[:, ::2] == 0).all()
    assert (kinds[:, 1::2] > 0).all()
    assert abs(sequences.chance_of_c(kinds) - 0.3) < 4 * np.sqrt(0.21 / 1600)
    assert distances.max() < 9 * sequences.NOISE**2
    few = sequences.pfsm(24, 12, 64).train
    chance = sequences.chance_of_c(sequences.classify(few)[0])
    entropy = -chance * np.log(chance) - (1 - chance) * np.log(1 - chance)
    np.testing.assert_allclose(sequences.branch_entropy(few), 4 * entropy)


def test_streams_begin_anywhere():
    split = sequences.pfsm(200, 5, 40, random_phase=True)
    assert split.train.shape == (200, 40, 2)
    angles = np.arctan2(*split.train[:, 0].T[::-1])
    assert len(np.unique(np.round(angles * 4 / np.pi) % 8)) == 8


def test_movements_are_read_from_the_archive(tmp_path, monkeypatch):
    """A small archive of the same form; the real one is checked by its SHA-256."""
    import zipfile

    path = tmp_path / "small.whl"
    line = lambda label, shift: ":".join(",".join(str(c + t + shift) for t in range(5)) for c in range(6)) + f":{label}"
    with zipfile.ZipFile(path, "w") as archive:
        for part, shift in (("TRAIN", 0.0), ("TEST", 100.0)):
            text = f"# a comment\n@classLabel true\n@data\n{line('Walking', shift)}\n{line('Standing', shift)}\n"
            archive.writestr(f"aeon/datasets/data/BasicMotions/BasicMotions_{part}.ts", text)
    monkeypatch.setattr(data, "cached", lambda name: path)
    split, labels = sequences.motions(4)
    assert split.train.shape == split.test.shape == (2, 4, 6)
    np.testing.assert_allclose(split.train[0, :, 1], np.arange(1, 5) / (1.1 * 5), rtol=1e-6)
    assert split.test.max() == np.float32(0.999)
    assert labels.train.tolist() == [2, 0]


# --- Fits -------------------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_fits_as_lanes_are_those_made_alone():
    """Gradients are clipped lane by lane, and every lane has its own noise: the first one that of a fit alone."""
    first, second = (Fit(sequences.pfsm(3, 1, 8, random_phase=phase).train, 0.1) for phase in (False, True))
    optimizer = fits.optimizer_of(1e-2, 0.5)

    def vectors(wanted, lanes):
        start = fits.table(wanted, lambda key: tiny(), Direct(), jr.key(0))
        rows, x = jnp.arange(3), jnp.stack([fit.data for fit in wanted])
        one = lambda params, x: fits.mean_objective(params, rows, x, 0.1, 1)
        gradient = lambda _, params: jax.vmap(lambda p, x: ppl.grad(one)(jr.key(1), p, x))(params, x)
        params, state = start, optimizer.init(start)
        params, _ = jax.jit(ppl.ascend(gradient, optimizer, steps=3))(jr.key(1), params, state)
        return [fits.lane(params, lane).adaptive for lane in lanes]

    both = vectors([first, second], [0, 1])
    for together, alone in zip(both, (first, second), strict=True):
        np.testing.assert_allclose(together, vectors([alone], [0])[0], rtol=1e-9, atol=1e-12)
    assert np.abs(both[0] - both[1]).max() > 1e-4


def test_long_unstable_sequences_are_clipped():
    """Two hundred steps through recurrent weights ten times as large."""
    params = table(1, 200)
    large = jax.tree.map(lambda leaf: 10 * leaf, params.network)
    params = fits.spread(Parameters(large, params.adaptive, params.code), 1)
    objective = lambda params, x: fits.mean_objective(fits.lane(params, 0), jnp.arange(1), x, 0.1, 1)
    gradient = jax.jit(ppl.grad(objective))(jr.key(0), params, 0.5 * jnp.ones((1, 200, 2)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    clip = fits.by_lane(optax.clip_by_global_norm(5.0))
    clipped, _ = clip.update(gradient, clip.init(params))
    assert optax.global_norm(gradient) > 5
    np.testing.assert_allclose(optax.global_norm(clipped), 5, rtol=1e-4)


def test_vectors_of_sequences_outside_of_a_batch_do_not_decay():
    data = sequences.pfsm(6, 1, 8).train
    start = fits.table([Fit(data, 0.1)], lambda key: tiny(), Direct(), jr.key(0))
    start = dataclasses.replace(start, adaptive=jnp.ones_like(start.adaptive))
    fitted = fits.train(start, [Fit(data, 0.1)], fits.optimizer_of(1e-2, 5.0), jr.key(1), steps=2, batch_size=1)
    untouched = (fitted.params.adaptive[0] == 1).all((1, 2))
    assert untouched.sum() == 4


# --- Error regression -------------------------------------------------------------------------------------------


def test_error_regression_trains_nothing_but_the_window():
    params, streams = table(2, 8), sequences.pfsm(2, 3, 20, random_phase=True).test
    found = regression.regress(params, streams, Window(12, 60, 0.1, 0.01), jr.key(0))
    assert found.adaptive.shape == (3, 12, 4)
    for new, old in zip(jax.tree.leaves(found.network), jax.tree.leaves(params.network), strict=True):
        assert new is old
    before = dataclasses.replace(found, adaptive=jnp.zeros_like(found.adaptive))
    errors = [
        np.mean((regression.ends(p, streams[:, :12], jr.key(1))[1] - streams[:, :12]) ** 2) for p in (before, found)
    ]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.x64
def test_online_the_first_window_is_that_of_error_regression():
    """Until the window slides, its start is rest; what it predicts is finite and differs between samples."""
    params = dataclasses.replace(table(1, 4), adaptive=jnp.zeros((1, 4, 4)))
    stream = jnp.asarray(sequences.pfsm(1, 1, 12, random_phase=True).test[0])
    run = jax.jit(regression.follow(params, Window(4, 3, 0.1, 0.1), horizon=2, samples=3))
    found = run(jr.key(0), stream)
    assert found.shape == (12, 3, 2, 2)
    assert np.isfinite(found).all()
    assert np.std(found, axis=1).min() > 1e-9
    # What comes later changes nothing that was said before.
    changed = run(jr.key(0), stream.at[7:].set(-stream[7:]))
    np.testing.assert_array_equal(found[:7], changed[:7])
    assert np.abs(found[7:] - changed[7:]).max() > 1e-4


@pytest.mark.x64
def test_online_a_window_slides_without_a_jump():
    """With nothing to learn the posterior of new steps is the prior, and the vectors move on by one."""
    params = table(1, 4).of(0)
    optimizer = optax.adam(0.1)
    carry = regression.Online(params.network.start(), params.adaptive, optimizer.init(params.adaptive))
    moved = regression._slide(params, optimizer, carry, jnp.array(True), True, jr.key(0))
    np.testing.assert_array_equal(moved.adaptive[:-1], params.adaptive[1:])
    run = guide.simulate(jr.key(3), Parameters(params.network, moved.adaptive), {}, moved.start, 4).retval
    assert bool(moved.start.begun)
    kept = regression._slide(params, optimizer, carry, jnp.array(False), True, jr.key(0))
    jax.tree.map(np.testing.assert_array_equal, kept, carry)
    assert len(run.prior[0].loc) == 4


# --- Bad input --------------------------------------------------------------------------------------------------


def test_a_window_longer_than_the_history_is_refused():
    with pytest.raises(ValueError, match="window has 12 steps, but only 8"):
        regression.regress(table(1, 4), np.zeros((1, 8, 2)), Window(12, 1, 0.1, 0.1), jr.key(0))


@pytest.mark.parametrize("row", [3, -1])
def test_a_sequence_without_vectors_is_refused(row):
    with pytest.raises(ValueError, match=f"3 sequences, but none at index {row}"):
        table(3, 4).of(row)
    assert np.isnan(jax.jit(lambda row: table(3, 4).of(row).adaptive)(row)).all()  # not those of another sequence


def test_vectors_for_other_steps_are_refused():
    params, start = table(1, 4), tiny().start()
    with pytest.raises(ValueError, match="for 4 steps, but the sequence has 6"):
        guide.simulate(jr.key(0), params.of(0), {"x": jnp.zeros((6, 2))}, start, 6)


def test_impossible_time_constants_are_refused():
    with pytest.raises(ValueError, match=r"tau = 0\.5"):
        Network(Sizes((2,), (1,), (0.5,)), 2, jr.key(0))
    with pytest.raises(ValueError, match="as many layers"):
        Network(Sizes((2, 2), (1,), (2.0,)), 2, jr.key(0))


def test_bad_meta_priors_are_refused():
    with pytest.raises(ValueError, match=r"w = -0\.1"):
        meta_prior((1, 1), 2, 4, (0.1, -0.1))
    with pytest.raises(ValueError, match="w = nan"):
        meta_prior((1,), 2, 4, (float("nan"),))
    with pytest.raises(ValueError, match="2 layers"):
        meta_prior((1, 1), 2, 4, (0.1,))


def test_targets_that_no_output_reaches_are_refused():
    with pytest.raises(ValueError, match=r"target -1\.25"):
        Direct().encode(np.array([0.5, -1.25]))
    assert Direct(bounded=False).encode(np.array([3.0])) == 3
    with pytest.raises(ValueError, match=r"\[-1\.25, 1\.25\], but there is a target 1\.5"):
        Softmax().encode(np.array([0.5, 1.5]))


# --- Scale ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [Config(), Config(coupling="topdown", form="free"), SMALL()], ids=["full", "late", "small"]
)
def test_parameters_and_operations_are_those_of_the_sizes(config):
    network = config.network(2)(jr.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == by_sizes(config)
    assert step_flops(network) == flops_by_sizes(config)


def full_scale():
    config = Config()
    fit = Fit(config.code.encode(sequences.pfsm(config.sequences, 1, config.length).train), config.meta)
    return config, fit, fits.table([fit], config.network(2), config.code, jr.key(0))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_full_scale_lowers(platform):
    config, fit, params = full_scale()
    step = ppl.value_and_grad(lambda p, x: fits.mean_objective(fits.lane(p, 0), jnp.arange(48), x, config.meta, 1))
    traced = jax.jit(step).trace(jr.key(0), params, jnp.asarray(fit.data))
    assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_full_scale_makes_a_step_of_one_sequence():
    config, fit, params = full_scale()
    optimizer = fits.optimizer_of(config.learning_rate, config.clip)
    fitted = fits.train(params, [fit], optimizer, jr.key(1), steps=1, batch_size=1)
    assert np.isfinite(fitted.history["value"]).all()
    assert fitted.skipped == 0
    changed = np.abs(fitted.params.adaptive - params.adaptive)[0].max((1, 2)) > 0
    assert changed.sum() == 1


# --- Claims and a run -------------------------------------------------------------------------------------------


def test_exact_relations_hold():
    assert all(claim.holds for claim in exact())


def test_claims_fail_where_they_should():
    good = {
        "error_w_1": 0.03, "error_w_0.1": 0.002, "error_w_0.001": 0.0007, "kl_w_1": 0.04, "kl_w_0.1": 2.6,
        "kl_w_0.001": 22.8, "chance_of_C_w_1": 0.0, "chance_of_C_w_0.1": 0.29, "frequency_of_C": 0.25,
        "branch_entropy": 2.25, "distance_w_0.1": 0.002, "distance_w_0.001": 0.219,
    }  # fmt: skip
    names = ["w_1", "w_0.1", "w_0.001"]
    listed = lambda metrics: [*of_meta_prior(names, metrics), *of_structure(SMALL(), metrics)]
    assert not any(claim.failed for claim in listed(good))
    bad = {"kl_w_0.1": 5.0, "chance_of_C_w_0.1": 0.4, "distance_w_0.1": 0.3, "error_w_0.1": 0.04}
    for name, value in bad.items():
        assert any(claim.failed for claim in listed(good | {name: value}))
    errors = {"none": np.full(5, 0.6), "regressed": np.full(5, 0.15)}
    assert [claim.failed for claim in of_predictions("streams", errors, 5.0)] == [True]


@pytest.fixture
def preset(monkeypatch):
    presets = {"quick": Preset(TINY, "seconds")}
    monkeypatch.setattr(models.pv_rnn, "PROGRAM", dataclasses.replace(program.PROGRAM, presets=presets))


def run(out, *more: str) -> int:
    return main(["run", "pv_rnn", "--preset", "quick", "--out", str(out), *more])


def test_a_run_interrupted_and_resumed_equals_one_that_was_not(preset, tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "whole") == 1  # a dozen steps show nothing
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert {file.name for file in (tmp_path / "whole").glob("*.png")} == {"predictions.png", "training.png"}
    assert [claim["holds"] for claim in report["claims"]] == [True, True, True, False]
    assert "parameters (" in capsys.readouterr().out

    def interrupt(step, params, history):
        if step >= 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ppl, "maximize", partial(ppl.maximize, callback=interrupt))
        assert run(tmp_path / "parts") == 130
    assert run(tmp_path / "parts", "--resume") == 1
    resumed = json.loads((tmp_path / "parts" / "report.json").read_text())
    assert resumed["metrics"] == report["metrics"]


@pytest.mark.slow
def test_every_experiment_of_the_default_preset(tmp_path, monkeypatch):
    """A few steps of each, on movements made here; nothing is shown but that all is reported and drawn."""
    made = sequences.Split(*(0.5 * np.sin(np.random.default_rng(0).normal(size=(4, 20, 6))) for _ in range(2)))
    monkeypatch.setattr(sequences, "motions", lambda length: (made, None))
    config = dataclasses.replace(
        TINY, metas=(1.0, 0.1, 0.001), amortised=True, motion_epochs=6, motion_length=16, online=2
    )
    outcome = program.run(Context(config, 0, tmp_path))
    assert {file.name for file in tmp_path.glob("*.png")} == {
        "generated.png", "predictions.png", "training.png", "online.png", "movements.png"
    }  # fmt: skip
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert len(outcome.claims) == 21
    assert sum(claim.status == "open" for claim in outcome.claims) == 6


def test_without_the_movements_it_says_how_to_fetch_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PROGRAMMABLE_VI_DATA", str(tmp_path / "cache"))
    assert main(["run", "pv_rnn", "--preset", "full", "--out", str(tmp_path / "out")]) == 2
    assert "python -m models fetch motions" in capsys.readouterr().err
