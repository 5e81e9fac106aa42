"""What it brings that an image is no negative of a caption whose very text also describes it (`exclude_same_text`).

`python -m benchmarks.same_text --data-dir DIR --text-dim 384 --image-dim 1280`. One network of the recipe plus is
trained with and without, from the same seed, on cross-validation folds of the training images of split 0. The images
of the folds judge; the validation split is not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import common, protocol
from benchmarks.baselines.method import SEARCH_SEED
from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.repeats import count_repeats
from helpers.data.split import make_split
from helpers.data.training_data import TrainingData
from helpers.evaluation import metrics
from helpers.system.devices import choose_device
from helpers.system.files import write_json
from helpers.training import loop, plus
from helpers.training.folds import make_fold
from helpers.training.same_text import SameText
from helpers.training.settings import PlusConfig

SAMPLES = 2000


def ranks_by_epoch(fold: TrainingData, settings: PlusConfig, temperature: float) -> tuple[list[float], np.ndarray]:
    """MRR of each epoch of one network, and the ranks (V,) of its best."""
    model = plus.build_ensemble(fold, settings, 1)
    objective = plus.PlusObjective(settings, fold, model, temperature, searching=True)
    history = loop.fit(model, objective, f"exclude_same_text={settings.exclude_same_text}, seed {settings.seed}")
    with torch.inference_mode():
        found = loop.translations(model, fold.val_text)
    ranks = metrics.ranks(found, fold.val_images, fold.val_positive, statistics=fold.gallery_statistics)
    return [entry["mrr"] for entry in history], ranks


def measure(
    data: PairedEmbeddings, folds: Sequence[int], epochs: int, temperature: float, train_images: int | None
) -> dict:
    """Both trainings on each fold, and the paired difference with its interval over the images of the folds."""
    split = make_split(data.targets, data.n_images, protocol.VAL_RATIO, 0)
    if train_images is not None:
        split = protocol.fewer(split, train_images, 0)
    train = TrainingData.of(data.text, data.images, split, choose_device(), captions=data.captions)
    rows, differences, images = [], [], []
    for number in folds:
        fold = make_fold(train, PlusConfig(seed=SEARCH_SEED), number)
        settings = plus.derived(PlusConfig(epochs=epochs, patience=epochs, seed=number), fold)
        (off, without), (on, excluded) = (
            ranks_by_epoch(fold, replace(settings, exclude_same_text=wanted), temperature) for wanted in (False, True)
        )
        rows.append({"fold": number, "mrr_without": off, "mrr_with": on})
        differences.append(1 / excluded - 1 / without)
        images.append(fold.val_positive.cpu().numpy() + number * data.n_images)
        print(f"fold {number}: {max(off):.4f} without, {max(on):.4f} with", flush=True)
    change, groups = np.concatenate(differences), np.concatenate(images)
    low, high = metrics.bootstrap_interval(change, groups, samples=SAMPLES)
    same = SameText.of(train)
    several = 0.0 if same is None else float((same.count > 1).float().mean())
    return {
        "repeats": vars(count_repeats(data, split)),
        "training_images": len(split.train_images),
        "training_captions_with_excluded_images": several,
        "excluded_images_at_most": 0 if same is None else same.most - 1,
        "temperature": temperature,
        "folds": rows,
        "gain": {"difference": float(change.mean()), "low": low, "high": high},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--text-dim", type=int, default=1024)
    parser.add_argument("--image-dim", type=int, default=1536)
    parser.add_argument("--folds", type=common.at_least(0), nargs="+", default=[0, 1, 2], help="numbers of the folds")
    parser.add_argument("--epochs", type=common.at_least(1), default=8)
    parser.add_argument("--temperature", type=float, default=0.055)
    parser.add_argument("--train-images", type=int, help="keep a seeded choice of so many training images")
    options = parser.parse_args()
    name = options.data_dir.resolve().name
    data = load_pairs(options.data_dir, text_dim=options.text_dim, image_dim=options.image_dim)
    content = measure(data, options.folds, options.epochs, options.temperature, options.train_images)
    path = common.RESULTS_DIR / f"same_text_{name}.json"
    write_json(path, {"benchmark": "same_text", "data": name, "versions": common.versions(), **content})
    gain = content["gain"]
    print(f"{name}: {gain['difference']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}) with exclude_same_text")


if __name__ == "__main__":
    main()
