"""Training: what it computes, that it never depends on chunks or interruptions, and that bad input is refused."""

import os
import signal
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import ppl
from ppl import normal
from ppl.training import Result, maximize, minimize
from ppl.training.checkpoint import CURRENT, PREVIOUS, Checkpoints

KEY = jr.key(0)
DATA = {"x": jnp.linspace(-1.0, 1.0, 11), "y": jnp.linspace(-1.0, 1.0, 11) ** 2}
OPTIMIZER = optax.adam(0.1)


def params():
    return {"slope": jnp.zeros(3), "offset": jnp.array(1.0), "link": jnp.tanh, "powers": np.arange(3)}


def objective(params, batch):
    """Fit a noisy polynomial; the noise is a random choice."""
    noise = normal(jnp.zeros_like(batch["x"]), 0.1).sample()
    fitted = jnp.power(batch["x"][:, None], params["powers"]) @ params["slope"] + params["offset"]
    return -jnp.mean((params["link"](fitted) + noise - batch["y"]) ** 2)


def with_state(params, state, batch):
    """Also keep a moving average, a typed key and a low-precision leaf."""
    value = objective(params, batch)
    state = {"mean": 0.9 * state["mean"] + 0.1 * value, "key": jr.split(state["key"])[0], "half": state["half"] + 1}
    return value, state


def state():
    return {"mean": 0.0, "key": jr.key(9), "half": jnp.zeros(2, jnp.bfloat16)}


def run(steps=20, **options) -> Result:
    options = {"batch_size": 3, "key": KEY, "state": state(), "chunk": 4, "callback": None} | options
    return maximize(with_state, params(), DATA, OPTIMIZER, steps=steps, **options)


@pytest.fixture(scope="module")
def uninterrupted():
    return run()


