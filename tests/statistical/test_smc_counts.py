"""The filtering bound exactly, for as many particles as the reference has: particles are alike, so only counts matter.

Two enumerations. By counts, in plain arrays: given how many of N particles are in state 1, each of their children is
in state 1 with one probability, independently, so these numbers are a Markov chain of binomials. By orbits, of the
estimator itself: outcomes of its noise that differ by the order of particles have one probability, value and gradient,
so one of each orbit is run, and weighted with the orbit's size.
"""

import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from estimators import dropped, smc_elbo
from ppl import reinforce
from ppl.methods import multinomial
from ppl.transforms.exact import _noise_sites
from ppl.transforms.expect import check_results, estimator, prepare
from ppl.transforms.noise import TableNoise
from ppl.transforms.programs import stage_program
from tests.statistical.test_smc import BOUNDS, YS, bootstrap, init, step

pytestmark = pytest.mark.x64
B = 0.9
START, STAY = 0.4, np.array([0.3, 0.8])
"""The probability of state 1 at first, and after each state."""


def log_binomials(count, p):
    """Return the log probabilities of 0 ... count."""
    k = jnp.arange(count + 1.0)
    choose = jnp.array([math.log(math.comb(count, i)) for i in range(count + 1)])
    return choose + k * jnp.log(p) + (count - k) * jnp.log1p(-p)


def by_counts(b, particles, detached=False):
    """Return E log Z by a sum over how many particles are in state 1 at each step."""
    emission = jnp.array([[0.0, 1.0], [0.2, 0.8]]) + b * jnp.array([[1.0, -1.0], [0.0, 0.0]])
    counts = jnp.arange(particles + 1.0)
    ahead = jnp.zeros(particles + 1)
    for t in reversed(range(len(YS))):
        weights = emission[:, YS[t]]
        mean = ((particles - counts) * weights[0] + counts * weights[1]) / particles
        ahead = jnp.log(mean) + ahead
        if t:
            # Whether a child is in state 1: its parent is chosen by its own weight, at the step before.
            before = emission[:, YS[t - 1]]
            heavy = counts * before[1] / (counts * before[1] + (particles - counts) * before[0])
            p = heavy * STAY[1] + (1 - heavy) * STAY[0]
            laws = jnp.exp(jax.vmap(lambda p: log_binomials(particles, p))(p))
        else:
            laws = jnp.exp(log_binomials(particles, START))[None]
        ahead = (jax.lax.stop_gradient(laws) if detached else laws) @ ahead
    return ahead[0]


PRINTED = {
    1: (-3.1287480, None, None),
    2: (-2.6905058, -5.5999799, -5.8088952),
    3: (-2.4629539, None, None),  # The reference prints ...540; the number is -2.46295390.
    4: (-2.3354481, -2.6200721, -3.1909779),
}


@pytest.mark.parametrize("particles", PRINTED)
def test_counts_give_the_numbers_of_the_reference(particles):
    value, full, without = PRINTED[particles]
    assert abs(by_counts(B, particles) - value) < 6e-8
    for printed, detached in ((full, False), (without, True)):
        gradient = jax.grad(by_counts)(B, particles, detached)
        assert printed is None or abs(gradient - printed) < 6e-8


@pytest.mark.parametrize(("particles", "grad"), BOUNDS)
def test_all_outcomes_agree_with_counts(particles, grad):
    exact = ppl.exact_gradient(smc_elbo(init, step, bootstrap, particles, multinomial(grad)))(B, {"y": YS})
    value, gradient = jax.value_and_grad(by_counts)(B, particles, grad == dropped())
    assert abs(exact.value - value) < 1e-10
    assert abs(exact.gradient - gradient) < 1e-10


# --- The estimator itself, one outcome of each orbit ---------------------------------------------------------------


def orbits(particles):
    """List one outcome of each orbit, and the size of its orbit: first states, then ancestors and states twice."""
    found = [(np.array(z), size) for z, size in _multisets(range(2), particles, lambda z: 1)]
    found = [([first], size) for first, size in found]
    for _ in range(2):
        longer = []
        for path, size in found:
            now = path[-1]
            here = {z: int(np.flatnonzero(now == z)[0]) for z in set(now.tolist())}  # One parent stands for all alike.
            alike = Counter(now.tolist())
            types = list(itertools.product(here, range(2)))
            for chosen, number in _multisets(types, particles, lambda one, alike=alike: alike[one[0]]):
                ancestors = np.array([here[parent] for parent, _ in chosen])
                longer.append(([*path, ancestors, np.array([z for _, z in chosen])], size * number))
        found = longer
    return found


def _multisets(types, count, multiplicity):
    """List multisets of types, each with the number of vectors it stands for."""
    for chosen in itertools.combinations_with_replacement(list(types), count):
        orders = math.factorial(count)
        for number in Counter(chosen).values():
            orders //= math.factorial(number)
        yield chosen, orders * math.prod(map(multiplicity, chosen))


def of_the_estimator(particles, grad):
    """Return the total probability, and the exact means of value and gradient of `smc_elbo`, by orbits."""
    program = stage_program(smc_elbo(init, step, bootstrap, particles, multinomial(grad)), (B, {"y": YS}))
    aux = check_results(program, has_aux=False)
    program = prepare(program, aux)
    estimate = estimator(program, aux)
    sites = _noise_sites(program, estimate)
    first = [at for at, site in sites.items() if site.shape == (particles,)]
    later = [at for at, site in sites.items() if site.shape == (2, particles)]
    assert len(first) == 1
    assert len(later) == 2
    ancestors, states = sorted(later)  # Ancestors are chosen before states.
    assert sites[ancestors].num_values == particles
    assert sites[states].num_values == 2

    def run(b, tables):
        noise = TableNoise(tables, {at: site.num_values for at, site in sites.items()})
        return program.staged.results(estimate(noise, [jnp.asarray(b), YS])), noise.log_prob

    paths, sizes = zip(*orbits(particles), strict=True)
    stacked = [jnp.asarray(np.stack(column), jnp.int32) for column in zip(*paths, strict=True)]
    tables = {
        first[0]: stacked[0],
        ancestors: jnp.stack([stacked[1], stacked[3]], axis=1),
        states: jnp.stack([stacked[2], stacked[4]], axis=1),
    }
    both = jax.jit(jax.vmap(lambda tables: jax.value_and_grad(run, has_aux=True)(B, tables)))
    (values, log_probs), gradients = both(tables)
    probs = jnp.exp(log_probs) * jnp.array(sizes, float)
    assert sum(sizes) == 2 ** (3 * particles) * particles ** (2 * particles)
    return probs.sum(), probs @ values, probs @ gradients


@pytest.mark.parametrize("grad", [reinforce(), dropped()], ids=str)
@pytest.mark.parametrize("particles", [2, 3, 4])
def test_the_estimator_by_orbits_agrees_with_counts(particles, grad):
    total, value, gradient = of_the_estimator(particles, grad)
    wanted, slope = jax.value_and_grad(by_counts)(B, particles, grad == dropped())
    assert abs(total - 1) < 1e-10
    assert abs(value - wanted) < 1e-10
    assert abs(gradient - slope) < 1e-10


def test_orbits_are_all_outcomes():
    """For two particles, list the orbits in full and compare with the product of all values."""
    size = sum(size for _, size in orbits(2))
    assert size == 2**6 * 2**4
    assert len(orbits(4)) < 5 * 35 * 35 + 1
