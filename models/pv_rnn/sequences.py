"""Data with a known probabilistic structure: primitive movements, one after the other by chance; and real motions."""

import io
import zipfile
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from models import data

STEPS = 8
"""Of a primitive."""
NAMES = "ABC"
NEXT_IS_B = 0.7
"""A is followed by B with this probability, else by C; both are followed by A."""
RADIUS, NOISE = 0.8, 0.02


class Split(NamedTuple):
    """Sequences to train on and sequences held out."""

    train: Float[np.ndarray, "n steps numbers"]
    test: Float[np.ndarray, "m steps numbers"]


def primitives() -> Float[np.ndarray, "3 steps 2"]:
    """Return A, a circle counter-clockwise; B, one clockwise; C, a figure of eight. All set out from one point."""
    angle = 2 * np.pi * np.arange(STEPS) / STEPS
    x, y = np.cos(angle), np.stack([np.sin(angle), -np.sin(angle), np.sin(2 * angle)])
    return RADIUS * np.stack([np.broadcast_to(x, y.shape), y], axis=-1)


def chained(
    number: int, length: int, random: np.random.Generator, *, random_phase: bool = False
) -> Float[np.ndarray, "number length 2"]:
    """Draw sequences of primitives that begin with A, or somewhere in the first two if the phase is random."""
    blocks = -(-length // STEPS) + 2 * random_phase
    kinds = np.zeros((number, blocks), int)
    kinds[:, 1::2] = np.where(random.random(kinds[:, 1::2].shape) < NEXT_IS_B, 1, 2)
    clean = primitives()[kinds].reshape(number, -1, 2)
    offsets = random.integers(0, 2 * STEPS, number) if random_phase else np.zeros(number, int)
    cut = clean[np.arange(number)[:, None], offsets[:, None] + np.arange(length)]
    return (cut + NOISE * random.normal(size=cut.shape)).astype(np.float32)


def pfsm(train: int, test: int, length: int, *, random_phase: bool = False) -> Split:
    """Return the sequences of every run: the data do not depend on its seed."""
    random = np.random.default_rng(2 * random_phase)
    return Split(*(chained(number, length, random, random_phase=random_phase) for number in (train, test)))


def classify(sequences: Float[np.ndarray, "n steps 2"]) -> tuple[Int[np.ndarray, "n blocks"], Float[np.ndarray, "n b"]]:
    """Return the nearest primitive of every block of eight steps, and the mean squared distance to it."""
    blocks = sequences[:, : sequences.shape[1] // STEPS * STEPS].reshape(len(sequences), -1, 1, STEPS, 2)
    squares = np.mean((blocks - primitives()) ** 2, axis=(-2, -1))
    return squares.argmin(-1), squares.min(-1)


def chance_of_c(kinds: Int[np.ndarray, "n blocks"]) -> float:
    """Return how often A is followed by C; NaN where there is no A."""
    after_a = kinds[:, 1:][kinds[:, :-1] == 0]
    return float(np.mean(after_a == 2)) if len(after_a) else float("nan")


def branch_entropy(train: Float[np.ndarray, "n steps 2"]) -> float:
    """Return the nats that say which branches a sequence takes: as many as it has, with the frequency of C each."""
    kinds, _ = classify(train)
    chance = chance_of_c(kinds)
    branches = kinds.shape[1] // 2
    return -branches * (chance * np.log(chance) + (1 - chance) * np.log(1 - chance))


ACTIVITIES = ("standing", "running", "walking", "badminton")


def motions(length: int = 100) -> tuple[Split, Split]:
    """Return BasicMotions: 40 + 40 recordings of a watch's accelerometer and gyroscope at 10 Hz, and their activities.

    Every channel is divided by 1.1 times its largest size in the training part (test values beyond are cut off there):
    outputs are those of a tanh. The activities are numbered, as a second split of shapes (40,).

    Raises:
        DataError: If the archive has not been fetched, or is damaged.
    """
    with zipfile.ZipFile(data.cached("motions")) as wheel:
        folder = "aeon/datasets/data/BasicMotions/BasicMotions"
        parts = [_read_ts(wheel.read(f"{folder}_{part}.ts").decode()) for part in ("TRAIN", "TEST")]
    scale = 1.1 * np.abs(parts[0][0]).max((0, 1))
    scaled = [np.clip(x / scale, -0.999, 0.999).astype(np.float32)[:, :length] for x, _ in parts]
    return Split(*scaled), Split(*(labels for _, labels in parts))


def _read_ts(text: str) -> tuple[Float[np.ndarray, "n steps channels"], Int[np.ndarray, " n"]]:
    """Read the lines after @data: channels parted by colons, numbers by commas, the activity last."""
    _, body = text.split("@data", 1)
    rows, labels = [], []
    for line in io.StringIO(body.strip()):
        *channels, label = line.strip().split(":")
        rows.append([[float(number) for number in channel.split(",")] for channel in channels])
        labels.append(ACTIVITIES.index(label.lower()))
    return np.asarray(rows, np.float64).swapaxes(1, 2), np.asarray(labels)
