"""A run of twelve coloured squares whose words are colours, for tests of the page: no encoder, no training."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.models.build import build_model
from helpers.models.storage import save_model
from helpers.serving.app.gallery import Gallery

COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 127, 14),
    "yellow": (250, 210, 50),
    "green": (44, 160, 44),
    "teal": (20, 150, 150),
    "blue": (31, 119, 180),
    "navy": (20, 30, 110),
    "purple": (148, 103, 189),
    "pink": (227, 119, 194),
    "brown": (140, 86, 75),
    "grey": (127, 127, 127),
    "black": (10, 10, 10),
}
NAMES = [f"{colour}.png" for colour in COLOURS]
VALUES = np.array(list(COLOURS.values()), dtype=np.float32) / 255 + 0.05


def png(colour: tuple[int, ...], side: int = 64, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (side, side), colour).save(stream, "PNG")
    return stream.getvalue()


class Words:
    """A text encoder: the mean of the colours that a text names."""

    dim = 3

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts, batch_size=None):
        self.asked += texts
        rows = [[VALUES[place] for place, colour in enumerate(COLOURS) if colour in text] for text in texts]
        return np.stack([np.mean(row or [VALUES.mean(0)], axis=0) for row in rows]).astype(np.float32)


class Eyes:
    """An image encoder: the mean colour of a picture."""

    dim = 3

    def encode(self, pictures, batch_size=None):
        return np.stack([np.asarray(picture, dtype=np.float32).mean((0, 1)) / 255 + 0.05 for picture in pictures])


class Squares:
    def __len__(self):
        return len(NAMES)

    def thumbnail(self, row, size=128):
        return png(list(COLOURS.values())[row], size)


class FakeIndex:
    """Exact search in colours; the correction reverses nothing but the first two hits, so that a test can tell it."""

    def __init__(self, model: str, encoder: Words, hubness: bool = True) -> None:
        self.translator, self.vectors, self.pictures = encoder, VALUES, Squares()
        self.names, self.captions = list(NAMES), [f"a square in {colour}" for colour in COLOURS]
        self.model, self.hubness = model, hubness

    def __len__(self):
        return len(self.vectors)

    def search(self, queries, k, hubness=None, translated=None):
        hubness = self.hubness if hubness is None else hubness
        unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (queries, self.vectors)]
        scores = unit[0] @ unit[1].T
        rows = np.argsort(-scores, axis=1)[:, :k]
        if hubness and k > 1:
            rows[:, [0, 1]] = rows[:, [1, 0]]
        return rows, np.take_along_axis(scores, rows, axis=1)

    def add(self, gallery, names):
        self.vectors = np.concatenate([self.vectors, gallery])
        self.names += names
        self.captions += [""] * len(names)
        assert len(set(self.names)) == len(self.vectors)

    def why(self, row, n=5):
        rows, scores = self.search(self.vectors[row : row + 1], n, hubness=False)
        return [(f"a square like {self.names[near]}", score) for near, score in zip(rows[0], scores[0], strict=True)]


def make_run(folder: Path) -> Path:
    """A run's folder with two models and a leaderboard."""
    rows = [{"model": "chance", "mrr": 0.1}]
    for name, mrr in ("least_squares", 0.4), ("procrustes", 0.6):
        save_model(folder, name, build_model(name, 3, 3), {"architecture": {"text_dim": 3, "image_dim": 3}})
        rows.append({"model": name, "mrr": mrr})
    (folder / "leaderboard.json").write_text(json.dumps(rows))
    return folder


def make_gallery(run: Path, words: Words | None = None, eyes=Eyes, hubness=True) -> Gallery:
    words = words or Words()
    return Gallery(run, lambda model: FakeIndex(model, words, hubness), eyes, {"kind": "squares"})


if __name__ == "__main__":  # FOLDER PORT: the page over the fake, for a browser
    import uvicorn

    from helpers.serving.app.web import create_app

    uvicorn.run(create_app(make_gallery(make_run(Path(sys.argv[1])))), port=int(sys.argv[2]), log_level="warning")
