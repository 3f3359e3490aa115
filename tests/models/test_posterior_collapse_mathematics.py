"""Closed forms of collapse: section 6 of the notes on the paper, each against minima, samples or other formulas."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

import ppl
from estimators import elbo, iwelbo
from estimators.diagnostics import linear_hierarchy, linear_optimum, residual_moment, second_moment, spectrum
from models.posterior_collapse import digits, networks, programs, theory

pytestmark = pytest.mark.x64
EIGENVALUES = np.array([3.55733937, 1.53481844, 0.37849182, 0.09211508])


def minimum(loss, shapes, restarts=4, seed=0):
    """Minimise a loss of arrays by BFGS from several starts; return the best value and its arrays."""
    sizes = [math.prod(shape) for shape in shapes.values()]

    def of_vector(x):
        parts = jnp.split(x, np.cumsum(sizes)[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    both = jax.jit(jax.value_and_grad(lambda x: loss(of_vector(x))))
    numbers = lambda x: tuple(np.asarray(part, np.float64) for part in both(x))
    rng, options = np.random.default_rng(seed), {"gtol": 1e-10, "maxiter": 5000}
    start = lambda: rng.normal(size=sum(sizes))
    runs = [minimize(numbers, start(), jac=True, method="BFGS", options=options) for _ in range(restarts)]
    best = min(runs, key=lambda run: run.fun)
    return best.fun, of_vector(best.x)


def rotated(eigenvalues, seed=0):
    basis = stats.ortho_group.rvs(len(eigenvalues), random_state=seed)
    return basis @ np.diag(eigenvalues) @ basis.T


class TestOneLevel:
    @pytest.mark.parametrize(
        ("theta", "beta", "prior", "noise", "expected"),
        [
            (2.0, 1.0, 1.0, 1.0, (1.7320508, 0.8660254, 0.5, math.log(2), 2.386294361)),
            (1.3, 2.0, 0.7, 0.5, (1.5583874, 0.5873922, 0.3807498, 0.6089379, 4.435751419)),
            (0.9, 1.0, 1.2, 1.0, (0.0, 0.0, 1.2, 0.0, 0.81)),
        ],
    )
    def test_one_mode(self, theta, beta, prior, noise, expected):
        """Checks 1 and 2; the loss again by minimising it."""
        found = linear_optimum(np.array([theta**2]), 1, beta=beta, noise=noise, prior=prior)
        numbers = (found.decoder[0], found.encoder[0], found.scale[0], found.kl[0], found.loss)
        np.testing.assert_allclose(numbers, expected, atol=1e-6)
        assert found.active == (expected[0] > 0)
        shapes = {"U": (1, 1), "W": (1, 1), "log_scale": (1,)}
        loss = lambda params: theory.vae_loss(params, jnp.array([[theta**2]]), beta, noise, prior)
        value, params = minimum(loss, shapes)
        np.testing.assert_allclose(value, expected[-1], atol=1e-8)
        np.testing.assert_allclose(np.exp(params["log_scale"]), expected[2], atol=1e-4)

    def test_fixed_variance(self):
        """Check 3; and both values are where the loss with that variance is least."""
        decoder, encoder = theory.fixed_variance_optimum(np.array([2.0]), np.array([0.6]))
        np.testing.assert_allclose((decoder[0], encoder[0]), (1.5275252, 0.9165151), atol=1e-6)
        fixed = {"log_scale": jnp.log(jnp.array([0.6]))}
        loss = lambda params: theory.vae_loss(params | fixed, jnp.array([[4.0]]), 1.0, 1.0, 1.0)
        _, params = minimum(loss, {"U": (1, 1), "W": (1, 1)})
        np.testing.assert_allclose(np.abs(params["U"]), decoder[0], atol=1e-6)
        np.testing.assert_allclose(np.abs(params["W"]) * 2.0, encoder[0], atol=1e-6)  # whitened: times theta

    def test_fixed_variances_meet_modes_in_the_opposite_order(self):
        theta, sigma, beta, noise, prior = np.array([1.5, 2.5, 0.3]), np.array([0.9, 0.4, 0.6]), 2.0, 0.7, 1.3
        decoder, encoder = theory.fixed_variance_optimum(theta, sigma, beta=beta, noise=noise, prior=prior)
        fixed = {"log_scale": jnp.log(sigma)}
        loss = lambda params: theory.vae_loss(params | fixed, jnp.diag(theta**2), beta, noise, prior)
        value, params = minimum(loss, {"U": (3, 3), "W": (3, 3)}, restarts=8)
        np.testing.assert_allclose(np.linalg.svd(params["U"])[1], np.sort(decoder)[::-1], atol=1e-5)
        np.testing.assert_allclose(np.linalg.svd(params["W"] @ np.diag(theta))[1], np.sort(encoder)[::-1], atol=1e-5)
        assert decoder[2] == 0.0

    @pytest.mark.parametrize(
        ("beta", "prior", "noise", "decoder", "scale", "loss"),
        [
            (1.0, 1.0, 0.5, [1.8186092, 1.1334983, 0.3584576, 0], [0.2650986, 0.4035910, 0.8127215, 1], 8.253207583),
            (2.0, 0.7, 0.8, [2.1558366, 0.7211364, 0, 0], [0.4198947, 0.6392556, 0.7, 0.7], 7.142732952),
        ],
    )
    def test_conditional(self, beta, prior, noise, decoder, scale, loss):
        """Check 4, by the moments of a pair with that residual, and by minimising over all four maps."""
        rng = np.random.default_rng(0)
        map_, inputs = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
        square = inputs @ inputs.T
        cross = map_ @ square
        joint = np.block([[square, cross.T], [cross, cross @ map_.T + rotated(EIGENVALUES)]])
        rows = np.linalg.cholesky(joint).T * math.sqrt(7)
        moments = spectrum(residual_moment(rows[:, 3:], rows[:, :3]))
        np.testing.assert_allclose(moments, EIGENVALUES, atol=1e-8)
        found = linear_optimum(moments, 4, beta=beta, noise=noise, prior=prior)
        np.testing.assert_allclose(found.decoder, decoder, atol=1e-6)
        np.testing.assert_allclose(found.scale, scale, atol=1e-6)
        np.testing.assert_allclose(found.loss, loss, atol=1e-6)
        shapes = {"U1": (4, 4), "U2": (4, 3), "W1": (4, 3), "W2": (4, 4), "log_scale": (4,)}
        value, params = minimum(lambda p: theory.cvae_loss(p, jnp.asarray(joint), beta, noise, prior), shapes, 2)
        np.testing.assert_allclose(value, loss, atol=1e-6)
        np.testing.assert_allclose(np.linalg.svd(params["U1"])[1], decoder, atol=1e-3)

    def test_the_threshold_of_a_variance(self):
        """A mode of variance .378 at noise .5 is active, for .378 > .25; sqrt(beta) noise = .5 would collapse it."""
        assert linear_optimum(EIGENVALUES, 4, noise=0.5).active == 3

    @pytest.mark.parametrize("r", [0.0, 0.125, 0.5, 1.0])
    def test_correlation(self, r):
        """Check 7: x = r y + sqrt(1 - r^2) noise leaves 1 - r^2 of y, in every direction."""
        pair = digits.correlated(200_000, 3, r)
        error = 4.5 * math.sqrt(2 / 200_000)  # of each entry, at most
        np.testing.assert_allclose(residual_moment(*pair), (1 - r**2) * np.eye(3), atol=error)
        np.testing.assert_allclose(residual_moment(pair.y, np.zeros((200_000, 1))), second_moment(pair.y))

    def test_rate(self):
        """Check 8: reverse water-filling; it falls with beta, to 0 at the largest moment over noise^2."""
        moments, noise = EIGENVALUES, 0.5
        betas = np.geomspace(0.1, 1.2 * moments[0] / noise**2, 40)
        rates = [theory.rate(moments, beta, noise) for beta in betas]
        assert (np.diff(rates) <= 0).all()
        assert theory.rate(moments, moments[0] / noise**2, noise) == pytest.approx(0, abs=1e-12)
        optima = [linear_optimum(moments, 4, beta=beta, noise=noise).rate for beta in betas]
        np.testing.assert_allclose(rates, optima, atol=1e-12)


class TestEvidence:
    """Check 6: at beta = 1 the optimal guide is the posterior of probabilistic PCA."""

    def setup_method(self):
        rng = np.random.default_rng(1)
        self.y = rng.normal(size=(6, 5)) @ rng.normal(size=(5, 5))
        self.moment, noise = second_moment(self.y), 0.8
        values, vectors = np.linalg.eigh(self.moment)
        values, vectors = values[::-1], vectors[:, ::-1]
        self.found, self.noise = linear_optimum(values, 3, noise=noise), noise
        self.u = vectors[:, :3] * self.found.decoder
        params = networks.linear(5, 3, jr.key(0))
        w = (self.found.encoder / np.sqrt(values[:3]))[:, None] * vectors[:, :3].T
        where = lambda p: (p.decoder.matrix, p.encoder.loc.matrix, p.encoder.log_scale)
        self.params = eqx.tree_at(where, params, tuple(map(jnp.asarray, (self.u, w, np.log(self.found.scale)))))

    def test_the_elbo_is_the_log_evidence(self):
        model, guide = programs.vae(3, self.noise)
        exact = stats.multivariate_normal(np.zeros(5), self.u @ self.u.T + self.noise**2 * np.eye(5)).logpdf(self.y)
        np.testing.assert_allclose(exact.mean(), theory.log_evidence(self.moment, self.u, self.noise), atol=1e-10)
        constants = 0.5 * 5 * math.log(2 * math.pi * self.noise**2)
        np.testing.assert_allclose(exact.mean(), -0.5 * self.found.loss - constants, atol=1e-9)
        for objective in (elbo(model, guide), iwelbo(model, guide, 1), iwelbo(model, guide, 7)):
            run = ppl.expect(lambda params, y, f=objective: jax.vmap(lambda y: f(params, {"y": y}))(y))
            for key in jr.split(jr.key(0), 3):  # no draw changes it
                np.testing.assert_allclose(run(key, self.params, jnp.asarray(self.y)), exact, atol=1e-9)

    def test_the_weighed_elbo_is_the_loss(self):
        """At any beta, by the mean over many draws: minus half the loss of the closed form."""
        model, guide = programs.vae(3, self.noise)
        objective = programs.of_rows(programs.weighed((model, guide), {"z": 2.5}), jnp.asarray(self.y))
        params = {
            "U": self.u,
            "W": self.params.encoder.loc.matrix,
            "log_scale": self.params.encoder.log_scale,
        }
        exact = -0.5 * theory.vae_loss(params, self.moment, 2.5, self.noise, 1.0)
        exact -= 0.5 * 5 * math.log(2 * math.pi * self.noise**2)
        draws = jax.jit(jax.vmap(lambda key: ppl.expect(objective)(key, self.params)))(jr.split(jr.key(1), 20_000))
        error = float(draws.std()) / math.sqrt(len(draws))
        assert 0 < error < 0.05
        assert abs(float(draws.mean()) - exact) < 4.5 * error


SETTINGS = [  # theta, fixed, betas, noise, prior: all cases, with every outcome
    (2.0, 1.5, (1.0, 1.0), 1.0, 1.0, 1),
    (1.8, 1.1, (2.0, 1.5), 0.8, 0.6, 1),
    (0.5, 1.5, (1.0, 1.0), 1.0, 1.0, 1),
    (1.2, 0.5, (1.0, 1.0), 1.0, 1.0, 2),
    (0.3, 0.5, (1.0, 1.0), 1.0, 1.0, 2),
    (0.9, 0.3, (0.5, 1.5), 0.7, 1.3, 2),
    (4.0, 0.5, (1.0, 1.0), 1.0, 1.0, 3),
    (2.5, 0.4, (4.0, 1.2), 0.9, 0.7, 3),
]


class TestHierarchy:
    @pytest.mark.parametrize(("theta", "fixed", "betas", "noise", "prior", "case"), SETTINGS)
    def test_minima(self, theta, fixed, betas, noise, prior, case):
        """Check 5: the five-variable loss, minimised, in all three cases."""
        found = linear_hierarchy(np.array([theta**2]), 1, fixed, betas=betas, noise=noise, prior=prior)
        loss = lambda params: theory.mhvae_loss(params["all"], theta, fixed, betas, noise, prior)
        value, params = minimum(loss, {"all": (5,)}, restarts=12)
        exact = np.array([found.decoder[0], found.encoder[0], found.top[0], found.guide[0]])
        np.testing.assert_allclose(value, found.loss, atol=1e-8)
        np.testing.assert_allclose(np.abs(params["all"][:4]), exact, atol=1e-4)
        np.testing.assert_allclose(np.exp(params["all"][4]), found.scale[0], atol=1e-4)
        ratio, second = betas[1] / betas[0], (fixed * theta) ** 2 / (betas[1] * noise**2)
        large = fixed**2 >= ratio * noise**2
        assert case == (1 if large else 2 if second < ratio * noise**2 else 3)

    @pytest.mark.parametrize(("betas", "fixed", "noise"), [((1.0, 1.0), 0.5, 1.0), ((2.0, 1.5), 0.3, 0.7)])
    def test_the_threshold_of_the_second_level(self, betas, fixed, noise):
        """Bracketed by 2 % on each side; the numerical minima agree."""
        threshold = betas[1] * noise**2 / (math.sqrt(betas[0]) * fixed)
        for share in (0.98, 1.02):
            theta = share * threshold
            found = linear_hierarchy(np.array([theta**2]), 1, fixed, betas=betas, noise=noise)
            assert (found.top[0] > 0) == (share > 1)
            loss = lambda params, theta=theta: theory.mhvae_loss(params["all"], theta, fixed, betas, noise, 1.0)
            _, params = minimum(loss, {"all": (5,)}, restarts=8)
            np.testing.assert_allclose(abs(params["all"][2]), found.top[0], atol=1e-4)

    @pytest.mark.parametrize("number", range(12))
    def test_no_scale_is_learned(self, number):
        """Random settings; the second threshold has sqrt(b1) below the line: where b1 is not 1, above it is refuted."""
        rng = np.random.default_rng(number)
        theta, fixed, betas = rng.uniform(0.3, 4), tuple(rng.uniform(0.3, 1.2, 2)), tuple(rng.uniform(0.4, 2, 2))
        noise, prior = rng.uniform(0.5, 1.5, 2)
        last = jnp.log(fixed[1])
        loss = lambda params: theory.mhvae_loss(
            jnp.append(params["all"], last), theta, fixed[0], betas, noise, prior
        )  # fmt: skip
        _, params = minimum(loss, {"all": (4,)}, restarts=12)
        found = theory.fixed_hierarchy(theta, fixed, betas=betas, noise=noise, prior=prior)
        np.testing.assert_allclose(np.abs(params["all"][1:3]), found, atol=1e-4)

    def test_the_threshold_of_two_fixed_scales(self):
        """At b1 = 4, s1 = .5 it is 1 with sqrt(b1) below the line, and would be 4 with it above."""
        of = lambda theta: theory.fixed_hierarchy(theta, (0.5, 1.0), betas=(4.0, 1.0), noise=1.0, prior=1.0)
        assert of(0.98)[1] == 0.0
        assert min(of(1.5)) > 0.1

    def test_a_second_level_that_models_noise_knows_nothing(self):
        found = linear_hierarchy(np.array([0.25]), 1, 1.5)
        assert found.encoder[0] == 0 < found.top[0]
        assert found.information[1][0] == 0 == found.information[0][0]

    def test_the_theorem_by_another_way(self):
        """Terms weighed and decoded squares added are the loss; information does not grow with the level."""
        moments, betas, noise, fixed = np.array([9.0, 2.0, 0.2]), (1.5, 0.8), 0.7, 0.4
        found = linear_hierarchy(moments, 2, fixed, betas=betas, noise=noise)
        theta = np.sqrt(moments[:2])
        decoded = (found.decoder * found.encoder - theta) ** 2 + (found.decoder * fixed) ** 2
        nats = betas[0] * found.terms[0] + betas[1] * found.terms[1]
        constants = betas[0] * (1 + 2 * math.log(fixed / noise)) + betas[1]
        total = decoded.sum() / noise**2 + 2 * nats.sum() + 2 * constants + moments[2:].sum() / noise**2
        np.testing.assert_allclose(total, found.loss / noise**2, rtol=1e-12)
        assert (found.information[1] <= found.information[0] + 1e-12).all()


class TestDigits:
    """Section 7: spectra and predicted numbers of active latents, all from the data alone."""

    def test_images(self):
        moments = spectrum(second_moment(digits.images()))
        expected = [0.6989, 0.6392, 0.5536, 0.3947, 0.2714, 0.2308, 0.2026, 0.1718, 0.1574, 0.1445]
        np.testing.assert_allclose(moments[:10], expected, atol=5e-5)
        np.testing.assert_allclose(moments.sum(), 4.6933, atol=5e-5)
        counts = {(noise, beta): linear_optimum(moments, 64, beta=beta, noise=noise).active
                  for noise in (0.1, 0.2, 0.25, 0.3, 0.5) for beta in (1.0, 4.0)}  # fmt: skip
        assert [counts[noise, 1.0] for noise in (0.1, 0.2, 0.25, 0.3, 0.5)] == [39, 21, 16, 12, 5]
        assert [counts[noise, 4.0] for noise in (0.1, 0.2, 0.25, 0.3, 0.5)] == [21, 8, 5, 4, 0]

    def test_parts(self):
        pair = digits.pairs("quarter")
        moments = spectrum(residual_moment(*pair))
        np.testing.assert_allclose(moments[:5], [0.4377, 0.2766, 0.2637, 0.1829, 0.1616], atol=5e-5)
        np.testing.assert_allclose((moments.sum(), second_moment(pair.y).trace()), (2.5432, 3.5498), atol=5e-5)
        active = lambda moments, noise: linear_optimum(moments, 48, noise=noise).active
        alone = spectrum(second_moment(pair.y))
        assert [active(moments, 0.25), active(alone, 0.25)] == [12, 13]
        assert [active(moments, 0.2), active(alone, 0.2)] == [15, 16]
        half = spectrum(residual_moment(*digits.pairs("half")))
        np.testing.assert_allclose(half.sum(), 1.7239, atol=5e-5)
        assert [linear_optimum(half, 64, noise=noise).active for noise in (0.25, 0.2)] == [8, 11]

    def test_learned_noise(self):
        """The mean of eigenvalues 11 to 64; its evidence is the largest over noises."""
        moment = second_moment(digits.images())
        moments = spectrum(moment)
        best = theory.best_noise(moments, 10)
        np.testing.assert_allclose(best**2, moments[10:].mean())
        vectors = np.linalg.eigh(moment)[1][:, ::-1][:, :10]

        def evidence(noise):
            return theory.log_evidence(moment, vectors * linear_optimum(moments, 10, noise=noise).decoder, noise)

        assert evidence(best) > max(evidence(1.01 * best), evidence(0.99 * best))


class TestBadInput:
    """Section 9."""

    @pytest.mark.parametrize("wrong", [{"beta": -1.0}, {"noise": 0.0}, {"noise": -1.0}, {"prior": 0.0},
                                       {"beta": math.nan}, {"latents": 0}, {"latents": 3}])  # fmt: skip
    def test_numbers(self, wrong):
        with pytest.raises(ValueError, match="nonnegative|positive|latents"):
            linear_optimum(np.array([2.0, 1.0]), **({"latents": 1} | wrong))

    def test_data(self):
        for moments in (np.eye(2), np.array([]), np.array([1.0, math.nan])):
            with pytest.raises(ValueError, match="vector of finite numbers"):
                linear_optimum(moments, 1)
        with pytest.raises(ValueError, match="cannot be negative"):
            linear_optimum(np.array([1.0, -0.5]), 1)
        for rows in (np.ones(3), np.ones((2, 2, 2)), np.zeros((0, 3)), np.array([[math.inf]])):
            with pytest.raises(ValueError, match="matrix of finite numbers"):
                second_moment(rows)
        with pytest.raises(ValueError, match="one row for each datum"):
            residual_moment(np.ones((3, 2)), np.ones((4, 2)))
        with pytest.raises(ValueError, match="correlation"):
            digits.correlated(5, 2, 1.5)

    @pytest.mark.parametrize("fixed", [0.0, -0.5])
    def test_fixed_scale(self, fixed):
        with pytest.raises(ValueError, match="positive"):
            linear_hierarchy(np.array([1.0]), 1, fixed)
        with pytest.raises(ValueError, match="positive"):
            theory.fixed_variance_optimum(np.array([1.0]), np.array([fixed]))
        with pytest.raises(ValueError, match="positive weights"):
            linear_hierarchy(np.array([1.0]), 1, 0.5, betas=(0.0, 1.0))
        with pytest.raises(ValueError, match="without bound"):
            theory.fixed_variance_optimum(np.array([1.0]), np.array([0.5]), beta=0.0)
        with pytest.raises(ValueError, match="modes"):
            theory.best_noise(np.array([1.0]), 1)

    def test_no_divergence_no_collapse(self):
        with pytest.warns(UserWarning, match="no collapse"):
            found = linear_optimum(np.array([4.0, 1e-6, 0.0]), 3, beta=0.0)
        assert found.active == 2
        assert found.loss == 0.0
        np.testing.assert_allclose(found.decoder, [2.0, 1e-3, 0.0])
        assert found.rate == math.inf

    def test_no_moment_no_division(self):
        found = linear_optimum(np.zeros(3), 2)
        assert not found.encoder.any()
        assert (found.scale == 1).all()
        assert np.isfinite(found.loss)
        hierarchy = linear_hierarchy(np.zeros(2), 2, 0.5)
        assert np.isfinite([hierarchy.loss, *hierarchy.information[0], *hierarchy.information[1]]).all()

    def test_constant_inputs(self):
        """Constant pixels make E xx' singular; they explain nothing and break nothing."""
        pair = digits.pairs("half")
        assert (np.ptp(pair.x, axis=0) == 0).any()
        kept = pair.x[:, np.ptp(pair.x, axis=0) > 0]
        np.testing.assert_allclose(residual_moment(*pair), residual_moment(pair.y, kept), atol=1e-10)

    def test_ties(self):
        """Equal moments: singular values are compared, never matrices."""
        value, params = minimum(
            lambda p: theory.vae_loss(p, 2.0 * jnp.eye(3), 1.0, 1.0, 1.0), {"U": (3, 2), "W": (2, 3), "log_scale": (2,)}
        )
        found = linear_optimum(np.full(3, 2.0), 2)
        np.testing.assert_allclose(value, found.loss, atol=1e-8)
        np.testing.assert_allclose(np.linalg.svd(params["U"])[1], found.decoder, atol=1e-4)
