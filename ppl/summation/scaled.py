r"""Products of a vector and many matrices of probabilities, rescaled at every step.

    u_t = (u_{t-1} A_t) * exp(f_t) / c_t,    c_t the sum of the numerator,    t = 1 .. n

and log(u_n) + sum_t log c_t, plus what was taken out of A and f to keep them below 1, is what a recursion of logarithms
gives (Rabiner 1989, section V.A), without a logarithm or an exponential in the loop.

The derivative has a rule of its own. With the c_t as constants (the result does not depend on them) it is linear,

    du_t = (du_{t-1} A_t) * exp(f_t) / c_t + w_t,    w_t = (u_{t-1} dA_t) * exp(f_t) / c_t + u_t * df_t,

and all w_t are made by one product of matrices outside of the loop. Transposed, this is the backward recursion, and the
derivative with respect to a matrix shared by all steps is one product of two histories (Baum et al. 1970), where the
derivative of a loop would add a k x k matrix up in every step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ppl.summation.logs import _exp, _finite_max

Vectors = Float[Array, "n *lanes k"]
Tables = Float[Array, "k k"] | Float[Array, "n k k"]


def message(start: Array, tables: Tables, gains: Vectors, multiply: Callable, exact: Callable | None = None) -> Array:
    """Return log(exp(start) A_1 diag(exp(f_1)) A_2 ... ) for logarithms of everything.

    What is -inf adds nothing and has the derivative 0.

    Args:
        start: Logarithms of a vector, lanes first.
        tables: Logarithms of one matrix, or of one for each step.
        gains: Logarithms f_t that are added after each step.
        multiply: `sequentially`, or `as_tree`.
        exact: Returns the same in another way, which is taken if some number of a table is less than `lowest`.

    Returns:
        Logarithms of the last vector.
    """
    powers, shift = columns(tables)
    lanes = (1,) * (gains.ndim - 2)
    gains, largest, possible = _relative(gains + shift.reshape(-1, *lanes, gains.shape[-1]))
    begin, first, begins = _relative(start)

    def product(begin, powers, gains):
        last, log_scale = multiply(begin, powers, gains)
        some = last > 0
        logs = jnp.where(some, jnp.log(jnp.where(some, last, 1)), -jnp.inf)
        return logs + (log_scale + largest.sum(0) + first)[..., None]

    operands = jnp.exp(begin), powers, gains
    both = (possible.all(0) & begins)[..., None]
    found = lambda *operands: jnp.where(both, product(*operands), -jnp.inf)
    if exact is None:
        return found(*operands)
    enough = lax.stop_gradient(powers).min() >= lowest(
        powers.dtype, gains.shape[-1], 2 if multiply is sequentially else 3
    )
    return lax.cond(enough, found, lambda *_: exact(), *operands)


def _relative(logs: Array) -> tuple[Array, Array, Array]:
    """Take out the largest of each row: a row whose largest is infinite becomes 0; one of -inf alone is marked."""
    largest, possible = lax.stop_gradient(logs.max(-1)), logs != -jnp.inf
    ordinary = (jnp.abs(largest) != jnp.inf)[..., None]
    safe = jnp.where(possible & ordinary, logs - jnp.where(ordinary, largest[..., None], 0), 0)
    return jnp.where(possible | ~ordinary, safe, -jnp.inf), largest, largest != -jnp.inf


def columns(tables: Array) -> tuple[Array, Array]:
    """Return tables of probabilities, the largest of each column taken out, and the logarithms of these."""
    shift = _finite_max(tables, -2)
    return _exp(tables, shift), jnp.squeeze(shift, -2)


def lowest(dtype, size: int, factors: int) -> float:
    """Return the smallest number that a table may hold: no sum is then lost in rounding.

    Let every number of A be in [a, 1]. As u sums to 1, every element of u A is at least a, and so is c, as some element
    of exp(f) is 1. What underflows is less than the smallest normal number, t, and after division by c less than t / a;
    so a sum of k such errors is less than a rounding error eps of an element of the next product if a**2 > k t / eps.
    In a tree, rows are divided by their largest elements, too, which differ by a factor a at most: then it is a**3.
    """
    info = jnp.finfo(dtype)
    return float(size * float(info.tiny) / float(info.eps)) ** (1 / factors)


def times(vectors: Array, table: Array) -> Array:
    """Multiply row vectors, lanes first, and a matrix."""
    return jnp.matmul(vectors, table, precision=lax.Precision.HIGHEST)


def _times_turned(vectors: Array, turned: Array) -> Array:
    """Multiply row vectors and the transpose of a matrix; what reverse mode makes of it reads memory in order."""
    contract = (((vectors.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(vectors, turned, contract, precision=lax.Precision.HIGHEST)


def sequentially(start: Array, tables: Array, gains: Array) -> tuple[Array, Array]:
    """Return the last vector, which sums to 1, and the logarithm of its scale."""
    last, scales = _steps(False, start, tables, gains)
    return last, jnp.log(scales).sum(0)


def _scan(step, init, tables: Array, inputs: tuple):
    """Run a loop over the steps, whose tables are one, or one each."""
    if tables.ndim == 2:
        return lax.scan(lambda carry, x: step(carry, tables, *x), init, inputs)
    return lax.scan(lambda carry, x: step(carry, *x), init, (tables, *inputs))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _steps(whole: bool, start: Array, tables: Array, gains: Array) -> tuple[Array, Array]:
    """Return the last vector, or all of them, and all scales, which count as constants."""

    def step(vector, table, gain):
        vector = times(vector, table) * gain
        scale = vector.sum(-1)
        vector = vector / lax.broadcast_in_dim(
            scale, vector.shape, range(scale.ndim)
        )  # Faster than by scale[..., None].
        return vector, (vector if whole else None, scale)

    last, (vectors, scales) = _scan(step, start, tables, (jnp.exp(gains),))
    return (vectors if whole else last), scales


@_steps.defjvp
def _steps_jvp(whole: bool, primals, tangents):
    start, tables, gains = primals
    d_start, d_tables, d_gains = tangents
    vectors, scales = _steps(True, start, tables, gains)
    before = jnp.concatenate([start[None], vectors[:-1]])
    factors = jnp.exp(gains) / scales[..., None]
    finite = jnp.where(vectors == 0, 0, d_gains)
    inflow = _all_times(before, d_tables) * factors + vectors * finite

    def step(d_vector, turned, factor, add):
        d_vector = _times_turned(d_vector, turned) * factor + add
        return d_vector, d_vector if whole else None

    turned = jnp.swapaxes(tables, -1, -2)
    d_last, d_vectors = _scan(step, d_start, turned, (factors, inflow))
    out = (vectors, d_vectors) if whole else (vectors[-1], d_last)
    return (out[0], scales), (out[1], jnp.zeros_like(scales))


def _all_times(vectors: Array, tables: Array) -> Array:
    """Multiply the vectors of all steps and their matrices."""
    if tables.ndim == 2:
        return times(vectors, tables)
    return jax.vmap(times)(vectors, tables)
