"""Two runs at once in one folder are refused; a dead owner holds nothing; a project that is read-only still runs."""

import multiprocessing
import os
import time
from types import SimpleNamespace

import pytest

from helpers.errors import RunInUseError
from helpers.runs import series
from helpers.system import paths
from helpers.system.locks import lock


def hold(path, held):
    with lock(path):
        held.set()
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the run's folder."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "r", held))
    process.start()
    assert held.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_owner_is_refused_and_the_first_is_named(tmp_path, other):
    in_use = rf"r: in use by process {other.pid} on .*, started .*another run"
    with pytest.raises(RunInUseError, match=in_use), lock(tmp_path / "r"):
        pass
    with lock(tmp_path / "s"):
        pass  # another run is free


def test_one_training_of_a_model_at_a_time_beside_the_lock_of_the_series(tmp_path):
    in_use = rf"r, training of linear: in use by process {os.getpid()}"
    with lock(tmp_path / "r"), lock(tmp_path / "r", training="linear"), lock(tmp_path / "r", training="mlp1"):
        again = lock(tmp_path / "r", training="linear")
        with pytest.raises(RunInUseError, match=in_use), again:
            pass
    with lock(tmp_path / "r", training="linear"):
        pass
    with lock(tmp_path / "r.linear"), lock(tmp_path / "r", training="linear"):
        pass  # a run whose name looks like the training's
    assert not (tmp_path / "r").exists()  # no part of what the run holds


def test_a_killed_owner_holds_nothing(tmp_path, other):
    other.kill()
    other.join()
    with lock(tmp_path / "r"):
        assert (tmp_path / ".r.series.owner").exists()
    assert not (tmp_path / ".r.series.owner").exists() and not (tmp_path / "r").exists()


def test_the_series_refuses_a_run_in_use(tmp_path, other, monkeypatch, capsys):
    executed = []
    monkeypatch.setenv("HELPERS_RUNS_DIR", "unused")  # restored after the test; --runs-dir replaces it
    monkeypatch.setattr(series, "read_inputs", lambda config: SimpleNamespace(directory=config.run_dir))
    monkeypatch.setattr(series, "run_notebook", lambda path, output, given: executed.append(output))
    assert series.main(["--runs-dir", str(tmp_path), "--run", "r"]) == 2
    assert f"in use by process {other.pid}" in capsys.readouterr().err and not executed
    assert series.main(["--runs-dir", str(tmp_path), "--run", "s"]) == 0
    assert [path.parent for path in executed] == [tmp_path / "s"] * 5


def test_a_cache_that_cannot_be_shared_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path))
    assert paths.cache_dir() == tmp_path / ".cache"
    monkeypatch.setattr(paths, "is_writable", lambda folder: False)
    assert paths.cache_dir().name == "embedding-translation" and tmp_path not in paths.cache_dir().parents


def test_an_owner_that_cannot_be_read_is_another_process(tmp_path, other):
    for content in (b"", b"\xff"):
        (tmp_path / ".r.series.owner").write_bytes(content)
        with pytest.raises(RunInUseError, match="in use by another process"), lock(tmp_path / "r"):
            pass
