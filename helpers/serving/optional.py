"""Libraries that only some uses need: imported where they are used, or one line that says what to install."""

from __future__ import annotations

import importlib
from typing import Any

from helpers.errors import MissingLibraryError


def library(name: str, extra: str) -> Any:
    """The module `name`.

    Args:
        extra: of this package, that installs it.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingLibraryError(
            f'{name.partition(".")[0]} is not installed ({error}). Run: pip install "embedding-translation[{extra}]"'
        ) from error
