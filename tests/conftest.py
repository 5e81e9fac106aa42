"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest

from helpers import config


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with `flickr8k/` and `challenge-test/`; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("HELPERS_REAL_DATA") or config.PROJECT_ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("real data is not here; set HELPERS_REAL_DATA to a folder that holds flickr8k/ and challenge-test/")
    return folder
