"""The wheel, installed where there is no repository: it loads, translates, and keeps out of the installed package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow

USE = """
from pathlib import Path
import helpers
from helpers import Translator, load_pairs

data = load_pairs("data")
assert data.text.shape == (4, 3) and data.images.shape == (2, 4) and data.targets.tolist() == [0, 0, 1, 1]
assert data.captions[3] == "a dog, asleep"
assert {"Translator", "load_pairs", "__version__"} <= set(helpers.__all__)
print(Path(helpers.__file__).parent)

import matplotlib
matplotlib.use("Agg")
from helpers import plots
plots.use_style()
"""


class Installed:
    """An environment that holds the wheel, beside the packages of this one; the folder is away from the repository."""

    def __init__(self, folder: Path) -> None:
        source = folder / "source"
        shutil.copytree(ROOT / "helpers", source / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        offline = ["--no-deps", "--no-build-isolation", "--no-index"]
        _run([*pip, "wheel", *offline, "--wheel-dir", folder, source])
        shutil.rmtree(source)
        _run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"])
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        (wheel,) = folder.glob("*.whl")
        _run([*pip, "--python", self.bin / "python", "install", "--no-deps", "--no-index", wheel])
        # As a plain folder on the path, not as a site: so its .pth files, the editable installation's too, do nothing.
        (site,) = (folder / "venv").rglob("site-packages")
        (site / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
        self.package = site / "helpers"
        self.folder = folder / "elsewhere"
        self.folder.mkdir()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Call a program of the environment, as a user does who has set none of the project's variables."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HELPERS_", "PYTHON"))}
        environment = kept | {"HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "caches")}
        return _run([self.bin / command[0], *command[1:]], cwd=self.folder, env=environment, check=check)


def _run(command: list, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_pairs_are_loaded_a_figure_has_its_style_and_the_installed_package_stays_as_it_was(installed):
    data = installed.folder / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    np.savez(
        data / "train.npz",
        **{
            "captions/embeddings": rng.normal(size=(4, 3)).astype(np.float32),
            "images/embeddings": rng.normal(size=(2, 4)).astype(np.float32),
            "images/names": np.array(["cat.jpg", "dog.jpg"]),
        },
    )
    lines = ["image,caption", "cat.jpg,a cat", "cat.jpg,one cat", "dog.jpg,a dog", "dog.jpg,a dog, asleep"]
    (data / "captions.txt").write_text("\n".join(lines), encoding="utf-8")
    before = _files(installed.package.parent)
    assert installed.run("python", "-B", "-c", USE).stdout.strip() == str(installed.package)
    assert _files(installed.package.parent) == before
    assert sorted(path.name for path in data.iterdir()) == ["captions.txt", "train.npz"]
    assert (installed.package / "py.typed").exists()


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("command", [("python", "-m", "helpers.series"), ("embedding-translation", "series")])
def test_the_series_says_in_one_line_that_it_needs_a_checkout(installed, command):
    done = installed.run(*command, "--profile", "demo", check=False)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "checkout" in line and "notebooks" in line
