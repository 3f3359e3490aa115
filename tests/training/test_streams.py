"""Data that does not fit in memory: streams, their position, and reading ahead."""

import itertools
import threading
import traceback

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import ppl
from ppl import normal
from ppl.training import maximize
from ppl.training.prefetch import prefetched

KEY = jr.key(0)


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def batch(step, size=4):
    return {"x": np.random.default_rng(step).normal(size=size)}


def from_step(step):
    return map(batch, itertools.count(step))


def objective(params, batch):
    return -jnp.mean((params - batch["x"] - normal(0.0, 0.1).sample()) ** 2)


def record(params, seen, batch):
    """Remember the first number of every batch."""
    return objective(params, batch), (seen[0] + 1, seen[1].at[seen[0]].set(batch["x"][0]))


def train(data, steps=10, f=objective, **options):
    options = {"chunk": 3, "key": KEY} | options
    return maximize(f, jnp.zeros(()), data, optax.adam(0.1), steps=steps, **options)


def seen_by(data, steps=10, **options):
    empty = (jnp.int32(0), jnp.zeros(steps))
    return np.asarray(train(data, steps, record, state=empty, **options).state[1])


def firsts(steps):
    return np.asarray([batch(step)["x"][0] for step in steps])


class Passes:
    """Seven batches that can be read again."""

    def __init__(self):
        self.read = []

    def __iter__(self):
        for step in range(7):
            self.read.append(step)
            yield batch(step)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize(
    "data", [lambda: from_step, lambda: from_step(0), lambda: lambda step: [batch(step)]], ids=["from", "once", "one"]
)
def test_each_step_sees_its_batch(data, prefetch):
    np.testing.assert_allclose(seen_by(data(), prefetch=prefetch), firsts(range(10)), rtol=1e-6)


def test_an_iterable_is_read_again():
    np.testing.assert_allclose(seen_by(Passes()), firsts([*range(7), *range(3)]), rtol=1e-6)


def test_a_stream_trains_as_the_same_array_does():
    """One batch that is all of the data, at every step."""
    whole = batch(0)
    streamed, given = train(lambda step: itertools.repeat(whole)), train(whole)
    np.testing.assert_allclose(streamed.history["value"], given.history["value"], rtol=1e-6)


def test_the_array_is_not_read_further_than_the_run_goes():
    data = Passes()
    train(data, steps=5, prefetch=2)
    assert data.read == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("make", [lambda: from_step, Passes], ids=["from", "passes"])
def test_resume_skips_exactly(make, tmp_path):
    def stop(step, *_):
        if step == 6:
            raise KeyboardInterrupt

    whole = seen_by(make())
    with pytest.raises(KeyboardInterrupt):
        seen_by(make(), checkpoint=tmp_path, callback=stop)
    assert seen_by(make(), checkpoint=tmp_path, resume=True).tobytes() == whole.tobytes()


def test_a_function_is_asked_for_the_step_that_is_due(tmp_path):
    asked = []

    def from_step_noted(step):
        asked.append(step)
        return itertools.islice(from_step(step), 4)

    train(from_step_noted, steps=6, checkpoint=tmp_path)
    train(from_step_noted, steps=12, checkpoint=tmp_path, resume=True)
    assert asked == [0, 4, 6, 10]


# --- What goes wrong ---------------------------------------------------------------------------------------------


def broken(step):
    yield from itertools.islice(from_step(step), 4)
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_exception_of_the_stream_surfaces_with_its_traceback(prefetch, tmp_path):
    with pytest.raises(RuntimeError, match="the disk is gone") as caught:
        train(broken, prefetch=prefetch, checkpoint=tmp_path)
    assert "broken" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert train(from_step, steps=3, checkpoint=tmp_path, resume=True).steps == 3  # the first chunk was saved


def uneven(step):
    return itertools.chain([batch(step)], [batch(step, size=3)])


@pytest.mark.parametrize(
    ("data", "options", "word"),
    [
        (lambda: itertools.islice(from_step(0), 4), {}, r"(?s)ended before step 4.*read once only"),
        (lambda: lambda step: iter(()), {}, "ended before step 0"),
        (lambda: uneven, {}, r"(?s)data\['x'\] of step 1 differs from that of step 0.*float64\[4\].*float64\[3\]"),
        (lambda: lambda step: iter([{"x": "text"}]), {}, "no array"),
        (lambda: lambda step: iter([{"x": KEY}]), {}, "holds a key"),
        (lambda: from_step, {"batch_size": 2}, "`data` is a stream"),
        (lambda: from_step, {"prefetch": -1}, "`prefetch` must be a positive int or 0"),
    ],
    ids=["short", "empty", "uneven", "text", "key", "batch_size", "prefetch"],
)
def test_bad_streams_are_refused(data, options, word):
    with pytest.raises(ppl.PPLError, match=word):
        train(data(), **options)


def test_the_end_of_the_run_closes_the_stream():
    closed = []

    def generator(step):
        try:
            yield from from_step(step)
        finally:
            closed.append(threading.current_thread().name)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(generator, steps=1000, callback=stop)
    assert closed == ["ppl prefetch"]


def test_it_reads_no_further_ahead_than_allowed():
    made, waiting = [], threading.Event()

    def numbers():
        for number in range(10):
            made.append(number)
            if number == 3:
                waiting.set()
            yield number

    with prefetched(numbers, 2) as items:
        assert next(items) == 0
        assert waiting.wait(10)  # one taken, two in the queue, one that waits for a place
        threading.Event().wait(0.2)
        assert made == [0, 1, 2, 3]
        assert [*items] == [*range(1, 10)]


def test_the_thread_puts_arrays_where_the_caller_would():
    with jax.enable_x64(not jax.config.jax_enable_x64), prefetched(lambda: (jnp.ones(1) for _ in range(1)), 1) as items:
        assert next(items).dtype == jnp.ones(1).dtype
