"""Where the project keeps things, and where runs and caches go."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from helpers.errors import ConfigError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""Of a checkout; installed as a wheel, the folder that packages lie in, to which nothing is ever written."""
NOTEBOOKS_DIR = PROJECT_ROOT / "notebooks"
FIGURES_DIR = PROJECT_ROOT / "figures"
DATA_DIR = PROJECT_ROOT / "data"


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path as a person writes it, `~` and `~name` replaced by the home folder that they stand for.

    Raises:
        ConfigError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no user has this name, or the system tells no home folder
        start = Path(path).parts[0]
        raise ConfigError(
            f"{path}: {start} stands for the home folder of a user whom this machine does not know. Write the path in "
            f"full, or ./{path} for a folder that is called {start}."
        ) from error


def absolute(path: str | os.PathLike[str]) -> Path:
    """`expanded`, from the root on; links in it stay as they are.

    Raises:
        ConfigError: as `expanded`.
    """
    return expanded(path).absolute()


def in_checkout() -> bool:
    """Whether the package is used from a checkout of the project, with its notebooks."""
    return (PROJECT_ROOT / "pyproject.toml").exists() and NOTEBOOKS_DIR.is_dir()


def is_writable(folder: Path) -> bool:
    """Whether files can be made in `folder`, or in the nearest folder above it that exists."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK)
    except OSError:  # below a folder that may not be entered
        return False


def runs_dir() -> Path:
    """The folder that holds one folder a run: `$HELPERS_RUNS_DIR`, or `runs/` in the checkout or the current folder.

    Raises:
        ConfigError: that variable begins with the `~name` of nobody.
    """
    if given := os.environ.get("HELPERS_RUNS_DIR"):
        return expanded(given).resolve()
    return (PROJECT_ROOT if in_checkout() else Path.cwd()) / "runs"


def cache_dir() -> Path:
    """The folder of the caches: beside the runs, or the user's own where that cannot be written or is no checkout."""
    beside = runs_dir() / ".cache"
    chosen = bool(os.environ.get("HELPERS_RUNS_DIR")) or in_checkout()
    return beside if chosen and is_writable(beside) else platformdirs.user_cache_path("embedding-translation")
