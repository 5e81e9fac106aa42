"""Where the project keeps things, and where runs and caches go."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS_DIR = PROJECT_ROOT / "notebooks"
FIGURES_DIR = PROJECT_ROOT / "figures"
DATA_DIR = PROJECT_ROOT / "data"


def runs_dir() -> Path:
    """The folder that holds one folder a run: `$HELPERS_RUNS_DIR`, or `runs/` under the project's root."""
    return Path(os.environ.get("HELPERS_RUNS_DIR") or PROJECT_ROOT / "runs").resolve()


def cache_dir() -> Path:
    """The folder of the memory-mapped caches: beside the runs, since a data folder may be read-only."""
    return runs_dir() / ".cache"
