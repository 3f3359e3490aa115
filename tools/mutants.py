"""Mutation test of the statistical core: does the battery notice when the code is changed?

Run `python tools/mutants.py --seed 0 --count 80`: mutants are sampled from all small changes that `tools/mutation.py`
knows, each is applied to a copy of the tree, and the battery (`BATTERY`) runs until its first failure.
A mutant that changes nothing but speed, or nothing at all, is listed in `tests/mutants_equivalent.json` with the
reason. The exit status is 0 if every mutant is killed or so listed, and none that is listed is killed.
"""

import argparse
import collections
import dataclasses
import glob
import hashlib
import heapq
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import pytest
from mutation import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
BATTERY = ["tests/test_battery.py", "tests/test_battery_corners.py", "tests/test_packing.py"]
OWN = {
    "estimators/strategies/": "tests/strategies",
    "ppl/strategies/": "tests/strategies",
    "ppl/passes/relaxing.py": "tests/strategies",
    "ppl/transforms/direct.py": "tests/strategies",
    "ppl/passes/shared_parts.py": "tests/test_shared_parts.py",
    "ppl/passes/sums.py": "tests/test_shared_parts.py",
    "ppl/analysis/demand.py": "tests/test_demand.py",
    "ppl/transforms/classes.py": "tests/test_demand.py",
    "ppl/shared_operands.py": "tests/test_demand.py",
}
"""Tests of their own, by where a mutant is: they are run besides the battery."""
OPTIONS = ["-o", "addopts=--import-mode=importlib", "-x", "-q", "--tb=line", "-rfE", "-m", "not slow"]
OPTIONS += ["-p", "no:cacheprovider", "-p", "no:xdist"]
LIBRARIES = "jax jax.numpy jax.extend numpyro.distributions scipy.stats equinox hypothesis optax beartype".split()
EQUIVALENT = ROOT / "tests" / "mutants_equivalent.json"
CORE = """
    ppl/analysis/positions.py ppl/analysis/rules.py ppl/analysis/dependence.py ppl/analysis/terms.py
    ppl/analysis/plan.py ppl/analysis/chains.py ppl/transforms/evaluate.py ppl/transforms/evaluate_scan.py
    ppl/transforms/axes.py ppl/transforms/elimination.py ppl/transforms/direct.py ppl/transforms/tails.py
    ppl/transforms/noise.py ppl/transforms/expect.py ppl/transforms/grad.py ppl/transforms/seed.py
    ppl/transforms/run.py ppl/transforms/update.py ppl/transforms/guards.py ppl/primitives.py ppl/batching.py
    ppl/family.py ppl/draws.py ppl/passes/*.py ppl/strategies/*.py estimators/strategies/**/*.py
    ppl/analysis/demand.py ppl/transforms/classes.py ppl/shared_operands.py
""".split()

# Tests that are run first for a mutant of these files: they are its likeliest killers.
LIKELY = {
    "ppl/analysis/demand.py": ["branches_are_summed", "classes"],
    "ppl/transforms/classes.py": ["branches_are_summed", "classes"],
    "ppl/shared_operands.py": ["shared"],
    "ppl/analysis/rules.py": ["depend_on_the_lanes"],
    "ppl/analysis/positions.py": ["depend_on_the_lanes"],
    "ppl/analysis/": ["charged", "hidden", "each", "columns"],
    "ppl/passes/": ["as_it_is_written", "beside_a_checkpoint", "leaves_a_loop", "large_loops", "deterministic_loops"],
    "ppl/batching.py": ["axes_come", "factors", "densities"],
    "ppl/transforms/direct.py": ["corners", "baselines", "direct"],
    "ppl/transforms/tails.py": ["corners", "vectors", "fresh_noise", "direct"],
    "ppl/transforms/evaluate": ["corners", "arguments"],
    "ppl/transforms/run.py": ["by_hand[", "densities", "moves", "axes_come"],
    "ppl/transforms/update.py": ["moves", "new_indices"],
    "ppl/transforms/": ["refus", "arguments"],
    "ppl/strategies/": ["refus", "baselines"],
    "ppl/family.py": ["support", "densities"],
    "ppl/draws.py": ["change_no_number", "axes_come"],
    "estimators/": ["baselines", "common_cost", "sampled", "direct"],
}


@dataclasses.dataclass
class Verdict:
    """What became of a mutant: "killed", "timeout" (killed by the time limit), "survived" or "equivalent"."""

    verdict: str
    seconds: float
    by: str = ""


def all_mutants() -> list[Mutant]:
    """List the mutants of the statistical core."""
    files = sorted({file for pattern in CORE for file in glob.glob(pattern, root_dir=ROOT, recursive=True)})
    return [mutant for file in files for mutant in mutants_of(file, (ROOT / file).read_bytes())]


def sample(seed: int, count: int) -> list[Mutant]:
    """Sample mutants, all of them equally likely.

    Each has a lot of its own, drawn from its name: where the code has not changed, the sample has not either.
    """
    named = collections.Counter()
    lots = []
    for mutant in all_mutants():
        named[mutant.name] += 1
        lot = hashlib.sha256(f"{seed} {named[mutant.name]} {mutant.name}".encode()).digest()
        lots.append((lot, mutant))
    return [mutant for _, mutant in heapq.nsmallest(count, lots)]


class Pulse:
    """A plugin of pytest that touches a file whenever a test has ended, and runs likely killers first."""

    def __init__(self, file: Path, mutated: str):
        self.file = file
        self.first = next((words for start, words in LIKELY.items() if mutated.startswith(start)), [])

    def pytest_collection_modifyitems(self, items: list) -> None:
        """Put the likeliest killers first."""
        items.sort(key=lambda item: not any(word in item.name for word in self.first))

    def pytest_runtest_logreport(self, report) -> None:
        """Show that there is life."""
        self.file.touch()


