"""The layout: imports point one way, private JAX stays in one file, all packages are shipped, importing is cheap."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["ppl", "estimators", "models", "notebooks", "bench", "tests"]  # each may import those before it, and itself
SHIPPED = ORDER[:3]


def sources(package: str) -> list[Path]:
    """Return the modules of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of everything a module imports, relative imports of its own package left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_arrows(package: str, tree: ast.AST) -> list[str]:
    """Return the imports that a module of `package` may not make."""
    later = ORDER[ORDER.index(package) + 1 :]
    return [name for name in imports(tree) if name.split(".")[0] in later]


def private_jax(tree: ast.AST) -> list[str]:
    """Return the uses of `jax._src`: imports, attributes, and names handed to importlib."""
    imported = [name for name in imports(tree) if f"{name}.".startswith("jax._src.")]
    reached = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "_src"]
    strings = [str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return imported + reached + [name for name in strings if f"{name}.".startswith("jax._src.")]


def offences(package: str, find) -> dict[str, list[str]]:
    """Return what `find` objects to, by file."""
    found = {str(path.relative_to(ROOT)): find(ast.parse(path.read_text())) for path in sources(package)}
    return {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("package", SHIPPED)
def test_imports_point_one_way(package):
    assert sources(package)
    assert not offences(package, lambda tree: wrong_arrows(package, tree))


@pytest.mark.parametrize("package", SHIPPED)
def test_private_jax_is_read_in_one_file(package):
    assert set(offences(package, private_jax)) <= {"ppl/jaxprs.py"}


@pytest.mark.parametrize(
    ("find", "line"),
    [
        (lambda tree: wrong_arrows("ppl", tree), "def f():\n    from estimators.objectives import elbo"),
        (lambda tree: wrong_arrows("estimators", tree), "import models"),
        (lambda tree: wrong_arrows("models", tree), "import tests.cases as cases"),
        (private_jax, "from jax._src.core import Jaxpr"),
        (private_jax, "from jax import _src"),
        (private_jax, "import jax\njax._src.core"),
        (private_jax, "import_module('jax._src.core')"),
    ],
)
def test_the_checks_see_what_they_look_for(find, line):
    assert find(ast.parse(line))


@pytest.mark.parametrize("package", SHIPPED)
def test_every_folder_is_a_package(package):
    """A folder without `__init__.py` would work in a clone and be missing from the wheel."""
    assert not [str(path) for path in sources(package) if not (path.parent / "__init__.py").exists()]
    assert (ROOT / package / "py.typed").exists()


def test_importing_the_language_is_cheap(run_python):
    """What `import ppl` adds to `import jax`: under 1.5 s of processor time, and neither NumPyro nor matplotlib."""
    script = """
        import sys, time, jax
        start = time.process_time()
        import ppl
        print(time.process_time() - start, *{"numpyro", "matplotlib"} & set(sys.modules))
    """
    seconds, *loaded = zip(*(run_python(script).split() for _ in range(3)), strict=True)
    assert not loaded, f"importing ppl loads {loaded[0]}"
    assert min(map(float, seconds)) < 1.5
