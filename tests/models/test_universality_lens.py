"""The universality lens: regrets in closed form, bounds, text, Langevin chains, balls; one run."""

import dataclasses
import json
import math

import blackjax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import models.universality_lens
import ppl
from estimators import codelength_bound
from models.universality_lens import balls, learners, scale, text, width
from ppl import beta, gen, normal

KEY = jr.key(3)


class TestCoins:
    """Section 6, checks 1 to 4, of the notes on the paper: exact regrets, Gibbs bounds, best balls."""

    @pytest.mark.parametrize(
        ("theta0", "n", "expected"),
        [
            (0.2, 1, (0.1927, 0.3492, 0.8700)),
            (0.2, 10, (0.7760, 1.2005, 1.8926)),
            (0.2, 100, (1.8118, 2.3055, 3.0276)),
            (0.2, 1000, (2.9524, 3.4518, 4.1774)),
            (0.5, 100, (1.5868, 2.0842, 2.8051)),
            (0.01, 1000, (4.3521, 4.8352, 5.5660)),
        ],
    )
    def test_regret_and_bounds(self, theta0, n, expected):
        regret, (gibbs, ball) = learners.coin_regret(theta0, n), learners.coin_bounds(theta0, n)
        np.testing.assert_allclose((regret, gibbs, ball), expected, atol=1e-3)
        assert regret <= gibbs <= ball

    def test_the_gibbs_bound_by_quadrature(self):
        nodes = (np.arange(100_000) + 0.5) / 100_000
        found = learners.gibbs_bound(
            lambda theta: 100 * learners.coin_divergence(0.2, theta), nodes, np.full(len(nodes), 1e-5)
        )
        np.testing.assert_allclose(found, learners.coin_bounds(0.2, 100)[0], rtol=1e-6)

    @pytest.mark.parametrize(("theta0", "value"), [(0.2, 2.9512), (0.5, 2.7281)])
    def test_the_asymptote(self, theta0, value):
        np.testing.assert_allclose(learners.coin_asymptote(theta0, 1000), value, atol=1e-4)
        np.testing.assert_allclose(learners.coin_regret(theta0, 1000), value, atol=2e-3)

    def test_the_chain_rule(self):
        steps = sum(learners.coin_batch_regret(0.2, t) for t in range(1, 51))
        np.testing.assert_allclose(steps, learners.coin_regret(0.2, 50), atol=1e-9)
        np.testing.assert_allclose(steps, 1.4772242, atol=1e-6)

    def test_the_regret_of_the_last_prediction_may_grow(self):
        """A uniform prior knows a fair coin before the first toss; after it, it does not."""
        np.testing.assert_allclose(learners.coin_batch_regret(0.5, 1), 0.0, atol=1e-12)
        np.testing.assert_allclose(learners.coin_batch_regret(0.5, 2), 0.058892, atol=1e-6)

    @pytest.mark.parametrize("radius", [1e-3, 0.1, 5.0])
    def test_the_weight_of_a_ball(self, radius):
        theta = (np.arange(10**6) + 0.5) / 10**6
        share = np.mean(learners.coin_divergence(0.2, theta) <= radius)
        np.testing.assert_allclose(learners.coin_ball_weight(0.2, radius), share, atol=1e-5)

    def test_a_coin_outside_the_class_has_no_ball(self):
        assert learners.coin_divergence(0.5, np.array([0.0, 1.0])).tolist() == [math.inf, math.inf]
        assert learners.ball_bound(0.1, 0.0, 10) == math.inf


