"""How every command line ends: one line, and an exit status."""

import errno
import os
import subprocess
import sys

import pytest

from helpers.errors import DataError, NotebookError
from helpers.system import libraries, paths
from helpers.system.console import run_command


def raises(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("a.npz: is none."), 2, "error: a.npz: is none."),
        (NotebookError("01 failed."), 1, "error: 01 failed."),
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), 2,
         "error: x/y: Permission denied. Give a folder that you can write with --out."),
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), 2,
         "error: x/y: No space left on device. Free some space, or give a folder that you can write with --out."),
        (KeyboardInterrupt(), 130, "interrupted; it goes on"),
    ],
)  # fmt: skip
def test_what_ends_a_command_is_one_line_and_a_status(error, status, line, capsys):
    assert run_command(raises(error), "--out", "interrupted; it goes on") == status
    said = capsys.readouterr()
    assert said.err.strip() == line and said.out == ""


def test_a_file_of_a_command_that_writes_none_is_one_line_too(capsys):
    assert run_command(raises(FileNotFoundError(errno.ENOENT, "No such file or directory", "x"))) == 2
    assert capsys.readouterr().err == (
        "error: x: No such file or directory. See that it is there, and that you may read and write it.\n"
    )


def test_a_fault_of_ours_is_no_line_but_a_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_the_work_tells_the_status_or_what_to_print(capsys):
    assert [run_command(lambda found=found: found) for found in (None, 3, "done")] == [0, 3, 0]
    assert capsys.readouterr().out == "done\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "status"), [('lambda: "x" * 100_000', 0), ("lambda: print('x' * 100_000)", 141), ("lambda: print('x')", 0)]
)
def test_a_reader_who_has_gone_is_no_error_of_work_that_is_done(work, status):
    reader, writer = os.pipe()
    os.close(reader)
    code = f"import sys\nfrom helpers.system.console import run_command\nsys.exit(run_command({work}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT_ROOT), "PYTHONUNBUFFERED": ""},
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (status, b"")


def test_an_extra_is_installed_from_the_checkout_or_by_the_name_of_the_wheel(monkeypatch, tmp_path):
    monkeypatch.chdir(paths.PROJECT_ROOT)
    assert libraries.install_command("encode") == 'pip install -e ".[encode]"'
    monkeypatch.chdir(tmp_path)
    assert libraries.install_command("encode") == f'pip install -e "{paths.PROJECT_ROOT}[encode]"'
    monkeypatch.setattr(paths, "in_checkout", lambda: False)
    assert libraries.install_command("encode") == 'pip install "embedding-translation[encode]"'
