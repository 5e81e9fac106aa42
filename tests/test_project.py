"""What surrounds the code: `make` on any Python, the workflow, the console script, and pages that name tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from helpers import __main__ as console

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))

PYTHON = """#!{python} -IS
# Answers `make` as a Python of another version would, and notes what it was asked.
import os, shutil, sys
VERSION = {version}
me, arguments = os.path.abspath(sys.argv[0]), sys.argv[1:]
if arguments[0] == "-c":
    sys.version_info, sys.prefix = VERSION, os.path.dirname(os.path.dirname(me))
    import platform
    platform.python_version = lambda: ".".join(map(str, VERSION))
    exec(arguments[1])
elif arguments[:2] == ["-m", "venv"]:
    os.makedirs(arguments[2] + "/bin", exist_ok=True)
    if not os.path.exists(arguments[2] + "/bin/python"):  # as venv does, which keeps old links
        shutil.copy(me, arguments[2] + "/bin/python")
else:
    with open("log.txt", "a") as log:
        print(VERSION[1], *arguments[1:3], file=log)
"""


class Checkout:
    """A folder with the project's Makefile, where every Python is a stand-in that installs nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "project", folder / "bin"
        self.bin.mkdir()
        self.folder.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)
        for name, version in {"python3.10": (3, 10, 12), "python3.11": (3, 11, 9), "python3.13": (3, 13, 0)}.items():
            self.add_python(name, version)
        self.add_python("python3", (3, 12, 3))

    def add_python(self, name: str, version: tuple[int, int, int]) -> None:
        (self.bin / name).write_text(PYTHON.format(python=sys.executable, version=version), encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`make` with these Pythons first on the path, and without what a `make` around this test hands down."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        environment.pop("PYTHON", None)
        environment["PATH"] = f"{self.bin}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            ["make", *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def log(self) -> list[str]:
        """What the environments' Pythons were asked since the last call: minor version, module, first argument."""
        path = self.folder / "log.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


MADE = ["12 pip install", "12 helpers.series --profile"]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize(
    ("python", "is_"), [("python3.10", "python3.10 is 3.10.12"), ("python3.9.9", "python3.9.9 does not run")]
)
def test_a_python_that_is_too_old_or_missing_is_told_in_one_line_with_the_remedy(checkout, python, is_):
    made = checkout.make("run", f"PYTHON={python}")
    (line,) = made.stderr.splitlines()
    assert made.returncode == 2
    assert f"Python 3.11 or newer is needed, and {is_}. Give one: make run PYTHON=python3.11" in line
    assert not (checkout.folder / ".venv").exists()
    assert checkout.make("run").returncode == 0 and checkout.log() == MADE


def test_an_environment_is_made_once_whatever_the_default_python_becomes(checkout):
    assert checkout.make("run", "PYTHON=python3.13").returncode == 0
    assert checkout.log() == ["13 pip install", "13 helpers.series --profile"]
    checkout.add_python("python3", (3, 10, 12))
    assert checkout.make("run").returncode == checkout.make("run", "PYTHON=python3.13").returncode == 0
    assert checkout.log() == ["13 helpers.series --profile"] * 2


def test_another_python_that_is_asked_for_makes_the_environment_anew(checkout):
    checkout.make("run")
    checkout.log()
    assert checkout.make("run", "PYTHON=python3.11").returncode == 0
    assert checkout.log() == ["11 pip install", "11 helpers.series --profile"]
    assert checkout.make("run", "PYTHON=python3.10").returncode == 2
    assert checkout.make("run").returncode == 0 and checkout.log() == ["11 helpers.series --profile"]


def test_what_a_failed_call_with_an_old_python_left_is_made_anew(checkout):
    subprocess.run([checkout.bin / "python3.10", "-m", "venv", ".venv"], cwd=checkout.folder, check=True)
    assert checkout.make("run").returncode == 0
    assert checkout.log() == MADE


def test_an_environment_whose_python_is_gone_or_was_replaced_is_made_anew(checkout):
    python = checkout.folder / ".venv" / "bin" / "python"
    for breaks in (python.unlink, lambda: shutil.copy(checkout.bin / "python3.13", python)):
        checkout.make("run")
        checkout.log()
        breaks()
        assert checkout.make("run").returncode == 0
        assert checkout.log() == MADE


def test_an_environment_that_was_moved_is_made_anew(checkout):
    checkout.make("run")
    checkout.log()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    assert checkout.make("run").returncode == 0
    assert checkout.log() == MADE


def test_an_environment_that_is_a_link_is_replaced_and_what_it_leads_to_is_left_alone(checkout):
    other = checkout.folder.with_name("other")
    (other / "bin").mkdir(parents=True)
    (checkout.folder / ".venv").symlink_to(other)
    assert checkout.make("run").returncode == 0
    assert checkout.log() == MADE
    assert [path.name for path in other.rglob("*")] == ["bin"]


def test_changed_requirements_are_installed_into_the_environment_that_is_there(checkout):
    checkout.make("run")
    checkout.log()
    kept = checkout.folder / ".venv" / "kept"
    kept.touch()
    stamp = (checkout.folder / ".venv" / ".installed").stat().st_mtime
    os.utime(checkout.folder / "constraints.txt", (stamp + 10, stamp + 10))
    assert checkout.make("run").returncode == 0
    assert checkout.log() == MADE and kept.exists()


def test_continuous_integration_runs_everything():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "make test"


def test_the_workflow_calls_targets_of_the_makefile_alone():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in workflow["jobs"].items()}
    assert commands == {"check": ["make check PYTHON=python"], "test": ["make test PYTHON=python"]}
    assert {"check", "test"} <= TARGETS
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert workflow["jobs"]["check"]["strategy"]["matrix"]["python"][0] == oldest
    assert workflow["permissions"] == {"contents": "read"}


def test_pages_name_targets_that_the_makefile_has():
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
        assert named and named <= TARGETS, page


def test_what_make_installs_is_pinned():
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    required = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    assert {re.split(r"[<>=~!\[; ]", line)[0] for line in required} - {PROJECT["name"]} == pinned


def test_one_version_stands_everywhere():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest and newest[1] == PROJECT["version"]


def test_every_test_that_a_promise_names_exists():
    page = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 30
    missing = [f"{path}::{name}" for path, name in named if not _defines(ROOT / path, name)]
    assert missing == []


def _defines(path: Path, name: str) -> bool:
    """Whether a file of tests is there and, where a test is named, defines it."""
    return path.exists() and (not name or f"\ndef {name}(" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", console.COMMANDS)
def test_a_command_of_the_console_script_is_a_module_that_runs_by_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        console.main([name, "--help"])
    assert ended.value.code == 0
    assert f"helpers.{name}" in capsys.readouterr().out


def test_the_console_script_lists_its_commands_and_refuses_others(capsys):
    assert console.main([]) == console.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in console.COMMANDS)
    assert console.main(["sing"]) == 2
    assert "there is no command 'sing'" in capsys.readouterr().err
