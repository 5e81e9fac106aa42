"""What the notebooks find of one another: models of other settings are used, and said to be of other settings."""

from dataclasses import replace

import pytest

from helpers import checkpoints, pipeline
from helpers.config import GeometryConfig, RunConfig
from helpers.synthetic import write_demo

WIDTHS = {"text_dim": 12, "image_dim": 16}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    folder = write_demo(tmp_path / "data", n_images=40, **WIDTHS)
    return pipeline.open_run(RunConfig("challenge", run="a", data_dir=folder, **WIDTHS))


def test_what_is_missing_is_made_with_the_defaults_and_then_found_in_silence(run, capsys):
    pipeline.ensure_geometry(run)
    assert capsys.readouterr().err.count("made now, with the defaults of 02") == 1  # both at once
    pipeline.ensure_geometry(run)
    assert capsys.readouterr().err == ""


def test_a_model_of_other_settings_is_kept_and_its_settings_are_said(run, capsys):
    settings = GeometryConfig(eps=0.1)
    pipeline.save_geometry(run, pipeline.fit_geometry(run, settings), settings)
    before = checkpoints.weights_digest(run.directory, "procrustes")
    pipeline.ensure_geometry(run)
    said = capsys.readouterr().err
    assert "procrustes: found in a/, made with other settings than the defaults: eps = 0.1." in said
    assert checkpoints.weights_digest(run.directory, "procrustes") == before


def test_a_model_of_another_split_is_made_anew(run, capsys):
    pipeline.ensure_geometry(run)
    capsys.readouterr()
    pipeline.ensure_geometry(pipeline.open_run(replace(run.config, split_seed=7)))
    assert "least_squares: not in a/ for this data and split" in capsys.readouterr().err