class TestGaussians:
    def test_location(self):
        """Check 5: regret 2.0943835, Gibbs 3.0277169; the regret again by simulation."""
        theta0, n, v = np.array([0.4, -1.1]), 7, 2.0
        regret, gibbs = learners.location_regret(theta0, n, v)
        np.testing.assert_allclose((regret, gibbs), (2.0943835, 3.0277169), atol=1e-6)
        x = theta0 + np.random.default_rng(0).normal(size=(20_000, n, 2))
        mixture = stats.multivariate_normal(np.zeros(n), np.eye(n) + v)
        logs = stats.norm.logpdf(x, theta0).sum((1, 2)) - sum(mixture.logpdf(x[..., i]) for i in range(2))
        assert abs(logs.mean() - regret) < 4 * logs.std() / math.sqrt(len(logs))

    def test_regression_averages_to_the_information(self):
        """Check 6: the mean over true weights from the prior is log det(I + v phi phi' / s2) / 2."""
        rng = np.random.default_rng(0)
        phi = rng.normal(size=(20, 5))
        found = [learners.regression_regret(phi, phi @ rng.normal(size=5), 0.25, 1.0) for _ in range(4000)]
        truth = learners.mean_regression_regret(phi, 0.25, 1.0)
        assert abs(np.mean(found) - truth) < 4 * np.std(found) / math.sqrt(len(found))
        np.testing.assert_allclose(np.mean(found), truth, rtol=0.01)

    def test_wide_random_features_cost_no_more(self):
        """Check 7: per symbol, normalised features converge with their number, raw ones do not."""
        regret = {
            (d, name): feature_regret(d, name == "normalised") for d in (300, 3000) for name in ("normalised", "raw")
        }
        assert regret[3000, "normalised"] / regret[300, "normalised"] < 1.05
        assert regret[3000, "raw"] / regret[300, "raw"] > 1.3


def feature_regret(d, normalised):
    """Return the regret per symbol of random relu features of 3 inputs; the truth is one of one unit."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 3))
    phi = np.maximum(x @ rng.normal(size=(3, d)), 0)
    truth = np.maximum(x @ np.array([0.5, -0.3, 0.8]), 0)
    return learners.regression_regret(phi, truth, 0.25, 1 / d if normalised else 1.0) / 50


class TestPrograms:
    def test_the_elbo_of_the_posterior_is_the_code_length(self):
        """Coins: the mixture's -log Q = log((n + 1) C(n, k)), and beta(k + 1, n - k + 1) is the posterior."""
        tosses = jnp.array([1, 0, 0, 1, 0, 0, 0, 0, 1, 0])

        @gen
        def coin(params):
            p = beta(1.0, 1.0) @ "p"
            jax.vmap(lambda _: ppl.bernoulli(p) @ "x")(jnp.arange(10))

        @gen
        def guide(params, observed):
            k = jnp.sum(observed["x"])
            beta(params + k, params + 10 - k) @ "p"

        exact = math.log(11 * math.comb(10, 3))
        found = codelength_bound(coin, guide, 1.0, {"x": tosses}, key=KEY)
        np.testing.assert_allclose(found.nats, exact, rtol=1e-4)
        assert found.error < 1e-4
        loose = [codelength_bound(coin, guide, 4.0, {"x": tosses}, key=KEY, particles=k) for k in (1, 10)]
        assert exact - 3 * loose[1].error < loose[1].nats < loose[0].nats - 3 * loose[0].error
        np.testing.assert_allclose(found.bits, found.nats / math.log(2))
        assert "1 particle," in str(found)
        assert found.regret(found.nats - 1) == pytest.approx(1.0)

    def test_what_is_no_code_is_refused(self):
        @gen
        def weighed(params):
            x = normal(0.0, 1.0) @ "x"
            ppl.factor(-(x**2)) @ "f"

        guide = gen(lambda params, observed: normal(0.0, 1.0) @ "x")
        with pytest.raises(ppl.PPLError, match="normalised model"):
            codelength_bound(weighed, guide, None, {}, key=KEY)
        model = gen(lambda params: normal(0.0, 1.0) @ "x")
        for wrong in ({"samples": 1}, {"particles": 0}, {"samples": 2.5}):
            with pytest.raises(ppl.PPLError):
                codelength_bound(model, guide, None, {}, key=KEY, **wrong)

    def test_langevin_steps_on_a_coin(self):
        """Check 8: k = 7 of 10, posterior mean 8/12; in logits the Jacobian of the change of variables counts."""

        @gen
        def coin(params):
            p = beta(1.0, 1.0) @ "p"
            ppl.binomial(10, p) @ "k"

        log_density, constrain = ppl.log_joint(coin, {"k": jnp.asarray(7)}, None)
        z = 0.3
        p = jax.nn.sigmoid(z)
        np.testing.assert_allclose(jax.grad(log_density)(jnp.array([z]))[0], (7 - 10 * p) + (1 - 2 * p), rtol=1e-4)
        kernel = blackjax.sgld(lambda x, _: jax.grad(log_density)(x))

        def chain(key):
            step = lambda x, key: (lambda x: (x, constrain(x)["p"]))(kernel.step(key, x, None, 0.05))
            return jnp.mean(jax.lax.scan(step, jnp.zeros(1), jr.split(key, 600))[1][100:])

        means = np.asarray(jax.jit(jax.vmap(chain))(jr.split(KEY, 2000)))
        assert abs(means.mean() - 8 / 12) < 1e-3


