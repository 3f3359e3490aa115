"""Checkpoints: damage is found, nothing whole is lost, and a file system that refuses is an error."""

import os
import random
import resource
import tempfile
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import ppl
from ppl import normal
from ppl.training import maximize
from ppl.training.checkpoint import CURRENT, PREVIOUS, Checkpoints

KEY = jr.key(0)
CARRY = {"w": jnp.arange(300.0), "key": jr.key(1)}


def objective(params, batch):
    return -jnp.mean((params - batch + normal(0.0, 1.0).sample()) ** 2)


def train(folder, steps=12, **options):
    options = {"chunk": 3, "batch_size": 2, "key": KEY, "checkpoint": folder} | options
    return maximize(objective, jnp.zeros(500), jnp.arange(8.0)[:, None], optax.adam(0.1), steps=steps, **options)


def saves(folder) -> Checkpoints:
    return Checkpoints(folder, {"key": [1, 2]}, resume=True)


def save_two(folder):
    for step in (10, 11):
        saves(folder).save(step, CARRY, {"value": np.arange(float(step))})


# --- Damage ------------------------------------------------------------------------------------------------------


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def flip(content, chance):
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]


def blank(content, chance):
    at = chance.randrange(len(content) - 100)
    return content[:at] + bytes(100) + content[at + 100 :]  # what some file systems leave after a crash


def lengthen(content, chance):
    return content + chance.randbytes(1 + chance.randrange(50))


def swap(content, chance):
    middle = len(content) // 2
    return content[middle:] + content[:middle]


def foreign(content, chance):
    return chance.choice([b"", b"{}\n", b"PK\x03\x04", b"\x89HDF\r\n", content[:30] + b"\n" + chance.randbytes(99)])


DAMAGES = [cut, cut, cut, cut, flip, flip, flip, flip, flip, flip, blank, blank, blank, lengthen, lengthen, swap]
DAMAGES += [foreign, foreign, foreign, foreign]


def test_twenty_damaged_checkpoints_are_all_found_and_nothing_is_lost(tmp_path):
    save_two(tmp_path)
    whole, older = (tmp_path / CURRENT).read_bytes(), (tmp_path / PREVIOUS).read_bytes()
    chance, found = random.Random(0), 0
    for damage in DAMAGES:
        (tmp_path / PREVIOUS).write_bytes(older)
        damaged = damage(whole, chance)
        assert damaged != whole
        (tmp_path / CURRENT).write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{CURRENT} cannot be used: .*Resuming from .*{PREVIOUS}, step 10"):
            step, carry, history = saves(tmp_path).load(CARRY)
        assert (step, len(history["value"])) == (10, 10)
        np.testing.assert_array_equal(carry["w"], CARRY["w"])
        found += 1
    assert found == len(DAMAGES) == 20


def test_a_damaged_generation_never_takes_the_place_of_a_whole_one(tmp_path, monkeypatch):
    """The process dies between the two renames of the first save after a fall back."""
    save_two(tmp_path)
    (tmp_path / CURRENT).write_bytes(b"damaged")
    resumed = saves(tmp_path)
    with pytest.warns(UserWarning, match=CURRENT):
        resumed.load(CARRY)
    replaced, original = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *names: replaced.append(names) or original(*names))
    resumed.save(12, CARRY, {"value": np.zeros(12)})
    assert [os.path.basename(target) for _, target in replaced] == [CURRENT]
    assert saves(tmp_path).load(CARRY)[0] == 12
    resumed.save(13, CARRY, {"value": np.zeros(13)})
    assert len(replaced) == 3  # from now on the current one is kept again


def test_a_folder_in_place_of_a_file_is_no_checkpoint(tmp_path):
    save_two(tmp_path)
    (tmp_path / CURRENT).unlink()
    (tmp_path / CURRENT).mkdir()
    with pytest.warns(UserWarning, match="cannot be read"):
        assert saves(tmp_path).load(CARRY)[0] == 10


# --- A file system that refuses ----------------------------------------------------------------------------------


def limit_file_size(folder):
    """Let no file grow beyond 2 KB; Python ignores the signal that comes with it."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))


def fill_the_disk(folder):
    """Let the next file be written to a device that is always full."""
    (folder / "unfinished.tmp").symlink_to("/dev/full")


@pytest.fixture
def _restored_limit():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
@pytest.mark.usefixtures("_restored_limit")
@pytest.mark.parametrize(("refuse", "words"), [(limit_file_size, "File too large"), (fill_the_disk, "No space left")])
def test_a_full_disk_is_an_error_and_leaves_what_was_there(refuse, words, tmp_path):
    uninterrupted = train(tmp_path / "whole")
    before, hard = {}, resource.getrlimit(resource.RLIMIT_FSIZE)

    def at_six(step, *_):
        if step == 6:
            before.update({path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()})
            refuse(tmp_path / "run")

    with pytest.raises(ppl.PPLError, match=rf"(?s)step 9 could not be saved.*{words}.*resume=True"):
        train(tmp_path / "run", callback=at_six)
    resource.setrlimit(resource.RLIMIT_FSIZE, hard)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert before.keys() == {CURRENT, PREVIOUS}
    resumed = train(tmp_path / "run", resume=True)
    assert resumed.params.tobytes() == uninterrupted.params.tobytes()


def test_a_path_under_a_file_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("something")
    with pytest.raises(ppl.PPLError, match="must be a folder"):
        maximize(None, jnp.zeros(1), None, optax.sgd(0.1), steps=1, key=KEY, checkpoint=tmp_path / "file" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_to_is_refused():
    """As an unprivileged user, whom a privileged one becomes for the moment."""
    folder = Path(tempfile.mkdtemp())  # the fixture's folders are hidden from other users
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)
        with pytest.raises(ppl.PPLError, match="a folder that can be written to"):
            maximize(None, jnp.zeros(1), None, optax.sgd(0.1), steps=1, key=KEY, checkpoint=folder)
    finally:
        os.seteuid(user)
        folder.rmdir()


def test_a_folder_that_vanishes_is_an_error(tmp_path):
    def remove(step, *_):
        (tmp_path / "run" / CURRENT).unlink()
        (tmp_path / "run").rmdir()

    with pytest.raises(ppl.PPLError, match=r"(?s)step 6 could not be saved.*No such file"):
        train(tmp_path / "run", callback=remove)
