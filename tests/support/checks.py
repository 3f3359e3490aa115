"""Whether the estimator in a cell of the support matrix is unbiased: exactly where its noise is finite."""

import functools
import zlib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import ppl
from ppl.transforms.exact import _noise_sites, _tables
from ppl.transforms.expect import check_results, estimator, prepare
from ppl.transforms.noise import TableNoise
from ppl.transforms.programs import stage_program
from tests.cases import THETA
from tests.statistics import assert_unbiased, enumerate_law, expectation
from tests.support.constructs import Construct
from tests.support.ways import Law, Way

ALONG = np.array([0.3, -1.2])
KEY = jr.key(3)


def is_exact(construct: Construct, way: Way) -> bool:
    """Tell whether a cell is checked by enumeration, to 1e-10, rather than by a z-test."""
    return way.is_exact and not construct.is_sampled(way)


def program(construct: Construct, way: Way):
    """Return the stochastic function of theta."""
    way = way if construct.predicate is None else way.with_predicate(construct.predicate)
    return functools.partial(construct.program, way)


def truth(construct: Construct, way: Way):
    """Enumerate the law: what `derived` estimates."""
    law = lambda draws, theta: construct.law(Law(way.family, draws), theta)
    number = lambda i: enumerate_law(lambda draws, theta: law(draws, theta)[i], THETA)
    if construct.derivative == "hessian":
        return (jax.hessian(functools.partial(expectation, law))(jnp.asarray(THETA)),)
    if construct.derivative == "aux":
        return number(1)[0], *number(0)
    if construct.derivative == "results":
        return tuple(np.stack([number(i)[1] for i in range(3)]).ravel())
    value, gradient = enumerate_law(law, THETA)
    return (value, gradient @ ALONG) if construct.derivative == "jvp" else (value, gradient)


def derived(derivative: str, expected):
    """Differentiate `expected(theta)`, made by `expect`, as the construct asks for."""

    def run(theta):
        if derivative == "hessian":
            return (jax.hessian(expected)(theta),)
        if derivative == "jvp":
            return jax.jvp(expected, (theta,), (jnp.asarray(ALONG),))
        if derivative == "aux":
            (value, aux), gradient = jax.value_and_grad(expected, has_aux=True)(theta)
            return aux, value, gradient
        if derivative == "results":
            rows = jax.jacobian(expected)(theta)
            return tuple(jnp.concatenate([rows["a"][None], rows["b"]]).ravel())
        return jax.value_and_grad(expected)(theta)

    return run


def by_enumeration(construct: Construct, way: Way):
    """Return the exact mean of what is derived, over all outcomes of the estimator's noise."""
    function, theta = program(construct, way), jnp.asarray(THETA)
    staged = stage_program(function, (theta,))
    aux = check_results(staged, construct.derivative == "aux")
    staged = prepare(staged, aux)
    estimate = estimator(staged, aux)
    sites = _noise_sites(staged, estimate)
    numbers = {at: site.num_values for at, site in sites.items()}
    outcomes = int(np.prod([float(site.num_values) ** np.prod(site.shape) for site in sites.values()]))
    assert outcomes <= 2**12

    def probability(number):
        noise = TableNoise(_tables(number, sites), numbers)
        estimate(noise, [theta])
        return jnp.exp(noise.log_prob)

    def one(number):
        noise = lambda: TableNoise(_tables(number, sites), numbers)
        return derived(construct.derivative, lambda t: staged.staged.results(estimate(noise(), [t])))(theta)

    @jax.jit
    def mean():
        numbers = jnp.arange(outcomes, dtype=jnp.int32)
        probs, results = jax.vmap(probability)(numbers), jax.vmap(one)(numbers)
        return probs.sum(), jax.tree.map(lambda x: jnp.tensordot(probs, x, 1), results)

    total, means = mean()
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    return means


def run_once(construct: Construct, way: Way, key=KEY):
    """Run the public functions, and return what is derived."""
    function, theta = program(construct, way), jnp.asarray(THETA)
    if construct.derivative == "hessian":
        return (ppl.hessian(function)(key, theta),)
    if construct.derivative == "jvp":
        return ppl.jvp(function)(key, (theta,), (jnp.asarray(ALONG),))
    expected = functools.partial(ppl.expect(function, has_aux=construct.derivative == "aux"), key)
    return derived(construct.derivative, expected)(theta)


def check(construct: Construct, way: Way) -> None:
    """Compare a supported cell with the truth."""
    expected = truth(construct, way)
    if is_exact(construct, way):
        means = by_enumeration(construct, way)
        for mean, wanted in zip(means, expected, strict=True):
            np.testing.assert_allclose(mean, wanted, rtol=1e-10, atol=1e-10)
        return
    key = jr.key(zlib.crc32(f"{construct} {way}".encode()))
    assert_unbiased(lambda key: run_once(construct, way, key), expected, key)
