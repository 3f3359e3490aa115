"""A small part of `python -m bench.grid`, and that a bias would show in it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from bench import grid
from bench.grids import expectations, laws
from bench.grids.constructs import CONSTRUCTS
from bench.grids.laws import Law
from bench.grids.objectives import APART, EVERYWHERE, OBJECTIVES
from bench.grids.strategies import STRATEGIES, Entry

pytestmark = pytest.mark.x64

PART = [
    ("enum, coin", "scan", "iwelbo(2)"),
    ("disarm, coin", "below enum", "elbo"),
    ("disarm, coin", "vmap", "iwelbo(2)"),
    ("unordered(2), coin", "nested call", "elbo"),
    ("pathwise, normal", "cond", "iwelbo(2)"),
    ("lax, normal", "checkpoint", "elbo"),
    ("mvd, coin", "auxiliary", "iwhvi(2)"),
    ("reinforce, coin", "filter", "smc_elbo(2)"),
    ("reinforce, coin", "below enum", "wake_q(2)"),
    ("pathwise, normal", "vmap", "kernel_stein(2)"),
    ("enum, coin", "scan", "f_divergence(total_variation, 2)"),
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
    law = Law(name, kind)
    np.testing.assert_allclose(law.table(jnp.asarray([0.3, -0.2]), nodes=24).weights.sum(), 1, rtol=1e-12)
    moved = [law.table(jnp.asarray(t), nodes=24) for t in ([0.0, 0.1], [0.0, -0.3])]
    np.testing.assert_allclose(*[at.weights @ jnp.exp(at.log_w) for at in moved], rtol=2e-3)


NOT_POLYNOMIAL = [
    "iwelbo(2)",
    "cubo(2)",
    "exp_cubo(order 0.5)",
    "f_divergence(jensen_shannon, 2)",
    "wake_p(2)",
    "wake_q(2)",
    "thermodynamic(2, right)",
    "kernel_stein(2)",
    "iwhvi(2)",
    "diwhvi(2, 1)",
    "smc_elbo(2)",
]


@pytest.mark.parametrize("name", NOT_POLYNOMIAL)
def test_the_rule_for_normal_choices_is_fine_enough(name, monkeypatch):
    """With a third more nodes the exact gradient moves by less than a twentieth of what a cell could find."""
    one = OBJECTIVES[name]
    law = Law(CONSTRUCTS[one.constructs[0]][1], "normal")
    exact = lambda: np.asarray(jax.jit(jax.grad(lambda theta: one.exact(law, theta)))(jnp.asarray(grid.THETA)))
    first = exact()
    rule = laws.noise
    for module in (laws, expectations):
        monkeypatch.setattr(module, "noise", lambda kind, nodes: rule(kind, nodes * 4 // 3))
    assert np.linalg.norm(exact() - first) < grid.POWER / 20 * np.linalg.norm(first)


def test_the_cells():
    """Every strategy in every construct of two choices under the two main bounds, once under every other objective."""
    cells = list(grid.cells())
    assert set(EVERYWHERE) | set(APART) == set(CONSTRUCTS)
    assert len(set(cells)) == len(cells)
    for objective in ("elbo", "iwelbo(2)"):
        assert sum(cell[2] == objective for cell in cells) == len(STRATEGIES) * len(EVERYWHERE)
    unbiased = {name for name, entry in STRATEGIES.items() if not entry.biased}
    for name, one in OBJECTIVES.items():
        wanted = {s for s in unbiased if STRATEGIES[s].kind in one.kinds}
        assert {cell[0] for cell in cells if cell[2] == name} >= wanted
        assert {cell[1] for cell in cells if cell[2] == name} == set(one.constructs)


def test_rows_of_an_earlier_run_are_taken(tmp_path, capsys):
    words = next(iter(grid.cells(("enum, coin", "sleep_q"))))
    row = dict(zip(("strategy", "construct", "objective"), words, strict=True), biased=False, exact=True)
    row |= {"z": [0.5], "detectable": 0.01}
    (tmp_path / "rows").write_text(json.dumps(row) + "\n")
    assert grid.main([f"--resume={tmp_path / 'rows'}", *words]) == 0
    assert '"z scores": 1, "largest |z|": 0.5' in capsys.readouterr().out
