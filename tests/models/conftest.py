"""The digits, read once for each worker."""

import pytest

from models import data


@pytest.fixture(scope="session")
def digits() -> data.Labelled:
    return data.digits()
