"""Numbers of the mathematical reference that no other test has, and the table of where all of them are."""

import ast
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import ppl
from estimators import elbo, iwelbo
from tests.statistical.test_smc import YS, hmm
from tests.statistical.test_stochastic_densities import guide, two_points

pytestmark = pytest.mark.x64

ROOT = Path(__file__).resolve().parents[2]


MOMENTS = {1: (lambda p: 1 / p, -6.25), 2: (lambda p: (2 - p) / p**2, -56.25)}


@pytest.mark.parametrize("power", MOMENTS)
def test_trials_to_the_first_success(power):
    """E N and E N^2: of eight trials by the program, exactly; then N is 8 + N' with probability (1 - p)^8."""

    def trials(p):
        step = lambda state: (state[0] + 1.0, ppl.bernoulli(p, grad=ppl.enum()).sample())
        return ppl.while_loop(lambda state: state[1] == 0, step, (0.0, 0), 8)[0] ** power

    def tail(p):
        first, second = (MOMENTS[i][0](p) for i in (1, 2))
        return (1 - p) ** 8 * (first if power == 1 else second + 16 * first)

    found = ppl.exact_gradient(trials)(0.4)
    moment, derivative = MOMENTS[power]
    assert float(found.value + tail(0.4)) == pytest.approx(moment(0.4), rel=1e-12)
    assert float(found.gradient + jax.grad(tail)(0.4)) == pytest.approx(derivative, rel=1e-10)


def test_the_limit_of_the_hierarchical_bound():
    """The guide's density is the sum over its auxiliary choice."""
    summed = ppl.marginal(guide, "z", method=ppl.methods.exact())
    exact = ppl.exact_gradient(elbo(two_points, summed))(0.6, {"x": 1})
    assert abs(exact.value + 1.2312668) < 6e-8
    assert abs(exact.gradient - 0.5198168) < 6e-8


@pytest.mark.parametrize(("particles", "value"), [(1, -3.1287480), (2, -2.6486707), (3, -2.4477131)])
def test_a_filter_without_resampling(particles, value):
    """Particles that are never resampled are those of the importance-weighted bound."""
    rows = jnp.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])

    @ppl.gen
    def prior(b, observed):
        def one(z, _):
            z = ppl.categorical(probs=rows[z], grad=ppl.reinforce()) @ "z"
            return z, None

        lax.scan(one, 2, None, length=3)

    exact = ppl.exact_gradient(iwelbo(hmm, prior, particles))(0.9, {"y": YS})
    assert abs(exact.value - value) < 6e-8


# --- The table -----------------------------------------------------------------------------------------------------


def listed():
    """Return the rows of the table: numbers as printed, file and name of the test."""
    lines = (ROOT / "tests/reference/numbers.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [(row[2].split(), *row[3].split("::")) for row in rows if row[0].isdigit()]


def is_printed(number: str, constants: list[float]) -> bool:
    """Tell whether a number stands in a file, to the digits that are printed."""
    digits = len(number.partition(".")[2])
    return any(math.isclose(abs(one), float(number), rel_tol=0, abs_tol=0.51 * 10.0**-digits) for one in constants)


@pytest.mark.parametrize("row", listed(), ids=lambda row: row[2] + (":" + row[0][0] if row[0] else ""))
def test_the_table_of_numbers(row):
    numbers, file, name = row
    tree = ast.parse((ROOT / file).read_text())
    tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    constants = [float(one) for one in literals if isinstance(one, int | float)]
    assert name in tests
    assert [number for number in numbers if not is_printed(number, constants)] == []


def test_a_number_that_is_nowhere_would_be_found():
    assert not is_printed("1.2345678", [1.2345679, 1.234])
    assert is_printed("1.2345678", [-1.23456781])