class TestMixtures:
    def test_the_mixture_costs_at_most_the_choice(self):
        """Checks 9 and 10, exactly."""
        logs = np.random.default_rng(2).normal(size=(9, 50)) * 30
        mixed = learners.mixture(logs, np.full(9, 1 / 9))
        assert np.all(-mixed <= (-logs).min(0) + math.log(9) + 1e-9)
        predictions = jax.nn.log_softmax(jr.normal(KEY, (20, 40, 10)) * 3)
        found = width.losses(predictions, np.arange(40) % 10)
        assert found.mixture <= found.single

    @pytest.mark.parametrize("weights", [[0.5, 0.6], [1.5, -0.5], [np.nan, 1.0]])
    def test_weights_are_a_distribution(self, weights):
        with pytest.raises(ValueError, match="sum to 1"):
            learners.mixture(np.zeros((2, 3)), weights)

    @pytest.mark.parametrize(
        "call",
        [
            lambda: learners.coin_regret(0.2, 0),
            lambda: learners.location_regret(np.zeros(2), 0, 1.0),
            lambda: learners.ball_bound(0.0, 0.5, 10),
            lambda: learners.ball_bound(0.1, 0.5, 0),
            lambda: width.Langevin(step=0.0),
            lambda: width.Langevin(steps=10, every=100),
            lambda: balls.ball_weights(jnp.sum, 2, KEY, population=5),
        ],
    )
    def test_bad_input(self, call):
        with pytest.raises(ValueError, match="at least|must be positive|keep no network"):
            call()


class TestText:
    def test_the_program_predicts_by_counts(self):
        """Its log density is that of a count kept by hand, for each order; the mixture's is exact by enumeration."""
        symbols = text.read(300)
        alphabet, orders = int(symbols.max()) + 1, 3
        seen = text.seen(symbols, range(orders))
        program = text.source(0.05)
        found = text.log_probs(program, symbols, seen)
        np.testing.assert_allclose(found, [by_hand(symbols, k, alphabet) for k in range(orders)], rtol=1e-5)
        mixed = learners.mixture(found, np.full(orders, 1 / orders))
        bound = codelength_bound(
            program, text.any_order, jnp.asarray(found), {"text": symbols}, seen, key=KEY, samples=2
        )
        np.testing.assert_allclose(bound.nats, -mixed, rtol=1e-5)
        assert bound.error < 1e-3

    def test_the_text_is_there(self):
        symbols = text.read(40_000)
        assert len(symbols) > 20_000
        assert 40 < symbols.max() + 1 < 120
        assert np.array_equal(np.unique(symbols), np.arange(symbols.max() + 1))


def by_hand(symbols, order, alphabet, a=0.05):
    counts, total = {}, 0.0
    for place, symbol in enumerate(symbols):
        row = counts.setdefault(tuple(symbols[max(0, place - order) : place]), np.zeros(alphabet))
        total += math.log((row[symbol] + a) / (row.sum() + a * alphabet))
        row[symbol] += 1
    return total