def bits(tree):
    """Return the bytes of all arrays."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]
    raw = [jr.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in leaves]
    return [(np.asarray(leaf).dtype, np.shape(leaf), np.asarray(leaf).tobytes()) for leaf in raw]


def assert_same(a: Result, b: Result):
    for name in ("params", "state", "opt_state", "history"):
        assert bits(getattr(a, name)) == bits(getattr(b, name)), name
    assert (a.steps, a.skipped) == (b.steps, b.skipped)


def stop_after(steps_done, error=KeyboardInterrupt):
    def callback(step, params, history):
        if step >= steps_done:
            raise error

    return callback


# --- What it computes --------------------------------------------------------------------------------------------


def test_it_finds_a_known_optimum():
    def loss(p):
        return (normal(p["loc"], jnp.exp(p["log_scale"])).sample() - 3.0) ** 2

    init = {"loc": jnp.array(0.0), "log_scale": jnp.array(0.0)}
    fit = minimize(loss, init, None, optax.adam(0.03), steps=500, key=KEY)
    assert abs(fit.params["loc"] - 3.0) < 0.1
    assert fit.params["log_scale"] < -1.5
    assert fit.history["value"].shape == fit.history["grad_norm"].shape == (500,)
    assert fit.history["value"][-50:].mean() < 0.1 < 1.0 < fit.history["value"][0]  # of the loss, not of its negative
    assert fit.steps == 500
    assert fit.seconds > 0


def test_it_is_a_loop_of_optax_steps():
    fit = maximize(objective, params(), DATA, OPTIMIZER, steps=5, key=KEY)
    trained, fixed = eqx.partition(params(), eqx.is_inexact_array)
    opt_state = OPTIMIZER.init(trained)
    for step in range(5):
        gradient = ppl.value_and_grad(lambda p: objective(eqx.combine(p, fixed), DATA))
        value, grads = gradient(jr.fold_in(KEY, step), trained)
        np.testing.assert_allclose(fit.history["value"][step], value, rtol=1e-5)
        np.testing.assert_allclose(fit.history["grad_norm"][step], optax.tree.norm(grads), rtol=1e-5)
        updates, opt_state = OPTIMIZER.update(jax.tree.map(jnp.negative, grads), opt_state, trained)
        trained = optax.apply_updates(trained, updates)
    for name in ("slope", "offset"):
        np.testing.assert_allclose(fit.params[name], trained[name], rtol=1e-4)


def test_minimize_is_maximize_of_the_negative():
    def negative(params, batch):
        return -objective(params, batch)

    up = maximize(objective, params(), DATA, OPTIMIZER, steps=6, key=KEY)
    down = minimize(negative, params(), DATA, OPTIMIZER, steps=6, key=KEY)
    np.testing.assert_allclose(up.params["slope"], down.params["slope"], rtol=1e-4)
    np.testing.assert_allclose(up.history["value"], -down.history["value"], rtol=1e-5)


def test_complex_parameters_climb():
    fit = maximize(lambda z: -(jnp.abs(z - (1 + 2j)) ** 2), jnp.array(0j), None, optax.sgd(0.1), steps=60, key=KEY)
    np.testing.assert_allclose(fit.params, 1 + 2j, rtol=1e-4)


def test_an_equinox_module_is_a_pytree_like_any_other():
    net = eqx.nn.MLP(1, 1, 4, 1, key=jr.key(1))
    fit = maximize(
        lambda net, batch: -jnp.mean((jax.vmap(net)(batch["x"][:, None])[:, 0] - batch["y"]) ** 2),
        net, DATA, OPTIMIZER, steps=200, key=KEY, batch_size=5,
    )  # fmt: skip
    assert isinstance(fit.params, eqx.nn.MLP)
    assert fit.params.activation is net.activation
    assert fit.history["value"][-20:].mean() > -0.02
    net(jnp.zeros(1))  # the arrays that were given are still there


def test_the_optimizer_is_told_the_value():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=2))
    fit = minimize(lambda p: jnp.abs(p) + 1.0, jnp.array(0.03), None, optimizer, steps=20, key=KEY)
    assert optax.tree_utils.tree_get(fit.opt_state, "scale") < 1.0


# --- Batches, state, trainable leaves ----------------------------------------------------------------------------


def test_every_epoch_is_shuffled_without_replacement():
    def record(p, seen, batch):
        return -p * jnp.mean(batch), (seen[0] + 1, seen[1].at[seen[0]].set(batch))

    empty = (0, jnp.zeros((12, 3)))
    fit = maximize(
        record, jnp.array(1.0), jnp.arange(10.0), optax.sgd(0.0), steps=12, key=KEY, batch_size=3, state=empty, chunk=5
    )
    epochs = np.asarray(fit.state[1]).reshape(4, 9)  # three whole batches of ten examples; one is left out
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({*range(10)} - {*epochs[0]} | {*range(10)} - {*epochs[1]} | {*range(10)} - {*epochs[2]}) > 1


def test_without_batches_data_is_any_pytree_and_comes_whole():
    data = {"x": jnp.arange(3.0), "scale": jnp.array(2.0), "apply": jnp.sin, "power": 2}

    def f(p, data):
        assert data["power"] == 2
        return -jnp.sum((p - data["apply"](data["x"])) ** data["power"]) / data["scale"]

    fit = maximize(f, jnp.zeros(3), data, optax.sgd(0.5), steps=30, key=KEY)
    np.testing.assert_allclose(fit.params, np.sin(np.arange(3.0)), rtol=1e-3)


def test_state_without_data():
    def f(p, state):
        return -(p**2), {"steps": state["steps"] + 1}

    fit = maximize(f, jnp.array(1.0), None, OPTIMIZER, steps=7, key=KEY, state={"steps": 0})
    assert fit.state["steps"] == 7


@pytest.mark.parametrize(
    "trainable",
    [
        {"a": True, "b": False, "f": False},
        {"a": {"x": True, "y": True}, "b": [False, False], "f": True},
        lambda p: {"a": True, "b": False, "f": False},
    ],
    ids=["prefix", "full", "function"],
)
def test_untrained_leaves_stay_what_they_are(trainable):
    init = {"a": {"x": jnp.ones(5), "y": jnp.ones(())}, "b": [jnp.ones(7), np.ones(7)], "f": jnp.tanh}

    def f(p):
        return -jnp.sum(p["f"](p["a"]["x"]) ** 2) - p["a"]["y"] ** 2 * jnp.sum(p["b"][0] * p["b"][1])

    fit = maximize(f, init, None, OPTIMIZER, steps=3, key=KEY, trainable=trainable)
    assert all(new is old for new, old in zip(fit.params["b"], init["b"], strict=True))
    assert {leaf.shape for leaf in jax.tree.leaves(fit.opt_state)} == {(5,), ()}  # no moments for the others
    assert (fit.params["a"]["x"] != 1).all()
    assert fit.params["a"]["y"] != 1


# --- Chunks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 7}, {"chunk": None, "progress": True}], ids=str)
def test_results_do_not_depend_on_chunks_or_display(options, uninterrupted):
    assert_same(run(**options), uninterrupted)


def test_chunks_share_one_compilation():
    traces = []

    def counted(p):
        traces.append(None)
        return -(normal(p, 1.0).sample() ** 2)

    def num_traces(steps):
        traces.clear()
        maximize(counted, jnp.asarray(0.5), None, OPTIMIZER, steps=steps, key=KEY, chunk=3)
        return len(traces)

    assert num_traces(11) == num_traces(3)


def test_the_callback_sees_parameters_that_stay_valid():
    seen = []
    fit = run(10, callback=lambda step, params, history: seen.append((step, params, len(history["value"]))))
    assert [(step, length) for step, _, length in seen] == [(4, 4), (8, 8), (10, 10)]
    assert bits(seen[-1][1]) == bits(fit.params)
    assert bits(seen[0][1]) != bits(fit.params)


def test_the_bar_is_quiet_unless_wanted(capfd, uninterrupted):
    run(8)
    assert capfd.readouterr() == ("", "")
    run(8, progress=True)
    shown = capfd.readouterr().err
    assert "8/8" in shown
    assert "value=-" in shown
    assert "±" in shown


def test_strict_modes_of_jax():
    def f(p, batch):
        return -jnp.mean((p - batch) ** 2)

    with jax.debug_key_reuse(True), jax.numpy_rank_promotion("raise"), jax.checking_leaks():
        minimize(
            lambda p, batch: -f(p[0], batch), jnp.zeros(1), jnp.ones(4), optax.sgd(0.1), steps=3, key=KEY, batch_size=2
        )


# --- Steps that are not finite -----------------------------------------------------------------------------------


def test_steps_that_are_not_finite_are_skipped_and_counted():
    data = jnp.array([1.0, 1.0, jnp.nan, 1.0])
    fit = maximize(
        lambda p, batch: -jnp.sum((p - batch) ** 2), jnp.array(0.0), data, OPTIMIZER, steps=40, key=KEY, batch_size=1
    )
    assert fit.skipped == 10 == np.isnan(fit.history["value"]).sum()
    assert optax.tree_utils.tree_get(fit.opt_state, "count") == 30
    assert abs(fit.params - 1.0) < 0.3


def test_a_run_that_is_stuck_names_step_and_leaf(tmp_path):
    def f(p, batch):
        root = jnp.sqrt(jnp.maximum(p["b"] - batch[0], 0.0))  # infinite slope where it is zero
        return p["a"] + root

    def train(data, steps, **options):
        maximize(f, {"a": jnp.array(1.0), "b": jnp.array(0.0)}, data, optax.sgd(0.0), steps=steps, key=KEY, **options)

    with pytest.raises(ppl.PPLError, match=r"20 steps in a row, from step 0 on[^$]*step 19 .*params\['b'\]"):
        train(jnp.zeros(1), 40, chunk=7)
    with pytest.raises(ppl.PPLError, match="3 steps in a row"):  # nothing but such steps, in a short run
        train(jnp.zeros(1), 3)
    train(jnp.array([0.0, -1.0]), 40, batch_size=1)


# --- Interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps_done", [4, 12])
def test_resume_after_an_exception(tmp_path, uninterrupted, steps_done):
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path, callback=stop_after(steps_done))
    assert_same(run(checkpoint=tmp_path, resume=True, chunk=5), uninterrupted)


def test_resume_can_extend_a_finished_run(tmp_path, uninterrupted):
    half = run(10, checkpoint=tmp_path, resume=True)  # nothing there yet: starts at the beginning
    assert_same(run(10, checkpoint=tmp_path, resume=True), half)
    assert_same(run(20, checkpoint=tmp_path, resume=True), uninterrupted)
    with pytest.raises(ppl.PPLError, match="further"):
        run(10, checkpoint=tmp_path, resume=True)


def test_a_fresh_run_replaces_what_is_there(tmp_path, uninterrupted):
    run(checkpoint=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path, callback=stop_after(4))
    assert [path.name for path in tmp_path.iterdir()] == [CURRENT]
    assert_same(run(checkpoint=tmp_path, resume=True), uninterrupted)


def test_sigterm_ends_the_run_after_a_save(tmp_path, uninterrupted):
    received = []
    handler = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        with pytest.raises(SystemExit) as ended:
            run(checkpoint=tmp_path, callback=lambda step, *_: step == 8 and os.kill(os.getpid(), signal.SIGTERM))
        assert ended.value.code == 143
        assert not received
        os.kill(os.getpid(), signal.SIGTERM)  # the old handler is back
        assert received
    finally:
        signal.signal(signal.SIGTERM, handler)
    steps = []
    resumed = run(checkpoint=tmp_path, resume=True, callback=lambda step, *_: steps.append(step))
    assert steps == [12, 16, 20]
    assert_same(resumed, uninterrupted)


KILLED = """
    # Train in forked children, kill each at a random moment after its first save, and let the last one finish.
    import hashlib, os, random, signal, time
    from pathlib import Path
    import jax, jax.numpy as jnp, optax
    from ppl import normal
    from ppl.training import maximize

    folder = Path(os.environ["FOLDER"])
    current = folder / "run" / "current.ckpt"

    def train(name):
        def f(p, batch):
            return -jnp.mean((p[:5] + normal(0.0, 1.0).sample() - batch) ** 2) - jnp.mean(p**2)
        fit = maximize(f, jnp.ones(100_000), jnp.ones((7, 5)), optax.adam(0.1), steps=120, batch_size=2, chunk=1,
                       key=jax.random.key(3), checkpoint=folder / name, resume=True)
        print(hashlib.sha256(fit.params.tobytes() + fit.history["value"].tobytes()).hexdigest(), flush=True)

    def fork(name):
        pid = os.fork()
        if not pid:
            try:
                train(name)
                os._exit(0)
            finally:
                os._exit(1)
        return pid

    def newest():
        return current.stat().st_mtime_ns if current.exists() else None

    assert os.waitpid(fork("reference"), 0)[1] == 0
    moments, writing = random.Random(1), 0
    for attempt in range(3):
        before, pid = newest(), fork("run")
        while newest() == before and not os.waitpid(pid, os.WNOHANG)[0]:
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.1))
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        writing += (folder / "run" / "unfinished.tmp").exists()
    assert os.waitpid(fork("run"), 0)[1] == 0
    print(writing)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
