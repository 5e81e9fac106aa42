"""Libraries that only some commands need: imported where they are used, and asked for in one line where missing."""

from __future__ import annotations

import importlib
from typing import Any

from helpers.errors import MissingLibraryError


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
            f"{missing} is needed for this and cannot be imported ({error}). Install it: "
            f'pip install "embedding-translation[{extra}]"'
        ) from error
