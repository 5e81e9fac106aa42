"""What the notebooks find of one another: models of other settings are used, and said to be of other settings."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.data.duplicates import Grouped
from helpers.data.synthetic import write_synthetic
from helpers.errors import CheckpointError
from helpers.models import storage
from helpers.models.geometry import GeometryConfig
from helpers.runs import recipes
from helpers.runs.manifest import artefact_digests, write_manifest
from helpers.runs.recipes import find_or_make, fit_geometry, save_geometry, train
from helpers.runs.run import open_run
from helpers.runs.settings import RunConfig
from helpers.system.files import read_json
from helpers.training import closed_forms, plus
from helpers.training.folds import make_folds
from helpers.training.objectives import BaselineConfig, BigJumpConfig, BigJumpObjective
from helpers.training.settings import PlusConfig

WIDTHS = {"text_dim": 12, "image_dim": 16}
QUICK = {
    "linear": BaselineConfig(epochs=1),
    "bigjump_plus": PlusConfig(
        epochs=1, hidden=4, members=1, temperatures=(0.05,), whitenings=(0.0,), blocks=(0,), closed_forms=()
    ),
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    folder = write_synthetic(tmp_path / "data", n_images=40, **WIDTHS)
    return open_run({}, profile="challenge", run="a", data_dir=folder)


def test_what_is_missing_is_made_with_the_defaults_and_then_found_in_silence(run, capsys):
    find_or_make(run, "least_squares", "procrustes")
    assert capsys.readouterr().err.count("made now, with the defaults of notebook 02") == 1  # both at once
    find_or_make(run, "least_squares", "procrustes")
    assert capsys.readouterr().err == ""


def test_a_model_of_other_settings_is_kept_and_its_settings_are_said(run, capsys):
    settings = GeometryConfig(eps=0.1)
    save_geometry(run, fit_geometry(run, settings), settings)
    before = storage.weights_digest(run.directory, "procrustes")
    find_or_make(run, "least_squares", "procrustes")
    said = capsys.readouterr().err
    assert "procrustes: found in a/, made with other settings than the defaults: eps = 0.1." in said
    assert storage.weights_digest(run.directory, "procrustes") == before


def test_what_is_replaced_is_said_before_with_what_it_was_made_of(run, capsys, monkeypatch):
    train(run, "linear", QUICK["linear"])
    save_geometry(run, fit_geometry(run, GeometryConfig()), GeometryConfig())
    train(run, "linear", QUICK["linear"])
    save_geometry(run, fit_geometry(run, GeometryConfig()), GeometryConfig())
    assert capsys.readouterr().err == ""  # the same again is no news
    monkeypatch.setattr(recipes.loop, "train_baseline", lambda *_: print("trained", file=sys.stderr) or [])
    train(run, "linear", BaselineConfig(epochs=2, learning_rate=0.5))
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(
        "linear: replaces the one in a/, which was made otherwise: epochs = 1, now 2; learning_rate = "
    )
    assert said[1:] == ["trained"]
    other = open_run({"split_seed": 7}, profile="challenge", run="a", data_dir=run.config.data_dir)
    save_geometry(other, fit_geometry(other, GeometryConfig(eps=0.5)), GeometryConfig(eps=0.5))
    assert (
        "procrustes: replaces the one in a/, which was made otherwise: another split; eps = " in capsys.readouterr().err
    )
    storage.model_path(run.directory, "linear").write_bytes(b"damaged")
    train(run, "linear", QUICK["linear"])


def test_a_missing_closed_form_takes_the_settings_of_the_one_that_is_there(run):
    settings = GeometryConfig(eps=0.5)
    save_geometry(run, fit_geometry(run, settings), settings)
    before = storage.weights_digest(run.directory, "procrustes")
    for path in (run.directory / "models").glob("least_squares.*"):
        path.unlink()
    find_or_make(run, "least_squares", "procrustes")
    assert storage.weights_digest(run.directory, "procrustes") == before
    assert run.stored("least_squares")["settings"]["eps"] == 0.5


def test_an_interrupted_training_does_not_go_on_with_other_products(run, monkeypatch):
    settings = BaselineConfig(epochs=2, hidden=4)
    found = []
    monkeypatch.setattr(recipes.loop, "train_baseline", lambda *given: found.append(given[-1].metadata) or [])
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(recipes, "matmul_dtype", lambda *_, dtype=dtype: dtype)
        train(run, "linear", settings)
    assert found[0]["products"] == ["cpu", "torch.float32"] != found[1].pop("products")
    assert found[0].pop("products") and found[0] == found[1]


@pytest.mark.slow
def test_weighted_cca_is_stored_with_what_its_folds_chose(run, capsys):
    find_or_make(run, "cca")
    assert "made now, with the defaults of notebook 02" in capsys.readouterr().err
    find_or_make(run, "cca")
    assert capsys.readouterr().err == ""
    metadata = run.stored("cca")
    folds = make_folds(run.training_data, PlusConfig())
    assert {"setting": metadata["setting"], "mrr": metadata["fold_mrr"]} == closed_forms.best_cca(folds)
    assert run.mrr("cca") == np.mean(1 / run.ranks("cca")) > 0.2


def test_plus_is_short_on_the_demo_data_alone(run, tmp_path):
    assert recipes.plus_defaults(replace(run, config=RunConfig())) == PlusConfig(**recipes.QUICK_PLUS)
    for own in (RunConfig(data_dir=tmp_path), RunConfig("challenge")):
        assert recipes.plus_defaults(replace(run, config=own)) == PlusConfig()
        assert recipes.plus_defaults(replace(run, config=own), budget=5, members=2) == PlusConfig(budget=5, members=2)


def test_groups_of_the_split_reach_the_folds(run):
    grouped = open_run({"group_duplicates": True}, profile="challenge", data_dir=run.config.data_dir)
    groups = grouped.training_data.groups
    np.testing.assert_array_equal(groups, grouped.groups[grouped.split.train_images])
    assert len(groups) == len(grouped.split.train_images) and run.training_data.groups is None


def test_a_run_says_how_many_groups_of_near_duplicates_it_made(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    given = {"profile": "challenge", "data_dir": run.config.data_dir, "run": "grouped", **WIDTHS}
    grouped = open_run({"group_duplicates": True}, **given)
    found = Grouped.of(grouped.groups)
    assert capsys.readouterr().err == f"{found}; each group stays in one split\n"
    grouped.save()
    write_manifest(grouped.directory, grouped.config.data_path, {})
    kept = [read_json(grouped.directory / name)["near_duplicates"] for name in ("run.json", "manifest.json")]
    assert kept == [vars(found)] * 2 and grouped.near_duplicates == found
    plain = open_run({}, **given)
    plain.save()
    write_manifest(plain.directory, plain.config.data_path, {})
    assert plain.near_duplicates is None and read_json(plain.directory / "manifest.json")["near_duplicates"] is None
    assert capsys.readouterr().err == ""


def test_a_run_trains_the_published_method_without_negatives_of_the_same_text_where_told(run):
    data = run.training_data
    assert len(data.same_text) == len(data.text)
    assert not run.settings(BigJumpConfig).exclude_same_text
    told = replace(run, overrides={"exclude_same_text": True}).settings(BigJumpConfig)
    repeated = replace(data, same_text=torch.zeros_like(data.same_text))
    assert (
        BigJumpObjective(told, repeated).same_text.most > 1
        and BigJumpObjective(BigJumpConfig(), repeated).same_text is None
    )


def test_a_model_of_another_device_is_kept_and_said(run, capsys, monkeypatch):
    def native(dtype):
        monkeypatch.setattr(recipes, "matmul_dtype", lambda device, wanted: dtype if wanted else torch.float32)

    settings = BaselineConfig(epochs=1, hidden=4)
    native(torch.float32)
    for name in recipes.BASELINES:
        train(run, name, replace(settings, mixed_precision=name != "linear"))
    capsys.readouterr()
    native(torch.bfloat16)
    find_or_make(run, *recipes.BASELINES)
    said = [line for line in capsys.readouterr().err.splitlines() if "elsewhere" in line]
    # What asked for float32 is what it would be here.
    assert said == [f"{name}: found in a/, trained elsewhere, on cpu with torch.float32." for name in ("mlp1", "mlp2")]


@pytest.mark.slow
def test_an_ensemble_of_another_version_of_the_recipe_is_not_found(run, capsys, monkeypatch):
    assert not run.has("bigjump_plus")
    train(run, "bigjump_plus", QUICK["bigjump_plus"])
    assert run.has("bigjump_plus")
    monkeypatch.setattr(plus, "VERSION", plus.VERSION + 1)
    assert not run.has("bigjump_plus")
    made: list[int] = []
    monkeypatch.setattr(recipes.plus, "train_plus", lambda *_: made.append(plus.VERSION) or [])
    find_or_make(run, "bigjump_plus")
    assert made == [plus.VERSION] and run.has("bigjump_plus")
    assert (
        "bigjump_plus: not in a/ for this data and split, by this version of its recipe; made now"
        in capsys.readouterr().err
    )


def test_a_model_of_another_split_is_made_anew(run, capsys):
    find_or_make(run, "least_squares", "procrustes")
    capsys.readouterr()
    find_or_make(open_run({"split_seed": 7}, profile="challenge", run="a", data_dir=run.config.data_dir), "procrustes")
    assert "procrustes: not in a/ for this data and split" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), [("linear", "state.safetensors"), ("bigjump_plus", "choice.json")])
def test_what_an_interrupted_training_left_is_named_where_damaged_and_deleted_where_not_resumed(run, name, file):
    left = run.directory / "models" / f".{name}" / file
    left.parent.mkdir(parents=True)
    left.write_text("[1]")
    with pytest.raises(CheckpointError, match=f"{re.escape(str(left))}: not a readable .* with resume=False"):
        train(run, name, QUICK[name])
    assert artefact_digests(run.directory) == {}
    assert train(run, name, QUICK[name], resume=False)
    assert [path.name for path in (run.directory / "models").iterdir()] == [f"{name}.safetensors"]
