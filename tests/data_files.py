"""Tiny data folders in the challenge's format; tests change one thing in them before or after they are written."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

N_IMAGES = 4
N_CAPTIONS = 8
TEXT_DIM = 6
IMAGE_DIM = 5
TARGETS = np.array([0, 2, 1, 0, 2, 2, 1, 0])  # image 3 has no caption, which is allowed


class DataFiles:
    """Content of one data folder, valid as made.

    Attributes:
        folder: where `write` puts the files.
        arrays: the arrays of train.npz by key; without `captions/label`.
        lines: the lines of captions.txt; None leaves the file out.
    """

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        names = [f"{row}.jpg" for row in range(N_IMAGES)]
        texts = [f"caption {row}, with a comma" for row in range(N_CAPTIONS)]
        self.folder = folder
        self.arrays = {
            "metadata/num_captions": np.array([N_CAPTIONS]),
            "metadata/num_images": np.array([N_IMAGES]),
            "metadata/embedding_dim_text": np.array([TEXT_DIM]),
            "metadata/embedding_dim_image": np.array([IMAGE_DIM]),
            "captions/ids": np.arange(N_CAPTIONS),
            "captions/text": np.array(texts),
            "captions/embeddings": rng.standard_normal((N_CAPTIONS, TEXT_DIM)).astype(np.float32),
            "images/names": np.array(names),
            "images/embeddings": rng.standard_normal((N_IMAGES, IMAGE_DIM)).astype(np.float32),
        }
        self.lines: list[str] | None = ["image,caption"] + [
            f"{names[target]},{text}" for target, text in zip(TARGETS, texts, strict=True)
        ]

    @property
    def npz(self) -> Path:
        return self.folder / "train.npz"

    @property
    def captions(self) -> Path:
        return self.folder / "captions.txt"

    def drop(self, *keys: str) -> None:
        for key in keys:
            del self.arrays[key]

    def use_labels(self) -> np.ndarray:
        """Replace captions.txt by the one-hot matrix, (N_CAPTIONS, N_IMAGES) bool, and return it."""
        self.lines = None
        self.arrays["captions/label"] = np.eye(N_IMAGES, dtype=bool)[TARGETS]
        return self.arrays["captions/label"]

    def use_queries(self) -> None:
        """Leave captions without images: what test.clean.npz holds."""
        self.lines = None
        self.drop("images/names", "images/embeddings", "metadata/num_images", "metadata/embedding_dim_image")

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self.npz, **self.arrays)
        if self.lines is not None:
            self.captions.write_bytes("".join(f"{line}\n" for line in self.lines).encode())
        return self.folder


def store(key: str, value: object) -> Callable[[DataFiles], None]:
    """A fault: another array under `key`."""
    return lambda files: files.arrays.__setitem__(key, value)


def change(key: str, function: Callable[[np.ndarray], object]) -> Callable[[DataFiles], None]:
    """A fault: what `function` makes of the array under `key`."""
    return lambda files: files.arrays.__setitem__(key, function(files.arrays[key]))


def put(key: str, where: object, value: object) -> Callable[[DataFiles], None]:
    """A fault in single values of an array, such as NaN in one row."""

    def fault(files: DataFiles) -> None:
        files.arrays[key][where] = value

    return fault


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the content of an npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f4", fortran_order: bool = False) -> bytes:
    """An npy header alone, for arrays that promise more than follows."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": fortran_order, "descr": descr})
    return file.getvalue()


def promise(
    path: Path,
    key: str,
    shape: tuple[int, ...],
    descr: str = "<f4",
    fortran_order: bool = False,
    compression: int = zipfile.ZIP_DEFLATED,
    n_bytes: int = 100,
) -> Path:
    """Add an array of which only `n_bytes` follow, although its header and the zip's directory promise all."""
    header = npy_header(shape, descr, fortran_order)
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr(f"{key}.npy", header + bytes(n_bytes))
        archive.infolist()[-1].file_size = len(header) + math.prod(shape) * np.dtype(descr).itemsize
    return path


def write_members(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip with raw members, `.npy` appended to their keys."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, content in members.items():
            archive.writestr(f"{key}.npy", content)
    return path


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
