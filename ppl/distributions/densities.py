"""Log densities of our own, where NumPyro's lose digits in a tail, clip a parameter, or have NaN derivatives.

Each takes a value inside the support and the named parameters. A term that vanishes is cut off from its parameter
first: 0 * log(0) is 0, and so is its derivative.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import betaln as _single_betaln
from jax.scipy.special import gammaln, log_ndtr

_EXACT = 60
"""Largest total count whose binomial coefficients are computed exactly."""


def _times_log(weight, x):
    """Compute weight * log(x), 0 where the weight is 0."""
    return weight * jnp.log(jnp.where(weight == 0, 1, x))


def _times_log1p(weight, x):
    """Compute weight * log(1 + x), 0 where the weight is 0."""
    return weight * jnp.log1p(jnp.where(weight == 0, 0, x))


def _betaln(a, b):
    """Compute log B(a, b): JAX's own, made for large arguments, is right to 3e-7 only, which float64 can do better."""
    if jnp.result_type(a, b) == jnp.float64:
        return gammaln(a) + gammaln(b) - gammaln(a + b)
    return _single_betaln(a, b)


def _float(value, *params):
    """Give counts the type of the parameters."""
    return value.astype(jnp.result_type(float, *params))


# --- Coins and counts --------------------------------------------------------------------------------------------


@jax.custom_jvp
def _log_sigmoid(x):
    """Compute log(1 / (1 + exp(-x))) in half the operations of JAX's own."""
    return jnp.minimum(x, 0) - jnp.log1p(jnp.exp(-jnp.abs(x)))