def test_resume_after_sigkill(tmp_path, run_python):
    reference, resumed, writing = run_python(KILLED, FOLDER=str(tmp_path), PYTHONWARNINGS="ignore").split()
    assert resumed == reference
    print(f"{writing} of 3 kills hit a save")


class Crash(BaseException):
    """Stands for the end of the process."""


def test_a_crash_at_any_step_of_a_save_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    def save(folder, step):
        Checkpoints(folder, {}, resume=True).save(step, {"w": jnp.full(3, step)}, {"value": np.arange(step)})

    calls, limit = 0, 10**9

    def crashing(name, original):
        def call(*args):
            nonlocal calls
            calls += 1
            if calls > limit:
                raise Crash(name)
            return original(*args)

        return call

    for name in ("fsync", "replace", "open", "close"):
        monkeypatch.setattr(os, name, crashing(name, getattr(os, name)))
    save(tmp_path / "count", 1)
    save(tmp_path / "count", 2)
    calls, outcomes = 0, []
    save(tmp_path / "count", 3)
    for survived in range(calls):
        folder, limit = tmp_path / str(survived), 10**9
        save(folder, 1)
        save(folder, 2)
        calls, limit = 0, survived
        with pytest.raises(Crash):
            save(folder, 3)
        limit = 10**9
        step, carry, history = Checkpoints(folder, {}, resume=True).load({"w": jnp.zeros(3, int)})
        assert (carry["w"] == step).all()
        assert len(history["value"]) == step
        outcomes.append(step)
        save(folder, 4)
        assert Checkpoints(folder, {}, resume=True).load({"w": jnp.zeros(3, int)})[0] == 4
    assert outcomes == sorted(outcomes)
    assert {*outcomes} == {2, 3}


