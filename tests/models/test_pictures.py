"""The shared figures."""

import numpy as np
import pytest
from matplotlib.image import imread

from models.pictures import curves, sheet, windows


def test_windows_keep_the_mean():
    steps, means = windows(np.arange(1000.0), most=10)
    np.testing.assert_allclose(means, np.arange(49.5, 1000, 100))
    np.testing.assert_allclose(steps, np.arange(50, 1000, 100))


def test_windows_of_a_short_series_are_its_values():
    np.testing.assert_array_equal(windows(np.array([3.0, 1.0]))[1], [3.0, 1.0])


@pytest.mark.parametrize("labels", [{}, {"rows": ["a", "b"], "columns": ["1", "2", "3"]}])
def test_a_sheet_shows_every_image(tmp_path, labels):
    images = np.linspace(0, 1, 6).reshape(2, 3, 1, 1) * np.ones((2, 3, 8, 8))
    sheet(images, tmp_path / "deep" / "sheet.png", "title", **labels)
    greys = imread(tmp_path / "deep" / "sheet.png")[..., 0]
    shown, counts = np.unique(greys.round(2), return_counts=True)
    assert len(shown[counts > 500]) >= 6


def test_curves_are_drawn_with_levels(tmp_path):
    climb = -100 * np.exp(-np.arange(300) / 30)
    curves({"one": climb, "two": climb - 1}, tmp_path / "c.png", "title", ylabel="value", levels={"best": 0.0})
    assert imread(tmp_path / "c.png").shape[2] == 4