_log_sigmoid.defjvps(lambda tangent, _, x: tangent * jax.nn.sigmoid(-x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _coin(tested, value, logits):
    """Compute the log sigmoid of the logits for heads, of less them for tails; for anything else -inf, if tested.

    What is tested is so in front, where the logits become -inf: XLA sums up what ends in arithmetic in one loop with
    the exponentials, and what ends in a `select` in one of its own.
    """
    return _log_sigmoid(_signed(tested, value, logits, -logits, -jnp.inf))


def _signed(tested, value, heads, tails, other):
    """Choose by the side of a coin."""
    return jnp.where(value == 1, heads, jnp.where(value == 0, tails, other) if tested else tails)


@_coin.defjvp
def _coin_rule(tested, primals, tangents):
    """Differentiate: the probability of the other side, its sign put on last.

    Backwards the sign meets the cotangent first. XLA would work out a sign that comes after it once for every reader.
    It is an integer here, as zeros of the logits' type would be an array that both loops read.
    """
    value, logits = primals
    x = _signed(tested, value, logits, -logits, -jnp.inf)
    sign = _signed(tested, value, 1, -1, 0).astype(logits.dtype)
    return _log_sigmoid(x), sign * (jax.nn.sigmoid(-x) * tangents[1])


def bernoulli(value, params):
    """Compute log(probs) or log(1 - probs), unclipped."""
    if "logits" in params:
        return _coin(False, value, params["logits"])
    probs = params["probs"]
    return jnp.where(value == 1, jnp.log(jnp.where(value == 1, probs, 1)), jnp.log1p(-jnp.where(value == 1, 0, probs)))


def bernoulli_anywhere(value, params):
    """Compute the same of logits at any integer: -inf where it is neither 0 nor 1."""
    return _coin(True, value, params["logits"]) if "logits" in params else None


def bernoulli_masses(params, known):
    """Compute P(0) and P(1)."""
    if "logits" in params:
        return jnp.stack([jax.nn.sigmoid(-params["logits"]), jax.nn.sigmoid(params["logits"])])
    return jnp.stack([1 - params["probs"], params["probs"]])


def categorical_masses(params, known):
    """Compute P(k)."""
    probs = jax.nn.softmax(params["logits"], axis=-1) if "logits" in params else params["probs"]
    return jnp.moveaxis(probs, -1, 0)


def categorical_log_masses(params, known):
    """Compute log P(k)."""
    return jnp.moveaxis(jax.nn.log_softmax(params["logits"], axis=-1), -1, 0) if "logits" in params else None


def _log_choose(total, count):
    return -jnp.log1p(total) - _betaln(total - count + 1, count + 1)


def binomial(value, params):
    """Compute log C(n, k) + k log p + (n - k) log(1 - p)."""
    weight = params.get("probs", params.get("logits"))
    count, total = _float(value, weight), _float(jnp.asarray(params["total_count"]), weight)
    if "logits" in params:
        success, failure = -count * jax.nn.softplus(-weight), (count - total) * jax.nn.softplus(weight)
    else:
        success, failure = _times_log(count, weight), _times_log1p(total - count, -weight)
    return _log_choose(total, count) + success + failure


def binomial_masses(params, known):
    """Compute all probabilities from powers, so that they are smooth at p = 0 and p = 1."""
    success, failure = (jnp.asarray(p) for p in bernoulli_masses(params, known)[::-1])
    total = known["total_count"]
    counts = np.arange(total + 1).reshape((-1,) + (1,) * success.ndim)
    if total > _EXACT:
        choose = jnp.exp(_log_choose(float(total), counts.astype(float)))
    else:
        choose = np.vectorize(lambda k: float(math.comb(total, k)))(counts)
    return jnp.asarray(choose, success.dtype) * _power(success, counts) * _power(failure, total - counts)


def _power(x, exponent):
    """Compute x**exponent for counts, with the derivative 0 at exponent 0."""
    return jnp.where(exponent == 0, 1, jnp.where(exponent == 0, 1, x) ** jnp.asarray(exponent, x.dtype))


def beta_binomial(value, params):
    """Compute log C(n, k) + log B(k + a, n - k + b) - log B(a, b)."""
    a, b = params["concentration1"], params["concentration0"]
    count, total = _float(value, a), _float(jnp.asarray(params["total_count"]), a)
    return _log_choose(total, count) + _betaln(count + a, total - count + b) - _betaln(a, b)


def beta_negative_binomial(value, params):
    """Compute log C(k + n - 1, k) + log B(a + k, b + n) - log B(a, b)."""
    a, b, total = params["concentration1"], params["concentration0"], params["n"]
    count = _float(value, a)
    choose = -_betaln(total, count + 1) - jnp.log(total + count)
    return choose + _betaln(a + count, b + total) - _betaln(a, b)


def discrete_uniform(value, params):
    """Compute -log(high - low + 1)."""
    num = params["high"] - params["low"] + 1
    return jnp.broadcast_to(-jnp.log(_float(num)), np.broadcast_shapes(value.shape, num.shape))


def geometric(value, params):
    """Compute k log(1 - p) + log p."""
    if "logits" in params:
        logits = params["logits"]
        return -_float(value, logits) * jax.nn.softplus(logits) - jax.nn.softplus(-logits)
    probs = params["probs"]
    return _times_log1p(_float(value, probs), -probs) + jnp.log(probs)


def _negative_binomial(value, count, log_stop, value_term):
    return -_betaln(count, value + 1) - jnp.log(count + value) + count * log_stop + value_term


def negative_binomial(value, params):
    """Compute log C(k + n - 1, k) + n log(1 - p) + k log p."""
    total, weight = params["total_count"], params.get("probs", params.get("logits"))
    value = _float(value, weight)
    if "logits" in params:
        return _negative_binomial(value, total, -jax.nn.softplus(weight), -value * jax.nn.softplus(-weight))
    return _negative_binomial(value, total, jnp.log1p(-weight), _times_log(value, weight))


def gamma_poisson(value, params):
    """Compute the negative binomial density of the same concentration, with p = 1 / (1 + rate)."""
    value, concentration, rate = _float(value, params["rate"]), params["concentration"], params["rate"]
    return _negative_binomial(value, concentration, -jnp.log1p(1 / rate), -_times_log1p(value, rate))


def negative_binomial2(value, params):
    """Compute the negative binomial density of the same concentration, with p = mean / (mean + concentration)."""
    value, concentration, mean = _float(value, params["mean"]), params["concentration"], params["mean"]
    safe = jnp.where(value == 0, concentration, mean)  # A mean of 0 allows the value 0 only.
    return _negative_binomial(
        value, concentration, -jnp.log1p(mean / concentration), -value * jnp.log1p(concentration / safe)
    )


def zero_inflated_poisson(value, params):
    """Compute log(gate + (1 - gate) exp(-rate)) at 0, else log(1 - gate) + the density of the Poisson."""
    gate, rate, zero = params["gate"], params["rate"], value == 0
    count = _float(jnp.where(zero, 1, value), rate)
    other = jnp.log1p(-jnp.where(zero, 0, gate)) + count * jnp.log(jnp.where(zero, 1, rate)) - gammaln(count + 1) - rate
    both = jnp.log(jnp.where(zero, gate + (1 - gate) * jnp.exp(-rate), 1))
    return jnp.where(zero, both, other)


def ordered_logistic(value, params):
    """Compute log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)).

    Here a and b are the cutpoints around the value, less the predictor; the first and last are infinite.
    """
    cutpoints = params["cutpoints"]
    predictor = jnp.broadcast_to(params["predictor"], np.broadcast_shapes(value.shape, params["predictor"].shape))
    num, first, last = cutpoints.shape[-1], value == 0, value == cutpoints.shape[-1]
    shape = np.broadcast_shapes(predictor.shape, cutpoints.shape[:-1])
    cutpoints, value = jnp.broadcast_to(cutpoints, (*shape, num)), jnp.broadcast_to(value, shape)

    def cut(at):
        return jnp.take_along_axis(cutpoints, jnp.clip(at, 0, num - 1)[..., None], axis=-1)[..., 0]

    low, high = cut(value - 1), cut(value)
    gap = jnp.where(first | last, 1, high - low)
    below = jnp.where(last, 0, -jax.nn.softplus(predictor - high))
    above = jnp.where(first, 0, -jax.nn.softplus(low - predictor))
    return below + above + jnp.where(first | last, 0, jnp.log(-jnp.expm1(-gap)))


def multinomial(value, params):
    """Compute log(n! / prod_k x_k!) + sum_k x_k log p_k."""
    weight = params.get("probs", params.get("logits"))
    count, total = _float(value, weight), float(params["total_count"])
    if "logits" in params:
        terms = count * jax.nn.log_softmax(weight, axis=-1)
    else:
        terms = _times_log(count, weight)
    return math.lgamma(total + 1) + (terms - gammaln(count + 1)).sum(-1)


def dirichlet_multinomial(value, params):
    """Compute log of n! Gamma(A) / Gamma(n + A) prod_k Gamma(x_k + a_k) / (x_k! Gamma(a_k)), A = sum_k a_k."""
    concentration, total = params["concentration"], float(params["total_count"])
    count, whole = _float(value, concentration), concentration.sum(-1)
    terms = gammaln(count + concentration) - gammaln(concentration) - gammaln(count + 1)
    return math.lgamma(total + 1) + gammaln(whole) - gammaln(total + whole) + terms.sum(-1)


# --- On the line -------------------------------------------------------------------------------------------------


def normal_constant(scale):
    """Compute log(scale) + log(2 pi) / 2, by which a normal's log density is less than its exponent."""
    return jnp.log(scale) + math.log(2 * math.pi) / 2


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def sum_of_squares(error, scale, axes):
    """Compute sum((error / scale)**2) over axes, for one scale: -2 times the log densities but for their constants."""
    return jnp.square(error / scale).sum(axes)


@sum_of_squares.defjvp
def _sum_of_squares_rule(axes, primals, tangents):
    """Differentiate: 2 z / scale for each error, and the sum itself, once more, for the scale."""
    (error, scale), (d_error, d_scale) = primals, tangents
    inverse = 1 / scale
    z = error / scale  # Not times the inverse: that is cheap, so XLA would make it again, with all that it is made of.
    total = jnp.square(z).sum(axes)
    return total, 2 * inverse * ((z * d_error).sum(axes) - total * d_scale)


@jax.custom_jvp
def _normal(value, loc, scale):
    return -0.5 * jnp.square((value - loc) / scale) - normal_constant(scale)


@functools.partial(_normal.defjvp, symbolic_zeros=True)
def _normal_rule(primals, tangents):
    """Differentiate: z / scale for the location, (z**2 - 1) / scale for the scale, half of what JAX works out.

    Backwards all parts share the cotangent times z, and what scale there is divides their sums, not their elements.
    """
    value, loc, scale = primals
    z = (value - loc) / scale
    log_prob = -0.5 * jnp.square(z) - normal_constant(scale)
    d_value, d_loc, d_scale = (None if _is_zero(tangent) else tangent for tangent in tangents)
    if d_value is not None and d_loc is not None and jnp.shape(d_value) == jnp.shape(z):
        d_value, d_loc = None, d_loc - d_value
    inverse = None if d_scale is None else 1 / scale  # Several readers share one division.
    scaled = lambda tangent: tangent / scale if inverse is None else tangent * inverse
    shifts = [-scaled(d_value)] if d_value is not None else []
    shifts += [scaled(d_loc)] if d_loc is not None else []
    relative = None if d_scale is None else scaled(d_scale)
    shifts += [z * relative] if d_scale is not None else []
    tangent = z * functools.reduce(jnp.add, shifts) if shifts else jnp.zeros_like(log_prob)
    tangent = tangent if d_scale is None else tangent + -relative
    return log_prob, jnp.broadcast_to(tangent, log_prob.shape).astype(log_prob.dtype)


def _is_zero(tangent) -> bool:
    return isinstance(tangent, SymbolicZero)


def normal(value, params):
    """Compute -z**2 / 2 - log(scale) - log(2 pi) / 2, z = (x - loc) / scale; what has no lanes is added up first."""
    return _normal(value, params["loc"], params["scale"])


def half_normal(value, params):
    """Compute the normal density around 0, twice."""
    z = value / params["scale"]
    return -0.5 * jnp.square(z) - (jnp.log(params["scale"]) + math.log(math.pi / 2) / 2)


def log_normal(value, params):
    """Compute the normal density of log x less log x, which is the log of dx / d(log x)."""
    log_value = jnp.log(value)
    return normal(log_value, params) - log_value


def half_cauchy(value, params):
    """Compute log(2 / pi) - log(scale) - log(1 + (x / scale)**2)."""
    return math.log(2 / math.pi) - jnp.log(params["scale"]) - jnp.log1p(jnp.square(value / params["scale"]))


def truncated_normal(value, params):
    """Compute the normal density less log(Phi(b) - Phi(a)), in the tail where Phi is small."""
    loc, scale = params["loc"], params["scale"]
    z = (value - loc) / scale
    low, high = ((params[name] - loc) / scale if name in params else None for name in ("low", "high"))
    return -(z**2) / 2 - jnp.log(scale) - math.log(2 * math.pi) / 2 - _log_normal_mass(low, high)


def _log_ndtr(x):
    """Compute log Phi(x); below -20 JAX's own keeps nine digits, its series being shorter than this one."""
    tail = jnp.minimum(x, -20)
    square = 1 / tail**2
    series = 0.0
    for odd in (13, 11, 9, 7, 5, 3, 1):
        series = -odd * square * (1 + series)
    asymptotic = -(tail**2) / 2 - jnp.log(-tail) - math.log(2 * math.pi) / 2 + jnp.log1p(series)
    return jnp.where(x < -20, asymptotic, log_ndtr(jnp.maximum(x, -20)))


def _log_normal_mass(low, high):
    if low is None or high is None:
        return 0.0 if low is high else _log_ndtr(high) if low is None else _log_ndtr(-low)
    flip = low > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    smaller, larger = _log_ndtr(low), _log_ndtr(high)
    return larger + jnp.log(-jnp.expm1(smaller - larger))


def kumaraswamy(value, params):
    """Compute log(a b) + (a - 1) log x + (b - 1) log(1 - x**a)."""
    a, b, log = params["concentration1"], params["concentration0"], jnp.log(value)
    return jnp.log(a) + jnp.log(b) + (a - 1) * log + (b - 1) * jnp.log(-jnp.expm1(a * log))


def relaxed_bernoulli(value, params):
    """Compute the logistic density of logit(x) and its Jacobian."""
    temperature = params["temperature"]
    logits = params["logits"] if "logits" in params else jnp.log(params["probs"]) - jnp.log1p(-params["probs"])
    log, log_rest = jnp.log(value), jnp.log1p(-value)
    z = logits - temperature * (log - log_rest)
    return jnp.log(temperature) + z - 2 * jax.nn.softplus(z) - log - log_rest


def delta(value, params):
    """Return the weight of the point mass."""
    event_dim = params["event_dim"]
    shape = np.broadcast_shapes(value.shape[: value.ndim - event_dim], params["log_density"].shape)
    return jnp.broadcast_to(params["log_density"], shape)


def pareto(value, params):
    """Compute log(alpha / scale) - (alpha + 1) log(x / scale)."""
    scale, alpha = params["scale"], params["alpha"]
    return jnp.log(alpha) - jnp.log(scale) - (alpha + 1) * (jnp.log(value) - jnp.log(scale))
