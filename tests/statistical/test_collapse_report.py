"""Reports of collapse: closed forms, enumeration and quadrature; every kind of program; what is refused."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

import ppl
from estimators import collapse_report
from estimators.diagnostics import linear_hierarchy, linear_optimum
from models.posterior_collapse import networks, programs
from ppl import bernoulli, gen, normal

pytestmark = pytest.mark.x64
KEY = jr.key(5)


def rows(moments, n=400, seed=0):
    """Draw centred rows whose second moment is exactly diagonal."""
    raw = np.random.default_rng(seed).normal(size=(n, len(moments)))
    raw -= raw.mean(0)
    q, _ = np.linalg.qr(raw)
    return q * np.sqrt(n * np.asarray(moments))


def set_matrices(params, **matrices):
    for role, matrix in matrices.items():
        get = {
            "decoder": lambda p: p.decoder.matrix,
            "encoder": lambda p: p.encoder.loc.matrix,
            "scale": lambda p: p.encoder.log_scale,
            "top": lambda p: p.top.matrix,
            "upper": lambda p: p.upper.loc.matrix,
            "upper_scale": lambda p: p.upper.log_scale,
        }[role]
        params = eqx.tree_at(get, params, jnp.asarray(matrix))
    return params


class TestLinear:
    """Optima whose nats are known."""

    moments = np.array([3.0, 1.2, 0.3, 0.1])

    def optimum(self, beta=1.0, noise=0.7):
        found = linear_optimum(self.moments, 3, beta=beta, noise=noise)
        theta = np.sqrt(self.moments[:3])
        params = set_matrices(
            networks.linear(4, 3, KEY),
            decoder=np.eye(4)[:, :3] * found.decoder,
            encoder=np.eye(3, 4) * (found.encoder / theta)[:, None],
            scale=np.log(found.scale),
        )
        return found, params

    @pytest.mark.parametrize("beta", [1.0, 3.0])
    def test_auto_encoder(self, beta):
        exact, params = self.optimum(beta)
        data = {"y": rows(self.moments)}
        found = collapse_report(*programs.vae(3, 0.7), params, data, key=KEY, batched=True, beta=beta)
        np.testing.assert_allclose(found["z"].units, exact.kl, atol=1e-9)
        assert found["z"].exact
        assert not found["z"].error.any()
        assert found.active == exact.active == found.prediction.active["z"]
        np.testing.assert_allclose([found.rate, found.prediction.nats["z"]], exact.rate, atol=1e-9)
        told = found["z"].information
        assert 0 < told.error < 0.1
        assert abs(told.nats - exact.rate) < 4.5 * told.error + 0.02  # finitely many data mix to nearly the prior
        np.testing.assert_allclose(found["z"].nats.shape, (400, 3))
        assert ("active at beta = 1: 1 more" in str(found)) == (beta == 3.0)

    def test_a_fit_that_is_to_blame(self):
        _, params = self.optimum()
        worse = set_matrices(params, encoder=np.zeros((3, 4)), scale=np.zeros(3))
        found = collapse_report(*programs.vae(3, 0.7), worse, {"y": rows(self.moments)}, key=KEY, batched=True)
        assert found.active == 0 < found.prediction.active["z"] == 2
        assert "the fit is to blame" in str(found)
        assert abs(found["z"].information.nats) < 1e-9

    def test_more_latents_than_pixels(self):
        params = networks.linear(4, 9, KEY)
        found = collapse_report(*programs.vae(9, 0.7), params, {"y": rows(self.moments)}, key=KEY, batched=True)
        assert found.prediction.active == {"z": 2}

    def test_conditional(self):
        """The moments are those of the residual, for numbers and for classes."""
        pair = np.concatenate([rows(self.moments, seed=1), rows([1.0, 1.0], seed=2)], axis=1)
        y, x = pair[:, :4] + pair[:, 4:] @ np.ones((2, 4)), pair[:, 4:]
        params = networks.linear(4, 3, KEY, inputs=2)
        found = collapse_report(*programs.cvae(3, 0.7), params, {"y": y}, x, key=KEY, batched=True)
        expected = np.linalg.eigvalsh(np.cov(y.T - (x @ np.linalg.lstsq(x, y, rcond=None)[0]).T, bias=True))[::-1]
        np.testing.assert_allclose(found.prediction.moments * 0.7**2, expected, atol=1e-8)
        model = gen(lambda params, label: normal(normal(jnp.zeros(2), 1.0) @ "z", 0.5) @ "y")
        guide = gen(lambda params, observed, label: normal(0.1 * observed["y"], 1.0) @ "z")
        label = np.arange(60) % 3
        data = np.random.default_rng(0).normal(size=(60, 2)) + 10 * np.eye(3)[label][:, :2]
        found = collapse_report(model, guide, None, {"y": data}, label, key=KEY, batched=True)
        within = np.concatenate([data[label == k] - data[label == k].mean(0) for k in range(3)])
        np.testing.assert_allclose(
            found.prediction.moments * 0.25, np.linalg.eigvalsh(within.T @ within / 60)[::-1], atol=1e-8
        )

    @pytest.mark.parametrize(
        ("moments", "fixed", "betas"), [([9.0, 0.5], 0.6, (1.0, 1.0)), ([0.5, 0.3], 1.6, (1.0, 1.0))]
    )
    def test_hierarchy(self, moments, fixed, betas):
        """Of the second setting only the noise of z1 reaches z2: nats, but no information."""
        exact = linear_hierarchy(np.array(moments), 2, fixed, betas=betas)
        params = set_matrices(
            networks.linear(2, 2, KEY, hierarchy=True),
            decoder=np.diag(exact.decoder),
            encoder=np.diag(exact.encoder / np.sqrt(moments)),
            scale=np.full(2, math.log(fixed)),
            top=np.diag(exact.top),
            upper=np.diag(exact.guide),
            upper_scale=np.log(exact.scale),
        )
        data = {"y": rows(moments)}
        found = collapse_report(*programs.mhvae(2, 1.0), params, data, key=KEY, batched=True, samples=400)
        for name, terms, told in zip(("z1", "z2"), exact.terms, exact.information, strict=True):
            latent = found[name]
            assert (np.abs(latent.units - terms) < 4.5 * latent.error + 1e-9).all()
            assert (latent.information.low < latent.information.high) == (name == "z2")
            assert abs(latent.information.nats - told.sum()) < 4.5 * latent.information.error + 0.05
            np.testing.assert_allclose(found.prediction.information[name], told.sum(), atol=1e-9)
            np.testing.assert_allclose(found.prediction.nats[name], terms.sum(), atol=1e-9)
            assert found.prediction.active[name] == (told > 0).sum()
        if found["z1"].units.min() < 0:
            assert "nats of z1 are no divergence" in str(found)
        if moments[0] < 1:
            assert found["z2"].units.min() > 0.05 > found["z2"].information.nats

    def test_information_of_a_choice_that_repeats_another(self):
        """z2 is nearly z1, of which 256 draws come nowhere near: the bounds part, and hold the truth between them."""

        @gen
        def model(params):
            z2 = normal(jnp.zeros(6), 1.0) @ "z2"
            normal((normal(z2, 1.0) @ "z1").sum(), 1.0) @ "y"

        @gen
        def guide(params, observed):
            normal(1e-3 * (normal(observed["y"] * jnp.ones(6), 1.0) @ "z1"), 1e-5) @ "z2"

        y = np.random.default_rng(0).normal(size=200)
        found = collapse_report(model, guide, None, {"y": y}, key=KEY, batched=True, samples=4)
        one, two = found["z1"].information, found["z2"].information
        assert two.low <= one.nats + 4.5 * one.error
        assert two.high >= one.nats - 4.5 * one.error
        assert two.low >= 0
        assert two.high <= math.log(two.data) + 1e-9
        assert "(from" in str(found)

    def test_pixels_of_different_noise_and_several_addresses(self):
        """Each observation is divided by its own noise; independent latents are counted together."""
        scale = jnp.array([0.1, 2.0, 0.1])

        @gen
        def model(params):
            a, b = normal(jnp.zeros(2), 3.0) @ "a", normal(0.0, 1.0) @ ("deep", "b")
            normal(jnp.append(a, b), scale) @ "y"

        @gen
        def guide(params, observed):
            normal(0.1 * observed["y"][:2], 1.0) @ "a"
            normal(0.1 * observed["y"][2], 1.0) @ ("deep", "b")

        data = rows([1.0, 1.0, 1.0])
        found = collapse_report(model, guide, None, {"y": data}, key=KEY, batched=True)
        np.testing.assert_allclose(found.prediction.moments, [100, 100, 0.25], rtol=1e-8)
        assert found.prediction.active == {"a + deep/b": 2}
        assert found.units == 3


def two_coins(logits):
    @gen
    def model(params):
        b = bernoulli(jnp.array([0.3, 0.6])) @ "b"
        normal(jnp.sum(b), 1.0) @ "x"

    @gen
    def guide(params, observed):
        bernoulli(logits=logits * observed["x"]) @ "b"

    return model, guide


class TestPrograms:
    def test_discrete(self):
        """Nats and information by enumeration."""
        logits, x = jnp.array([1.5, 0.0]), np.linspace(-2, 2, 50)
        found = collapse_report(*two_coins(logits), None, {"x": x}, key=KEY, batched=True)
        q = 1 / (1 + np.exp(-np.outer(x, logits)))
        p = np.array([0.3, 0.6])
        nats = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
        np.testing.assert_allclose(found["b"].nats, nats, atol=1e-9)
        entropy = lambda q: -q * np.log(q) - (1 - q) * np.log(1 - q)
        told = entropy(q.mean(0)) - entropy(q).mean(0)
        information = found["b"].information
        assert abs(information.nats - told.sum()) < 4.5 * information.error
        np.testing.assert_allclose(information.units, told, atol=4.5 * information.error)
        assert found.reason == 'the latent "b" is bernoulli, not normal'

    def test_without_a_closed_form(self):
        """Laplace against normal: by draws, within errors of the integral."""
        model = gen(lambda params: normal(normal(0.0, 1.0) @ "z", 1.0) @ "x")
        guide = gen(lambda params, observed: ppl.laplace(params, 0.5) @ "z")
        found = collapse_report(model, guide, 0.7, {"x": 0.4}, key=KEY, samples=4000)
        q, p = scipy.stats.laplace(0.7, 0.5), scipy.stats.norm()
        exact = quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -20, 20, points=[0.7])[0]
        latent = found["z"]
        assert not latent.exact
        assert 0 < latent.error < 0.05
        assert abs(latent.units - exact) < 4.5 * latent.error
        assert "batched=True" in str(found)
        assert latent.information is None

    def test_nested_programs_lanes_and_steps(self):
        """Lanes and steps are repetitions; what is in a scan is measured by draws."""

        @gen
        def part(loc):
            return normal(loc, 1.0) @ "z"

        @gen
        def model(params):
            a = part(jnp.zeros(3)) @ "sub"
            b = jax.vmap(lambda _: normal(jnp.zeros(2), 1.0) @ "lane")(jnp.arange(4))
            step = lambda z, _: (normal(0.9 * z, 1.0) @ "step",) * 2
            last, _ = jax.lax.scan(step, 0.0, None, length=5)
            normal(a.sum() + b.sum() + last, 1.0) @ "x"

        @gen
        def guide(params, observed):
            normal(jnp.array([0.0, 1.0, 2.0]), 1.0) @ ("sub", "z")
            normal(jnp.full((4, 2), 0.5), 1.0) @ "lane"
            jax.lax.scan(lambda z, _: (normal(0.9 * z + 0.4, 1.0) @ "step",) * 2, 0.0, None, length=5)

        found = collapse_report(model, guide, None, {"x": 0.3}, key=KEY, samples=2000)
        np.testing.assert_allclose(found["sub/z"].units, [0.0, 0.5, 2.0], atol=1e-12)
        np.testing.assert_allclose(found["lane"].units, [0.125, 0.125], atol=1e-12)
        assert (found["lane"].repetitions, found["step"].repetitions) == (4, 5)
        step = found["step"]
        assert step.units.shape == ()
        assert abs(step.units - 0.08) < 4.5 * step.error  # .4^2 / 2 at each step
        assert abs(step.rate - 5 * 0.08) < 4.5 * step.rate_error
        data = {"x": np.linspace(-1, 1, 20)}
        many = collapse_report(model, guide, None, data, key=KEY, batched=True)
        assert many["step"].nats.shape == (20, 5)
        assert many["step"].information.units is None
        assert abs(many["step"].information.nats) < 1e-9  # this guide does not look at its data
        assert many.reason == 'the latent "step" is made in a scan, a branch or a subsample'
        np.testing.assert_allclose(many["lane"].rate, 1.0, atol=1e-12)

    def test_conditional_choices(self):
        """A choice in a branch counts where it is made."""

        def half(loc):
            @gen
            def program(params, *_):
                made = bernoulli(0.5, grad=ppl.enum()) @ "made"
                jax.lax.cond(made == 1, lambda: normal(loc, 1.0) @ "z", lambda: 0.0)
                return made

            return program

        model = gen(lambda params: normal(1.0 * half(0.0).inline(params), 1.0) @ "x")
        found = collapse_report(model, half(1.0), None, {"x": 0.2}, key=KEY, samples=4000)
        assert abs(found["z"].made - 0.5) < 0.05
        assert abs(found["z"].units - 0.25) < 4.5 * found["z"].error
        many = collapse_report(model, half(1.0), None, {"x": np.zeros(5)}, key=KEY, batched=True)
        assert many["z"].information is None
        assert "z was not estimated: it is not always made" in str(many)
        assert abs(many["z"].rate - 0.25) < 4.5 * many["z"].rate_error

    def test_subsamples(self):
        @gen
        def datum(i):
            normal(normal(0.0, 1.0) @ "z", 1.0) @ "x"

        model = gen(lambda params: ppl.subsample(10, 4, datum)() @ "data")
        own = gen(lambda i: normal(0.5, 1.0) @ "z")
        guide = gen(lambda params, observed: ppl.subsample(10, 4, own)() @ "data")
        found = collapse_report(model, guide, None, {"data": {"x": jnp.zeros(10)}}, key=KEY)
        assert [latent.address for latent in found.latents] == ["data/z"]
        assert abs(found["data/z"].units - 0.125) < 4.5 * found["data/z"].error + 1e-9

    def test_automatic_guides_and_other_strategies(self):
        model = gen(lambda params: normal(normal(jnp.zeros(2), 1.0) @ "z", 1.0) @ "x")
        guide, params = ppl.guides.mean_field(model, {"x": jnp.zeros(2)})
        guide = ppl.with_grad(guide, {"z": ppl.reinforce()})
        found = collapse_report(model, guide, params, {"x": jnp.zeros(2)}, key=KEY)
        assert found["z"].units.shape == (2,)
        many = collapse_report(model, guide, params, {"x": jnp.zeros((3, 2))}, key=KEY, batched=True)
        np.testing.assert_allclose(many["z"].rate, found["z"].rate, atol=1e-9)

    def test_shares_of_data(self):
        """(eps, delta)-collapse by hand: nats are x^2 / 2."""
        model = gen(lambda params: normal(normal(0.0, 1.0) @ "z", 1.0) @ "x")
        guide = gen(lambda params, observed: normal(observed["x"], 1.0) @ "z")
        x = np.arange(10) / 10
        latent = collapse_report(model, guide, None, {"x": x}, key=KEY, batched=True)["z"]
        np.testing.assert_allclose(latent.nats, x**2 / 2, atol=1e-9)
        assert latent.below(0.1) == 0.5
        assert latent.collapsed(0.1, 0.5)
        assert not latent.collapsed(0.1, 0.4)
        assert latent.active_pairs == 0.8
        assert latent.active

    def test_a_guide_outside_the_prior(self):
        model = gen(lambda params: normal(ppl.uniform(0.0, 1.0) @ "z", 1.0) @ "x")
        guide = gen(lambda params, observed: ppl.uniform(0.0, 2.0) @ "z")
        assert collapse_report(model, guide, None, {"x": 0.0}, key=KEY).rate == math.inf

    def test_text_and_picture(self, tmp_path):
        logits = jnp.array([1.5, 0.0])
        found = collapse_report(*two_coins(logits), None, {"x": np.linspace(-2, 2, 50)}, key=KEY, batched=True)
        text = str(found)
        assert text.startswith("Collapse: 2 of 2 units active")
        assert "50 data, 100 draws" in text
        assert "no prediction: the latent" in text
        found.picture(tmp_path / "collapse.png")
        assert (tmp_path / "collapse.png").stat().st_size > 10_000


def simple(scale=0.5, prior=1.0):
    model = gen(lambda params: normal(normal(jnp.zeros(2), prior) @ "z", scale) @ "y")
    guide = gen(lambda params, observed: normal(0.5 * observed["y"], 0.7) @ "z")
    return model, guide


class TestNoPrediction:
    """Where linear theory has nothing to say, the report says why, and measures all the same."""

    data = rows([1.0, 0.5], 30)

    def reason(self, model, guide, observed=None, *inputs, **more):
        observed = {"y": self.data} if observed is None else observed
        found = collapse_report(model, guide, None, observed, *inputs, key=KEY, batched=True, samples=5, **more)
        assert found.prediction is None
        assert found.active
        assert found.reason in str(found)
        return found.reason

    def test_likelihoods(self):
        coins = gen(lambda params: bernoulli(logits=normal(jnp.zeros(2), 1.0) @ "z") @ "y")
        assert "bernoulli, not normal" in self.reason(coins, simple()[1], {"y": (self.data > 0).astype(int)})

    def test_scales(self):
        @gen
        def uneven(params):
            z = normal(jnp.zeros(2), 1.0) @ "z"
            normal(z, jnp.exp(z)) @ "y"

        assert 'model\'s scale of "y" changes' in self.reason(uneven, simple()[1])

    def test_priors(self):
        heavy = gen(lambda params: normal(ppl.student_t(5.0, jnp.zeros(2), 1.0) @ "z", 1.0) @ "y")
        assert 'latent "z" is student_t' in self.reason(heavy, simple()[1])
        model = gen(lambda params, x: normal(normal(jnp.zeros(2), jnp.exp(x)) @ "z", 1.0) @ "y")
        guide = gen(lambda params, observed, x: normal(0.5 * observed["y"], 0.7) @ "z")
        assert 'scale of "z" changes' in self.reason(model, guide, None, np.linspace(0, 1, 30))

    def test_weights_and_missing_numbers(self):
        assert "weight 0" in self.reason(*simple(), beta=0.0)
        masked = ppl.Masked(jnp.asarray(self.data), jnp.asarray(np.arange(60).reshape(30, 2) % 3 > 0))
        model = simple()[0]
        guide = gen(lambda params, observed: normal(0.5 * observed["y"].value, 0.7) @ "z")
        assert "missing in part" in self.reason(model, guide, {"y": masked})

    def test_deep_hierarchies(self):
        @gen
        def three(params):
            a = normal(jnp.zeros(2), 1.0) @ "a"
            b = normal(a, 1.0) @ "b"
            normal(normal(b, 1.0) @ "c", 1.0) @ "y"

        @gen
        def guide(params, observed):
            for name in "abc":
                normal(observed["y"], 1.0) @ name

        assert "more than a hierarchy of two levels" in self.reason(three, guide)

    def test_hierarchies(self):
        def two(sizes=(2, 2)):
            @gen
            def model(params):
                a = normal(jnp.zeros(sizes[1]), 1.0) @ "a"
                normal((normal(jnp.zeros(sizes[0]) + a.sum(), 1.0) @ "b").sum() * jnp.ones(2), 1.0) @ "y"

            @gen
            def guide(params, observed):
                b = normal(jnp.zeros(sizes[0]) + observed["y"].sum(), jnp.arange(1.0, sizes[0] + 1)) @ "b"
                normal(jnp.zeros(sizes[1]) + b.sum(), 1.0) @ "a"

            return model, guide

        assert "not the same number" in self.reason(*two((2, 3)))
        assert "one that is fixed" in self.reason(*two())

    def test_inputs(self):
        model = gen(lambda params, i: normal(normal(jnp.zeros(2), 1.0) @ "z", 1.0) @ "y")
        guide = gen(lambda params, observed, i: normal(observed["y"], 1.0) @ "z")
        data = rows([1.0, 0.5], 200)
        assert "neither a number nor a class" in self.reason(model, guide, {"y": data}, np.arange(200))


class TestRefusals:
    data = {"y": rows([1.0, 0.5], 10)}

    def report(self, model, guide, data=None, *inputs, **more):
        return collapse_report(model, guide, None, self.data if data is None else data, *inputs, **{"key": KEY} | more)

    @pytest.mark.parametrize("batched", [True, False])
    def test_addresses(self, batched):
        model, guide = simple()
        data = self.data if batched else {"y": jnp.zeros(2)}
        with pytest.raises(ppl.AddressError, match='"z"'):
            self.report(model, gen(lambda params, observed: normal(observed["y"], 1.0) @ "zz"), data, batched=batched)
        extra = gen(lambda params, observed: (normal(observed["y"], 1.0) @ "z", normal(0.0, 1.0) @ "more"))
        with pytest.raises(ppl.AddressError, match="more"):
            self.report(model, extra, data, batched=batched)
        with pytest.raises(ppl.AddressError, match="x"):
            self.report(model, guide, {"x": data["y"]} | data, batched=batched)

    @pytest.mark.parametrize("wrong", [{"beta": -1.0}, {"beta": {"z": -1.0}}, {"samples": 1}, {"samples": 2.5},
                                       {"threshold": 0.0}, {"threshold": math.nan}, {"beta": "z"}])  # fmt: skip
    def test_numbers(self, wrong):
        with pytest.raises(ppl.PPLError, match="collapse_report"):
            self.report(*simple(), **wrong, batched=True)

    @pytest.mark.parametrize(
        "data", [{}, {"y": 1.0}, {"y": np.zeros((1, 2))}, {"y": np.zeros((3, 2)), "x": np.zeros(4)}]
    )
    def test_data(self, data):
        with pytest.raises(ppl.PPLError, match="no common axis of data"):
            self.report(*simple(), data, batched=True)
        with pytest.raises(ppl.PPLError, match="no common axis of data"):
            self.report(*simple(), self.data, 3, batched=True)

    def test_programs(self):
        with pytest.raises(ppl.PPLError, match="generative functions"):
            collapse_report(lambda params: 0, simple()[1], None, self.data, key=KEY)
        with pytest.raises(ppl.PPLError, match="key"):
            collapse_report(*simple(), None, {"y": jnp.zeros(2)}, key=0)

    def test_estimated_densities(self):
        inner = gen(lambda params, observed: normal(normal(0.0, 1.0) @ "u", jnp.ones(2)) @ "z")
        with pytest.raises(ppl.StrategyError, match="its density is an estimate"):
            self.report(simple()[0], ppl.marginal(inner, "z"), {"y": jnp.zeros(2)})

    def test_priors_known_by_their_score(self):
        model = gen(lambda params: normal(ppl.score_prior(lambda x: -x, (2,)) @ "z", 1.0) @ "y")
        with pytest.raises(ppl.PPLError, match="score"):
            self.report(model, simple()[1], {"y": jnp.zeros(2)})
