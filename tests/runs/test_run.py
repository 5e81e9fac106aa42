"""Opening a run: which widths its data must have, which split it takes, and what travels with it."""

import numpy as np
import pytest

from helpers.data.pairs import ENCODERS_FILE
from helpers.data.split import VALIDATION, make_split
from helpers.errors import DataError, SplitError
from helpers.runs.run import open_run, read_run
from helpers.system import paths

N_IMAGES = 20
OWN = np.array(["train", "val", "train", "test"] * (N_IMAGES // 4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder with a split of its own; runs go to `tmp_path / "runs"`."""
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    made = tmp_path / "data" / "challenge"
    made.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.savez(
        made / "train.npz",
        **{
            "captions/embeddings": rng.normal(size=(N_IMAGES, 3)),
            "captions/text": np.array([f"caption {i}" for i in range(N_IMAGES)]),
            "captions/image": np.arange(N_IMAGES),
            "images/embeddings": rng.normal(size=(N_IMAGES, 4)),
            "images/names": np.array([f"{i}.jpg" for i in range(N_IMAGES)]),
            "images/split": OWN,
        },
    )
    return made


def test_the_widths_are_those_of_any_folder_and_1024_and_1536_of_the_challenge_alone(folder, monkeypatch):
    data = open_run({}, profile="challenge", data_dir=folder).data
    assert (data.text_dim, data.image_dim) == (3, 4)
    monkeypatch.setattr(paths, "DATA_DIR", folder.parent)
    with pytest.raises(DataError, match="has width 3 but text_dim is 1024. Set text_dim=3 .a data_dir that is given"):
        open_run({}, profile="challenge")
    assert open_run({"text_dim": 3, "image_dim": 4}, profile="challenge").data.text_dim == 3
    with pytest.raises(DataError, match="has width 4 but image_dim is 5"):
        open_run({"image_dim": 5}, profile="challenge", data_dir=folder)


def test_the_split_of_the_data_is_taken_unless_a_random_one_is_asked_for(folder):
    own = open_run({}, profile="challenge", data_dir=folder)
    assert own.split.val_images.tolist() == np.flatnonzero(OWN == "val").tolist()
    assert own.split.test_images.tolist() == np.flatnonzero(OWN == "test").tolist()
    assert own.data.given_split.tolist().count(VALIDATION) == 5
    random = open_run({"split": "random"}, profile="challenge", data_dir=folder, val_ratio=0.2)
    assert random.split.digest == make_split(random.data.targets, N_IMAGES, 0.2).digest
    with pytest.raises(SplitError, match="a split of their own"):
        open_run({"group_duplicates": True}, profile="challenge", data_dir=folder)


def test_what_made_the_vectors_travels_with_the_run(folder, tmp_path):
    def opened():
        return open_run({}, profile="challenge", run="r", data_dir=folder).directory / ENCODERS_FILE

    assert not opened().parent.exists()
    (folder / ENCODERS_FILE).write_text('{"preset": "small"}')
    read_run({}, profile="challenge", run="r", data_dir=folder)
    assert not (tmp_path / "runs" / "r").exists()  # a call that is refused later leaves the run as it was
    assert opened().read_text() == '{"preset": "small"}'
    before = opened().stat().st_mtime_ns
    assert opened().stat().st_mtime_ns == before
    (folder / ENCODERS_FILE).write_text('{"preset": "strong"}')
    assert opened().read_text() == '{"preset": "strong"}'
    (folder / ENCODERS_FILE).unlink()
    assert not opened().exists()  # of data that the run no longer has


def test_where_the_demo_data_are_absent_an_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA_DIR", tmp_path)
    with pytest.raises(DataError, match="emoji: the demo data are not here.*checkout.*--data-dir"):
        open_run({})
