"""What the caller's environment hands down neither changes a run nor makes finished work look failed."""

import json
import os
import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers.runs import series
from helpers.system import paths

RUN = """
import sys
from pathlib import Path
from helpers.runs import series
from helpers.system import paths
paths.NOTEBOOKS_DIR = Path(sys.argv[1])
series.read_inputs = lambda config: None
sys.exit(series.main(["--runs-dir", sys.argv[2], *sys.argv[3:]]))
"""


@pytest.fixture
def run(tmp_path):
    """Runs the series in a process of its own, over one notebook with the given cell, in a changed environment."""

    def start(cell, *arguments, **environment):
        notebooks = tmp_path / "notebooks"
        notebooks.mkdir()
        first = new_code_cell('profile = "demo"\nrun = None\ndata_dir = None\noverrides = {}')
        first.metadata["tags"] = ["parameters"]
        made = new_notebook(cells=[first, new_code_cell(cell)])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        (notebooks / "01_a.ipynb").write_text(json.dumps(made))
        command = [sys.executable, "-c", RUN, str(notebooks), str(tmp_path / "runs"), *arguments]
        changed = {**os.environ, "PYTHONPATH": str(paths.PROJECT_ROOT), **environment}
        done = subprocess.run(command, capture_output=True, env=changed, check=False)
        outputs = list((tmp_path / "runs").glob("*/01_a.ipynb"))
        return done, [json.loads(path.read_text(encoding="utf-8")) for path in outputs]

    return start


def text_of(notebook):
    return "".join("".join(out.get("text", "")) for cell in notebook["cells"] for out in cell.get("outputs", ()))


@pytest.mark.slow
def test_a_name_that_the_terminal_cannot_show_does_not_end_a_finished_run(run):
    done, (notebook,) = run("print('done')", "--run", "données", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"donn\\xe9es" in done.stdout and text_of(notebook) == "done\n"


@pytest.mark.slow
def test_the_kernel_is_the_interpreter_that_runs_the_series(run, tmp_path):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    done, (notebook,) = run("import sys; print(sys.executable)", JUPYTER_PATH=str(tmp_path / "jupyter"))
    assert done.returncode == 0, done.stderr
    assert text_of(notebook) == f"{sys.executable}\n"


@pytest.mark.slow
def test_figures_are_drawn_in_the_notebook_whatever_backend_is_inherited(run, tmp_path):
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: black\n")
    cell = "from helpers import plots; plots.use_style()\nimport matplotlib.pyplot as plt\n"
    cell += "plt.plot([1, 2])\nplt.show()\nprint(plt.rcParams['axes.facecolor'])"
    done, (notebook,) = run(cell, MPLBACKEND="Agg", MATPLOTLIBRC=str(tmp_path))
    assert done.returncode == 0, done.stderr
    kinds = {kind for part in notebook["cells"] for out in part.get("outputs", ()) for kind in out.get("data", ())}
    assert "image/png" in kinds and text_of(notebook) == "white\n"


@pytest.mark.slow
def test_the_users_ipython_startup_files_change_no_run(run, tmp_path):
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("surprise = 1\n")
    done, (notebook,) = run("print('surprise' in globals())", IPYTHONDIR=str(tmp_path / "ipython"))
    assert done.returncode == 0, done.stderr
    assert text_of(notebook) == "False\n"


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
    monkeypatch.setattr(series, "read_inputs", lambda config: None)
    monkeypatch.setattr(series, "lock", refused)
    assert series.main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ".demo.series.lock: Permission denied" in said and "--runs-dir" in said


def test_without_a_checkout_the_series_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "NOTEBOOKS_DIR", tmp_path / "nowhere")
    assert series.main([]) == 2
    assert "error: The series needs a checkout of the project" in capsys.readouterr().err
