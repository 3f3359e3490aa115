"""The work of tracing grows linearly with the number of choices: counted in Python calls, alike on a busy machine."""

import importlib.util
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[1] / "bench" / "trace_time.py"


def test_tracing_calls_grow_linearly_from_50_to_400_choices():
    spec = importlib.util.spec_from_file_location("trace_time", SCRIPT)
    trace_time = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trace_time)
    trace_time.trace(5)
    calls = [trace_time.calls(n) for n in trace_time.SIZES]
    print(dict(zip(trace_time.SIZES, calls, strict=True)))
    assert trace_time.exponent(calls) <= 1.15
    assert np.all(np.diff(calls) > 0)
