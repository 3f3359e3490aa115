"""Claims and reports."""

import json
import math

import numpy as np
import pytest

from models.report import Claim, Outcome, collect


def claim(measured: float, bound: float = 0.0, status: str = "asserted") -> Claim:
    return Claim("a relation", "a table", measured, bound, status)


@pytest.mark.parametrize(("measured", "holds"), [(1.0, True), (0.0, True), (-1e-9, False), (math.nan, False)])
def test_a_claim_holds_from_its_bound_on(measured, holds):
    assert claim(measured).holds == holds
    assert claim(measured).failed == (not holds)
    assert not claim(measured, status="open").failed


@pytest.mark.parametrize("errors", [3, -3])
def test_a_paired_claim_counts_errors_of_the_difference(errors):
    better, worse = np.array([1.0, 2.0, 4.0, 3.0]), np.array([0.0, 2.0, 3.0, 2.0])
    found = Claim.paired("a", "b", better, worse, errors=errors)
    assert found.measured == 2.5
    # differences 1, 0, 1, 1: variance 3/4 / 3 = 1/4, standard error 1/4
    assert found.bound == pytest.approx(1.75 + errors / 4)


def test_several_seeds_give_mean_deviation_and_the_worst_claim():
    outcomes = [Outcome({"loss": value}, [claim(value)]) for value in (1.0, -2.0, 4.0)]
    report = collect("tiny", "quick", range(3), 1.0, outcomes)
    assert report.metrics == {"loss": 1.0, "loss_sd": 3.0}
    assert report.claims == [claim(-2.0)]
    assert report.failed
    assert "1 ± 3" in report.table()


def test_one_seed_without_a_number_is_the_worst():
    outcomes = [Outcome({}, [claim(value)]) for value in (-5.0, math.nan, 1.0)]
    (worst,) = collect("tiny", "quick", range(3), 1.0, outcomes).claims
    assert math.isnan(worst.measured)


def test_the_file_has_exactly_the_promised_entries(tmp_path):
    outcome = Outcome(
        {"loss": np.float64(0.5), "lost": math.inf}, [claim(np.float64(1.0)), claim(math.nan, status="open")]
    )
    collect("tiny", "quick", [4], 1.5, [outcome]).write(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert list(content) == ["name", "preset", "seeds", "versions", "seconds", "metrics", "claims"]
    assert content["seeds"] == [4]
    assert content["metrics"] == {"loss": 0.5, "lost": None}
    assert content["versions"].keys() >= {"python", "jax", "numpyro", "equinox", "optax", "device"}
    common = {"claim": "a relation", "source": "a table", "bound": 0.0}
    assert content["claims"] == [
        common | {"measured": 1.0, "holds": True, "status": "asserted"},
        common | {"measured": None, "holds": False, "status": "open"},
    ]
