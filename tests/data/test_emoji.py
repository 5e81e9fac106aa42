"""The committed demo data: complete, consistent, licensed, and what the encoders that it names make of it."""

import re
from pathlib import Path

import numpy as np
import pytest

from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.pictures import Pictures
from helpers.system import paths
from helpers.system.files import read_json

FOLDER = paths.DATA_DIR / "emoji"
# Half a unit in the last place of float16 against the largest entry of a vector, and as much for another version of
# torch or another processor.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def emoji(tmp_path_factory) -> PairedEmbeddings:
    return load_pairs(FOLDER, text_dim=384, image_dim=1280, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pictures(emoji) -> Pictures:
    return Pictures.of(FOLDER, emoji.image_names)


def row_of(emoji, name):
    return emoji.image_names.index(f"{name}.png")


def captions_of(emoji, name):
    return [emoji.captions[row] for row in np.flatnonzero(emoji.targets == row_of(emoji, name))]


def test_the_folder_is_small_enough_for_git():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 16_000_000


def test_the_counts_are_those_that_the_page_names(emoji):
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page.startswith(
        f"# Emoji: the demo data\n\n{emoji.n_images:,} pictures of emoji and {emoji.n_captions:,} captions"
    )
    assert len(set(emoji.image_names)) == emoji.n_images
    texts, counts = np.unique(emoji.captions, return_counts=True)
    assert f"{(counts > 1).sum()} captions are those of several pictures" in page


def test_each_picture_has_captions_and_none_twice(emoji):
    assert emoji.captions_per_image.min() >= 1
    words = [
        (image, tuple(sorted(re.findall(r"\w+", text))))
        for image, text in zip(emoji.targets.tolist(), emoji.captions, strict=True)
    ]
    assert len(set(words)) == len(words)


def test_captions_are_what_a_person_would_type(emoji):
    assert captions_of(emoji, "balloon") == ["balloon", "birthday celebrate celebration"]
    assert any("party" in text for text in captions_of(emoji, "party_popper"))
    assert all(text == " ".join(text.lower().split()) and "_" not in text for text in emoji.captions)


def test_no_skin_tones(emoji):
    assert not [name for name in emoji.image_names if "skin" in name] and not [
        t for t in emoji.captions if "skin tone" in t
    ]


def test_every_licence_is_there_in_full():
    for name, words in {
        "LICENSE-NOTO": "Apache License",
        "LICENSE-UNICODE": "UNICODE LICENSE V3",
        "LICENSE-PACKAGES": "Permission is hereby granted",
    }.items():
        assert words in (FOLDER / name).read_text(encoding="utf-8")
        assert f"({name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(part["licence"] for part in (read_json(FOLDER / "encoders.json")[kind] for kind in ("text", "images")))


def test_each_row_has_its_tile_and_no_two_are_alike(emoji, pictures):
    tiles = {pictures.image(row).tobytes() for row in range(emoji.n_images)}
    assert len(pictures) == emoji.n_images == len(tiles)
    assert {pictures.image(row).size for row in (0, emoji.n_images - 1)} == {(64, 64)}
    red = np.asarray(pictures.image(row_of(emoji, "balloon")), dtype=float).mean((0, 1))
    assert red[0] > red[1] + 20 and red[0] > red[2] + 20


def test_equal_captions_have_equal_vectors(emoji):
    texts = np.array(emoji.captions)
    for text in [text for text, n in zip(*np.unique(texts, return_counts=True), strict=True) if n > 2]:
        assert np.ptp(emoji.text[texts == text], axis=0).max() < TOLERANCE


@pytest.mark.slow
def test_the_named_encoders_make_these_vectors(emoji, pictures):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("efficientnet_lite_pytorch")
    from helpers.encoders import load_image_encoder, load_text_encoder

    made_by = read_json(FOLDER / "encoders.json")
    rows = np.linspace(0, emoji.n_captions - 1, 8).astype(int)
    text = load_text_encoder(made_by["text"]).encode([emoji.captions[row] for row in rows])
    np.testing.assert_allclose(text, emoji.text[rows], atol=TOLERANCE * np.abs(text).max())
    rows = np.linspace(0, emoji.n_images - 1, 4).astype(int)
    images = load_image_encoder(made_by["images"]).encode([pictures.image(row) for row in rows])
    np.testing.assert_allclose(images, emoji.images[rows], atol=TOLERANCE * np.abs(images).max())


def test_the_script_names_exact_versions_and_no_registry():
    text = Path(FOLDER, "make.py").read_text(encoding="utf-8")
    assert "emoji-datasource-google@16.0.0 emojibase-data@17.0.0" in text and "http" not in text
