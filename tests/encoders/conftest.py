"""Fixtures of the encoders' tests."""

import pytest
from tiny_encoders import save_captions, save_image_model, save_pictures, save_text_model


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    return save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def image_model(tmp_path_factory):
    return save_image_model(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture
def album(tmp_path):
    """A folder of 12 pictures, and captions of them."""
    names = save_pictures(tmp_path / "photos", 12)
    save_captions(tmp_path / "captions.txt", names)
    return tmp_path
