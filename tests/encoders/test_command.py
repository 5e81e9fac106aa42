import json

import numpy as np
import pytest

from helpers.__main__ import main as console
from helpers.data.pairs import load_pairs
from helpers.encoders.command import main


@pytest.fixture
def given(album, text_model, image_model):
    models = ["--text-model", text_model, "--image-model", image_model, "--device", "cpu"]
    paths = ["--images", album / "photos", "--captions", album / "captions.txt", "--out", album / "data"]
    return [str(part) for part in (*paths, *models)]


def test_the_command_makes_a_data_folder_and_says_what_is_in_it(given, album, capsys):
    (album / "photos" / "00000.png").write_bytes(b"")
    assert console(["encode", *given]) == 0
    said = capsys.readouterr().out
    assert "11 pictures and 22 captions" in said and "00000.png (is empty" in said
    assert len(load_pairs(album / "data").captions) == 22


@pytest.mark.parametrize(
    "more",
    [
        ["--images", "/no/such/folder"],
        ["--captions", "/no/such/file.txt"],
        ["--text-model", "/no/such/model"],
        ["--pooling", "average"],
        ["--device", "cuda:99"],
        ["--batch-size", "0"],
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(given, album, capsys, more):
    assert main([*given, *more]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said and not (album / "data").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", "x"],
        ["--out", "x", "--images", "y"],
        ["--images", "y", "--captions", "z", "--out", "x", "--preset", "no"],
    ],
)
def test_what_is_missing_is_asked_for(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error" in capsys.readouterr().err


@pytest.fixture
def vectors(album):
    generator = np.random.default_rng(0)
    np.save(album / "captions.npy", generator.normal(size=(24, 8)).astype(np.float32))
    np.save(album / "images.npy", generator.normal(size=(12, 6)).astype(np.float32))
    named = [line.split(",")[0] for line in (album / "captions.txt").read_text().splitlines()[1:]]
    (album / "names.txt").write_text("\n".join(dict.fromkeys(named)) + "\n")
    files = [album / "captions.npy", album / "images.npy"]
    paths = ["--captions", album / "captions.txt", "--names", album / "names.txt", "--out", album / "data"]
    return [str(part) for part in ("--from", *files, *paths)]


def test_embeddings_that_exist_already_become_a_data_folder(vectors, album, capsys):
    assert main([*vectors, "--images", str(album / "photos"), "--text-model", "some/model"]) == 0
    pairs = load_pairs(album / "data")
    assert (pairs.text == np.load(album / "captions.npy")).all() and (
        pairs.images == np.load(album / "images.npy")
    ).all()
    recorded = json.loads((album / "data" / "encoders.json").read_text())
    assert recorded["images"] == {"kind": "unknown", "dim": 6}
    assert recorded["text"] == {"kind": "sentence-transformers", "dim": 8, "model": "some/model"}
    assert json.loads((album / "data" / "pictures.json").read_text()) == {"folder": "../photos"}


def test_embeddings_do_not_overwrite_a_data_folder_unasked(vectors, album, capsys):
    (album / "data").mkdir()
    (album / "data" / "train.npz").write_bytes(b"precious")
    assert main(vectors) == 2 and "--overwrite" in capsys.readouterr().err
    assert (album / "data" / "train.npz").read_bytes() == b"precious"
    assert main([*vectors, "--overwrite"]) == 0


def test_nothing_is_encoded_where_embeddings_are_given(vectors, capsys):
    with pytest.raises(SystemExit):
        main([*vectors, "--pooling", "cls"])
    assert "nothing is encoded" in capsys.readouterr().err
