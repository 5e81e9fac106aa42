"""The settings that all notebooks of a run share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from helpers.errors import ConfigError
from helpers.system import paths
from helpers.system.settings import Count, Fraction, Whole, require, settings

CHALLENGE_WIDTHS = 1024, 1536
"""Of the challenge's captions and images."""


@settings
class RunConfig:
    """Which data a run reads, how it is split, and where its artefacts go."""

    # `demo` (pictures of emoji and what people call them, in a checkout's `data/emoji`) or `challenge` (files that you
    # supply).
    profile: Literal["demo", "challenge"] = "demo"
    run: str | None = None  # name of the folder under `runs/`; the profile's name where None
    # Folder with `train.npz` and what else belongs to it; that of the profile where None. A relative path is taken from
    # the folder in which the kernel was started, then from the project's root.
    data_dir: str | Path | None = None
    # Widths that the vectors must have; None takes what the file has, but for the challenge's own files.
    text_dim: Count | None = None
    image_dim: Count | None = None
    split: Literal["own", "random"] = "own"  # that of the data, where they have one; or always one by the next three
    val_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the images that validate: two or more of them
    split_seed: Whole = 42  # seed of the split by image; training has its own seed
    # Share of the images that no training and no choice sees, judged once at the end; 0 for none.
    test_ratio: Fraction = 0.0
    group_duplicates: bool = False  # keep images that nearly repeat one another in one split

    def __post_init__(self) -> None:
        name = self.run_name
        plain = name not in ("", ".", "..") and Path(name).name == name and not name.startswith(".")
        require(plain, f"run = {name!r}: a plain folder name is needed, without separators or a leading dot.")
        for setting, value in (("run", name), ("data_dir", str(self.data_dir))):
            try:  # it is written to UTF-8 files
                value.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{setting} = {value!r}: not UTF-8. Choose another name.") from None
        require(len(name.encode()) <= 200, f"run = {name!r}: longer than 200 bytes, which file systems may refuse.")

    @property
    def run_name(self) -> str:
        return self.profile if self.run is None else self.run

    @property
    def run_dir(self) -> Path:
        return paths.runs_dir() / self.run_name

    @property
    def is_demo(self) -> bool:
        """Whether the data are the demo set."""
        return self.profile == "demo" and self.data_dir is None

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """Widths that the data must have, None for any: the challenge's own files must have the challenge's."""
        usual = CHALLENGE_WIDTHS if self.profile == "challenge" and self.data_dir is None else (None, None)
        return self.text_dim or usual[0], self.image_dim or usual[1]

    @property
    def data_path(self) -> Path:
        if self.is_demo:
            return paths.DATA_DIR / "emoji"
        given = paths.expanded(self.data_dir or paths.DATA_DIR / self.profile)
        candidates = (given.absolute(), paths.PROJECT_ROOT / given)
        return next((path for path in candidates if path.exists()), candidates[0])
