"""The command line that trains one model of a run."""

import json
import subprocess
import sys

import numpy as np
import pytest

from helpers.models import storage
from helpers.runs.one_model import main

N_IMAGES = 100
SMALL = ["-p", "epochs", "2", "-p", "hidden", "8", "-p", "batch_size", "32"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder; runs go to `tmp_path / "runs"`."""
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    made = tmp_path / "data"
    made.mkdir()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(N_IMAGES, 6))
    of = np.repeat(np.arange(N_IMAGES), 3)
    np.savez(
        made / "train.npz",
        **{
            "captions/embeddings": images[of] @ rng.normal(size=(6, 5)) + 0.1 * rng.normal(size=(len(of), 5)),
            "captions/text": np.array([f"caption {i}" for i in range(len(of))]),
            "captions/image": of,
            "images/embeddings": images,
            "images/names": np.array([f"{i}.jpg" for i in range(N_IMAGES)]),
        },
    )
    return made


def test_a_network_is_stored_where_the_notebooks_find_it(folder, tmp_path, capsys):
    assert main(["mine", "--data-dir", str(folder), "--model", "mlp1", *SMALL]) == 0
    run = tmp_path / "runs" / "mine"
    assert storage.load_metadata(run, "mlp1")["settings"]["epochs"] == 2
    assert json.loads((run / "run.json").read_text())["config"]["data_dir"] == str(folder)
    where, mrr = capsys.readouterr().out.splitlines()
    assert where == str(run / "models" / "mlp1.safetensors") and mrr.startswith("validation MRR 0.")


def test_a_closed_form_has_the_very_settings_given(folder, tmp_path):
    for eps in ("0.5", "0.25"):
        assert main(["mine", "--data-dir", str(folder), "--model", "procrustes", "-p", "eps", eps]) == 0
        assert storage.load_metadata(tmp_path / "runs" / "mine", "procrustes")["settings"]["eps"] == float(eps)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "mlp3"], "No model is called 'mlp3'. There are: least_squares"),
        (["--model", "mlp1", "-p", "epoch", "2"], "Unknown setting 'epoch'. Did you mean 'epochs'?"),
        (["--model", "mlp1", "-p", "eps", "2"], "Unknown setting 'eps'."),
        (["--model", "mlp1", "-p", "epochs", "0"], "epochs = 0"),
        (["--model", "mlp1", "-p", "run", "other"], "Unknown setting 'run'."),
    ],
)
def test_what_is_not_known_is_told_before_anything_is_read(folder, tmp_path, capsys, arguments, said):
    assert main(["mine", "--data-dir", str(folder), *arguments]) == 2
    assert f"error: {said}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cca", "bigjump", "bigjump_plus"])
def test_torchrun_makes_every_kind_of_row_in_two_processes(folder, tmp_path, model):
    """The last two begin with closed forms of their own, so that all are made."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "helpers.train", "mine"]
    smaller = {"bigjump": SMALL, "bigjump_plus": [*SMALL, "-p", "members", "2", "-p", "landmarks", "20"]}
    command += ["--data-dir", str(folder), "--model", model, *smaller.get(model, [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    where, mrr = done.stdout.splitlines()
    assert where == str(tmp_path / "runs" / "mine" / "models" / f"{model}.safetensors")
    assert float(mrr.split()[-1]) > 0.5  # among ten images; by chance 0.29
