"""Runs that are killed at random moments resume bit by bit as if nothing had happened."""

import json
import os

import pytest


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_every_resume_is_bitwise_equal(kills, tmp_path, run_python):
    script = f"from pathlib import Path; from tests.training.killed import main; main(Path({str(tmp_path)!r}), {kills})"
    row = json.loads(run_python(script, PYTHONWARNINGS="ignore", JAX_PLATFORMS="cpu"))
    print(row)
    assert row["kills"] == kills
    assert row["equal"]
    assert row["steps_missing"] == 0
    # What is lost at a kill is the chunk that was being made, and the one whose save was not finished.
    assert row["most_lost_at_once"] <= row["chunk"]
    assert row["steps_read"] <= row["steps"] + kills * row["chunk"]
