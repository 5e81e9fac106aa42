"""Libraries that only some commands need: imported where they are used, and asked for in one line where missing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from helpers.errors import MissingLibraryError
from helpers.system import paths


def library(name: str, extra: str) -> Any:
    """Import a module of an optional library.

    Args:
        name: of the module. extra: of this project that brings it.

    Raises:
        MissingLibraryError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise MissingLibraryError(
            f"{missing} is needed for this and cannot be imported ({error}). Install it: {install_command(extra)}"
        ) from error


def install_command(extra: str) -> str:
    """What to type for one of the project's extras: in a checkout of it, which has no other source, or of a wheel."""
    if not paths.in_checkout():
        return f'pip install "embedding-translation[{extra}]"'
    root = "." if Path.cwd() == paths.PROJECT_ROOT else paths.PROJECT_ROOT
    return f'pip install -e "{root}[{extra}]"'
