"""The manifest: what a run was made from, and whether it comes back bit for bit."""

import json
import re
import shutil
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from helpers.errors import CheckpointError
from helpers.models import build, storage
from helpers.models.build import build_model
from helpers.runs import manifest, series
from helpers.runs.manifest import artefact_digests, differences
from helpers.system import files, paths


@pytest.fixture
def run(tmp_path):
    """A run's folder with one artefact of each kind."""
    folder = tmp_path / "run"
    model = build_model("linear", 3, 4)
    torch.nn.init.ones_(model[-1].weight)
    torch.nn.init.zeros_(model[-1].bias)
    storage.save_model(folder, "linear", model, {"history": [{"epoch": 1, "mrr": 0.5, "seconds": 1.25}]})
    files.write_json(folder / "leaderboard.json", [{"model": "linear", "mrr": 0.5, "cpu_ms_per_query": 0.1}])
    (folder / "submission.csv").write_text("id,embedding\n")
    return folder


def test_digests_leave_timings_out_and_miss_nothing_else(run):
    before = artefact_digests(run)
    assert set(before) == {
        "leaderboard.json",
        "models/linear.safetensors",
        "submission.csv",
    }
    rows = [{"model": "linear", "mrr": 0.5, "cpu_ms_per_query": 0.7}]
    files.write_json(run / "leaderboard.json", rows)
    model, metadata = build.build_model("linear", 3, 4), {"history": [{"epoch": 1, "mrr": 0.5, "seconds": 9.0}]}
    torch.nn.init.ones_(model[-1].weight)
    torch.nn.init.zeros_(model[-1].bias)
    storage.save_model(run, "linear", model, metadata)
    (run / "models" / ".linear.safetensors.x1.safetensors").write_text("{")  # of a process killed while it wrote
    (run / "models" / ".bigjump_plus").mkdir()  # of a training that goes on
    (run / "models" / ".bigjump_plus" / "choice.json").write_text("{}")
    (run / ".ipynb_checkpoints").mkdir()
    (run / ".ipynb_checkpoints" / "leaderboard-checkpoint.json").write_text("[]")
    assert artefact_digests(run) == before

    files.write_json(run / "leaderboard.json", [rows[0] | {"mrr": 0.5000001}])
    torch.nn.init.constant_(model[-1].bias, 1e-30)
    storage.save_model(run, "linear", model, metadata)
    (run / "submission.csv").unlink()
    assert differences(before, artefact_digests(run)) == [
        "leaderboard.json",
        "models/linear.safetensors",
        "submission.csv",
    ]


def test_a_notebook_that_ran_earlier_keeps_its_parameters(run, tmp_path):
    manifest.write_manifest(run, tmp_path, {"01_a.ipynb": {"epochs": 1}, "02_b.ipynb": {"eps": 0.1}})
    manifest.write_manifest(run, tmp_path, {"02_b.ipynb": {"eps": 0.2}})
    recorded = manifest.read_manifest(run)
    assert recorded["parameters"] == {"01_a.ipynb": {"epochs": 1}, "02_b.ipynb": {"eps": 0.2}}
    assert recorded["environment"]["torch"] == metadata.version("torch") and recorded["environment"]["threads"] > 0
    assert recorded["artefacts"] == artefact_digests(run)


def test_a_damaged_manifest_is_replaced_by_the_next_series(run, tmp_path):
    (run / "manifest.json").write_text("{")
    manifest.write_manifest(run, tmp_path, {"01_a.ipynb": {"epochs": 1}})
    assert manifest.read_manifest(run)["parameters"] == {"01_a.ipynb": {"epochs": 1}}


def test_inputs_are_named_with_their_digest(run, tmp_path):
    (tmp_path / "captions.txt").write_text("abc")
    manifest.write_manifest(run, tmp_path, {})
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest.read_manifest(run)["inputs"] == {"captions.txt": abc}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), ("{", "damaged"), ("{}", "damaged"), ("3", "damaged")]
)
def test_a_manifest_that_cannot_be_read(tmp_path, content, message):
    if content:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=f"manifest.json: {message}"):
        manifest.read_manifest(tmp_path)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A finished run `r` of notebooks that are replaced by one that writes `number` to the run's folder."""
    written = {"number": 1}
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(series, "read_inputs", lambda config: SimpleNamespace(directory=config.run_dir))
    monkeypatch.setattr(
        series, "run_notebook", lambda path, output, given: files.write_json(output.parent / "x.json", written)
    )
    assert series.main(["--run", "r", "-p", "epochs", "3"]) == 0
    return written


def test_verify_runs_again_with_the_recorded_parameters(tmp_path, finished, capsys):
    assert series.main(["--verify", "r"]) == 0
    assert "all 1 artefacts came back bit for bit" in capsys.readouterr().out
    assert not (tmp_path / "r.verify").exists() and (tmp_path / "r" / "x.json").exists()


def test_verify_tells_what_differs_and_keeps_it(tmp_path, finished, capsys):
    finished["number"] = 2
    assert series.main(["--verify", "r"]) == 1
    assert "1 of 1 differ: x.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "x.json").read_text()) == {"number": 1}
    assert json.loads((tmp_path / "r.verify" / "x.json").read_text()) == {"number": 2}
    capsys.readouterr()
    assert series.main(["--verify", "r"]) == 2  # what lies there would be found, and not made again
    assert "r.verify: there already" in capsys.readouterr().err
    given = json.loads((tmp_path / "r.verify" / "manifest.json").read_text())["parameters"]
    assert given["04_bigjump_training.ipynb"] == {"profile": "demo", "run": "r.verify", "data_dir": None, "epochs": 3}


@pytest.mark.parametrize(
    "change", [lambda path: path.write_text("[]"), lambda path: path.write_text("{"), lambda path: path.unlink()]
)
def test_verify_looks_at_the_run_itself_first(tmp_path, finished, capsys, change):
    change(tmp_path / "r" / "x.json")
    assert series.main(["--verify", "r"]) == 1
    assert re.search(r"r: changed since its manifest was written.*: x\.json\.", capsys.readouterr().out)
    assert not (tmp_path / "r.verify").exists()


def test_verify_without_a_manifest(tmp_path, finished, capsys):
    shutil.rmtree(tmp_path / "r")
    assert series.main(["--verify", "r"]) == 2
    assert "manifest.json: no such file" in capsys.readouterr().err
    assert paths.runs_dir() == tmp_path


def test_a_file_that_is_not_what_its_name_says_counts_by_its_bytes(run):
    before = artefact_digests(run)
    (run / "notes.json").write_text("to do: look at rank 3")
    (run / "half.safetensors").write_bytes(b"12")
    found = artefact_digests(run)
    assert differences(before, found) == ["half.safetensors", "notes.json"]
    (run / "notes.json").write_text("done")
    assert differences(found, artefact_digests(run)) == ["notes.json"]
