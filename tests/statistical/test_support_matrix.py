"""Every cell of the support matrix is run: it is unbiased, or refuses with that very error, as SUPPORT.md says."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.support.checks import KEY, check, is_exact, run_once
from tests.support.constructs import CONSTRUCTS
from tests.support.more_ways import BIASED_WAYS, MORE_WAYS
from tests.support.table import REFUSALS, WHYS, table, why
from tests.support.ways import WAYS

pytestmark = pytest.mark.x64

ROOT = Path(__file__).resolve().parents[2]
CELLS = [(construct, way) for construct in CONSTRUCTS for way in [*WAYS, *MORE_WAYS]]
BIASED = [(construct, way) for construct in CONSTRUCTS for way in BIASED_WAYS]
QUICK = {"implicit": CONSTRUCTS[::8], "leave_one_out": CONSTRUCTS[::4]}
QUICK |= {way.name: CONSTRUCTS[number % 7 :: 21] for number, way in enumerate(MORE_WAYS)}


def _cell(construct, way):
    """Mark most cells of the strategies that draw most as slow: they take seconds each."""
    slow = not is_exact(construct, way) and construct not in QUICK.get(way.name, [construct])
    return pytest.param(construct, way, id=f"{construct}-{way}", marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(("construct", "way"), [_cell(*cell) for cell in CELLS if why(*cell) is None])
def test_a_supported_cell_is_unbiased(construct, way):
    check(construct, way)


OTHER_FORMS = [cell for cell in CELLS if why(*cell) is None and is_exact(*cell) and cell[0].derivative != "gradient"]


@pytest.mark.parametrize(("construct", "way"), OTHER_FORMS, ids=str)
def test_the_public_functions_of_exact_cells_run(construct, way):
    """The sampled cells run them anyway; `test_constructs.py` looks at the gradients of every construct key by key."""
    assert all(np.isfinite(part).all() for part in run_once(construct, way, KEY))


BIASED_CELLS = [
    pytest.param(*cell, id=f"{cell[0]}-{cell[1]}", marks=[pytest.mark.slow] * (number % 8 > 0))
    for number, cell in enumerate(cell for cell in BIASED if why(*cell) is None)
]


@pytest.mark.parametrize(("construct", "way"), BIASED_CELLS)
def test_a_biased_cell_runs(construct, way):
    assert not way.strategy.unbiased
    assert all(np.isfinite(part).all() for part in jax.tree.leaves(run_once(construct, way)))


REFUSING = [pytest.param(*cell, id=f"{cell[0]}-{cell[1]}") for cell in [*CELLS, *BIASED] if why(*cell) is not None]


@pytest.mark.parametrize(("construct", "way"), REFUSING)
def test_a_refusing_cell_raises_that_very_error(construct, way):
    error = why(construct, way).error
    with pytest.raises(error) as caught:
        run_once(construct, way)
    assert type(caught.value) is error
    assert {"where", "remedy"} <= set(caught.value.details)


@pytest.mark.parametrize("reason", [reason for reason in WHYS if reason.numbers], ids=lambda reason: reason.mark)
def test_what_is_refused_would_be_biased(reason):
    wrong, true = reason.numbers()
    assert abs(wrong - true) > 0.1 * abs(true)


def test_every_reason_is_used_and_every_refusal_is_a_cell():
    assert set(REFUSALS) <= {(str(construct), str(way)) for construct, way in [*CELLS, *BIASED]}
    assert {reason.mark for reason in REFUSALS.values()} == {reason.mark for reason in WHYS}
    assert len({str(construct) for construct in CONSTRUCTS}) == len(CONSTRUCTS)


LISTS = {"refusing_cells.txt": 14, "refusing_cells_of_more.txt": 32}  # of the main strategies, and of the others


def test_refusals_never_grow():
    """The committed lists may lose lines, never gain any."""
    allowed = {}
    for name, most in LISTS.items():
        allowed[name] = (ROOT / "tests/support" / name).read_text().splitlines()
        assert len(allowed[name]) <= most
    assert {f"{construct} | {way}" for construct, way in REFUSALS} <= set(sum(allowed.values(), []))
    main = {way.name for way in WAYS}
    assert {line.split(" | ")[1] for line in allowed["refusing_cells.txt"]} <= main
    assert {line.split(" | ")[1] for line in allowed["refusing_cells_of_more.txt"]}.isdisjoint(main)


def test_the_committed_matrix_is_up_to_date():
    assert (ROOT / "SUPPORT.md").read_text() == table(), "write it anew: python tools/support_matrix.py"
