"""Moving digits: an image that drifts through a frame and bounces off its walls at random."""

import numpy as np
from jaxtyping import Float, Int

Movies = Float[np.ndarray, "n frames side side"]


def move(
    images: Float[np.ndarray, "m pixels pixels"],
    number: int,
    *,
    side: int,
    frames: int,
    fastest: int,
    digits: int = 1,
    seed: int,
) -> Movies:
    """Let images move through square frames, as in stochastic moving MNIST.

    Velocities are whole pixels per frame, uniform in -fastest .. fastest in both directions. At a wall the part across
    it is drawn anew, away from it, from 1 .. fastest, and the part along it from all.

    Args:
        images: Intensities from 0 to 1, to be chosen from.
        number: How many movies.
        side: Of a frame, in pixels; larger than an image.
        frames: In each movie.
        fastest: Largest speed in either direction.
        digits: Images in each movie; where they lie over one another, the brighter pixel is seen.
        seed: Of all that is random here.
    """
    random = np.random.default_rng(seed)
    movies = np.zeros((number, frames, side, side), np.float32)
    for movie in movies:
        for _ in range(digits):
            image = images[random.integers(len(images))]
            places = _walk(side - len(image), frames, fastest, random)
            for frame, (row, column) in zip(movie, places, strict=True):
                part = frame[row : row + len(image), column : column + len(image)]
                np.maximum(part, image, out=part)
    return movies


def _walk(room: int, frames: int, fastest: int, random: np.random.Generator) -> Int[np.ndarray, "frames 2"]:
    """Draw the places of one image's corner, in 0 .. room along both axes."""
    place, speed = random.integers(0, room + 1, 2), random.integers(-fastest, fastest + 1, 2)
    places = [place]
    for _ in range(frames - 1):
        speed = _bounce(place + speed, room, speed, fastest, random)
        place = np.clip(place + speed, 0, room)
        places.append(place)
    return np.stack(places)


def _bounce(ahead, room: int, speed, fastest: int, random: np.random.Generator) -> Int[np.ndarray, "2"]:
    """Return the speed, drawn anew if it leads through a wall."""
    below, above = ahead < 0, ahead > room
    if not (below | above).any():
        return speed
    away = random.integers(1, fastest + 1, 2)
    along = random.integers(-fastest, fastest + 1, 2)
    return np.where(below, away, np.where(above, -away, along))
