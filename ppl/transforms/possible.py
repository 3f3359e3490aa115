"""A product of probabilities and costs in which what cannot happen counts as 0, whatever it costs.

Written with a `select`, the derivative backwards would select once more, though it is multiplied by the probability 0
in any case; XLA then evaluates the cost again to decide. So the product is a primitive, linear in the cost: forwards it
selects (0 times an infinite tangent is no number), and backwards it multiplies.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from ppl import jaxprs

possible_product_p = Primitive("possible_product")


def possible_product(weight: Any, term: Any, counts: Any):
    """Multiply costs by probabilities; where a cost does not count, its product is 0, and so are its derivatives.

    Args:
        weight: Probabilities, shape broadcasting to that of the costs.
        term: Costs, of any shape.
        counts: Where they count, of the shape of the costs: true wherever all of the joint probability is positive.

    Returns:
        The products, of the shape of the costs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> weights, costs, counts = jnp.array([0.5, 0.0]), jnp.array([1.0, jnp.inf]), jnp.array([True, False])
        >>> cost = lambda x: possible_product(weights, costs * x, counts)
        >>> cost(2.0).tolist(), jax.jvp(cost, (2.0,), (1.0,))[1].tolist()
        ([1.0, 0.0], [0.5, 0.0])
    """
    dtype = jnp.result_type(weight, term)
    weight, term = jnp.broadcast_to(weight, jnp.shape(term)).astype(dtype), jnp.asarray(term).astype(dtype)
    return possible_product_p.bind(weight, term, counts)


def _possible(term, counts):
    return lax.select(counts, term, jnp.zeros_like(term))


def _product(weight, term, counts):
    return lax.mul(weight, _possible(term, counts))


def _jvp(primals, tangents):
    weight, term, counts = primals
    d_weight, d_term, _ = tangents
    parts = [] if isinstance(d_term, ad.Zero) else [possible_product_p.bind(weight, d_term, counts)]
    parts += [] if isinstance(d_weight, ad.Zero) else [lax.mul(d_weight, _possible(term, counts))]
    return possible_product_p.bind(*primals), lax.add(*parts) if len(parts) == 2 else parts[0]


def _transpose(cotangent, weight, term, counts):
    """Hand on the cotangent, multiplied: a weight of 0 leaves nothing of it."""
    if isinstance(cotangent, ad.Zero):
        return None, None, None
    return None, lax.mul(weight, cotangent), None


def _batch(axis_data, values, dims):
    if all(dim is None for dim in dims):
        return possible_product_p.bind(*values), None
    spread = [
        jnp.broadcast_to(value, (axis_data.size, *jnp.shape(value))) if dim is None else jnp.moveaxis(value, dim, 0)
        for value, dim in zip(values, dims, strict=True)
    ]
    return possible_product_p.bind(*spread), 0


possible_product_p.def_impl(_product)
possible_product_p.def_abstract_eval(lambda weight, term, counts: term.update(weak_type=False))
mlir.register_lowering(possible_product_p, mlir.lower_fun(_product, multiple_results=False))
ad.primitive_jvps[possible_product_p] = _jvp
ad.primitive_transposes[possible_product_p] = _transpose
jaxprs.fancy_batchers[possible_product_p] = _batch
