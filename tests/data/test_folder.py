"""Data folders that are written: read back as they were given, whole or not at all, in bounded memory."""

import contextlib
import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from data_files import tree_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.data import load_pairs
from helpers.data.folder import Blocks, write_data_folder
from helpers.data.split import TEST, TRAINING, VALIDATION
from helpers.errors import DataError


def valid(**changes):
    """Arguments of a folder of three images and four captions."""
    rng = np.random.default_rng(0)
    made = {
        "text": rng.standard_normal((4, 5), dtype=np.float32),
        "images": rng.standard_normal((3, 7)).astype(np.float16),
        "caption_image": [0, 2, 2, 0],
        "captions": ["a dog", "two\nlines, and a comma", " blanks ", "naïve ☃ 日本"],
        "names": ["a/1.jpg", "b, c|d\t.png", "ü.webp"],
    }
    return made | changes


def test_what_was_written_is_loaded(tmp_path):
    made = valid()
    folder = write_data_folder(tmp_path / "new" / "folder", **made)
    data = load_pairs(folder, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(data.text, made["text"])
    np.testing.assert_array_equal(data.images, made["images"].astype(np.float32))
    assert data.targets.tolist() == made["caption_image"]
    assert (data.captions, data.image_names) == (made["captions"], made["names"])
    assert data.given_split is None
    with np.load(folder / "train.npz") as arrays:  # by NumPy alone, too
        assert arrays["images/embeddings"].dtype == np.float16
        assert arrays["captions/text"].tolist() == made["captions"]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
vectors = {"elements": st.floats(0.125, 1000, width=16)}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_folder_is_loaded_as_it_was_written(tmp_path, data):
    n_captions, n_images = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 6))
    types = st.sampled_from([np.float16, np.float32, np.float64])
    text = data.draw(hnp.arrays(data.draw(types), (n_captions, data.draw(st.integers(1, 9))), **vectors))
    images = data.draw(hnp.arrays(data.draw(types), (n_images, data.draw(st.integers(1, 9))), **vectors))
    rows = data.draw(st.lists(st.integers(0, n_images - 1), min_size=n_captions, max_size=n_captions))
    captions = data.draw(st.lists(texts, min_size=n_captions, max_size=n_captions))
    names = data.draw(st.lists(texts, min_size=n_images, max_size=n_images, unique=True))
    kinds = st.lists(st.sampled_from(["train", "restval", "val", "test"]), min_size=n_images, max_size=n_images)
    split = data.draw(st.none() | kinds)
    folder = write_data_folder(
        tmp_path, text=text, images=images, caption_image=rows, captions=captions, names=names, split=split
    )
    found = load_pairs(folder, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(found.text, text.astype(np.float32))
    np.testing.assert_array_equal(found.images, images.astype(np.float32))
    assert (found.targets.tolist(), found.captions, found.image_names) == (rows, captions, names)
    codes = {"train": TRAINING, "restval": TRAINING, "val": VALIDATION, "test": TEST}
    assert (found.given_split is None) == (split is None)
    if split is not None:
        assert found.given_split.tolist() == [codes[name] for name in split]


def test_blocks_of_any_size_make_the_bytes_of_the_whole_whatever_the_time(tmp_path, monkeypatch):
    made = valid(split=["train", "val", "test"], encoders={"preset": None}, pictures={"folder": "pictures"})
    whole = tree_bytes(write_data_folder(tmp_path / "whole", **made))
    assert sorted(whole) == ["encoders.json", "pictures.json", "train.npz"]
    assert json.loads(whole["pictures.json"]) == {"folder": "pictures"}
    pieces = Blocks((4, 5), np.float32, iter(np.split(made["text"], [1, 1, 3])))
    assert tree_bytes(write_data_folder(tmp_path / "pieces", **made | {"text": pieces})) == whole
    with zipfile.ZipFile(tmp_path / "whole" / "train.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {(entry.create_system, entry.external_attr >> 16) for entry in archive.infolist()} == {(3, 0o644)}


def test_vectors_are_never_held_whole(tmp_path):
    rows, width = 20_000, 512

    def pieces():
        rng = np.random.default_rng(0)
        for _ in range(0, rows, 500):
            yield rng.standard_normal((500, width), dtype=np.float32)

    blocks = Blocks((rows, width), np.float32, pieces())
    texts = [f"caption {row}" for row in range(rows)]
    texts[7] = "long " * 200  # every text takes as much room in an array as the longest
    tracemalloc.start()
    folder = write_data_folder(
        tmp_path / "data",
        text=blocks,
        images=np.ones((2, 3)),
        caption_image=np.zeros(rows, int),
        captions=texts,
        names=["a", "b"],
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20 < rows * width * 4 / 4
    assert (folder / "train.npz").stat().st_size < rows * width * 4 * 1.1
    data = load_pairs(folder, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(data.text, np.concatenate(list(pieces())))
    assert data.captions == texts


def put(array, row, value):
    changed = array.copy()
    changed[row, 1] = value
    return changed


GOOD = valid()
BAD = {
    "NaN": ({"text": put(GOOD["text"], 2, np.nan)}, r"'captions/embeddings' has 1 row\(s\) that hold NaN.*: 2 "),
    "beyond float32": ({"text": put(GOOD["text"].astype(float), 1, 1e39)}, r"overflow float32: 1 "),
    "a zero row": ({"images": np.eye(3, 7) * [[1], [0], [1]]}, r"'images/embeddings' .*norm 0\): 1 "),
    "integers": ({"images": np.ones((3, 7), int)}, "'images/embeddings' is int64 of shape"),
    "one dimension": ({"text": np.ones(4)}, r"'captions/embeddings' is float64 of shape \(4,\)"),
    "no rows": ({"text": np.ones((0, 4))}, r"'captions/embeddings' is float64 of shape \(0, 4\)"),
    "no width": ({"text": np.ones((4, 0))}, r"'captions/embeddings' is float64 of shape \(4, 0\)"),
    "wide type": ({"text": Blocks((4, 5), np.float64, [])}, "'captions/embeddings' is to be stored as float64"),
    "fewer rows": ({"text": Blocks((4, 5), np.float32, [np.ones((3, 5))])}, "ends after 3 of 4 rows"),
    "more rows": ({"text": Blocks((4, 5), np.float32, [np.ones((3, 5))] * 2)}, r"shape \(3, 5\) ends at row 6"),
    "other width": ({"text": Blocks((4, 5), np.float32, [np.ones((4, 6))])}, r"has shape \(4, 5\), but a block of sha"),
    "beyond float16": (
        {"text": Blocks((4, 5), np.float16, [1e6 * np.ones((4, 5))])},
        r"4 row\(s\) that hold NaN or inf",
    ),
    "rows outside": ({"caption_image": [0, 3, -1, 0]}, r"'captions/image' has 2 row\(s\) outside the images: 1, 2 "),
    "rows too few": ({"caption_image": [0]}, "one integer for each of 4"),
    "rows of floats": ({"caption_image": [0.0, 1.0, 2.0, 0.0]}, "'captions/image' is float64"),
    "captions too few": ({"captions": ["a"]}, "'captions/text' holds 1 texts for 4 vectors"),
    "names too many": ({"names": list("abcd")}, "'images/names' holds 4 texts for 3 vectors"),
    "names twice": ({"names": ["a", "b", "a"]}, "'images/names' holds 1 more than once: a. Make them unique"),
    "split too short": ({"split": ["train"]}, "'images/split' holds 1 texts for 3 vectors"),
    "split unknown": ({"split": ["train", "dev", "val"]}, r"'images/split' has 1 row\(s\) other than .*: 1 'dev'"),
    "NUL": ({"captions": ["a", "b\0", "c", "d"]}, r"'captions/text' has 1 row\(s\) with NUL .*: 1 "),
    "half a character": ({"names": ["a", "\ud83d", "c"]}, r"'images/names' has 1 row\(s\) with NUL or half .*: 1 "),
    "a book": ({"captions": ["a" * (2**20 + 1), "b", "c", "d"]}, r"'captions/text' has 1 row\(s\) of over 1048576"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_stored_is_said_and_leaves_an_earlier_folder_as_it_was(tmp_path, case):
    changes, message = BAD[case]
    folder = write_data_folder(tmp_path / "data", **valid(encoders={"preset": "small"}))
    before = tree_bytes(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        write_data_folder(folder, **valid(**changes))
    assert str(caught.value).startswith(str(folder / "train.npz"))
    assert tree_bytes(tmp_path) == before


def test_encoders_and_pictures_of_earlier_vectors_go(tmp_path):
    write_data_folder(tmp_path, **valid(encoders={"preset": "small"}, pictures={"folder": "."}))
    write_data_folder(tmp_path, **valid())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.npz"]


@pytest.mark.parametrize("killed_at", range(1, 5))
def test_killed_at_any_time_no_vectors_have_the_encoders_of_others(tmp_path, monkeypatch, killed_at):
    def write(value):
        vectors, encoders = np.full((2, 3), value, np.float32), {"text": {"model": str(value)}}
        write_data_folder(tmp_path, text=vectors, images=vectors, caption_image=[0, 1], captions=["a", "b"],
                          names=["x", "y"], encoders=encoders, pictures={"folder": "."})  # fmt: skip

    class Killed(BaseException):
        pass

    calls, fsync = [], os.fsync

    def die(file):  # each file is flushed once, just before it takes its place
        calls.append(file)
        if len(calls) == killed_at:
            raise Killed
        return fsync(file)

    write(1)
    monkeypatch.setattr(os, "fsync", die)
    with contextlib.suppress(Killed):
        write(2)
    with np.load(tmp_path / "train.npz") as archive:
        found = int(archive["captions/embeddings"][0, 0])
    if (tmp_path / "encoders.json").exists():
        assert json.loads((tmp_path / "encoders.json").read_text()) == {"text": {"model": str(found)}}


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written .* or give another folder"):
        write_data_folder(tmp_path / "file" / "data", **valid())
