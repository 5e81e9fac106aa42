"""Fixtures shared by the tests, which import torch themselves: who only shares out tests to processes has no need."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from data_files import IMAGE_DIM, TEXT_DIM, DataFiles

if TYPE_CHECKING:
    from helpers.data.pairs import PairedEmbeddings


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where slow tests are left out, a file of slow tests alone is not imported: its libraries take seconds."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    slow = re.search(r"^pytestmark = .*\bmark\.slow\b", collection_path.read_text(encoding="utf-8"), re.MULTILINE)
    return True if slow else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with `flickr8k/` and `challenge-test/`; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("HELPERS_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("real data is not here; set HELPERS_REAL_DATA to a folder that holds flickr8k/ and challenge-test/")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers as small as those of tests are slower on several threads, far slower where other work holds the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Iterator[None]:
    """A benchmark that a test calls sets torch's threads for the whole process; bits of later tests depend on them."""
    import torch

    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder one that may not be read, also by a superuser, whom permissions do not concern."""
    scandir = os.scandir

    def forbid(folder: Path) -> None:
        def refused(path: int | str | Path = ".") -> Iterator[os.DirEntry[str]]:
            if not isinstance(path, int) and Path(path) == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refused)

    return forbid


@pytest.fixture
def files(tmp_path: Path) -> DataFiles:
    """A valid data folder, for the test to change and to write."""
    return DataFiles(tmp_path / "data")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., PairedEmbeddings]:
    """`load_pairs` with its cache in `tmp_path / "cache"`, and the widths of `files` where no others are given."""
    from helpers.data.pairs import load_pairs

    def load_folder(
        folder: Path, text_dim: int | None = TEXT_DIM, image_dim: int | None = IMAGE_DIM
    ) -> PairedEmbeddings:
        return load_pairs(folder, text_dim=text_dim, image_dim=image_dim, cache_dir=tmp_path / "cache")

    return load_folder