# --- Damaged and foreign checkpoints -----------------------------------------------------------------------------


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "truncated": lambda content: content[:-100],
    "half": lambda content: content[: len(content) // 2],
    "flipped bit": flip,
    "flipped step": lambda content: content.replace(b'"step": 1', b'"step": 2', 1),
    "empty": lambda content: b"",
    "foreign": lambda content: b"PK\x03\x04 something else",
}


@pytest.fixture(scope="module")
def two_generations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=folder, callback=stop_after(12))
    return {name: (folder / name).read_bytes() for name in (CURRENT, PREVIOUS)}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_refused(tmp_path, two_generations, damage):
    carry = {"w": jnp.arange(3.0)}
    saves = Checkpoints(tmp_path, {}, resume=True)
    for step in (10, 11):
        saves.save(step, carry, {"value": np.zeros(step)})
    (tmp_path / CURRENT).write_bytes(damage((tmp_path / CURRENT).read_bytes()))
    with pytest.warns(UserWarning, match=f"{CURRENT} cannot be used.*Resuming from .*{PREVIOUS}, step 10"):
        assert saves.load(carry)[0] == 10
    (tmp_path / PREVIOUS).write_bytes(damage((tmp_path / PREVIOUS).read_bytes()))
    with pytest.raises(ppl.PPLError, match=f"{CURRENT} cannot be used.*{PREVIOUS} cannot be used"):
        saves.load(carry)


