"""Nobody but `ppl.training` writes a training loop."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ppl", "estimators", "models", "bench", "notebooks", "tools", "tests")
# The auto-encoder written by hand, loop and all, that the program is compared with; and the loops that `maximize` and
# `ascend` are compared with.
BY_HAND = {"models/vae/floor.py", "tests/test_training.py", "tests/training/test_ascent.py"}
MODE_SEARCH = "ppl/guides/laplace.py"  # Newton's method and L-BFGS on one fixed function: no noise, no data, no steps.


def loops(tree: ast.AST) -> list[int]:
    """Return the lines that apply the updates of an optimizer."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            owner, _, method = name.rpartition(".")
            updates = method == "update" and any(word in owner.lower() for word in ("optim", "optax", "adam", "sgd"))
            found += [node.lineno] if updates or name.endswith("apply_updates") else []
    return found


def offenders(package: str) -> dict[str, list[int]]:
    """Return the lines of all modules of a package."""
    paths = [str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")]
    found = {path: loops(ast.parse((ROOT / path).read_text())) for path in paths}
    return {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize("package", [package for package in PACKAGES if (ROOT / package).exists()])
def test_nobody_else_writes_a_training_loop(package):
    found = {path for path in offenders(package) if not path.startswith("ppl/training/")}
    assert found <= {*BY_HAND, MODE_SEARCH}


def test_the_loop_of_the_library_is_found():
    assert set(offenders("ppl")) == {
        "ppl/training/step.py",
        "ppl/training/ascent.py",
        "ppl/training/inner.py",
        MODE_SEARCH,
    }
    assert {path for package in ("models", "tests") for path in offenders(package)} == BY_HAND


@pytest.mark.parametrize("line", ["optimizer.update(g, s)", "self._optim.update(g)", "optax.apply_updates(p, u)"])
def test_the_search_sees_what_it_looks_for(line):
    assert loops(ast.parse(line))
    assert not loops(ast.parse("found.update({1: 2})"))
