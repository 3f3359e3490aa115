"""A small part of `python -m bench.grid`, and that a bias would show in it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from bench import grid
from bench.grids.constructs import CONSTRUCTS, law
from bench.grids.objectives import OBJECTIVES
from bench.grids.strategies import STRATEGIES, Entry

pytestmark = pytest.mark.x64

PART = [
    ("enum, coin", "scan", "iwelbo(2)"),
    ("disarm, coin", "below enum", "elbo"),
    ("disarm, coin", "vmap", "iwelbo(2)"),
    ("unordered(2), coin", "nested call", "elbo"),
    ("pathwise, normal", "cond", "iwelbo(2)"),
    ("lax, normal", "checkpoint", "elbo"),
]


@pytest.mark.parametrize("cell", PART, ids=" | ".join)
def test_a_cell(cell):
    row = grid.run_cell(*cell, draws=2**11)
    assert "refused" not in row
    assert row["exact"]
    assert all(abs(z) < grid.Z_MAX for z in row["z"])


@dataclasses.dataclass(frozen=True)
class half(ppl.Strategy):  # noqa: N801
    """A wrong strategy: half of the derivative."""

    def estimate(self, key, d, k):
        """Return half of sum_v p(v) k(v)."""
        return d.probabilities[1] * jax.lax.stop_gradient(k(1) - k(0)) / 2


def test_a_bias_is_found(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "half, coin", Entry("coin", half()))
    rows = [grid.run_cell("half, coin", "plain", "elbo", draws=2**11)]
    assert grid.summarise(rows)["largest |z|"] > grid.Z_MAX


def test_what_is_refused_and_what_is_biased_is_not_judged():
    rows = [grid.run_cell(name, "plain", "elbo", draws=64) for name in ("rebar, coin", "straight_through, coin")]
    assert "estimates by itself" in rows[0]["refused"]
    total = grid.summarise(rows)
    assert (total["judged"], total["refused"], total["biased by name"]) == (0, 1, 1)


@pytest.mark.parametrize("kind", ["coin", "normal"])
@pytest.mark.parametrize("name", ["chain", "apart", "mixed"])
def test_the_laws_are_laws(kind, name):
    """Weights add up to 1, and the evidence is the mean weight, whatever the guide: two guides agree on it."""
    weights, _ = law(name, kind, jnp.asarray([0.3, -0.2]), nodes=24)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
    moved = [law(name, kind, jnp.asarray(t), nodes=24) for t in ([0.0, 0.1], [0.0, -0.3])]
    np.testing.assert_allclose(*[w @ jnp.exp(log_w) for w, log_w in moved], rtol=2e-3)


def test_the_cells_are_all_combinations():
    assert len(list(grid.cells())) == len(STRATEGIES) * len(CONSTRUCTS) * len(OBJECTIVES)
    assert [cell[1] for cell in grid.cells(("mvd, coin | scan", "elbo"))][:1] == ["scan"]