def test_the_older_generation_leads_to_the_same_result(tmp_path, two_generations, uninterrupted):
    (tmp_path / CURRENT).write_bytes(flip(two_generations[CURRENT]))
    (tmp_path / PREVIOUS).write_bytes(two_generations[PREVIOUS])
    with pytest.warns(UserWarning, match=CURRENT):
        assert_same(run(checkpoint=tmp_path, resume=True), uninterrupted)


def test_a_crash_between_two_renames_is_no_damage(tmp_path, two_generations):
    (tmp_path / PREVIOUS).write_bytes(two_generations[PREVIOUS])
    steps = []
    run(12, checkpoint=tmp_path, resume=True, callback=lambda step, *_: steps.append(step))
    assert steps == [12]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"key": jr.key(1)}, "key is"),
        ({"batch_size": 4}, "batch_size is 3 there and 4 here"),
        ({"trainable": {"slope": True, "offset": False, "link": False, "powers": False}}, "fixed leaves"),
        (
            {"state": state() | {"mean": jnp.zeros(2)}},
            r"\.state\[.mean.\] is float\d\d\[\] there and float\d\d\[2\] here",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, two_generations, options, word):
    for name, content in two_generations.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ppl.PPLError, match=word):
        run(checkpoint=tmp_path, resume=True, **options)
    assert (tmp_path / CURRENT).read_bytes() == two_generations[CURRENT]


def test_the_header_can_be_read_by_eye(two_generations):
    header = two_generations[CURRENT].split(b"\n", 1)[0].decode()
    assert header.startswith('{"format": "ppl checkpoint 1", "versions": {"jax": "')
    assert '"step": 12' in header


# --- Refusals before anything is compiled ------------------------------------------------------------------------


def never_called(*args):
    raise AssertionError("f was traced")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"steps": 0}, "`steps` must be a positive int"),
        ({"steps": 2.0}, "`steps` must be a positive int"),
        ({"steps": True}, "`steps` must be a positive int"),
        ({"chunk": -1}, "`chunk` must be a positive int"),
        ({"batch_size": 0}, "`batch_size` must be a positive int"),
        ({"batch_size": 12}, "`batch_size` is larger than `data`"),
        (
            {"batch_size": 2, "data": {"x": jnp.ones(4), "y": jnp.ones(5)}},
            r"unequal leading axes(.|\n)*data\['y'\] has 5",
        ),
        ({"batch_size": 2, "data": {"x": jnp.ones(4), "n": jnp.array(1.0)}}, r"data\['n'\] has no leading axis"),
        ({"batch_size": 2, "data": 3.0}, "data has no leading axis"),
        ({"batch_size": 2, "data": None}, "needs `data`"),
        ({"key": jr.PRNGKey(0)}, "only jax.random.key keys"),
        ({"key": jr.split(KEY)}, "one typed key"),
        ({"key": 0}, "only jax.random.key keys"),
        ({"optimizer": 0.1}, "optax"),
        ({"params": {"a": 1.0}}, "nothing to train"),
        ({"trainable": False}, "nothing to train"),
        ({"trainable": {"slope": True}}, "structure of `params`"),
        ({"trainable": {"slope": 1.0, "offset": True, "link": True, "powers": True}}, r"trainable\['slope'\] must be"),
        ({"trainable": lambda p: "all"}, "must be True or False"),
        ({"resume": True}, "needs a folder"),
        ({"checkpoint": Path(__file__)}, "must be a folder"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_bad_arguments_are_refused_at_once(options, word):
    options = {"params": params(), "data": DATA, "optimizer": OPTIMIZER, "steps": 3, "key": KEY} | options
    positional = [options.pop(name) for name in ("params", "data", "optimizer")]
    with pytest.raises(ppl.PPLError, match=word):
        maximize(never_called, *positional, **options)


@pytest.mark.parametrize(
    ("f", "word"),
    [
        (lambda p, s: p, "must return a pair"),
        (lambda p, s: (p * jnp.ones(3), s), r"must return a scalar(.|\n)*\(3,\)"),
        (lambda p, s: (p, {"n": s["n"] + 0.5}), r"state\['n'\] differs"),
        (lambda p, s: (p, {}), r"state\['n'\] differs(.|\n)*no such leaf"),
    ],
    ids=["no pair", "vector", "dtype", "leaf"],
)
def test_a_bad_result_of_f_is_refused(f, word):
    with pytest.raises(ppl.PPLError, match=word):
        maximize(f, jnp.array(1.0), None, OPTIMIZER, steps=3, key=KEY, state={"n": 0})
