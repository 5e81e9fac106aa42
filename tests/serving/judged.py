"""A small run as notebook 05 leaves it, for the tests of indexes."""

import json
from pathlib import Path

import numpy as np
import torch

from helpers.data.vectors import MARKS
from helpers.evaluation import hubness
from helpers.models import storage
from helpers.models.build import build_model
from helpers.serving.translator import Translator

DX, DY, BANK = 6, 8, 40


def make_run(folder: Path, seed: int = 0, beta: float = 12.0) -> Translator:
    """A run with the model `linear`, its leaderboard and its query bank."""
    torch.manual_seed(seed)
    storage.save_model(
        folder, "linear", build_model("linear", DX, DY), {"architecture": {"text_dim": DX, "image_dim": DY}}
    )
    bank = np.random.default_rng(1).normal(size=(BANK, DX)).astype(np.float32)
    hubness.save_query_bank(folder, bank, np.zeros((len(bank), MARKS)), {"linear": beta})
    row = {"model": "linear", "mrr": 0.5, "weights": storage.weights_digest(folder, "linear")}
    (folder / "leaderboard.json").write_text(json.dumps([row]))
    return Translator.load(folder)


def make_gallery(n: int, seed: int = 2) -> np.ndarray:
    """(n, DY) image vectors that have much in common, so that some of them are hubs."""
    return 26 * (np.random.default_rng(seed).normal(size=(n, DY)) + 0.5).astype(np.float32)


def make_queries(n: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DX)).astype(np.float32)


def names_of(n: int) -> list[str]:
    return [f"{row}.jpg" for row in range(n)]