class TestBalls:
    def test_weights_of_rare_balls_are_found(self):
        """Gaussian location: D = |z - z0|**2 / 2, a noncentral chi-square; down to 1e-7, within 4 standard errors."""
        centre = jnp.array([1.0, -0.5, 2.0, 0.3])
        found = [
            balls.ball_weights(lambda z: jnp.sum((z - centre) ** 2) / 2, 4, jr.key(seed), levels=7) for seed in range(6)
        ]
        for log_weight in (-2.0, -8.0, -14.0):
            radius = stats.ncx2.ppf(math.exp(log_weight), 4, float(jnp.sum(centre**2))) / 2
            at = [np.interp(math.log(radius), np.log(run.radius[::-1]), run.log_weight[::-1]) for run in found]
            error = np.std(at, ddof=1) / math.sqrt(len(at))
            assert abs(np.mean(at) - log_weight) < 4 * error + 0.02
            assert error < 0.3

    def test_a_truth_outside_the_class_has_no_weight(self):
        found = balls.ball_weights(lambda z: jnp.asarray(jnp.inf), 3, KEY, population=50)
        assert len(found.radius) == 0
        assert found.bound(10) == math.inf


class TestNetworks:
    def test_langevin_chains_and_point_estimates(self):
        train, test = width.split(60, 0.2, test=200)
        program, how = width.network(8), width.Langevin(step=0.02, steps=1000, every=50)
        networks = width.sample(program, train, how, KEY)
        assert networks["inner"].shape == (how.kept, 64, 8)
        found = width.losses(width.all_predictions(networks, jnp.asarray(test.images)), test.labels)
        assert found.mixture < found.single
        assert found.mixture < math.log(10)
        point = width.most_likely(program, train, 8, 600, KEY)
        fitted = width.log_predictions(point, jnp.asarray(train.images))[np.arange(60), train.labels]
        assert float(jnp.mean(fitted)) > -0.1

    def test_labels_are_wrong_in_part(self):
        noisy, _ = width.split(500, 0.2)
        clean, test = width.split(500, 0.0)
        assert np.array_equal(noisy.images, clean.images)
        assert 0.1 < np.mean(noisy.labels != clean.labels) < 0.2
        assert len(test) == 1000

    def test_a_bound_of_the_code_is_above_the_predictive_code(self):
        train, _ = width.split(40, 0.2, test=50)
        program = width.network(4)
        guide, params = ppl.guides.mean_field(program, train.observed, jnp.asarray(train.images))
        bound = codelength_bound(
            program, guide, params, train.observed, jnp.asarray(train.images), key=KEY, samples=200
        )
        code = width.prequential(program, train, width.Langevin(steps=300, every=20), 20, KEY)
        assert 0 < code < bound.nats


def test_run(tmp_path, monkeypatch):
    """One small run, its report and its pictures."""
    from models.__main__ import main
    from models.registry import Preset

    program = models.universality_lens.PROGRAM
    config = dataclasses.replace(
        program.presets["quick"].config,
        characters=400,
        orders=3,
        widths=(4, 16),
        train=40,
        langevin=width.Langevin(steps=200, every=20),
        point_steps=50,
        guide_steps=50,
        ball_levels=2,
        population=40,
        ball_widths=(4,),
    )
    presets = dict(program.presets, quick=Preset(config, "seconds"))
    monkeypatch.setattr(models.universality_lens, "PROGRAM", dataclasses.replace(program, presets=presets))
    main(["run", "universality_lens", "--preset", "quick", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"text_mixture", "width_4_mixture", "code_bound"} <= set(report["metrics"])
    for name in ("text.png", "widths.png", "balls.png", "coins.png"):
        assert (tmp_path / name).stat().st_size > 5_000


class TestScale:
    def test_the_largest_network_is_counted_and_lowered(self):
        """Width 4,096 on MNIST: 3.3 million weights; lowered for GPU and TPU, not compiled here."""
        settings = scale.Scale()
        assert settings.parameters == 4096 * 794
        step, size = scale.step_of(settings, jnp.zeros((1, 784), jnp.float32), jnp.zeros(1, jnp.int32))
        assert size == settings.parameters
        traced = jax.jit(step).trace(KEY, jax.ShapeDtypeStruct((size,), jnp.float32))
        for platform in ("cuda", "tpu"):
            assert "stablehlo.dot_general" in traced.lower(lowering_platforms=(platform,)).as_text()

    def test_one_step_of_a_small_one(self):
        found = scale.one_step(scale.Scale(width=8, pixels=9, images=50, step=1e-4), KEY)
        assert found["weights"] == 8 * 19
        assert 0 < found["moved"] < 5 * math.sqrt(1e-4 * 8 * 19)