class Copy:
    """A copy of the tree in which mutants live."""

    def __init__(self, folder: Path, limit: float):
        self.folder, self.limit = folder, limit
        for part in ("ppl", "estimators", "tests", "bench"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".jax_cache"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def judge(self, mutant: Mutant) -> Verdict:
        """Run the battery on a mutant."""
        file = self.folder / mutant.file
        source = file.read_bytes()
        self._write(file, mutant.apply(source))
        try:
            return self.run(mutant.file)
        finally:
            self._write(file, source)

    def run(self, mutated: str = "") -> Verdict:
        """Run the battery until its first failure, in a process of its own."""
        start = time.monotonic()
        log = self.folder / "log.txt"
        child = os.fork()  # JAX and the other libraries are loaded already, but have started no threads.
        if not child:
            self._in_child(log, mutated)
        status = self._wait(child, log)
        seconds = time.monotonic() - start
        if status is None:
            return Verdict("timeout", seconds, f"no test ended for {self.limit:.0f} s")
        if status == 0:
            return Verdict("survived", seconds)
        output = log.read_text(errors="replace")
        failed = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", output, re.MULTILINE)
        return Verdict("killed", seconds, failed[1] if failed else " ".join(output[-300:].split()))

    def _in_child(self, log: Path, mutated: str) -> NoReturn:
        """Run pytest on the copy, and end this process."""
        code = 70  # Of a process that could not even start pytest.
        try:
            os.setsid()
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.chdir(self.folder)
            sys.path[0] = str(self.folder)
            own = [tests for start, tests in OWN.items() if mutated.startswith(start)]
            code = int(pytest.main([*own, *BATTERY, *OPTIONS], plugins=[Pulse(log, mutated)]))
        finally:
            os._exit(code)

    def _wait(self, child: int, log: Path) -> int | None:
        """Wait for a process; stop it, and all that it has started, if no test ends for a long time."""
        log.touch()
        while time.time() - log.stat().st_mtime < self.limit:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None

    @staticmethod
    def _write(file: Path, source: bytes) -> None:
        """Write a source file, and remove what was compiled from the other version of it."""
        file.write_bytes(source)
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
            compiled.unlink()


def describe(number: int, mutant: Mutant) -> str:
    """Say what a mutant changes, on one line."""
    squeeze = lambda text: " ".join(text.split())[:60]
    change = f"{squeeze(mutant.before)!r} -> {squeeze(mutant.after)!r}"
    return f"{number:3d} {mutant.file}:{mutant.line} [{mutant.operator}] {change}"


def main() -> int:
    """Sample mutants, judge them one at a time, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutants to judge")
    parser.add_argument("--list", action="store_true", help="show the mutants, judge none")
    parser.add_argument("--limit", type=float, default=40.0, help="seconds without an end of a test: a mutant hangs")
    parser.add_argument("--json", type=Path, default=ROOT / "runs" / "mutants.json", help="where to write the table")
    options = parser.parse_args()
    mutants = dict(enumerate(sample(options.seed, options.count)))
    if options.only:
        mutants = {number: mutants[number] for number in options.only}
    if options.list:
        print("\n".join(f"{describe(number, mutant)}\n      {mutant.text}" for number, mutant in mutants.items()))
        return 0
    return judge_all(mutants, options)


def judge_all(mutants: dict[int, Mutant], options) -> int:
    """Judge mutants one at a time, print a row for each, and write the table."""
    equivalent = json.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
    for library in LIBRARIES:
        importlib.import_module(library)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder), options.limit)
        plain = copy.run()
        print(f"the battery without a mutant: {plain.verdict}, {plain.seconds:.0f} s {plain.by}", flush=True)
        if plain.verdict != "survived":
            return 1
        for number, mutant in mutants.items():
            verdict = copy.judge(mutant)
            reason = equivalent.get(mutant.name, "")
            if verdict.verdict == "survived" and reason:
                verdict = Verdict("equivalent", verdict.seconds, reason)
            wrong = " (listed as equivalent)" if verdict.verdict in ("killed", "timeout") and reason else ""
            print(f"{describe(number, mutant)}\n      {_row(verdict)}{wrong}", flush=True)
            rows.append({"number": number, "name": mutant.name, "line": mutant.line, **dataclasses.asdict(verdict)})
            rows[-1]["wrongly_listed"] = bool(wrong)
            _write(options, plain, rows)
    counts = {kind: sum(row["verdict"] == kind for row in rows) for kind in ("killed", "timeout", "equivalent")}
    left = [row["number"] for row in rows if row["verdict"] == "survived" or row["wrongly_listed"]]
    slowest = max((row["seconds"] for row in rows), default=0.0)
    print(f"{len(rows)} mutants: {counts}, survived {len(left)} {left}; slowest {slowest:.0f} s")
    return 1 if left else 0


def _row(verdict: Verdict) -> str:
    words = {"killed": "killed by", "timeout": "killed by the time limit:", "survived": "SURVIVED"}
    return f"{words.get(verdict.verdict, 'equivalent:')} {verdict.by} ({verdict.seconds:.0f} s)"


def _write(options, plain: Verdict, rows: list) -> None:
    options.json.parent.mkdir(parents=True, exist_ok=True)
    table = {"seed": options.seed, "count": options.count, "battery": BATTERY, "seconds": plain.seconds, "rows": rows}
    options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
