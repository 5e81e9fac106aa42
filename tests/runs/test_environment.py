"""What the caller's environment hands down neither changes a run nor makes finished work look failed."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers.runs import series
from helpers.system import paths

RUN = """
import sys
from pathlib import Path
from types import SimpleNamespace
from helpers.runs import series
from helpers.system import paths
paths.NOTEBOOKS_DIR = Path(sys.argv[1])
series.read_inputs = lambda config: SimpleNamespace(directory=config.run_dir)
sys.exit(series.main(["--runs-dir", sys.argv[2], *sys.argv[3:]]))
"""


CELL = """
import json
import sys
from helpers import plots
plots.use_style()
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.show()
print(json.dumps([sys.executable, plt.rcParams["axes.facecolor"], "surprise" in globals()]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in a process of its own, in an environment that would change whatever asked it, and its notebook."""
    folder = tmp_path_factory.mktemp("environment")
    kernel, startup = folder / "jupyter" / "kernels" / "python3", folder / "ipython" / "profile_default" / "startup"
    for each in (kernel, startup, folder / "notebooks"):
        each.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    (startup / "00.py").write_text("surprise = 1\n")
    (folder / "matplotlibrc").write_text("axes.facecolor: black\n")
    first = new_code_cell('profile = "demo"\nrun = None\ndata_dir = None\noverrides = {}')
    first.metadata["tags"] = ["parameters"]
    made = new_notebook(cells=[first, new_code_cell(CELL)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "notebooks" / "01_a.ipynb").write_text(json.dumps(made))
    command = [sys.executable, "-c", RUN, str(folder / "notebooks"), str(folder / "runs"), "--run", "données"]
    inherited = {"JUPYTER_PATH": folder / "jupyter", "IPYTHONDIR": folder / "ipython", "MATPLOTLIBRC": folder}
    inherited |= {"PYTHONPATH": paths.PROJECT_ROOT, "MPLBACKEND": "Agg", "PYTHONIOENCODING": "ascii"}
    environment = os.environ | {name: str(value) for name, value in inherited.items()}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (output,) = (folder / "runs").glob("*/01_a.ipynb")
    return done, [out for cell in json.loads(output.read_text())["cells"] for out in cell.get("outputs", ())]


@pytest.fixture(scope="module")
def printed(run):
    """The kernel's interpreter, the colour behind a figure, and whether a startup file was run."""
    return json.loads("".join("".join(output.get("text", "")) for output in run[1]))


@pytest.mark.slow
def test_a_name_that_the_terminal_cannot_show_does_not_end_a_finished_run(run):
    assert b"donn\\xe9es" in run[0].stdout


@pytest.mark.slow
def test_the_kernel_is_the_interpreter_that_runs_the_series(printed):
    assert printed[0] == sys.executable


@pytest.mark.slow
def test_figures_are_drawn_in_the_notebook_whatever_backend_is_inherited(run, printed):
    assert "image/png" in {kind for output in run[1] for kind in output.get("data", ())} and printed[1] == "white"


@pytest.mark.slow
def test_the_users_ipython_startup_files_change_no_run(printed):
    assert printed[2] is False


@pytest.mark.slow
def test_a_reader_that_is_gone_does_not_make_a_finished_run_fail(tmp_path):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / "01_a.ipynb").write_text(json.dumps(new_notebook()))
    code = RUN.replace("sys.exit(", "series.run_notebook = lambda *given: None\nsys.exit(")
    command = [sys.executable, "-c", code, str(notebooks), str(tmp_path / "runs")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command,
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT_ROOT)},
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_file_that_cannot_be_written_is_one_line_with_the_way_out(tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "runs" / ".demo.series.lock"))

    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(series, "read_inputs", lambda config: SimpleNamespace(directory=config.run_dir))
    monkeypatch.setattr(series, "lock", refused)
    assert series.main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ".demo.series.lock: Permission denied" in said and "--runs-dir" in said


def test_without_a_checkout_the_series_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "NOTEBOOKS_DIR", tmp_path / "nowhere")
    assert series.main([]) == 2
    assert "error: The series needs a checkout of the project" in capsys.readouterr().err
