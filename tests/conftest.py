"""How the tests run: in float64, with fixed keys, a persistent compilation cache and no windows."""

import gc
import itertools
import os
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))

# Before JAX starts; processes that tests start inherit all of this, but not float64.
os.environ["MPLBACKEND"] = "Agg"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # nearly all programs of the tests are small
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # workers share one accelerator
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: on one thread XLA compiles with a quarter less work
    for threads in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

import hypothesis
import jax
import pytest

X64 = os.environ.get("PPL_TEST_X64", "1") != "0"

# Once more by hand, for the case that a plugin has imported JAX already.
jax.config.update("jax_enable_x64", X64)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Fixed examples, and no time limit for each: the first one compiles.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fixed")


def pytest_report_header() -> str:
    """Say what a log must say for a failure to be repeated."""
    return f"jax {jax.__version__}, {'float64' if X64 else 'float32'}, compilation cache in {os.path.relpath(CACHE)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine or this precision cannot run."""
    gpu = pytest.mark.skip(reason="JAX finds no accelerator")
    x64 = pytest.mark.skip(reason="needs float64, and PPL_TEST_X64 is 0")
    for item in items:
        if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
            item.add_marker(gpu)
        if item.get_closest_marker("x64") and not X64:
            item.add_marker(x64)


_MAPS = Path("/proc/self/maps")
_TESTS = itertools.count(1)
MOST_MAPS = 30_000
"""Memory maps of a process from which on compiled programs are dropped: Linux allows 65,530, and each takes a few."""


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Between two tests, drop compiled programs where the next ones might find no memory map any more."""
    if nextitem is not None and next(_TESTS) % 10 == 0 and _MAPS.exists():  # counting maps takes milliseconds
        with _MAPS.open("rb") as maps:
            many = sum(1 for _ in maps) > MOST_MAPS
        if many:
            jax.clear_caches()
            gc.collect()


@pytest.fixture
def getkey(request: pytest.FixtureRequest) -> Callable[[], jax.Array]:
    """Return a function that gives a new typed key at each call, and the same ones each time this test runs."""
    state = jax.random.key(zlib.crc32(request.node.name.encode()))

    def getkey() -> jax.Array:
        nonlocal state
        state, key = jax.random.split(state)
        return key

    return getkey


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Return a function that runs a script in a new interpreter, with its own devices, and returns its output."""

    def run(code: str, devices: int = 1, **environment: str) -> str:
        variables = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **environment}
        if devices > 1:  # on one thread the devices would wait for each other for ever
            variables.pop("NPROC", None)
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
