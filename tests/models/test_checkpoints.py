"""Stored models come back bit for bit; damaged ones are named; a write that fails leaves the old file."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from helpers.errors import CheckpointError
from helpers.models.build import build_model
from helpers.models.storage import load_metadata, load_model, model_path, save_model
from helpers.system import files
from helpers.system.files import atomic_write, write_json

SHAPE = {"text_dim": 6, "image_dim": 9, "hidden": 5, "dropout": 0.2}
FACTS = {"architecture": SHAPE, "data": "abc", "history": [{"epoch": 1, "mrr": 0.1 + 0.2}], "note": None}


def random_model(name):
    model = build_model(name, **SHAPE)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())))
    return model


def same_weights(one, other):
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["linear", "mlp2", "procrustes", "bigjump"])
def test_round_trip_is_bit_exact_and_carries_the_metadata(tmp_path, name):
    model = random_model(name)
    path = save_model(tmp_path, name, model, FACTS)
    assert path == model_path(tmp_path, name) == tmp_path / "models" / f"{name}.safetensors"
    loaded, metadata = load_model(tmp_path, name)
    assert metadata == load_metadata(tmp_path, name) == FACTS
    assert same_weights(loaded, model)
    assert not loaded.training
    assert files_in(tmp_path) == [f"{name}.safetensors"]  # both in one file


def test_a_second_save_replaces_the_first(tmp_path):
    save_model(tmp_path, "linear", random_model("linear"), FACTS)
    newer = build_model("linear", **SHAPE)
    save_model(tmp_path, "linear", newer, {**FACTS, "data": "def"})
    loaded, metadata = load_model(tmp_path, "linear")
    assert metadata["data"] == "def" and same_weights(loaded, newer)
    assert not same_weights(loaded, random_model("linear"))


def test_a_missing_model(tmp_path):
    assert load_metadata(tmp_path, "mlp1") is None
    with pytest.raises(CheckpointError, match="no such file. Run the notebook that makes it") as caught:
        load_model(tmp_path, "mlp1")
    assert str(model_path(tmp_path, "mlp1")) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"garbage " * 100,
        lambda content: b"\xff" * len(content),
        lambda content: content + b"more",
    ],
    ids=["empty", "seven bytes", "half", "one byte short", "garbage", "ones", "longer"],
)
@pytest.mark.parametrize("load", [load_metadata, load_model])
def test_a_damaged_file_is_named(tmp_path, damage, load):
    path = save_model(tmp_path, "mlp1", random_model("mlp1"), FACTS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, "mlp1")
    assert str(path) in str(caught.value) and "Delete it and train again" in str(caught.value)


def test_a_model_of_an_earlier_version_does_not_count_and_is_named_where_it_is_asked_for(tmp_path):
    path = model_path(tmp_path, "linear")
    path.parent.mkdir()
    save_file(random_model("linear").state_dict(), path, {"facts": "{}"})
    assert load_metadata(tmp_path, "linear") is None
    with pytest.raises(CheckpointError, match="linear.safetensors: not a readable model"):
        load_model(tmp_path, "linear")


def test_a_model_that_is_not_there_is_answered_with_the_names_of_those_that_are(tmp_path):
    for name in ("mlp1", "bigjump"):
        save_model(tmp_path, name, random_model(name), FACTS)
    with pytest.raises(CheckpointError, match=r"plus\.safetensors: no such file\. There are: bigjump, mlp1\."):
        load_model(tmp_path, "plus")


def test_what_a_killed_process_left_a_day_ago_is_removed_by_the_next_write(tmp_path):
    old, new = (tmp_path / f".a.json.{digit * 32}.json" for digit in "12")
    of_another = tmp_path / f".a.json.more.json.{'3' * 32}.json"
    for path in (old, new, of_another):
        path.write_text("{")
    for path in (old, of_another):
        os.utime(path, (0, 0))
    write_json(tmp_path / "a.json", {})
    assert new.exists() and of_another.exists() and not old.exists()


@pytest.mark.parametrize(
    ("stored", "metadata"),
    [
        ("mlp2", FACTS),
        ("linear", FACTS),
        ("bigjump", FACTS),
        ("mlp1", {**FACTS, "architecture": {**SHAPE, "hidden": 4}}),
        ("mlp1", {**FACTS, "architecture": {**SHAPE, "image_dim": 8}}),
        ("mlp1", {**FACTS, "architecture": {**SHAPE, "depth": 3}}),
        ("mlp1", {"data": "abc"}),
    ],
)
def test_weights_of_another_architecture_are_named(tmp_path, stored, metadata):
    path = save_model(tmp_path, "mlp1", random_model(stored), metadata)
    with pytest.raises(CheckpointError, match="(?s)not a readable model 'mlp1' .*train again") as caught:
        load_model(tmp_path, "mlp1")
    assert str(path) in str(caught.value)


def test_metadata_that_are_no_json_leave_the_earlier_model(tmp_path):
    model = random_model("linear")
    save_model(tmp_path, "linear", model, FACTS)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_model(tmp_path, "linear", build_model("linear", **SHAPE), {**FACTS, "mrr": float("nan")})
    loaded, metadata = load_model(tmp_path, "linear")
    assert metadata == FACTS and same_weights(loaded, model)


def _fail_half_way(temporary):
    temporary.write_text("half")
    raise OSError("disk full")


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "metadata.json"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, _fail_half_way)
    assert path.read_text() == "old"
    assert files_in(tmp_path) == ["metadata.json"]
    with pytest.raises(OSError, match="disk full"):
        atomic_write(tmp_path / "new.json", _fail_half_way)
    assert files_in(tmp_path) == ["metadata.json"]


def test_what_is_flushed_is_open_for_writing(tmp_path, monkeypatch):
    """As Windows demands."""
    fcntl = pytest.importorskip("fcntl")
    flushed = []
    monkeypatch.setattr(files.os, "fsync", lambda file: flushed.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE))
    files.write_json(tmp_path / "a.json", 1)
    assert flushed == [os.O_RDWR]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a" / "b" / "metadata.json"
    atomic_write(path, lambda temporary: temporary.write_text("old"))  # folders are made

    def write(temporary):
        assert temporary.parent == path.parent and temporary.suffix == ".json"
        temporary.write_text("new")
        assert path.read_text() == "old"

    atomic_write(path, write)
    assert path.read_text() == "new"
    assert files_in(tmp_path) == ["metadata.json"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are of POSIX")
def test_others_may_read_as_far_as_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a.json", lambda temporary: temporary.write_text("x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_json_is_readable_and_holds_what_was_given(tmp_path):
    write_json(tmp_path / "a.json", [{"a": 0.1, "b": None}])
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == [{"a": 0.1, "b": None}] and text.endswith("\n") and "\n  " in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"mrr": [float("-inf")]}])
def test_json_without_numbers_is_refused(tmp_path, value):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert files_in(tmp_path) == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_whoever_may_read_the_folder_may_read_the_model(tmp_path):
    before = os.umask(0o022)
    try:
        save_model(tmp_path, "linear", build_model("linear", 3, 4), {})
    finally:
        os.umask(before)
    assert model_path(tmp_path, "linear").stat().st_mode & 0o777 == 0o644
