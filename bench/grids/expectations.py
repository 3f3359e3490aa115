"""The exact means of the grid's objectives: sums over outcomes and over pairs of outcomes of a law.

Each maps a law and parameters to a number whose derivative is the exact mean of the objective's gradient. What an
objective detaches is detached here; apart from that nothing is shared with the objectives.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.grids.constructs import REVERSE_START, REVERSE_STEP, SERIES
from bench.grids.laws import GUIDE_STEP, MODEL_STEP, OBSERVED, log_density, noise, outcome


def _over_pairs(weights, table):
    """Return the mean of table[i, j] over independent pairs."""
    return weights @ table @ weights


def elbo(law, theta):
    """E log w."""
    at = law.table(theta)
    return at.weights @ at.log_w


def minus_elbo(law, theta):
    """E -log t."""
    return -elbo(law, theta)


def tempered(beta):
    """E log p(x; z) + beta (log p(z) - log q(z))."""

    def mean(law, theta):
        at = law.table(theta)
        return at.weights @ (at.log_lik + beta * (at.log_prior - at.log_q))

    return mean


def iwelbo(law, theta):
    """E log (w + w') / 2."""
    at = law.table(theta)
    return _over_pairs(at.weights, jnp.logaddexp(at.log_w[:, None], at.log_w)) - jnp.log(2.0)


def renyi(alpha):
    """E log((w^(1 - a) + w'^(1 - a)) / 2) / (1 - a)."""

    def mean(law, theta):
        at = law.table(theta)
        powers = (1 - alpha) * at.log_w
        return (_over_pairs(at.weights, jnp.logaddexp(powers[:, None], powers)) - jnp.log(2.0)) / (1 - alpha)

    return mean


def power(order):
    """E w^n."""

    def mean(law, theta):
        at = law.table(theta)
        return at.weights @ jnp.exp(order * at.log_w)

    return mean


def hellinger(log_evidence):
    """E (sqrt t - 1)^2, t = w / p(x)."""

    def mean(law, theta):
        at = law.table(theta)
        return at.weights @ (jnp.exp((at.log_w - log_evidence) / 2) - 1) ** 2

    return mean


def forward_divergence(log_evidence):
    """E t log t."""

    def mean(law, theta):
        at = law.table(theta)
        logs = at.log_w - log_evidence
        return at.weights @ (jnp.exp(logs) * logs)

    return mean


def _shares(log_w):
    """Return w_i / (w_i + w_j)."""
    return jax.nn.sigmoid(log_w[:, None] - log_w)


def total_variation(law, theta):
    """E |t - 1| / 2 with t = 2 w / (w + w'): not smooth, for coins."""
    at = law.table(theta)
    return _over_pairs(at.weights, jnp.abs(2 * _shares(at.log_w) - 1) / 2)


def jensen_shannon(law, theta):
    """E (t log t - (t + 1) log((t + 1) / 2)) / 2 with t = 2 w / (w + w')."""
    at = law.table(theta)
    ratio = 2 * _shares(at.log_w)
    return _over_pairs(at.weights, (ratio * jnp.log(ratio) - (ratio + 1) * jnp.log((ratio + 1) / 2)) / 2)


def wake_q(law, theta):
    """E of the sum of w / (w + w') log q(z) over the two; choices and weights are detached."""
    at = law.table(theta, lax.stop_gradient(theta))
    shares = lax.stop_gradient(_shares(at.log_w))
    return 2 * _over_pairs(at.weights, shares * at.log_q[:, None])


def wake_p(law, theta):
    """The same with log p(x, z)."""
    at = law.table(theta, lax.stop_gradient(theta))
    shares = lax.stop_gradient(_shares(at.log_w))
    return 2 * _over_pairs(at.weights, shares * at.log_p[:, None])


def sleep_q(law, theta):
    """E_p log q(z)."""
    weights, z = law.outcomes(jnp.zeros(2), "model")
    return weights @ jax.vmap(lambda z: law.log_q(theta, z))(z)


def thermodynamic(betas):
    """Bins of width 1 / 2: E of the sum of w^b / (w^b + w'^b) log w over the two, for b in `betas`."""

    def mean(law, theta):
        at = law.table(theta)
        bins = [2 * _over_pairs(at.weights, _shares(b * at.log_w) * at.log_w[:, None]) for b in betas]
        return sum(bins) / 2

    return mean


# --- Scores ------------------------------------------------------------------------------------------------------


def fisher(law, theta):
    """E_q |d (log q - log p) / dz|^2."""
    weights, z = law.outcomes(theta)
    score = jax.grad(lambda z: law.log_q(theta, z) - law.log_p(theta, z))
    return weights @ jnp.sum(jax.vmap(score)(z) ** 2, 1)


def score_matching(law, theta):
    """- E_p tr d^2 log q + |d log q|^2 / 2."""
    weights, z = law.outcomes(jnp.zeros(2), "model")
    log_q = lambda z: law.log_q(theta, z)
    one = lambda z: jnp.trace(jax.hessian(log_q)(z)) + jnp.sum(jax.grad(log_q)(z) ** 2) / 2
    return -weights @ jax.vmap(one)(z)


def kernel_stein(bandwidth):
    """E over pairs of Stein's kernel of exp(-|z - z'|^2 / (2 h^2)), its derivatives taken by JAX."""

    def mean(law, theta):
        weights, z = law.outcomes(theta)
        scores = jax.vmap(jax.grad(lambda z: law.log_p(theta, z)))(z)
        kernel = lambda a, b: jnp.exp(-jnp.sum((a - b) ** 2) / (2 * bandwidth**2))

        def stein(a, score_a, b, score_b):
            mixed = jnp.trace(jax.jacfwd(jax.grad(kernel, 1), 0)(a, b))
            first = score_a @ jax.grad(kernel, 1)(a, b) + score_b @ jax.grad(kernel, 0)(a, b)
            return score_a @ score_b * kernel(a, b) + first + mixed

        row = jax.vmap(stein, (None, None, 0, 0))
        return _over_pairs(weights, jax.vmap(row, (0, 0, None, None))(z, scores, z, scores))

    return mean


def annealed(size, kept, steps=2):
    """E log p(x, z_K) - log q(z_0) + log ratios of momenta: quadratic in the noise, so two nodes a number are exact."""

    def bound(law, theta, of):
        start, momentum, fresh = of[:2], of[2:4], of[4:].reshape(steps, 2)
        first, _ = outcome(law.kinds[0], theta[0], start[0], 1.0)
        second, _ = outcome(law.kinds[1], theta[1] + law.step("guide") * first, start[1], 1.0)
        begun = z = jnp.stack([first, second])
        gain = 0.0
        for k in range(1, steps + 1):
            path = lambda z, b=k / steps: (1 - b) * law.log_q(theta, z) + b * law.log_p(theta, z)
            before = kept * momentum + np.sqrt(1 - kept**2) * fresh[k - 1]
            half = before + size / 2 * jax.grad(path)(z)
            z = z + size * half
            momentum = half + size / 2 * jax.grad(path)(z)
            gain = gain + (before @ before - momentum @ momentum) / 2
        return law.log_p(theta, z) - law.log_q(theta, begun) + gain

    def mean(law, theta):
        points, weights = noise("normal", 2)
        numbers = 4 + 2 * steps
        grid = jnp.asarray(list(itertools.product(points, repeat=numbers)))
        weigh = jnp.asarray([np.prod(row) for row in itertools.product(weights, repeat=numbers)])
        return weigh @ jax.vmap(lambda of: bound(law, theta, of))(grid)

    return mean


# --- Other programs ----------------------------------------------------------------------------------------------


def _choice(kind, u, nodes=12):
    """Return weights and values of kind(u) for each u, with a last axis of outcomes."""
    of, weight = noise(kind, nodes)
    value, prob = outcome(kind, jnp.asarray(u)[..., None], jnp.asarray(of), jnp.asarray(weight))
    return prob, value


def _emission(theta, z, x):
    return log_density("normal", 0.8 * z + 0.2 * theta[0], x, 1.0)


def _hierarchy(kind, theta, inner):
    """Return weights of all (u, z, and inner - 1 further u from the reverse program), with the log weights of z."""
    reverse = lambda z: REVERSE_STEP * z + REVERSE_START * theta[1]
    log_ratio = lambda u, z: (
        log_density(kind, theta[0], u)
        + log_density(kind, theta[1] + GUIDE_STEP * u, z)
        - log_density(kind, reverse(z), u)
    )
    prob_u, u = _choice(kind, theta[0])
    prob_z, z = _choice(kind, theta[1] + GUIDE_STEP * u)
    weights, log_p = prob_u[:, None] * prob_z, log_density(kind, 0.0, z, 1.0) + _emission(theta, z, OBSERVED)
    log_q = log_ratio(u[:, None], z)
    if inner == 2:
        prob_v, v = _choice(kind, reverse(z))
        weights, log_p = weights[..., None] * prob_v, log_p[..., None]
        log_q = jnp.logaddexp(log_q[..., None], log_ratio(v, z[..., None])) - jnp.log(2.0)
    return weights.ravel(), jnp.broadcast_to(log_p - log_q, weights.shape).ravel()


def hierarchical(outer, inner):
    """E log mean_N p(x, z) / (mean_M q(z, u) / r(u; z)), N and M at most 2."""

    def mean(law, theta):
        weights, log_w = _hierarchy(law.kind, theta, inner)
        if outer == 1:
            return weights @ log_w
        return _over_pairs(weights, jnp.logaddexp(log_w[:, None], log_w)) - jnp.log(2.0)

    return mean


def filtering(law, theta):
    """E log Z of two particles and two steps, over both particles' choices and ancestors."""
    kind = law.kind
    prob, z = _choice(kind, theta[0])
    log_first = log_density(kind, 0.0, z, 1.0) + _emission(theta, z, SERIES[0]) - log_density(kind, theta[0], z)
    prob_next, w = _choice(kind, theta[1] + GUIDE_STEP * z)  # rows: the value before
    log_next = log_density(kind, MODEL_STEP * z[:, None], w, 1.0) + _emission(theta, w, SERIES[1])
    log_next = log_next - log_density(kind, theta[1] + GUIDE_STEP * z[:, None], w)
    both = jnp.logaddexp(log_next[:, :, None, None], log_next)  # ancestor, value, ancestor, value
    after = jnp.einsum("ik,jl,ikjl->ij", prob_next, prob_next, both)
    one, same = _shares(log_first), jnp.diagonal(after)
    other = 1 - one
    resampled = one**2 * same[:, None] + other**2 * same + 2 * one * other * after
    pairs = jnp.logaddexp(log_first[:, None], log_first) + resampled
    return _over_pairs(prob, pairs) - 2 * jnp.log(2.0)
