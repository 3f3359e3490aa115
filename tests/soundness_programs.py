"""Functions of one normal value: refused ones with the line that is to blame (marked HERE), and accepted ones.

Each takes arrays of any shape elementwise, so that a grid of values is one call.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

import ppl

KEY = jax.random.key(1)
MLP = eqx.nn.MLP("scalar", "scalar", 4, 2, activation=jax.nn.elu, key=KEY)
STEPS = eqx.nn.MLP("scalar", "scalar", 4, 1, activation=jnp.sign, key=KEY)
PRELU = eqx.nn.PReLU(0.3)

REFUSED, ACCEPTED, CONSERVATIVE = {}, {}, {}


def _into(registry):
    def note(function):
        assert function.__name__ not in registry
        registry[function.__name__] = function
        return function

    return note


refused, accepted, conservative = _into(REFUSED), _into(ACCEPTED), _into(CONSERVATIVE)
"""Biased and refused; unbiased and accepted; unbiased, but refused as the analysis cannot see it."""


def each(function):
    """Apply a function of one number elementwise."""

    @functools.wraps(function, updated=())
    def apply(z):
        return jnp.vectorize(lambda x: function(x))(z)

    return apply


# --- Biased, refused ---------------------------------------------------------------------------------------------


@refused
def where_comparison(z):
    return jnp.where(z > 0.3, 1.0, 0.0)  # HERE


@refused
def comparison_times(z):
    return z * (z < 0.2)  # HERE


@refused
def floor(z):
    return jnp.floor(2.0 * z)  # HERE


@refused
def ceil(z):
    return jnp.ceil(z) * z  # HERE


@refused
def rounded(z):
    return jnp.round(z)  # HERE


@refused
def sign(z):
    return jnp.sign(z - 0.2)  # HERE


@refused
def heaviside(z):
    return jnp.heaviside(z, 0.5)  # HERE


@refused
def modulo(z):
    return z % 1.0  # HERE


@refused
def floor_division(z):
    return z // 0.5  # HERE


@refused
def truncated(z):
    return jnp.trunc(z)  # HERE


@refused
def to_integer(z):
    return (2.0 * z).astype(int) * 1.0  # HERE


@refused
def to_bool(z):
    return jnp.where(jnp.maximum(z, 0.0), 1.0, 0.0)  # HERE


@refused
def argmax(z):
    return jnp.argmax(jnp.stack([z, 0.1 * z + 0.3]), 0) * 1.0  # HERE


@refused
def order(z):
    parts = jnp.stack([z, jnp.zeros_like(z)])
    return jnp.argsort(parts, 0)[0] * 1.0  # HERE


@refused
def sorted_along(z):
    parts = jnp.stack([z, jnp.zeros_like(z)])
    return lax.sort((parts, jnp.stack([z**2, 1.0 + z])), dimension=0)[1][0]  # HERE


@refused
def place_of_largest(z):
    return lax.top_k(jnp.stack([z, jnp.zeros_like(z)], -1), 1)[1][..., 0] * 1.0  # HERE


@refused
def gather_index(z):
    return jnp.array([0.0, 3.0, 1.0])[jnp.clip(z.astype(int), 0, 2)]  # HERE


@refused
def digitize(z):
    return jnp.searchsorted(jnp.array([-0.5, 0.5]), z) * 1.0  # HERE


@refused
@each
def cond(z):
    return lax.cond(z > 0.1, lambda: z**2, lambda: -1.0)  # HERE


@refused
@each
def switch(z):
    return lax.switch(jnp.clip(z.astype(int), 0, 2), [lambda: 0.0, lambda: z, lambda: 5.0])  # HERE


@refused
@each
def while_loop(z):
    return lax.while_loop(lambda carry: carry < 1.0, lambda carry: carry + 0.7, z)  # HERE


@refused
@each
def through_scan(z):
    def step(carry, x):
        return jnp.tanh(carry) + x, carry

    last, _ = lax.scan(step, z, jnp.arange(3.0))
    return jnp.floor(2.0 * last)  # HERE


@refused
@each
def inside_scan(z):
    def step(carry, x):
        return carry + x * jnp.sign(carry), None  # HERE

    return lax.scan(step, z, 0.1 * jnp.arange(3.0))[0]


@refused
@jax.jit
def inside_jit(z):
    return jnp.exp(-z) * jnp.floor(z)  # HERE


@refused
@jax.checkpoint
def inside_checkpoint(z):
    return jnp.tanh(jnp.round(z) + z)  # HERE


@refused
def inside_vmap(z):
    return jax.vmap(lambda x: jnp.where(x > 0.5, x**2, -x))(jnp.ravel(z)).reshape(z.shape)  # HERE


@refused
def vmapped_primitive(z):
    return jax.vmap(jnp.sign)(jnp.ravel(z) - 0.3).reshape(z.shape)  # HERE


@refused
@jax.custom_jvp
def inside_custom_jvp(z):
    return jnp.floor(z) + z  # HERE


inside_custom_jvp.defjvp(lambda primals, tangents: (inside_custom_jvp(*primals), tangents[0]))


@refused
@each
def equinox_activation(z):
    return STEPS(z)  # HERE


@refused
def equinox_jit(z):
    @eqx.filter_jit
    def inner(x):
        return jnp.select([x > 1.0, x > 0.0], [x, 2.0 + x], 0.0)  # HERE

    return inner(z)


@refused
def pole_made_bounded(z):
    return jnp.tanh(1.0 / z)  # HERE


@refused
def over_its_size(z):
    return z / jnp.abs(z)  # HERE


@refused
def reciprocal_root(z):
    return z * lax.rsqrt(z**2)  # HERE


@refused
def power_of_the_size(z):
    return z * jnp.exp(-jnp.log(jnp.abs(z)))  # HERE


@refused
def angle(z):
    return jnp.arctan2(z, -jnp.ones_like(z))  # HERE


@refused
def density_of_uniform(z):
    return jnp.exp(ppl.uniform(0.0, 1.0).log_prob(z))  # HERE


@refused
def density_of_exponential(z):
    return jnp.exp(ppl.exponential(1.0).log_prob(z))  # HERE


@refused
def density_of_half_normal(z):
    return jnp.exp(ppl.half_normal(1.0).log_prob(z - 0.5))  # HERE


@refused
def density_of_truncated_normal(z):
    return jnp.exp(ppl.truncated_normal(0.0, 1.0, low=-0.5).log_prob(z))  # HERE


@refused
def density_of_pareto(z):
    return jnp.exp(ppl.pareto(1.0, 2.0).log_prob(jnp.exp(z)))  # HERE


@refused
def density_with_moving_edges(z):
    return jnp.exp(ppl.uniform(z - 1.0, z + 1.0).log_prob(0.3))  # HERE


@refused
def density_with_moving_scale(z):
    return jnp.exp(ppl.pareto(jnp.exp(z), 2.0).log_prob(1.5))  # HERE


@refused
def density_of_a_sigmoid_in_a_part(z):
    return jnp.exp(ppl.uniform(0.0, 0.6).log_prob(jax.nn.sigmoid(z)))  # HERE


# --- Unbiased, refused all the same ------------------------------------------------------------------------------


@conservative
def where_branches_meet(z):
    return jnp.where(z > 0, z**2, 0.0)  # HERE


@conservative
def clip_by_hand(z):
    return jnp.where(z < 1.0, z, jnp.ones_like(z))  # HERE


@conservative
def floor_of_a_constant(z):
    return z + jnp.floor(0.5 * jnp.sin(z) * jnp.cos(z) + 0.4)  # HERE


@conservative
def distance_to_integer(z):
    return jnp.abs(z - jnp.round(z))  # HERE


@conservative
def density_that_vanishes_at_the_edge(z):
    return jnp.exp(ppl.gamma(3.0, 1.0).log_prob(z))  # HERE


@conservative
@each
def cond_branches_meet(z):
    return lax.cond(z > 0.0, lambda: z, lambda: 2.0 * z)  # HERE


# --- Accepted ----------------------------------------------------------------------------------------------------


def _library(**functions):
    for name, function in functions.items():
        ACCEPTED[name] = lambda z, function=function: function(z)


_library(
    square=jnp.square,
    sine=jnp.sin,
    absolute=jnp.abs,
    relu=jax.nn.relu,
    elu=jax.nn.elu,
    selu=jax.nn.selu,
    gelu=jax.nn.gelu,
    silu=jax.nn.silu,
    celu=jax.nn.celu,
    mish=jax.nn.mish,
    relu6=jax.nn.relu6,
    hard_tanh=jax.nn.hard_tanh,
    hard_sigmoid=jax.nn.hard_sigmoid,
    leaky_relu=jax.nn.leaky_relu,
    softplus=jax.nn.softplus,
    log_sigmoid=jax.nn.log_sigmoid,
    sinc=jnp.sinc,
    nan_to_num=jnp.nan_to_num,
    prelu=PRELU,
    equinox_mlp=each(MLP),
)


@accepted
def clipped(z):
    return jnp.clip(z, -1.0, 0.5)


@accepted
def largest(z):
    return jnp.maximum(z, 0.2 - z)


@accepted
def logsumexp(z):
    return jax.nn.logsumexp(jnp.stack([z, 2.0 * z, jnp.ones_like(z)]), axis=0)


@accepted
def softmax(z):
    return jax.nn.softmax(jnp.stack([z, jnp.zeros_like(z)]), axis=0)[0]


@accepted
def log_softmax(z):
    return jax.nn.log_softmax(jnp.stack([z, z**2]), axis=0)[1]


@accepted
def norm(z):
    return jnp.linalg.norm(jnp.stack([z, z - 1.0]), axis=0)


@accepted
def normalised(z):
    return z / jnp.linalg.norm(jnp.stack([z, z - 1.0]), axis=0)


@accepted
def sorted_values(z):
    return jnp.sort(jnp.stack([z, jnp.zeros_like(z), -z]), axis=0)[1] + jnp.sort(jnp.stack([z, z**2]), axis=0)[0]


@accepted
def median(z):
    return jnp.median(jnp.stack([z, jnp.zeros_like(z), 1.0 - z]), axis=0)


@accepted
def interpolated(z):
    return jnp.interp(z, jnp.array([-1.0, 0.0, 2.0]), jnp.array([0.0, 1.0, -1.0]))


@accepted
def largest_of_top_k(z):
    return lax.top_k(jnp.stack([z, jnp.zeros_like(z)], -1), 1)[0][..., 0]


@accepted
def safe_division(z):
    return z / (1.0 + z**2)


@accepted
def division_by_positive(z):
    return jnp.tanh(1.0 / jax.nn.softplus(z)) + z / jnp.maximum(jnp.abs(z), 0.1)


@accepted
def log_of_positive(z):
    return jnp.log(1e-1 + z**2) + jnp.log(jax.nn.sigmoid(z)) + jnp.log1p(jnp.exp(z))


@accepted
def power_of_positive(z):
    return jnp.exp(0.3 * z) ** 1.5 + jnp.abs(z) ** 2.5


@accepted
def test_for_nan(z):
    return jnp.where(jnp.isnan(z), 0.0, z**2)


@accepted
def roundings_that_keep_clear_of_jumps(z):
    inside = jnp.floor(jax.nn.sigmoid(z)) + jnp.sign(jnp.exp(z)) + jnp.round(0.4 * jnp.tanh(z))
    return inside * z + jnp.where(z**2 + 1.0 > 0.5, z, 0.0) + (0.9 * jnp.sin(z)).astype(int) + jnp.arctan2(z, 1.0)


@accepted
def constant_predicate(z):
    return jnp.where(jnp.arange(3).reshape((3,) + (1,) * z.ndim) > 0, z, z**2).sum(0)


@accepted
@jax.jit
def in_jit(z):
    return jnp.exp(-(z**2)) + jax.nn.relu(z)


@accepted
@each
def in_scan(z):
    def step(carry, x):
        return jax.nn.elu(carry - x), carry * x

    last, ys = lax.scan(step, z, jnp.arange(3.0))
    return last + ys.sum()


@accepted
@each
def in_loop(z):
    return lax.fori_loop(0, 3, lambda i, carry: jnp.sin(carry) + 0.1 * i, z)


@accepted
@jax.checkpoint
def in_checkpoint(z):
    return jax.nn.silu(z) * jnp.abs(z)


@accepted
@each
def in_cond(z):
    return lax.cond(jnp.arange(2)[1] > 0, lambda: jnp.abs(z), lambda: z)


@accepted
def in_vmap(z):
    return jax.vmap(jax.nn.leaky_relu)(jnp.ravel(z)).reshape(z.shape)


@accepted
@jax.custom_jvp
def in_custom_jvp(z):
    return jnp.abs(z) * z


in_custom_jvp.defjvp(lambda primals, tangents: (in_custom_jvp(*primals), 2 * jnp.abs(primals[0]) * tangents[0]))


@accepted
def assumed(z):
    return ppl.assume_continuous(jnp.where(z > 0, z**2, 0.0)) * jnp.cos(z)


@accepted
def assumed_function(z):
    return ppl.assume_continuous(lambda x: x * jnp.floor(0.0 * x) + jnp.abs(x - jnp.round(x)))(z)


@accepted
def solved(z):
    matrix = jnp.eye(2) + jnp.stack([jnp.stack([z**2, z]), jnp.stack([z, z**2])]).transpose(*range(2, 2 + z.ndim), 0, 1)
    return jnp.linalg.slogdet(matrix)[1]


@accepted
def density_of_normal(z):
    return jnp.exp(ppl.normal(0.3, 1.0).log_prob(z))


@accepted
def density_of_laplace(z):
    return jnp.exp(ppl.laplace(z, 0.5).log_prob(0.2))


@accepted
def density_inside_the_half_line(z):
    return ppl.exponential(1.0).log_prob(jnp.exp(z)) + ppl.gamma(2.0, 1.0).log_prob(jax.nn.softplus(z))


@accepted
def density_inside_the_unit_interval(z):
    return ppl.uniform(0.0, 1.0).log_prob(jax.nn.sigmoid(z)) + ppl.beta(2.0, 3.0).log_prob(jax.nn.sigmoid(z))


@accepted
def density_inside_wider_edges(z):
    return ppl.uniform(-1.0 - jnp.exp(z), 2.0).log_prob(jnp.tanh(z))


@accepted
def density_of_a_square(z):
    return ppl.half_normal(1.0).log_prob(z**2) + ppl.exponential(2.0).log_prob(jnp.abs(z))


@accepted
def density_with_moving_location(z):
    return jnp.exp(ppl.truncated_normal(z, 1.0, low=0.0).log_prob(0.7))


@accepted
def mass_of_a_coin(z):
    return jnp.exp(ppl.bernoulli(logits=z).log_prob(1))
