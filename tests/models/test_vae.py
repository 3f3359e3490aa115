"""The variational auto-encoder: the floor against a direct formula, the program against the floor, one run."""

import ast
import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.scipy.stats import bernoulli, norm

import models.vae
import ppl
from estimators import elbo
from models import data
from models.__main__ import main
from models.registry import Preset
from models.vae import floor, program
from models.vae.claims import claims

TINY = program.Config(latents=2, hidden=8, batch_size=20, steps=40, learning_rate=1e-2, dataset="digits")


@pytest.fixture(scope="module")
def few(digits) -> data.Labelled:
    """A few of the digits."""
    return data.Labelled(digits.train[:200], digits.train_labels[:200], digits.test[:100], digits.test_labels[:100])


@pytest.fixture(scope="module")
def start(few) -> program.Start:
    return program.prepare(TINY, jnp.asarray(data.binarise(few.train)), jr.key(0))


def direct_elbo(networks: program.Networks, noise: jax.Array, image: jax.Array) -> jax.Array:
    """Compute log p(x | z) + log p(z) - log q(z | x) of one image from library densities."""
    loc, scale = networks.encoder(image)
    z = loc + scale * noise
    log_likelihood = bernoulli.logpmf(image, jax.nn.sigmoid(networks.decoder(z))).sum()
    return log_likelihood + norm.logpdf(z).sum() - norm.logpdf(z, loc, scale).sum()


@pytest.mark.x64
def test_elbo_by_hand_and_its_gradient_equal_the_direct_formula(start):
    noise, images = jr.normal(jr.key(1), (5, 2)), start.images[:5]
    direct = lambda networks: jnp.mean(jax.vmap(partial(direct_elbo, networks))(noise, images))  # noqa: E731
    by_hand = lambda weights: jnp.mean(floor.elbo(weights, noise, images))  # noqa: E731
    value, gradient = jax.value_and_grad(direct)(start.networks)
    value_by_hand, gradient_by_hand = jax.value_and_grad(by_hand)(floor.Weights.of(start.networks))
    np.testing.assert_allclose(value_by_hand, value, rtol=1e-10)
    expected = floor.Weights.of(gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), gradient_by_hand, expected)


def test_the_floor_imports_no_language():
    tree = ast.parse(open(floor.__file__).read())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & {"ppl", "estimators", "numpyro", "models"}


@pytest.mark.x64
def test_the_program_makes_the_steps_of_the_floor(start, tmp_path):
    """The strongest form of the claim: with the same weights, batches and noise the two are the same computation."""
    fitted = program.fit(elbo(program.model, program.guide), start, TINY, tmp_path, resume=False)
    weights, values = program.fit_by_hand(start, TINY)
    np.testing.assert_allclose(fitted.history["value"], values, rtol=1e-8)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), floor.Weights.of(fitted.params), weights
    )


def test_samples_are_different_images(start):
    sample = jax.jit(jax.vmap(lambda key: program.model.simulate(key, start.networks)))
    traces = sample(jr.split(jr.key(2), 50))
    assert traces.retval.shape == traces["x"].shape == (50, 784)
    assert np.std(traces["z"], axis=0).min() > 0.5
    assert set(np.unique(traces["x"])) <= {0, 1}


@pytest.mark.parametrize(("shift", "failed"), [(0.0, []), (-0.5, ["hand-written"])])
def test_a_fit_worse_than_the_floor_fails_the_claim(shift, failed):
    """Half a nat is more than 3 standard errors of this paired difference, about 0.1."""
    draws = np.random.default_rng(0).normal(size=(3, 1000))
    elbo_by_hand = -120 + draws[0]
    elbo_here = elbo_by_hand + shift + draws[1]
    held = {"elbo": elbo_here, "iwelbo_5": elbo_here + 2, "iwelbo_50": elbo_here + 3 + draws[2]}
    found = [claim.claim for claim in claims(held | {"elbo_by_hand": elbo_by_hand}) if claim.failed]
    assert len(found) == len(failed)
    assert all(word in claim for word, claim in zip(failed, found, strict=True))


@pytest.fixture
def tiny(few, monkeypatch):
    """Give the program a preset that takes seconds, on a few digits."""
    preset = Preset(TINY, "seconds")
    monkeypatch.setattr(models.vae, "PROGRAM", dataclasses.replace(program.PROGRAM, presets={"quick": preset}))
    monkeypatch.setitem(data.DIGITS, "digits", lambda: few)


def run(out, *more: str) -> int:
    return main(["run", "vae", "--preset", "quick", "--out", str(out), *more])


def test_a_run_interrupted_and_resumed_equals_one_that_was_not(tiny, tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "whole") == 0
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert [claim["status"] for claim in report["claims"]] == ["asserted"] * 3 + ["open"]
    assert all(claim["holds"] for claim in report["claims"][:3])
    assert report["metrics"]["held_out_iwelbo_50"] > report["metrics"]["held_out_elbo"]
    pictures = {"reconstructions.png", "samples.png", "traversal.png", "training.png"}
    assert {file.name for file in (tmp_path / "whole").glob("*.png")} == pictures
    assert any((tmp_path / "whole" / "checkpoint").rglob("*.ckpt"))

    def interrupt(step, params, history):
        if step >= 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ppl, "maximize", partial(ppl.maximize, callback=interrupt))
        assert run(tmp_path / "parts") == 130
    assert not (tmp_path / "parts" / "report.json").exists()
    assert run(tmp_path / "parts", "--resume") == 0
    resumed = json.loads((tmp_path / "parts" / "report.json").read_text())
    assert resumed["metrics"] == report["metrics"]
    assert resumed["claims"] == report["claims"]


def test_full_scale_without_the_data_says_how_to_fetch_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PROGRAMMABLE_VI_DATA", str(tmp_path / "cache"))
    assert main(["run", "vae", "--preset", "full", "--out", str(tmp_path / "out")]) == 2
    assert "python -m models fetch mnist" in capsys.readouterr().err
